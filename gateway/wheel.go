package gateway

import (
	"slices"
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

// bite is how many streams are visited at once. Each may wake a worker and, in
// gRPC, a writer with a buffer of 32 KiB: as many of these as were wanted at
// once stay in their pools.
const bite = 16

// turnWheel visits slot after slot, and a slot's streams spread over its time.
func (g *Gateway) turnWheel() {
	var slot int
	var visited []*stream
	turn := max(g.cfg.Heartbeat/2/wheelSlots, time.Millisecond)
	pause := time.NewTimer(time.Hour)
	defer pause.Stop()
	g.every(turn, func() {
		visited = g.wheel.at(slot, visited[:0])
		slot = (slot + 1) % wheelSlots
		began, bites := time.Now(), (len(visited)+bite-1)/bite
		i := 0
		for some := range slices.Chunk(visited, bite) {
			// Who is late already does not wait.
			if ahead := turn*time.Duration(i)/time.Duration(bites) - time.Since(began); ahead > 0 {
				pause.Reset(ahead)
				select {
				case <-pause.C:
				case <-g.ctx.Done():
					return
				}
			}
			now := time.Now()
			for j, s := range some {
				s.visit(now)
				some[j] = nil
			}
			i++
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
