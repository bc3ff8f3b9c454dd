package bridge

import (
	"time"

	"github.com/moorage-dev/moorage/proto/envelope"
)

// A Message is one record as it stands in Kafka. Key and Value are pieces of
// a whole fetch response: they are never overwritten, but who keeps them
// keeps all of it, so keep a copy.
type Message struct {
	Offset     int64
	Key, Value []byte // a nil Value is a tombstone
	Time       time.Time
}

// A Reader reads partitions. It has connections of its own.
type Reader struct{}

func (c *Client) NewReader() (*Reader, error) { return nil, errTODO }

func (r *Reader) Close() error { return errTODO }

// Follow passes every record from `from` on to h, in offset order, from one
// goroutine at a time, until Stop. It survives failover. h must not block:
// partitions with the same leader share the goroutine that calls it. fail is
// called at most once, with a final error: ErrOutOfRange or ErrTopicChanged.
func (r *Reader) Follow(t Topic, partition int32, from int64, h func(Message), fail func(error)) *Follower {
	return nil
}

// A Follower reads one partition.
type Follower struct{}

// Next returns the offset below which every record has been passed on.
func (f *Follower) Next() int64 { return 0 }

// Stop ends the follower. It waits until h is no longer running, so h must
// not call it, and the caller must hold no lock that h takes.
func (f *Follower) Stop() {}

// A Sink takes the records of one session. Its methods are called by one
// goroutine at a time, must not block and must not call the subscription's
// Cancel.
type Sink interface {
	// Record takes each record of the session (the raw envelope) in offset
	// order, each once. False: the sink is full; it gets nothing more, this
	// record included, until Resume. Value is a piece of a whole fetch
	// response: keep a copy, not the slice.
	Record(offset int64, value []byte) bool
	// Advanced says that every record of this session below next has been
	// handed over: about once a second while live if next moved, and when a
	// catch-up finishes.
	Advanced(next int64)
	// Failed is final: ErrOutOfRange, ErrTopicChanged, ErrClosed.
	Failed(err error)
}

// A Tail is the shared reading of one partition.
type Tail struct{}

// Tail returns the tail of one partition, always the same one.
func (r *Reader) Tail(t Topic, partition int32) *Tail { return nil }

// Subscribe hands the session's records from `from` on to s. It never blocks.
func (t *Tail) Subscribe(id envelope.SessionID, from int64, s Sink) *Subscription { return nil }

// A Subscription is one session's reading of a tail.
type Subscription struct{}

// Resume goes on after Record returned false; from is the first offset
// wanted. It never blocks and may be called from within Record.
func (s *Subscription) Resume(from int64) {}

// Next returns the offset below which every record of the session has been handed over.
func (s *Subscription) Next() int64 { return 0 }

// Cancel ends the subscription. After it returns the sink is not called again;
// so it waits for a call under way: hold no lock that the sink takes.
func (s *Subscription) Cancel() {}
