package bridge

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"

	"github.com/moorage-dev/moorage/proto/envelope"
	"github.com/moorage-dev/moorage/seeded"
)

const (
	// tellEvery is how often live subscriptions are told how far they are.
	tellEvery = time.Second
	// recentBytes bounds what a tail remembers of the follower while a scan is
	// under way, so that the scan need not catch a running follower exactly.
	recentBytes = 1 << 20
	// rewindMost is how many offsets a scan that has come to the log's end goes
	// back for who came too late for it.
	rewindMost = 1 << 10
)

// A Tail is the shared reading of one partition, by any number of
// subscriptions: one follower at the log's end for those that are live, and
// one scan for all those that are behind.
//
// A scan is one pass over the log: it begins at the lowest offset that anyone
// waits for and ends where the follower is. Who comes while it is beyond
// their offset waits for the next pass, so nobody can hold up the others by
// coming again and again.
//
// Only a scan that is at the log's end, and has to wait there for the follower
// to be asked for the first time, goes back a little for them: sessions that
// open at once in a partition that nobody has read start a few records apart.
//
// Each subscription skips what is below its own next, and changes from the
// scan to the follower under the tail's lock when the scan has reached what
// the follower has brought. So there is neither gap nor repeat, wherever the
// two stand.
type Tail struct {
	r         *Reader
	topic     Topic
	partition int32
	followed  atomic.Int64 // liveNext for others; -1: not followed

	inMu sync.Mutex // guards in; never held together with another lock
	in   []*Subscription

	mu       sync.Mutex // guards what follows; held while sinks are called
	err      error      // why the tail is dead
	subs     map[envelope.SessionID]*Subscription
	count    int
	live     *feed // nil: not followed
	liveNext int64
	liveRun  int // tells the present follower from an earlier one
	scan     *feed
	scanNext int64
	scanRun  int
	waiting  []*Subscription // for the next pass; may hold some that no longer wait
	members  []*Subscription // of this pass; likewise
	scanners int             // how many are scanning
	recent   []*block        // what the follower brought from recentFrom on; only during a scan
	recentAt int64
	recentSz int
	told     time.Time
	linger   *time.Timer
}

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
	// Failed is final: ErrOutOfRange, ErrTopicChanged, ErrClosed, or that
	// reading is not allowed.
	Failed(err error)
}

// A Subscription is one session's reading of a tail.
type Subscription struct {
	t    *Tail
	id   envelope.SessionID
	sink Sink
	next atomic.Int64

	call      sync.Mutex // held while the sink is called
	cancelled bool       // guarded by call: the sink is not called any more

	// Guarded by the tail's inMu.
	queued bool
	wanted bool  // from is to be obeyed
	from   int64 // where Subscribe or Resume wants to begin

	// Guarded by the tail's mu.
	state subState
	told  int64
	ahead time.Time     // since when next has been above the log's end
	more  *Subscription // another of the same session
}

// A subState says who feeds a subscription.
type subState uint8

const (
	// joining: the tail has not seen it yet. It becomes live when the follower
	// has not passed its next, otherwise scanning or waiting.
	joining subState = iota
	// waiting: for the next pass of the scan, which makes it scanning.
	waiting
	// scanning: fed by the scan. It becomes live when the scan has reached
	// the follower.
	scanning
	// live: fed by the follower.
	live
	// parked: its sink was full. Resume makes it what joining would.
	parked
	// over: cancelled or failed.
	over
)

// Tail returns the tail of one partition, always the same one.
func (r *Reader) Tail(t Topic, partition int32) *Tail {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := tailOf{t, partition}
	tail := r.tails[key]
	if tail == nil {
		tail = &Tail{r: r, topic: t, partition: partition, subs: make(map[envelope.SessionID]*Subscription)}
		tail.followed.Store(-1)
		if r.closed {
			tail.err = ErrClosed
		} else {
			r.tails[key] = tail
		}
	}
	return tail
}

// Next returns the offset below which the follower has read everything, which
// is at most the log's end: a start position for a session of which nothing
// is in the log yet, without asking a broker. ok is false while the partition
// is not followed.
func (t *Tail) Next() (next int64, ok bool) {
	next = t.followed.Load()
	return next, next >= 0
}

// Subscribe hands the session's records from `from` on to s. It never blocks
// and calls s only from other goroutines.
func (t *Tail) Subscribe(id envelope.SessionID, from int64, s Sink) *Subscription {
	sub := &Subscription{t: t, id: id, sink: s}
	sub.next.Store(from)
	sub.ask(from)
	return sub
}

// Resume goes on after Record returned false; from is the first offset
// wanted. It never blocks and may be called from within Record.
func (s *Subscription) Resume(from int64) { s.ask(from) }

// Next returns an offset below which every record of the session has been
// handed over; Advanced tells the latest.
func (s *Subscription) Next() int64 { return s.next.Load() }

// Cancel ends the subscription. After it returns the sink is not called again;
// so it waits for a call under way: hold no lock that the sink takes.
func (s *Subscription) Cancel() {
	s.call.Lock()
	s.cancelled = true
	s.call.Unlock()
	s.t.inMu.Lock()
	s.enqueue()
	s.t.inMu.Unlock()
	s.t.kick()
}

func (s *Subscription) ask(from int64) {
	s.t.inMu.Lock()
	s.wanted, s.from = true, from
	s.enqueue()
	s.t.inMu.Unlock()
	s.t.kick()
}

func (s *Subscription) enqueue() {
	if !s.queued {
		s.queued = true
		s.t.in = append(s.t.in, s)
	}
}

// kick sees to it that what stands in the inbox is read: here, or by whoever
// holds the tail's lock when they let go of it.
func (t *Tail) kick() {
	if t.mu.TryLock() {
		t.unlock()
	}
}

// unlock empties the inbox and lets go of the tail's lock.
func (t *Tail) unlock() {
	for {
		t.drainLocked()
		t.mu.Unlock()
		t.inMu.Lock()
		empty := len(t.in) == 0
		t.inMu.Unlock()
		if empty || !t.mu.TryLock() {
			return
		}
	}
}

func (t *Tail) drainLocked() {
	t.inMu.Lock()
	in := t.in
	t.in = nil
	t.inMu.Unlock()
	for _, s := range in {
		t.inMu.Lock()
		from, wanted := s.from, s.wanted
		s.queued, s.wanted = false, false
		t.inMu.Unlock()
		switch {
		case s.state == over:
		case s.isCancelled():
			t.removeLocked(s)
		case t.err != nil:
			t.setLocked(s, over)
			go s.failed(t.err) // the caller may hold a lock that the sink takes
		case wanted:
			t.admitLocked(s, from)
		}
	}
	if t.scan != nil && t.scanners == 0 {
		t.endPassLocked() // all its members have left or are full
	}
	if t.scan == nil && len(t.waiting) > 0 {
		t.passLocked()
	}
}

// setLocked changes a subscription's state.
func (t *Tail) setLocked(s *Subscription, state subState) {
	if s.state == scanning {
		t.scanners--
	}
	if state == scanning {
		t.scanners++
	}
	s.state = state
}

// isCancelled does not wait for a call of the sink: a running call means that
// it is not cancelled yet, and that Cancel will come to the inbox.
func (s *Subscription) isCancelled() bool {
	if !s.call.TryLock() {
		return false
	}
	defer s.call.Unlock()
	return s.cancelled
}

// admitLocked lets a subscription begin, again perhaps, at from.
func (t *Tail) admitLocked(s *Subscription, from int64) {
	if s.state == joining {
		s.more = t.subs[s.id]
		t.subs[s.id] = s
		t.count++
		if t.linger != nil {
			t.linger.Stop()
			t.linger = nil
		}
	}
	s.next.Store(from)
	s.told = from
	s.ahead = time.Time{}
	switch {
	case t.live != nil && t.live.issued.Load() && from >= t.liveNext:
		t.setLocked(s, live)
	case t.scan != nil && from >= t.scanNext:
		t.setLocked(s, scanning)
		t.members = append(t.members, s)
	default:
		t.setLocked(s, waiting)
		t.waiting = append(t.waiting, s)
	}
}

// removeLocked forgets a subscription. The last one to go leaves the follower
// running for a while: who comes back soon needs no scan.
func (t *Tail) removeLocked(s *Subscription) {
	joined := s.state != joining
	t.setLocked(s, over)
	if !joined {
		return
	}
	if first := t.subs[s.id]; first == s {
		if s.more == nil {
			delete(t.subs, s.id)
		} else {
			t.subs[s.id] = s.more
		}
	} else {
		for first.more != s {
			first = first.more
		}
		first.more = s.more
	}
	s.more = nil
	t.count--
	if t.count > 0 || t.err != nil {
		return
	}
	if t.r.c.cfg.Linger < 0 {
		t.unfollowLocked()
		return
	}
	t.linger = time.AfterFunc(t.r.c.cfg.Linger, func() {
		t.mu.Lock()
		if t.count == 0 {
			t.unfollowLocked()
		}
		t.unlock()
	})
}

func (t *Tail) unfollowLocked() {
	if t.live != nil {
		t.r.live.remove(t.live)
	}
	t.live = nil
	t.liveRun++
	t.followed.Store(-1)
	t.endPassLocked()
}

// passLocked begins a pass of the scan for all who wait.
func (t *Tail) passLocked() {
	t.members = t.members[:0]
	var from int64
	for _, s := range t.waiting {
		if s.state != waiting {
			continue
		}
		if len(t.members) == 0 || s.next.Load() < from {
			from = s.next.Load()
		}
		t.setLocked(s, scanning)
		t.members = append(t.members, s)
	}
	t.waiting = nil
	if len(t.members) == 0 {
		return
	}
	t.scanNext = from
	t.scanRun++
	t.recent, t.recentSz, t.recentAt = nil, 0, t.liveNext
	t.scan = t.r.scan.add(t.topic, t.partition, from, scanSide{t, t.scanRun})
}

func (t *Tail) endPassLocked() {
	if t.scan != nil {
		t.r.scan.remove(t.scan)
	}
	t.scan = nil
	t.scanRun++
	clear(t.members)
	t.members = t.members[:0]
	t.recent, t.recentSz = nil, 0
}

// handLocked hands the block's records from `from` on to the subscriptions in
// the state. Deciding that a record is nobody's allocates nothing.
func (t *Tail) handLocked(b *block, from int64, state subState) {
	for _, batch := range b.batches {
		for _, rec := range batch.Records {
			offset := batch.FirstOffset + rec.OffsetDelta
			if offset < from {
				continue
			}
			id, _, ok := envelope.Session(rec.Value)
			if !ok {
				if state == live { // a scan reads again what was counted, or what nobody followed
					t.r.alien(t.topic, t.partition, offset)
				}
				continue
			}
			for s := t.subs[id]; s != nil; s = s.more {
				if s.state == state && offset >= s.next.Load() {
					t.give(s, offset, rec)
				}
			}
		}
	}
}

func (t *Tail) give(s *Subscription, offset int64, rec *sarama.Record) {
	s.call.Lock()
	defer s.call.Unlock()
	if s.cancelled {
		return
	}
	if !s.sink.Record(offset, rec.Value) {
		t.setLocked(s, parked)
		s.next.Store(offset)
		return
	}
	s.next.Store(offset + 1)
}

// tell tells a subscription that it has been handed everything below next.
func (s *Subscription) tell(next int64) {
	if next = max(next, s.next.Load()); next <= s.told {
		return
	}
	s.told = next
	s.next.Store(next)
	s.call.Lock()
	defer s.call.Unlock()
	if !s.cancelled {
		s.sink.Advanced(next)
	}
}

func (s *Subscription) failed(err error) {
	s.call.Lock()
	defer s.call.Unlock()
	if !s.cancelled {
		s.cancelled = true
		s.sink.Failed(err)
	}
}

// failLocked ends subscriptions with a final error.
func (t *Tail) failLocked(subs []*Subscription, err error) {
	for _, s := range subs {
		t.removeLocked(s)
		s.failed(err)
	}
}

// inLocked returns the subscriptions in a state for which ok holds.
func (t *Tail) inLocked(state subState, ok func(*Subscription) bool) []*Subscription {
	var subs []*Subscription
	for _, s := range t.subs {
		for ; s != nil; s = s.more {
			if s.state == state && ok(s) {
				subs = append(subs, s)
			}
		}
	}
	return subs
}

// liveSide is the tail as taker of its follower.
type liveSide struct {
	t   *Tail
	run int
}

func (side liveSide) take(b *block) int64 {
	t := side.t
	t.mu.Lock()
	defer t.unlock()
	if side.run != t.liveRun {
		return b.next
	}
	t.handLocked(b, b.from, live)
	t.liveNext = b.next
	t.followed.Store(b.next)
	if t.scan != nil {
		t.rememberLocked(b)
	}
	if now := time.Now(); now.Sub(t.told) >= tellEvery {
		t.told = now
		t.tellLocked(b.end, now)
	}
	return b.next
}

// rememberLocked keeps a block for the moment when the scan arrives.
func (t *Tail) rememberLocked(b *block) {
	if len(b.batches) > 0 {
		t.recent = append(t.recent, b)
		t.recentSz += b.size()
	}
	for len(t.recent) > 0 && t.recentSz > recentBytes {
		t.recentSz -= t.recent[0].size()
		t.recentAt = t.recent[0].next
		t.recent[0] = nil
		t.recent = t.recent[1:]
	}
}

func (b *block) size() int {
	n := 0
	for _, batch := range b.batches {
		for _, rec := range batch.Records {
			n += len(rec.Value) + recordOverhead
		}
	}
	return n
}

// tellLocked tells live subscriptions how far they are, and fails those whose
// next stays above the log's end.
func (t *Tail) tellLocked(end int64, now time.Time) {
	gone := t.inLocked(live, func(s *Subscription) bool {
		if s.next.Load() <= end {
			s.ahead = time.Time{}
			s.tell(t.liveNext)
			return false
		}
		if s.ahead.IsZero() {
			s.ahead = now
		}
		return now.Sub(s.ahead) >= rangeFor
	})
	for _, s := range gone {
		t.failLocked([]*Subscription{s}, fmt.Errorf("%w: %d, the log ends at %d", ErrOutOfRange, s.next.Load(), end))
	}
}

func (side liveSide) outside(oldest, end int64) (int64, error) {
	t := side.t
	t.mu.Lock()
	defer t.unlock()
	if side.run != t.liveRun {
		return end, nil
	}
	if t.liveNext < oldest {
		t.failLocked(t.inLocked(live, func(s *Subscription) bool { return s.next.Load() < oldest }),
			fmt.Errorf("%w: the log begins at %d", ErrOutOfRange, oldest))
		t.liveNext = oldest
	} else {
		// The log became shorter. Who has read beyond its end is ahead now,
		// and fails unless the end comes back.
		for _, s := range t.inLocked(live, func(s *Subscription) bool { return s.next.Load() < t.liveNext }) {
			s.next.Store(t.liveNext)
		}
		t.liveNext = end
	}
	t.followed.Store(t.liveNext)
	t.recent, t.recentSz, t.recentAt = nil, 0, t.liveNext
	return t.liveNext, nil
}

func (side liveSide) dead(err error) { side.t.dead(err) }

// scanSide is the tail as taker of its scan.
type scanSide struct {
	t   *Tail
	run int
}

func (side scanSide) take(b *block) int64 {
	t := side.t
	t.mu.Lock()
	defer t.unlock()
	if side.run != t.scanRun {
		return b.next
	}
	t.handLocked(b, b.from, scanning)
	t.scanNext = b.next
	if t.live == nil {
		// The follower begins at the end, to be there when the scan arrives.
		t.liveNext = max(b.end, b.next)
		t.recentAt = t.liveNext
		t.liveRun++
		t.live = t.r.live.add(t.topic, t.partition, t.liveNext, liveSide{t, t.liveRun})
	}
	switch {
	case !t.live.issued.Load():
		if b.next >= b.end {
			t.rewindLocked()
		}
		return t.scanNext
	case t.scanNext >= t.recentAt:
		t.mergeLocked()
	}
	return b.next
}

// rewindLocked takes those who wait for the next pass into this one, if it has
// to go back no further than rewindMost for them. Its members skip what they have.
func (t *Tail) rewindLocked() {
	least := t.scanNext - rewindMost
	t.waiting = slices.DeleteFunc(t.waiting, func(s *Subscription) bool {
		if s.state != waiting {
			return true
		}
		next := s.next.Load()
		if next < least {
			return false
		}
		t.scanNext = min(t.scanNext, next)
		t.setLocked(s, scanning)
		t.members = append(t.members, s)
		return true
	})
}

// mergeLocked ends a pass that has arrived where the follower is, or was a
// moment ago: its members become live.
func (t *Tail) mergeLocked() {
	for _, b := range t.recent {
		t.handLocked(b, t.scanNext, scanning)
	}
	at := max(t.scanNext, t.liveNext)
	t.followed.Store(t.liveNext)
	for _, s := range t.members {
		if s.state == scanning {
			t.setLocked(s, live)
			s.tell(at)
			if seeded.On(seeded.ReplayLiveGap) {
				s.next.Add(1)
			}
		}
	}
	t.endPassLocked()
}

func (side scanSide) outside(oldest, end int64) (int64, error) {
	t := side.t
	t.mu.Lock()
	defer t.unlock()
	if side.run != t.scanRun {
		return end, nil
	}
	if t.scanNext > end {
		// Its members stay above the end; once live, they are watched there.
		t.scanNext = end
		return end, nil
	}
	t.failLocked(t.inLocked(scanning, func(s *Subscription) bool { return s.next.Load() < oldest }),
		fmt.Errorf("%w: the log begins at %d", ErrOutOfRange, oldest))
	t.scanNext = oldest
	return oldest, nil
}

func (side scanSide) dead(err error) { side.t.dead(err) }

// dead ends the tail and all its subscriptions.
func (t *Tail) dead(err error) {
	t.r.mu.Lock()
	delete(t.r.tails, tailOf{t.topic, t.partition})
	t.r.mu.Unlock()
	t.mu.Lock()
	defer t.unlock()
	if t.err != nil {
		return
	}
	t.err = err
	if t.linger != nil {
		t.linger.Stop()
	}
	t.unfollowLocked()
	t.waiting = nil
	for _, first := range t.subs {
		for s := first; s != nil; s = s.more {
			t.setLocked(s, over)
			s.failed(err)
		}
	}
	clear(t.subs)
	t.count = 0
}
