package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

const (
	// watchEvery is how often the topics are looked at.
	watchEvery = 5 * time.Second
	// lossWithin is how long DATA_LOSS may take to reach Kafka before a
	// controller whose topics are gone stops anyway.
	lossWithin = 5 * time.Second
	// missingLooks is how often in a row a topic must be missing to be gone.
	missingLooks = 3
)

// A trouble is a topic that can no longer be read as it was.
type trouble struct {
	topic bridge.Topic
	p     *partition // of up; nil for the others
	err   error
}

// maxTroubles is more than there can be: each follower has at most one.
const maxTroubles = 2 * envelope.Slots

// lost returns what a follower calls when it can't go on.
func (c *Controller) lost(t bridge.Topic, p *partition) func(error) {
	return func(err error) {
		select {
		case c.troubles <- trouble{t, p, err}:
		case <-c.life.Done():
		}
	}
}

// watch sees to what takes time and may block: topics that change, partitions
// that appear.
func (c *Controller) watch() {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	missing := 0
	for {
		var err error
		select {
		case <-c.life.Done():
			return
		case t := <-c.troubles:
			err = c.repair(t)
		case <-tick.C:
			err = c.lookAgain(&missing)
		}
		if err != nil {
			c.giveUp(err)
			return
		}
	}
}

// repair goes on after a trouble; an error means that it can't.
func (c *Controller) repair(t trouble) error {
	switch {
	case errors.Is(t.err, bridge.ErrClosed):
		return nil
	case errors.Is(t.err, bridge.ErrTopicChanged) && t.topic == c.topics.gateways:
		return c.repairGateways()
	case errors.Is(t.err, bridge.ErrTopicChanged):
		return fmt.Errorf("%w: %w", ErrTopicChanged, t.err)
	case errors.Is(t.err, bridge.ErrOutOfRange) && t.p != nil:
		return c.repairPartition(t.p, t.err)
	case errors.Is(t.err, bridge.ErrOutOfRange) && t.topic == c.topics.gateways:
		return c.repairGateways()
	}
	return fmt.Errorf("controller: %s: %w", t.topic.Name, t.err)
}

// repairGateways follows the gateways topic as it is now. Until then the log's
// clock stands.
func (c *Controller) repairGateways() error {
	for {
		t, err := c.client.Topic(c.life, c.topics.gateways.Name)
		var from int64
		if err == nil {
			from, err = c.endOf(c.life, t.Name, 0)
		}
		if err == nil {
			c.log.Warn("gateways topic changed", "topic", t.Name)
			c.views.Follow(t, 0, from, c.gateway, c.lost(c.topics.gateways, nil))
			return nil
		}
		if !c.pause(err) {
			return nil
		}
	}
}

// repairPartition ends the sessions of an up partition whose records were
// gone before they were read, and reads on at what is left.
func (c *Controller) repairPartition(p *partition, why error) error {
	c.log.Error("up records lost", "topic", c.topics.up.Name, "partition", p.index, "err", why)
	for _, s := range p.all() {
		s.CloseWithReason(session.LossReason)
	}
	for {
		oldest, next, err := c.client.Bounds(c.life, c.topics.up.Name, p.index)
		if err == nil {
			from := min(max(p.follower.Next(), oldest), next)
			p.follower = c.ups.Follow(c.topics.up, p.index, from, p.take, c.lost(c.topics.up, p))
			return nil
		}
		if !c.pause(err) {
			return nil
		}
	}
}

// pause waits a little before something is tried again; false: no more.
func (c *Controller) pause(why error) bool {
	c.log.Debug("trying again", "err", why)
	select {
	case <-time.After(beatEvery):
		return true
	case <-c.life.Done():
		return false
	}
}

// lookAgain sees whether the topics are still the same, and takes partitions
// into use that have appeared. An error means that a topic is gone.
func (c *Controller) lookAgain(missing *int) error {
	ctx, cancel := context.WithTimeout(c.life, watchEvery)
	defer cancel()
	var now [2]bridge.Topic
	for i, was := range []bridge.Topic{c.topics.up, c.topics.down} {
		t, err := c.client.Topic(ctx, was.Name)
		switch {
		case errors.Is(err, bridge.ErrNoTopic):
			if *missing++; *missing < missingLooks {
				return nil
			}
			return fmt.Errorf("%w: %w", ErrTopicChanged, err)
		case err != nil:
			c.log.Debug("topics not seen", "err", err)
			return nil // Kafka is away; that is not the topic's end
		case t.ID != was.ID:
			return fmt.Errorf("%w: %s has the id %v, not %v", ErrTopicChanged, t.Name, t.ID, was.ID)
		}
		now[i] = t
	}
	*missing = 0
	was, is := c.inUse.Load(), inUse(now[0], now[1])
	if is <= was {
		return nil
	}
	// Nobody can have written to a partition for this controller before its
	// heartbeat names it: it is read from its beginning, and then named.
	for i := was; i < is; i++ {
		c.add(i, 0)
	}
	c.inUse.Store(is)
	c.log.Info("partitions added", "partitions", is)
	return nil
}

// giveUp ends every session with DATA_LOSS, as far as Kafka lets it, and then
// the controller with err.
func (c *Controller) giveUp(err error) {
	c.log.Error("stopping", "err", err)
	c.leaving.Store(true)
	ctx, cancel := context.WithTimeout(c.life, lossWithin)
	defer cancel()
	why := session.LossReason
	if !errors.Is(err, ErrTopicChanged) {
		why = session.Ending{Reason: linkv1.Reason_REASON_CONTROLLER_GONE, Text: err.Error()}
	}
	if left := c.endAll(ctx, why); left != nil {
		c.log.Warn("not everybody was told", "err", left)
	}
	c.end(err)
}
