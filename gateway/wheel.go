package gateway

import (
	"sync"
	"time"
)

// wheelSlots is how finely the heartbeats of all streams are spread over time.
const wheelSlots = 64

// A wheel visits every stream twice per heartbeat interval: one goroutine and
// two words per stream in place of a timer each.
type wheel struct {
	turn time.Duration // from slot to slot

	mu    sync.Mutex          // guards the following
	slots [wheelSlots]*stream // rings
	next  int                 // the slot for who comes next
}

// A wheelLink is a stream's place in the wheel.
type wheelLink struct {
	next, prev *stream // in the slot's ring; nil: not in the wheel
	slot       int
}

func (w *wheel) init(interval time.Duration) {
	w.turn = max(interval/2/wheelSlots, time.Millisecond)
}

func (w *wheel) add(s *stream) {
	w.mu.Lock()
	defer w.mu.Unlock()
	slot := w.next
	w.next = (w.next + 1) % wheelSlots
	s.spoke = wheelLink{s, s, slot}
	if head := w.slots[slot]; head != nil {
		last := head.spoke.prev
		s.spoke.next, s.spoke.prev = head, last
		last.spoke.next, head.spoke.prev = s, s
		return
	}
	w.slots[slot] = s
}

func (w *wheel) remove(s *stream) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := s.spoke
	if l.next == nil {
		return
	}
	s.spoke = wheelLink{}
	if l.next == s {
		w.slots[l.slot] = nil
		return
	}
	l.prev.spoke.next, l.next.spoke.prev = l.next, l.prev
	if w.slots[l.slot] == s {
		w.slots[l.slot] = l.next
	}
}

// at appends the streams of one slot.
func (w *wheel) at(slot int, all []*stream) []*stream {
	w.mu.Lock()
	defer w.mu.Unlock()
	head := w.slots[slot]
	if head == nil {
		return all
	}
	for s := head; ; {
		all = append(all, s)
		if s = s.spoke.next; s == head {
			return all
		}
	}
}

// A timetable says when which slot is due. It counts from when a slot was due,
// not from when it was seen to: a gateway that is short of processor time wakes
// late for each slot, and would else be later from slot to slot, until agent
// sides hear nothing for three intervals and leave all at once.
type timetable struct {
	turn time.Duration // from slot to slot
	slot int           // the next one
	due  time.Time     // and when it is
}

// next returns the slot to see to, and when. Of slots missed more than once,
// after the process was stopped, each is seen to once.
func (t *timetable) next(now time.Time) (slot int, due time.Time) {
	if late := now.Sub(t.due); late >= wheelSlots*t.turn {
		t.due = t.due.Add(late.Truncate(wheelSlots * t.turn))
	}
	slot, due = t.slot, t.due
	t.slot, t.due = (slot+1)%wheelSlots, due.Add(t.turn)
	return slot, due
}

// bite is how many streams are visited at once. Each may wake a worker and, in
// gRPC, a writer with a buffer of 32 KiB: as many of these as were wanted at
// once stay in their pools.
const bite = 16

// turnWheel visits slot after slot, and a slot's streams spread over its time.
func (g *Gateway) turnWheel() {
	var visited []*stream
	table := timetable{turn: g.wheel.turn, due: time.Now().Add(g.wheel.turn)}
	pause := time.NewTimer(time.Hour)
	defer pause.Stop()
	until := func(t time.Time) bool {
		ahead := time.Until(t)
		if ahead <= 0 { // who is late already does not wait
			return g.ctx.Err() == nil
		}
		pause.Reset(ahead)
		select {
		case <-pause.C:
			return true
		case <-g.ctx.Done():
			return false
		}
	}
	for {
		slot, due := table.next(time.Now())
		if !until(due) {
			return
		}
		visited = g.wheel.at(slot, visited[:0])
		bites := (len(visited) + bite - 1) / bite
		for i := range bites {
			if !until(due.Add(table.turn * time.Duration(i) / time.Duration(bites))) {
				return
			}
			some := visited[i*bite : min(i*bite+bite, len(visited))]
			now := time.Now()
			for _, s := range some {
				s.visit(now)
			}
			clear(some)
		}
	}
}

// visit sees to a stream's heartbeat, and whether the agent side still lives.
func (s *stream) visit(now time.Time) {
	s.local.tick()
	f := s.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.over || f.s != s {
		return
	}
	if s.local == nil && s.relay.Dead(now, s.paused.Load()) {
		s.cut(errDead)
		return
	}
	// A little early: who is not seen to now is seen to half an interval later.
	if s.g.now()-s.beatAt >= s.g.cfg.Heartbeat*3/4 {
		s.kick()
	}
}
