package check

import (
	"fmt"
	"sync"
	"time"
)

// A Leaf is a Book's page of one session. It is safe for concurrent use; what
// is received is to be told in the order in which it was.
type Leaf struct {
	Key  string
	Hash uint64 // of Key: what messages carry

	book  *Book
	mu    sync.Mutex // guards the following
	sent  uint64
	trace *trace   // nil: its events are among the shared
	bad   *trouble // nil: nothing is missing

	received uint64        // the highest seq
	last     int64         // when something arrived last; Unix nanoseconds, 0: never
	silence  time.Duration // the longest
	worst    time.Duration // that a fault is to blame for
	fault    int32         // its number, plus one; 0: none
	gone     bool
	handed   bool    // its entry was given away
	ending   *ending // nil: goes on
}

// An ending is when and why a session ended at this side.
type ending struct {
	reason string // "": not told; the application died
	at     int64  // Unix nanoseconds
}

// told returns the reason that the application was told, or "".
func (l *Leaf) told() string {
	if l.ending == nil {
		return ""
	}
	return l.ending.reason
}

// trouble is what is missing in a session's received direction.
type trouble struct {
	holes  []span // oldest first, at most maxHoles
	lost   uint64 // in holes that are not kept any more
	events []Event
	told   bool // blamed already
}

// A span is seqs from first to last.
type span struct{ first, last uint64 }

const maxHoles = 16

// Next returns the session's next message to send, due at at, and counts it as
// sent. Call it in the order of sending, and before handing over.
func (l *Leaf) Next(at time.Time) Message {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
	l.book.counts[sent].Add(1)
	l.note(mark{at: l.book.cfg.Now().UnixNano(), seq: l.sent, what: markSent})
	return Message{Session: l.Hash, From: l.book.side, Seq: l.sent, At: at}
}

// Take judges what arrived. Latency counts from when the message was due; fresh
// is false, and latency 0, if it came before, was changed or belongs elsewhere.
func (l *Leaf) Take(payload []byte, now time.Time) (m Message, latency time.Duration, fresh bool) {
	m, err := ReadMessage(l.Hash, payload)
	if err != nil {
		l.Corrupt(m, err, now)
		return m, 0, false
	}
	latency, fresh = l.Received(m, now)
	return m, latency, fresh
}

// Received records that m, which ReadMessage found sound, arrived. Take does
// both.
func (l *Leaf) Received(m Message, now time.Time) (latency time.Duration, fresh bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.arrive(m, now) {
		return 0, false
	}
	if m.At.IsZero() {
		return 0, true
	}
	l.time(m.At, now)
	return now.Sub(m.At), true
}

// Corrupt records that what arrived is not what was sent: err says how. If m
// has a Seq, its place in the session is known and nothing is missing there;
// else it counts as lost besides.
func (l *Leaf) Corrupt(m Message, err error, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m.Seq != 0 {
		l.arrive(m, now)
	} else {
		l.book.counts[received].Add(1)
		l.note(mark{at: now.UnixNano(), what: markReceived})
	}
	l.blame(corrupted, m.Seq, err.Error())
}

// arrive judges the place of m in the session. l.mu is held.
func (l *Leaf) arrive(m Message, now time.Time) (fresh bool) {
	b := l.book
	b.counts[received].Add(1)
	l.note(mark{at: now.UnixNano(), seq: m.Seq, what: markReceived})
	if l.told() != "" {
		l.blame(revived, m.Seq, "arrived after the end was told")
	}
	switch {
	case m.From == b.side || m.Seq == 0:
		l.blame(corrupted, m.Seq, "was never sent by the other side")
		return false
	case m.Seq > l.received:
		if m.Seq > l.received+1 {
			l.miss(span{l.received + 1, m.Seq - 1})
		}
		l.received = m.Seq
	case l.bad != nil && l.bad.fill(m.Seq):
		b.counts[lost].Add(^uint64(0))
		l.blame(reordered, m.Seq, fmt.Sprintf("arrived after message %d", l.received))
	default:
		l.blame(repeated, m.Seq, "arrived before")
		return false
	}
	return true
}

// time does the accounting of time for one first arrival. l.mu is held.
func (l *Leaf) time(due, now time.Time) {
	at := due
	if l.last != 0 {
		at = later(due, time.Unix(0, l.last))
	}
	l.silence = max(l.silence, now.Sub(at))
	l.last = now.UnixNano()
	l.feel(due, now)
}

// Ended records that the application was told the session's end. An end is told
// once; "" is an end without a reason.
func (l *Leaf) Ended(reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.book.cfg.Now().UnixNano()
	l.note(mark{at: now, what: markEnded})
	if reason == "" {
		reason = NoReason
	}
	if had := l.told(); had != "" {
		l.blame(misjudged, 0, "told twice: "+had+", then "+reason)
		return
	}
	l.ending = &ending{reason, now}
	if reason == OK {
		l.book.ended(l, now)
	}
}

// Gone records that the application at this end died, so that it can neither
// receive nor be told anything. What was under way either way is cut off.
func (l *Leaf) Gone() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.book.cfg.Now().UnixNano()
	l.note(mark{at: now, what: markGone})
	l.gone = true
	if l.ending == nil {
		l.ending = &ending{at: now}
	}
}

// miss notes a hole. l.mu is held.
func (l *Leaf) miss(s span) {
	if l.bad == nil {
		l.bad = new(trouble)
		if l.book.wanted() {
			l.bad.events = l.eventsLocked()
		}
	}
	if len(l.bad.holes) == maxHoles {
		oldest := l.bad.holes[0]
		l.bad.lost += oldest.last - oldest.first + 1
		l.bad.holes = append(l.bad.holes[:0], l.bad.holes[1:]...)
	}
	l.bad.holes = append(l.bad.holes, s)
	l.book.counts[lost].Add(s.last - s.first + 1)
}

// fill takes seq out of the hole that it is in, if there is one.
func (t *trouble) fill(seq uint64) bool {
	for i, h := range t.holes {
		if seq < h.first || seq > h.last {
			continue
		}
		var rest []span
		if h.first < seq {
			rest = append(rest, span{h.first, seq - 1})
		}
		if seq < h.last {
			rest = append(rest, span{seq + 1, h.last})
		}
		t.holes = append(t.holes[:i], append(rest, t.holes[i+1:]...)...)
		if len(t.holes) > maxHoles { // the oldest one's loss is final now
			t.lost += t.holes[0].last - t.holes[0].first + 1
			t.holes = t.holes[1:]
		}
		return true
	}
	return false
}

// entry returns the session for an Account, and the anomaly that it is to
// others, if messages are missing and that was not told yet. nil: it was handed
// over.
func (l *Leaf) entry() (*Entry, *Anomaly) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.handed {
		return nil, nil
	}
	e := l.page()
	t := l.bad
	if t == nil || t.told {
		return e, nil
	}
	n, first := t.lost, uint64(0)
	for i, h := range t.holes {
		n += h.last - h.first + 1
		if i == 0 {
			first = h.first
		}
	}
	if n == 0 {
		return e, nil
	}
	t.told = true
	return e, &Anomaly{
		What: names[lost], Session: Session(l.Key), Side: l.book.side.String(), Seq: first,
		Detail: fmt.Sprintf("%d missing before a message that arrived", n), Events: t.events,
	}
}

// page is the session as an Entry. l.mu is held.
func (l *Leaf) page() *Entry {
	e := &Entry{Sent: l.sent, Received: l.received, Reason: l.told(), Gone: l.gone, Silence: l.silence}
	if l.ending != nil {
		e.Over = time.Unix(0, l.ending.at)
	}
	return e
}

// blame counts an anomaly, and keeps it if there is room. l.mu is held.
func (l *Leaf) blame(word int, seq uint64, detail string) {
	l.book.counts[word].Add(1)
	if l.book.wanted() {
		l.book.blame(Anomaly{names[word], Session(l.Key), l.book.side.String(), seq, detail, l.eventsLocked()})
	}
}
