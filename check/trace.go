package check

import (
	"slices"
	"sync"
	"time"
)

// ownTraces is how many sessions of a process keep their own last events; those
// that come later share.
const ownTraces = 10_000

// A mark is an Event, made small.
type mark struct {
	at   int64 // Unix nanoseconds
	seq  uint64
	what markKind
}

type markKind uint8

const (
	markSent markKind = iota
	markReceived
	markEnded
	markGone
)

func (k markKind) String() string { return [...]string{"sent", "received", "ended", "gone"}[k] }

// ownEvents is how many events a session of its own trace has.
const ownEvents = 12

// A trace is a session's last events.
type trace struct {
	marks [ownEvents]mark
	n     uint64 // so many were there ever; the next stands at n modulo ownEvents
}

// A sharedTrace is the last events of many sessions. It takes its memory when
// it is first used: 64 shards, so that sessions seldom wait for each other.
type sharedTrace struct {
	once   sync.Once
	shards []traceShard
}

type traceShard struct {
	mu    sync.Mutex
	marks []sharedMark
	next  int
}

type sharedMark struct {
	leaf *Leaf
	mark
}

const (
	traceShards     = 64
	traceShardMarks = 1024
)

func (t *sharedTrace) shard(l *Leaf) *traceShard {
	t.once.Do(func() { t.shards = make([]traceShard, traceShards) })
	return &t.shards[l.Hash%traceShards]
}

func (s *traceShard) add(m sharedMark) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.marks) < traceShardMarks {
		s.marks = append(s.marks, m)
		return
	}
	s.marks[s.next] = m
	s.next = (s.next + 1) % len(s.marks)
}

// of returns the marks of one session, oldest first, the last ownEvents.
func (s *traceShard) of(l *Leaf) (marks []mark) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.marks {
		if m := s.marks[(s.next+i)%len(s.marks)]; m.leaf == l {
			marks = append(marks, m.mark)
		}
	}
	return marks[max(0, len(marks)-ownEvents):]
}

// note keeps an event. l.mu is held.
func (l *Leaf) note(m mark) {
	if l.trace == nil {
		l.book.shared.shard(l).add(sharedMark{l, m})
		return
	}
	l.trace.marks[l.trace.n%ownEvents] = m
	l.trace.n++
}

// events returns the session's last, oldest first.
func (l *Leaf) events() []Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.eventsLocked()
}

func (l *Leaf) eventsLocked() []Event {
	var marks []mark
	if t := l.trace; t == nil {
		marks = l.book.shared.shard(l).of(l)
	} else if t.n <= ownEvents {
		marks = t.marks[:t.n]
	} else {
		at := t.n % ownEvents
		marks = slices.Concat(t.marks[at:], t.marks[:at])
	}
	events := make([]Event, len(marks))
	for i, m := range marks {
		events[i] = Event{At: time.Unix(0, m.at), Side: l.book.side, What: m.what.String(), Seq: m.seq}
		if m.what == markEnded {
			events[i].Text = l.told()
		}
	}
	return events
}
