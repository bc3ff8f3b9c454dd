package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/proto/envelope"
)

// Start begins a new incarnation of a controller. It fails, in one line, when
// Kafka cannot be reached or when the topics cannot bear what is promised. ctx
// bounds the start only; the controller lives until Close, or until it stops
// by itself: see Done.
//
// The order is what makes a restart safe: the end offsets of all up
// partitions are read first, then the first heartbeat is published, whose
// place in the meta topic is the incarnation, and then everything is read from
// those offsets. Nobody can have addressed this incarnation before them (rows
// 11 to 13 of docs/replay.md).
func Start(ctx context.Context, cfg Config) (*Controller, error) {
	cfg, err := cfg.resolve()
	if err != nil {
		return nil, err
	}
	c := newController(cfg)
	if c.client, err = bridge.Dial(ctx, cfg.Bridge); err != nil {
		return nil, err
	}
	if err := c.begin(ctx); err != nil {
		c.end(errLeft)
		return nil, errors.Join(err, c.client.Close())
	}
	c.wg.Go(c.loop)
	c.wg.Go(c.watch)
	c.wg.Go(c.bequests)
	go c.stop()
	return c, nil
}

func (c *Controller) begin(ctx context.Context) error {
	if err := c.check(ctx); err != nil {
		return err
	}
	if err := c.look(ctx); err != nil {
		return err
	}
	if err := c.connect(); err != nil {
		return err
	}
	metaFrom, err := c.endOf(ctx, c.topics.meta.Name, 0)
	if err != nil {
		return err
	}
	beatsFrom, err := c.endOf(ctx, c.topics.gateways.Name, 0)
	if err != nil {
		return err
	}
	from, err := c.endsOf(ctx, c.topics.up.Name, inUse(c.topics.up, c.topics.down))
	if err != nil {
		return err
	}
	c.inUse.Store(int32(len(from)))
	if err := soon(ctx, c.publish); err != nil {
		return err
	}
	c.log.Info("started", "incarnation", c.incarnation, "partitions", len(from))
	c.clock.start(time.Now())
	for i := range from {
		c.add(int32(i), from[i])
	}
	c.views.Follow(c.topics.meta, 0, metaFrom, c.meta, c.lost(c.topics.meta, nil))
	c.views.Follow(c.topics.gateways, 0, beatsFrom, c.gateway, c.lost(c.topics.gateways, nil))
	return soon(ctx, c.firstBeat)
}

// check refuses topics that cannot bear what is promised.
func (c *Controller) check(ctx context.Context) error {
	problems, err := c.client.CheckTopics(ctx, c.cfg.Name, bridge.CheckOptions{
		SingleBroker: c.cfg.SingleBroker, AllowSmall: c.cfg.AllowSmall, Grace: c.cfg.Grace,
	})
	if err != nil {
		return fmt.Errorf("controller: check topics: %w", err)
	}
	if len(problems) == 0 {
		return nil
	}
	more := ""
	if n := len(problems) - 1; n > 0 {
		more = fmt.Sprintf(" (and %d more; moorage topics check lists all)", n) // a line is to be read by people
	}
	return fmt.Errorf("controller: topics of %s: %s%s", c.cfg.Name, problems[0], more)
}

// look finds out what the topics are now.
func (c *Controller) look(ctx context.Context) (err error) {
	names := c.client.Topics(c.cfg.Name)
	for _, t := range []struct {
		name string
		to   *bridge.Topic
	}{
		{names.Up, &c.topics.up}, {names.Down, &c.topics.down}, {names.Meta, &c.topics.meta},
		{names.Sessions, &c.topics.sessions}, {c.client.GatewaysTopic(), &c.topics.gateways},
	} {
		if *t.to, err = c.client.Topic(ctx, t.name); err != nil {
			return fmt.Errorf("controller: %w (moorage topics create makes it)", err)
		}
	}
	return nil
}

func (c *Controller) connect() (err error) {
	if c.records, err = c.client.NewProducer(); err != nil {
		return err
	}
	if c.state, err = c.client.NewProducer(); err != nil {
		return err
	}
	if c.ups, err = c.client.NewReader(); err != nil {
		return err
	}
	c.views, err = c.client.NewReader()
	return err
}

// endOf returns the offset that the partition's next record will get.
func (c *Controller) endOf(ctx context.Context, topic string, partition int32) (int64, error) {
	_, next, err := c.client.Bounds(ctx, topic, partition)
	if err != nil {
		return 0, fmt.Errorf("controller: where %s/%d ends: %w", topic, partition, err)
	}
	return next, nil
}

// boundsAtOnce is how many partitions are asked for their ends at once.
const boundsAtOnce = 8

// endsOf is endOf for the first n partitions.
func (c *Controller) endsOf(ctx context.Context, topic string, n int32) ([]int64, error) {
	ends := make([]int64, n)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(boundsAtOnce)
	for i := range ends {
		g.Go(func() (err error) {
			ends[i], err = c.endOf(ctx, topic, int32(i))
			return err
		})
	}
	return ends, g.Wait()
}

// publish writes the first heartbeat. A failure's outcome is unknown: perhaps
// the record is there, and then it is a life that ended at once.
func (c *Controller) publish(ctx context.Context) error {
	offset, err := outcome(ctx, func(done func(int64, error)) {
		c.beats.mu.Lock()
		defer c.beats.mu.Unlock()
		c.sendMeta(false, done)
	})
	if err != nil {
		return fmt.Errorf("controller: first heartbeat into %s: %w", c.topics.meta.Name, err)
	}
	c.incarnation = envelope.Incarnation{Topic: c.topics.meta.ID, Offset: offset}
	return nil
}

// firstBeat writes the first beat of the log's clock. Without them it would
// never run, so they must be allowed.
func (c *Controller) firstBeat(ctx context.Context) error {
	_, err := outcome(ctx, func(done func(int64, error)) {
		c.beats.mu.Lock()
		defer c.beats.mu.Unlock()
		c.sendClock(done)
	})
	if err != nil {
		return fmt.Errorf("controller: first beat into %s: %w", c.topics.gateways.Name, err)
	}
	return nil
}

// startWithin is how long Kafka may take for one of the first records: long
// enough for an election, and then whoever starts us should hear of it.
const startWithin = time.Minute

var errNotTaken = fmt.Errorf("not taken by Kafka within %v: is the partition's leader up, and enough of its replicas?", startWithin)

// soon bounds one of the first records.
func soon(ctx context.Context, write func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startWithin, errNotTaken)
	defer cancel()
	return write(ctx)
}

// outcome waits for what becomes of a record.
func outcome(ctx context.Context, send func(done func(offset int64, err error))) (int64, error) {
	type result struct {
		offset int64
		err    error
	}
	known := make(chan result, 1)
	send(func(offset int64, err error) { known <- result{offset, err} })
	select {
	case r := <-known:
		return r.offset, r.err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// add takes a partition into use, read from an offset on.
func (c *Controller) add(index int32, from int64) {
	p := newPartition(c, index, c.records.Queue(c.topics.down.Name, index))
	c.mu.Lock()
	c.parts = append(c.parts, p)
	c.mu.Unlock()
	p.follower = c.ups.Follow(c.topics.up, index, from, p.take, c.lost(c.topics.up, p))
}

// inUse returns P: the largest power of two that both topics have partitions for.
func inUse(up, down bridge.Topic) int32 {
	p := int32(1)
	for 2*p <= min(up.Partitions, down.Partitions) {
		p *= 2
	}
	return p
}
