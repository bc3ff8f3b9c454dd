package bridge

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// A Message is one record as it stands in Kafka. Key and Value are pieces of
// a whole fetch response: they are never overwritten, but who keeps them
// keeps all of it, so keep a copy.
type Message struct {
	Offset     int64
	Key, Value []byte // a nil Value is a tombstone
	Time       time.Time
}

// A Follower passes every record of one partition on.
//
// The connection for what is followed may be in a long poll for others'
// records when a follower comes, and nothing can be added to that. So the
// first answer comes over the other connection, and who waits for what stands
// in the partition already does not wait for the poll.
type Follower struct {
	r    *Reader
	h    func(Message)
	fail func(error)
	next atomic.Int64

	stopped atomic.Bool
	running sync.Mutex // held while h or fail runs
	feed    *feed      // changes under running
	first   bool       // feed is that of the first answer; guarded by running
	above   time.Time  // since when next has been above the log's end
}

// Follow passes every record from `from` on to h, in offset order, from one
// goroutine at a time, until Stop. It survives failover. h must not block:
// partitions with the same leader share the goroutine that calls it. fail is
// called at most once, with a final error: ErrOutOfRange, ErrTopicChanged,
// ErrClosed, or that reading is not allowed; h is not called after it. Neither
// may call Stop.
func (r *Reader) Follow(t Topic, partition int32, from int64, h func(Message), fail func(error)) *Follower {
	f := &Follower{r: r, h: h, fail: fail, first: true}
	f.next.Store(from)
	f.running.Lock() // until feed is set
	fd := r.scan.add(t, partition, from, f)
	f.feed = fd
	f.running.Unlock()
	if r.life.Err() != nil {
		go r.scan.kill(fd, ErrClosed) // Close may have looked before
	}
	return f
}

// goOnLocked leaves the connection of the first answer. running is held.
func (f *Follower) goOnLocked(next int64) {
	old := f.feed
	f.first = false
	old.f.remove(old)
	fd := f.r.live.add(old.topic, old.partition, next, f)
	f.feed = fd
	if f.r.life.Err() != nil {
		go f.r.live.kill(fd, ErrClosed) // Close may have looked before
	}
}

// Next returns the offset below which every record has been passed on.
func (f *Follower) Next() int64 { return f.next.Load() }

// Stop ends the follower. It waits until h is no longer running, so h must
// not call it, and the caller must hold no lock that h takes.
func (f *Follower) Stop() {
	f.stopped.Store(true)
	f.running.Lock()
	defer f.running.Unlock()
	f.feed.f.remove(f.feed)
}

func (f *Follower) take(b *block) int64 {
	f.running.Lock()
	defer f.running.Unlock()
	if b.end >= b.from {
		f.above = time.Time{}
	}
	for _, batch := range b.batches {
		for _, rec := range batch.Records {
			offset := batch.FirstOffset + rec.OffsetDelta
			if offset < b.from {
				continue
			}
			if f.stopped.Load() {
				return b.next
			}
			f.h(Message{Offset: offset, Key: rec.Key, Value: rec.Value, Time: timeOf(batch, rec)})
			f.next.Store(offset + 1)
		}
	}
	if f.stopped.Load() {
		return b.next
	}
	f.next.Store(b.next)
	if f.first {
		f.goOnLocked(b.next)
	}
	return b.next
}

func (f *Follower) outside(oldest, end int64) (int64, error) {
	next := f.next.Load()
	if next < oldest {
		return 0, fmt.Errorf("%w: %d, the log begins at %d", ErrOutOfRange, next, oldest)
	}
	if f.above.IsZero() {
		f.above = time.Now()
	}
	if time.Since(f.above) >= rangeFor {
		return 0, fmt.Errorf("%w: %d, the log ends at %d", ErrOutOfRange, next, end)
	}
	return next, nil
}

func (f *Follower) dead(err error) {
	f.running.Lock()
	defer f.running.Unlock()
	if !f.stopped.Swap(true) {
		f.fail(err)
	}
}
