package bridge

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/sony/gobreaker/v2"

	"github.com/moorage-dev/moorage/proto/envelope"
	"github.com/moorage-dev/moorage/seeded"
)

// quantum is what a flow may write per turn, in bytes. A frame of the usual
// largest size takes a few turns to save up for; that is how a flow of small
// records gets its share.
const quantum = 16 << 10

// maxBatch bounds one batch below Kafka's own default for max.message.bytes,
// 1 MiB, whatever Config.UnackedBytes says.
const maxBatch = 768 << 10

// A flow of a few small records beside one that floods waits for the batch
// under way and then for its own, and the flood fills both up to the limit. So
// batches are at most sharedBatch for companyFor after such a flow, one that
// had no more to write than a quantum, was in a batch that others filled.
// Flows that are alone or alike have nobody to make way for.
const (
	sharedBatch = 128 << 10
	companyFor  = time.Second
)

// recordOverhead is about what Kafka adds to a record's key and value.
const recordOverhead = 24

// A Queue holds the records that wait to be written to one partition, and the
// one batch of them that is under way. All its methods may be called
// concurrently.
//
// Each flow's records are written in the order of Put; flows take turns by
// bytes, in a ring. A flow that was not in it comes first, once, so that it
// need not wait for a whole round of the others; but every other turn is the
// ring's, however many come. Whoever has written everything keeps a place at
// the ring's end until its turn, so nobody comes first more often by leaving:
// a flow that was there for the last round is not new.
//
// There is one batch under way at a time, tried again unchanged, so
// that whatever fails, records are neither repeated nor reordered.
type Queue struct {
	p         *Producer
	topic     string
	partition int32
	breaker   breaker

	mu      sync.Mutex // guards what follows; taken before Producer.mu and sender.mu
	state   queueState
	closed  bool
	flows   map[envelope.SessionID]*flow // those with records, and those that had some a round ago
	fresh   ring                         // those that are new
	old     ring                         // the others
	owed    bool                         // the next turn is old's: fresh had the last
	spare   *flow                        // a flow to use again
	bytes   int                          // of all records without an outcome
	batch   *batch                       // under way, or to be tried again
	company time.Time                    // when a small flow was last in a batch that others filled
	since   time.Time                    // of the last outcome, or of the first record after there were none
	room    chan struct{}                // closed when bytes falls below QueueBytes; nil: nobody waits
	failed  uint64                       // when lost: what is known of the leader must be newer than this question
	after   time.Time                    // when lost: not to be tried earlier
	missing time.Time                    // since when metadata say that there is no such partition
	id      producerID                   // of this partition's batches; zero: any new one
	seq     int32                        // of the next batch's first record under id
	counts  counts
}

// A queueState says who is to act on a queue.
type queueState uint8

const (
	// idle: there are no records. Put makes it ready, or lost when no leader
	// was ever looked for.
	idle queueState = iota
	// lost: there are records, and no leader to take them, or one that must
	// not be asked yet. The producer's tend makes it ready.
	lost
	// ready: it stands in its sender's list. The sender makes it sent.
	ready
	// sent: its batch is in the request under way. The sender makes it ready,
	// idle, or lost.
	sent
)

type counts struct{ produced, failed, retried uint64 }

// A flow holds the waiting records of one session. Without any it only keeps
// its place: at its next turn it goes.
type flow struct {
	id         envelope.SessionID
	items      []item // from head on
	head       int
	wrote      int  // bytes since it last had nothing to write
	credit     int  // bytes it may still write in this turn
	begun      bool // its turn has begun
	prev, next *flow
}

// An item is one record.
type item struct {
	key, value []byte
	done       func(offset int64, err error)
}

func (i *item) size() int { return len(i.key) + len(i.value) + recordOverhead }

// A batch is what one partition writes at once. It never changes, so trying
// it again cannot write other records, or the same in another order.
type batch struct {
	items   []item
	bytes   int
	records *sarama.RecordBatch // made when first sent
}

// Put queues a record; it never blocks. done is called exactly once, from a
// goroutine of the bridge, and must not block. An err other than nil means
// that the outcome is unknown.
//
// The record has no key: its partition is explicit and its topic is not
// compacted. r is not kept.
func (q *Queue) Put(flow envelope.SessionID, r *envelope.Record, done func(offset int64, err error)) {
	q.put(flow, item{value: envelope.Append(make([]byte, 0, r.Size()), r), done: done})
}

func (q *Queue) put(id envelope.SessionID, it item) {
	if seeded.On(seeded.HalfOpenLoses) && q.breaker.cb.State() == gobreaker.StateHalfOpen {
		return
	}
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		go it.done(-1, ErrClosed)
		return
	}
	f := q.flows[id]
	if f == nil {
		f = q.join(id)
	}
	f.items = append(f.items, it)
	if q.bytes == 0 {
		q.since = time.Now()
	}
	q.bytes += it.size()
	if q.state == idle {
		q.goLocked()
	}
	q.mu.Unlock()
}

// goLocked hands a queue with records to its sender, if it has one.
func (q *Queue) goLocked() {
	if s := q.p.senderOf(q); s != nil {
		q.state = ready
		s.push(q)
		return
	}
	q.state = lost
	q.p.kick()
}

// A ring is flows in the order of their turns; the first is whose turn it is.
type ring struct{ first *flow }

// push puts f at the end.
func (r *ring) push(f *flow) {
	if r.first == nil {
		f.prev, f.next = f, f
		r.first = f
		return
	}
	f.next, f.prev = r.first, r.first.prev
	f.prev.next, f.next.prev = f, f
}

// pop takes the first out.
func (r *ring) pop() *flow {
	f := r.first
	r.first = f.next
	if f.next == f {
		r.first = nil
	}
	f.prev.next, f.next.prev = f.next, f.prev
	return f
}

// join adds a new flow.
func (q *Queue) join(id envelope.SessionID) *flow {
	f := q.spare
	if f == nil {
		f = new(flow)
	}
	q.spare = nil
	f.id, f.wrote, f.credit, f.begun = id, 0, 0, false
	q.fresh.push(f)
	q.flows[id] = f
	return f
}

// forget lets go of a flow without records that is in no ring.
func (q *Queue) forget(f *flow) {
	delete(q.flows, f.id)
	q.spare = f
}

// turnLocked returns the ring whose first flow has its turn; nil: there is none.
func (q *Queue) turnLocked() *ring {
	switch {
	case q.fresh.first != nil && (!q.owed || q.old.first == nil):
		return &q.fresh
	case q.old.first != nil:
		return &q.old
	}
	return nil
}

// endTurnLocked ends the turn of r's first flow.
func (q *Queue) endTurnLocked(r *ring) {
	f := r.pop()
	f.begun = false
	q.owed = r == &q.fresh
	if f.head == len(f.items) {
		f.wrote, f.credit = 0, 0
		f.items, f.head = f.items[:0], 0
		if cap(f.items) > 64 {
			f.items = nil
		}
		if q.turnLocked() == nil {
			q.forget(f) // nobody is there to be overtaken
			return
		}
	}
	q.old.push(f)
}

// limitLocked returns the bytes of the next batch.
func (q *Queue) limitLocked(now time.Time) int {
	limit := min(q.p.c.cfg.UnackedBytes, maxBatch)
	if now.Sub(q.company) < companyFor {
		return min(limit, sharedBatch)
	}
	return limit
}

// fillLocked takes up to limit bytes out of the flows, at least one record:
// deficit round robin. A flow whose turn the limit interrupts goes on with it
// in the next batch.
func (q *Queue) fillLocked(limit int, now time.Time) *batch {
	b := new(batch)
	small := false // a small flow is in it
	for r := q.turnLocked(); r != nil; r = q.turnLocked() {
		f := r.first
		if f.head == len(f.items) {
			q.forget(r.pop()) // it wrote nothing for a round
			continue
		}
		if !f.begun {
			f.begun = true
			f.credit += quantum
		}
		for f.head < len(f.items) {
			size := f.items[f.head].size()
			if len(b.items) > 0 && b.bytes+size > limit {
				if small {
					q.company = now
				}
				return b
			}
			if size > f.credit {
				break
			}
			f.credit -= size
			f.wrote += size
			b.bytes += size
			b.items = append(b.items, f.items[f.head])
			f.items[f.head] = item{}
			f.head++
		}
		if f.head == len(f.items) {
			small = small || f.wrote <= quantum
		}
		q.endTurnLocked(r)
	}
	return b
}

// Waits returns how often somebody had to wait for room in a queue.
func (p *Producer) Waits() uint64 { return p.waits.Load() }

// Full reports whether the queue holds QueueBytes or more.
func (q *Queue) Full() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes >= q.p.c.cfg.QueueBytes
}

// Wait returns when the queue holds less than QueueBytes.
func (q *Queue) Wait(ctx context.Context) error {
	held := false
	for {
		q.mu.Lock()
		switch {
		case q.closed:
			q.mu.Unlock()
			return ErrClosed
		case q.bytes < q.p.c.cfg.QueueBytes:
			q.mu.Unlock()
			return nil
		}
		if q.room == nil {
			q.room = make(chan struct{})
		}
		room := q.room
		q.mu.Unlock()
		if !held {
			held = true
			q.p.waits.Add(1)
		}
		select {
		case <-room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// releaseLocked accounts for an outcome of n bytes.
func (q *Queue) releaseLocked(n int) {
	q.bytes -= n
	q.since = time.Now()
	if q.room != nil && q.bytes < q.p.c.cfg.QueueBytes {
		close(q.room)
		q.room = nil
	}
}

// stalledLocked returns for how long nothing has moved; 0: nothing waits.
func (q *Queue) stalledLocked(now time.Time) time.Duration {
	if q.bytes == 0 {
		return 0
	}
	return max(now.Sub(q.since), 1)
}

// settled tells the batch's records their outcome and lets the queue go on:
// the batch is over. first is the offset of its first record.
func (q *Queue) settled(first int64, err error) {
	q.mu.Lock()
	b := q.batch
	q.mu.Unlock()
	// The queue is still sent, so no later outcome can overtake these.
	b.tell(first, err)
	q.breaker.moved()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.batch = nil
	if err == nil {
		q.counts.produced += uint64(len(b.items))
		q.seq += int32(len(b.items)) // wraps as Kafka's do, far later than any batch
	} else {
		// The broker may have taken these numbers or not. Under another id
		// there is nothing to compare with.
		q.counts.failed += uint64(len(b.items))
		q.id, q.seq = producerID{}, 0
	}
	q.releaseLocked(b.bytes)
	q.state = idle
	if q.bytes > 0 && !q.closed {
		q.goLocked()
	}
}

func (b *batch) tell(first int64, err error) {
	for i := range b.items {
		offset := int64(-1)
		if err == nil {
			offset = first + int64(i)
		}
		b.items[i].done(offset, err)
	}
}

// lose gives the queue back to tend: its batch must be tried again, later and
// perhaps elsewhere.
func (q *Queue) lose(now time.Time) {
	failed := q.p.c.cluster.asked()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.state = lost
	q.failed = failed
	q.after = now.Add(retryAfter)
	if q.batch != nil {
		q.counts.retried++
	}
	q.p.kick()
}

// abandon gives up every record, with err. Nobody else may be at work on the
// queue: it is lost, or its sender has ended.
func (q *Queue) abandon(err error, closed bool) {
	q.mu.Lock()
	q.closed = q.closed || closed
	var all []batch
	if q.batch != nil {
		all = append(all, *q.batch)
	}
	for r := q.turnLocked(); r != nil; r = q.turnLocked() {
		f := r.pop()
		all = append(all, batch{items: f.items[f.head:]})
		f.items, f.head = nil, 0
		q.forget(f)
	}
	q.batch = nil
	q.id, q.seq = producerID{}, 0
	q.releaseLocked(q.bytes)
	q.state = idle
	for _, b := range all {
		q.counts.failed += uint64(len(b.items))
	}
	if q.closed && q.room != nil {
		close(q.room)
		q.room = nil
	}
	q.mu.Unlock()
	for _, b := range all {
		b.tell(-1, err)
	}
}

func (q *Queue) String() string { return q.topic + "/" + strconv.Itoa(int(q.partition)) }
