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
	interval time.Duration
	mu       sync.Mutex
	slots    [wheelSlots]*stream // rings
	next     int                 // the slot for who comes next
}

// A wheelLink is a stream's place in the wheel.
type wheelLink struct {
	next, prev *stream // in the slot's ring; nil: not in the wheel
	slot       int
}

func (w *wheel) init(interval time.Duration) { w.interval = interval }

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

// turnWheel visits slot after slot.
func (g *Gateway) turnWheel() {
	var slot int
	var visited []*stream
	g.every(max(g.cfg.Heartbeat/2/wheelSlots, time.Millisecond), func() {
		visited = g.wheel.at(slot, visited[:0])
		slot = (slot + 1) % wheelSlots
		now := time.Now()
		for i, s := range visited {
			s.visit(now)
			visited[i] = nil
		}
	})
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
