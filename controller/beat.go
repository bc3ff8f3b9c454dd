package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	logv1 "github.com/moorage-dev/moorage/proto/moorage/log/v1"
	"github.com/moorage-dev/moorage/session"
)

// heartbeatKey is the key of heartbeats in the meta topic.
const heartbeatKey = "heartbeat"

// clockKey is the key of this controller's beats in the gateways topic.
func clockKey(name string) string { return "controller/" + name }

// beats counts heartbeats. A beat is left out while an earlier one is on its
// way: what Kafka could not take is not made up for.
type beats struct {
	meta, clock atomic.Bool // one is under way

	mu    sync.Mutex // guards what follows; held while one is sent, so that the last one is last
	count uint64
	last  bool // this life's last one was sent
}

// sendMeta writes what this life says of itself into meta. The first record
// names no incarnation: its place is the incarnation. beats.mu is held.
func (c *Controller) sendMeta(leaving bool, done func(offset int64, err error)) {
	c.beats.count++
	hb := &logv1.ControllerHeartbeat{
		Boot: c.boot, Beat: c.beats.count, Partitions: c.inUse.Load(),
		UpTopicId: c.topics.up.ID[:], DownTopicId: c.topics.down.ID[:],
		UpWindow: uint32(c.cfg.Window), MaxFrame: session.MaxFrame, GraceMs: uint64(c.cfg.Grace.Milliseconds()),
		Services: c.cfg.Services, Process: c.process, Leaving: leaving, Jenkins: c.jenkins.Load(),
	}
	if !c.incarnation.IsZero() {
		hb.Incarnation = session.IncarnationMessage(c.incarnation)
	}
	c.state.Send(c.topics.meta.Name, 0, []byte(heartbeatKey), marshal(hb), done)
}

// sendClock writes a beat of the log's clock. beats.mu is held.
func (c *Controller) sendClock(done func(offset int64, err error)) {
	c.state.Send(c.topics.gateways.Name, 0, []byte(clockKey(c.cfg.Name)), marshal(&logv1.GatewayHeartbeat{
		Name: c.cfg.Name, Boot: c.boot, Beat: c.beats.count, Controller: true,
		Sessions: uint32(max(0, c.held.Load())), Version: c.cfg.Version,
	}), done)
}

// beat writes a heartbeat into meta, and one into the gateways topic to see
// whether Kafka itself moves.
func (c *Controller) beat() {
	c.beats.mu.Lock()
	defer c.beats.mu.Unlock()
	if c.beats.last {
		return
	}
	if !c.beats.meta.Swap(true) {
		c.sendMeta(false, c.beaten(&c.beats.meta, c.topics.meta.Name))
	}
	if !c.beats.clock.Swap(true) {
		c.sendClock(c.beaten(&c.beats.clock, c.topics.gateways.Name))
	}
}

// Publish makes known what Jenkins this controller stands beside; nil: none.
// It travels with the next heartbeat, within a second. The message is not to
// be changed any more.
func (c *Controller) Publish(jenkins *linkv1.Jenkins) {
	c.jenkins.Store(jenkins)
	c.beat()
}

// beaten takes the outcome of a beat; the next one makes up for it.
func (c *Controller) beaten(underWay *atomic.Bool, topic string) func(int64, error) {
	return func(_ int64, err error) {
		underWay.Store(false)
		if err != nil && !c.stopping.Load() {
			c.log.Warn("heartbeat not written", "topic", topic, "err", err)
		}
	}
}

// leave writes the last heartbeat of this life.
func (c *Controller) leave(ctx context.Context) error {
	_, err := outcome(ctx, func(done func(int64, error)) {
		c.beats.mu.Lock()
		defer c.beats.mu.Unlock()
		c.beats.last = true
		c.sendMeta(true, done)
	})
	if err != nil {
		return fmt.Errorf("controller: last heartbeat: %w", err)
	}
	c.state.Send(c.topics.gateways.Name, 0, []byte(clockKey(c.cfg.Name)), nil, func(int64, error) {})
	return nil
}

// meta takes a record of the meta topic: it looks for a newer process.
func (c *Controller) meta(m bridge.Message) {
	if string(m.Key) != heartbeatKey || m.Value == nil {
		return
	}
	hb := new(logv1.ControllerHeartbeat)
	inc, err := envelope.Incarnation{Topic: c.topics.meta.ID, Offset: m.Offset}, proto.Unmarshal(m.Value, hb)
	if err == nil {
		err = whole(hb)
	}
	if err == nil && hb.GetIncarnation() != nil {
		inc, err = session.ParseIncarnation(hb.GetIncarnation())
	}
	if err == nil && inc.Topic == c.topics.meta.ID && inc.Offset > m.Offset {
		err = errors.New("the heartbeat of an incarnation that has none yet")
	}
	if err != nil {
		c.unreadable(c.topics.meta.Name, 0, m.Offset, err)
		return
	}
	// Another topic id in our own meta topic is an older life's: that topic is gone.
	if inc.Topic != c.topics.meta.ID || !inc.NewerThan(c.incarnation) {
		return
	}
	c.end(fmt.Errorf("%w: a newer process (%s) of controller %s took over", ErrSuperseded, hb.GetProcess(), c.cfg.Name))
}

// whole reports what a heartbeat lacks that every controller side says. Any
// bytes may be a readable message, none at all are one; and a process that
// gateways don't believe must not end one that they do.
func whole(hb *logv1.ControllerHeartbeat) error {
	n := hb.GetPartitions()
	switch {
	case n < 1 || n > envelope.Slots || n&(n-1) != 0:
		return fmt.Errorf("a heartbeat of %d partitions", n)
	case len(hb.GetDownTopicId()) != len(envelope.TopicID{}):
		return errors.New("a heartbeat without the down topic's id")
	case hb.GetUpWindow() == 0 || hb.GetMaxFrame() == 0:
		return errors.New("a heartbeat without limits")
	}
	return nil
}

// gateway takes a record of the gateways topic.
func (c *Controller) gateway(m bridge.Message) {
	if m.Value == nil {
		return
	}
	hb := new(logv1.GatewayHeartbeat)
	if err := proto.Unmarshal(m.Value, hb); err != nil {
		c.unreadable(c.topics.gateways.Name, 0, m.Offset, err)
		return
	}
	if !hb.GetController() {
		gw := envelope.Gateway{Boot: hb.GetBoot(), Name: strings.Clone(hb.GetName())}
		if replaced, ok := c.gateways.beat(gw); ok {
			c.gone(replaced, "another process of its name beats")
		}
		c.stalled(gw, hb.GetStalled())
		return
	}
	if hb.GetBoot() != c.boot || string(m.Key) != clockKey(c.cfg.Name) {
		return
	}
	counts, stood := c.clock.beat(time.Now())
	if stood {
		c.gateways.pardon()
	}
	if counts {
		for _, gw := range c.gateways.ownBeat() {
			c.gone(gw, "silent")
		}
	}
	c.stir()
}

// stalled notes that a gateway can't write up partitions of ours: that no
// lease of theirs comes proves nothing (row 22).
func (c *Controller) stalled(gw envelope.Gateway, ups []*logv1.StalledUp) {
	for _, up := range ups {
		if up.GetController() != c.cfg.Name {
			continue
		}
		now := c.clock.now()
		for _, p := range c.partitions() {
			if slices.Contains(up.GetPartitions(), p.index) {
				p.stalls(now, gw)
			}
		}
	}
}

// gone ends what a dead gateway process held.
func (c *Controller) gone(gw envelope.Gateway, why string) {
	c.log.Warn("gateway gone", "gateway", gw.Name, "why", why)
	now := c.clock.now()
	for _, p := range c.partitions() {
		p.gatewayGone(now, gw)
	}
}

// putPresence writes a record of the sessions topic; the id alone says where.
func (c *Controller) putPresence(id envelope.SessionID, value []byte, done func(err error)) {
	t := c.topics.sessions
	partition := envelope.SlotOf("", id) % t.Partitions
	c.state.Send(t.Name, partition, []byte(id.String()), value, func(_ int64, err error) { done(err) })
}

// marshal encodes what this package has made: valid text and known fields.
func marshal(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic("controller: " + err.Error())
	}
	return b
}
