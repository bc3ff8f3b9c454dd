package worker

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/moorage-dev/moorage/check"
)

// An item is a message that is due and not yet sent: only what it will be, so
// that a session whose window is full for long costs little.
type item struct {
	at     int64  // when it was to be sent, in nanoseconds since 1970; an answer: its request
	ref    uint64 // of an answer
	size   uint32
	answer uint32 // of a request: the size of what is wanted back
	kind   check.Kind
	paced  bool // came straight from the pacer: nothing but the generator can have held it up
	late   bool // and did, too long; counted
	last   bool // no message: nothing more will be sent
}

// A talk is one end of one session: what it sends by its schedule, and what it
// makes of what comes.
//
// The pacer and the receiver put items into its queue; a sender goroutine takes
// them out while there are any. The receiver is the goroutine that called run.
type talk struct {
	load  *load
	group *group
	leaf  *check.Leaf
	s     Session
	sent  chan struct{} // closed: nothing more will be sent

	mu       sync.Mutex // guards the following
	queue    []item     // queue[head:] waits
	head     int
	busy     bool          // a sender has it
	flows    int           // flows, and the time until the session's end, that may still bring messages
	waitsEOF bool          // nothing may be closed before the other end has sent all: it may ask
	eof      bool          // it has
	closing  bool          // the last item stands in the queue, or the session is lost: no more items
	done     bool          // sent is closed
	killed   bool          // this end's process died
	ended    bool          // the account knows how it ended
	dead     bool          // not a message more goes out
	inFlight int           // requests sent and not answered
	waiting  []item        // requests that wait for those
	closed   *flow         // a closed loop; nil: none
	room     chan struct{} // the receiver waits for room in the queue; nil: it does not
}

// keepQueue is how many items' room an empty queue keeps.
const keepQueue = 4

// due takes what the pacer has for the session. What does not fit into the
// backlog is left out and counted: the session is that far behind.
func (t *talk) due(it item) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closing:
	case it.kind == check.Request && t.group.inFlight > 0 && t.inFlight >= t.group.inFlight:
		if len(t.waiting) >= t.load.backlog {
			t.load.overrun.Add(1)
			return
		}
		it.paced = false
		t.waiting = append(t.waiting, it)
	case len(t.queue)-t.head >= t.load.backlog:
		t.load.overrun.Add(1)
	default:
		if it.kind == check.Request {
			t.inFlight++
		}
		t.put(it)
	}
}

// put queues an item, whatever the backlog. t.mu is held.
func (t *talk) put(it item) {
	if len(t.queue) == cap(t.queue) && t.head > 0 {
		n := copy(t.queue, t.queue[t.head:])
		t.queue, t.head = t.queue[:n], 0
	}
	t.queue = append(t.queue, it)
	t.wake()
}

// wake gives the talk to a sender, if none has it. t.mu is held.
func (t *talk) wake() {
	if !t.busy {
		t.busy = true
		t.load.senders.take(t)
	}
}

// answer queues the answer to a request. At the backlog's bound it waits, and
// with it the receiver, so that the other end's window fills.
func (t *talk) answer(ctx context.Context, it item) {
	t.mu.Lock()
	for !t.closing && len(t.queue)-t.head >= t.load.backlog {
		if t.room == nil {
			t.room = make(chan struct{})
		}
		room := t.room
		t.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return
		}
		t.mu.Lock()
	}
	if !t.closing {
		t.put(it)
	}
	t.mu.Unlock()
}

// answered makes way for the next request.
func (t *talk) answered(now int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.inFlight--
	switch {
	case t.closing:
	case len(t.waiting) > 0:
		next := t.waiting[0]
		if t.waiting = t.waiting[1:]; len(t.waiting) == 0 {
			t.waiting = nil
		}
		t.inFlight++
		t.put(next)
		t.closeIfDone()
	case t.closed != nil && t.closed.kind == check.Request:
		t.wake()
	}
}

// next hands a sender up to len(batch) items. 0: there are none, and the talk
// is not the sender's any more.
func (t *talk) next(batch []item) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.head == len(t.queue) && t.closed != nil && !t.closing {
		if it, ok := t.closed.now(t.inFlight); ok {
			if it.kind == check.Request {
				t.inFlight++
			}
			batch[0] = it
			return 1
		}
	}
	n := copy(batch, t.queue[t.head:])
	if t.head += n; t.head == len(t.queue) {
		if t.head = 0; cap(t.queue) > keepQueue {
			t.queue = nil
		} else {
			t.queue = t.queue[:0]
		}
	}
	if t.room != nil && len(t.queue)-t.head <= t.load.backlog/2 {
		close(t.room)
		t.room = nil
	}
	if n == 0 {
		t.busy = false
	}
	return n
}

// flowEnded notes that a flow, or the session's time, has nothing more.
func (t *talk) flowEnded() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.flows--
	t.closeIfDone()
}

// finish ends the session's schedule now: what is due already is still sent.
func (t *talk) finish() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.flows, t.closed = 0, nil
	t.closeIfDone()
}

// leave ends the session's schedule now, whatever the other end has still to
// send: what waits is still sent, but for requests that have not had their turn.
func (t *talk) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.flows, t.closed, t.waiting, t.waitsEOF = 0, nil, nil, false
	t.closeIfDone()
}

// farEnd notes that the other end has sent all. An application's schedule ends
// with its agent's.
func (t *talk) farEnd() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.eof = true
	if t.load.side == check.Controller {
		t.flows, t.closed, t.waiting = 0, nil, nil
	}
	t.closeIfDone()
}

// closeIfDone queues the last item when nothing can come any more. t.mu is held.
func (t *talk) closeIfDone() {
	if t.closing || t.flows > 0 || len(t.waiting) > 0 || t.waitsEOF && !t.eof {
		return
	}
	t.closing = true
	t.put(item{last: true})
}

// over ends sending at once: the session is no more.
func (t *talk) over() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closing, t.dead = true, true
	t.queue, t.head, t.waiting, t.closed = nil, 0, nil, nil
	if t.room != nil {
		close(t.room)
		t.room = nil
	}
	if !t.done {
		t.done = true
		close(t.sent)
	}
}

// backlogged is how many messages are due and not sent.
func (t *talk) backlogged() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.queue) - t.head + len(t.waiting)
}

// kill is the death of this end's process: no word is said, and none is heard.
func (t *talk) kill() {
	t.mu.Lock()
	if t.killed || t.ended {
		t.mu.Unlock()
		return
	}
	t.killed = true
	t.mu.Unlock()
	t.leaf.Gone()
	t.over()
	kill(t.s)
}

func (t *talk) wasKilled() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.killed
}

// end reports whether it is the first to say how the session ended.
func (t *talk) end() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.killed || t.ended {
		return false
	}
	t.ended = true
	return true
}

// kill ends a session without a word, as far as its transport can.
func kill(s Session) {
	if k, ok := s.(Killer); ok {
		k.Kill()
		return
	}
	_ = s.Close() // who dies hears of no error
}

// run receives until the session is over, and says why: a word, OK if it ended
// in order, "" if nobody said why. It is told the account.
func (t *talk) run(ctx context.Context) (reason string) {
	err := t.receive(ctx)
	if errors.Is(err, io.EOF) {
		t.farEnd()
		select {
		case <-t.sent:
			err = t.s.Close()
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	t.over()
	if ctx.Err() != nil || !t.end() {
		return ""
	}
	ended, told := errors.AsType[*EndedError](err)
	switch {
	case err == nil:
		reason = check.OK
	case told:
		reason = ended.Reason
	}
	t.leaf.Ended(reason)
	if reason != check.OK {
		t.load.event("lost-session", t.leaf.Key, err.Error())
	}
	switch {
	case err == nil:
	case told:
		_ = t.s.Close() // what it stood on goes; the reason is known
	default:
		kill(t.s)
	}
	return reason
}

// receive takes what comes until an error says why nothing more does.
func (t *talk) receive(ctx context.Context) error {
	side, meter, from := t.load.side, t.load.meter, 1-t.load.side
	for {
		payload, err := t.s.Receive(ctx)
		if err != nil {
			return err
		}
		now := time.Now()
		meter.received[from].Add(1)
		meter.bytes[from].Add(uint64(len(payload)))
		m, took, fresh := t.leaf.Take(payload, now)
		if !fresh {
			continue
		}
		at := m.At.UnixNano()
		switch m.Kind {
		case check.OneWay:
			t.measure(whatOf(side), at, took)
		case check.Request:
			t.answer(ctx, item{at: at, ref: m.Seq, size: m.AnswerSize, kind: check.Answer})
		case check.Answer:
			t.measure(whatRequest, at, took)
			t.answered(now.UnixNano())
		}
	}
}

// whatOf is the direction in which a side receives.
func whatOf(side check.Side) int {
	if side == check.Controller {
		return whatUp
	}
	return whatDown
}

func (t *talk) measure(what int, at int64, took time.Duration) {
	t.load.meter.record(t.leaf.Hash, t.group.number, what, at, took)
}

// send sends items until there are none. buf is the sender's.
func (t *talk) send(ctx context.Context, buf []byte) []byte {
	var batch [16]item
	l, first := t.load, true
	for {
		n := t.next(batch[:])
		if n == 0 {
			return buf
		}
		if first && batch[0].paced {
			l.meter.late(time.Now().UnixNano()-batch[0].at, batch[0].late)
		}
		first = false
		for _, it := range batch[:n] {
			if it.last {
				_ = t.s.CloseSend() // the receiver learns why, if it fails
				t.sentAll()
				continue
			}
			m, ok := t.book(it)
			if !ok {
				return buf
			}
			buf = check.AppendMessage(buf[:0], m, int(it.size))
			if err := t.s.Send(ctx, buf); err != nil {
				t.failed(err)
				return buf
			}
			l.meter.sent[l.side].Add(1)
		}
	}
}

// book accounts for one more message before it is handed over; false: none may
// be any more. What is handed over after the account was given would look as
// if it had never been sent.
func (t *talk) book(it item) (m check.Message, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dead {
		return m, false
	}
	m = t.leaf.Next(time.Unix(0, it.at))
	m.Kind, m.Ref, m.AnswerSize = it.kind, it.ref, it.answer
	return m, true
}

// sentAll closes sent.
func (t *talk) sentAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.done {
		t.done = true
		close(t.sent)
	}
}

// failed is a Send that failed: the receiver learns why from the session; if
// it does not, nothing more is sent and the session is found stuck.
func (t *talk) failed(err error) {
	_, told := errors.AsType[*EndedError](err)
	if !told && !t.wasKilled() && t.load.ctx.Err() == nil {
		t.load.event("lost-session", t.leaf.Key, "send: "+err.Error())
	}
	t.over()
}
