package gateway

import (
	"context"
	"time"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/proto/envelope"
)

// A kafka is what a gateway needs of package bridge. Tests put a log in
// memory in its place.
type kafka interface {
	Topics(controller string) bridge.Topics
	GatewaysTopic() string
	Topic(ctx context.Context, name string) (bridge.Topic, error)
	Bounds(ctx context.Context, topic string, partition int32) (oldest, next int64, err error)
	Queue(topic string, partition int32) queue
	Stalled(topic string, partition int32) (since time.Duration, open bool)
	Beat(key, value []byte, done func(offset int64, err error)) // into the gateways topic
	Tail(t bridge.Topic, partition int32) tail
	Fetched() (live, scanned bridge.Traffic) // of down logs
	Waits() (queues, scans uint64)           // for room in an up partition's queue; of down logs' backlogs for their turn
	Follow(t bridge.Topic, partition int32, from int64, h func(bridge.Message), fail func(error)) follower
	Close() error
}

type queue interface {
	Put(flow envelope.SessionID, r *envelope.Record, done func(offset int64, err error))
	Wait(ctx context.Context) error
	Full() bool
}

type tail interface {
	Subscribe(id envelope.SessionID, from int64, s bridge.Sink) subscription
	Next() (next int64, ok bool)
}

type subscription interface {
	Resume(from int64)
	Cancel()
}

type follower interface {
	Next() int64
	Stop()
}

// A cluster is the kafka that is one. What may wait long has connections of
// its own: sessions' records, the gateway's own beats, down logs, heartbeats.
type cluster struct {
	*bridge.Client
	records, beats *bridge.Producer
	downs, metas   *bridge.Reader
}

func dial(ctx context.Context, cfg bridge.Config) (*cluster, error) {
	client, err := bridge.Dial(ctx, cfg)
	if err != nil {
		return nil, err
	}
	c := &cluster{Client: client}
	for _, p := range []**bridge.Producer{&c.records, &c.beats} {
		if *p, err = client.NewProducer(); err != nil {
			client.Close()
			return nil, err
		}
	}
	for _, r := range []**bridge.Reader{&c.downs, &c.metas} {
		if *r, err = client.NewReader(); err != nil {
			client.Close()
			return nil, err
		}
	}
	return c, nil
}

func (c *cluster) Queue(topic string, partition int32) queue {
	return c.records.Queue(topic, partition)
}

func (c *cluster) Stalled(topic string, partition int32) (time.Duration, bool) {
	return c.records.Stalled(topic, partition)
}

func (c *cluster) Beat(key, value []byte, done func(int64, error)) {
	c.beats.Send(c.GatewaysTopic(), 0, key, value, done)
}

func (c *cluster) Tail(t bridge.Topic, partition int32) tail {
	return sharedTail{c.downs.Tail(t, partition)}
}

func (c *cluster) Fetched() (live, scanned bridge.Traffic) { return c.downs.Fetched() }

func (c *cluster) Waits() (queues, scans uint64) { return c.records.Waits(), c.downs.ScanWaits() }

func (c *cluster) Follow(t bridge.Topic, partition int32, from int64, h func(bridge.Message), fail func(error)) follower {
	return c.metas.Follow(t, partition, from, h, fail)
}

type sharedTail struct{ *bridge.Tail }

func (s sharedTail) Subscribe(id envelope.SessionID, from int64, sink bridge.Sink) subscription {
	return s.Tail.Subscribe(id, from, sink)
}
