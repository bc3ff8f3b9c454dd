package controller

import (
	"container/heap"
	"sync"
	"time"
)

// wakes says which sessions are due when, so that thousands of sessions share
// one timer. A session stands in it at most once.
//
// It is lazy: a session whose time moves on stays where it was and is looked
// at once too often. Almost every record moves the lease on; none of them
// touches the heap.
type wakes struct {
	mu  sync.Mutex
	due dueHeap
}

// at sees to it that s is woken at t or before. It reports whether that is
// now the earliest of all.
func (w *wakes) at(t time.Time, s *Session) (first bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case s.heapAt == 0:
		s.due = t
		heap.Push(&w.due, s)
	case t.Before(s.due):
		s.due = t
		heap.Fix(&w.due, s.heapAt-1)
	default:
		return false
	}
	return w.due[0] == s
}

// pop returns a session that is due, or else when the next one is; zero: none.
func (w *wakes) pop(now time.Time) (s *Session, next time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.due) == 0 {
		return nil, time.Time{}
	}
	if next = w.due[0].due; next.After(now) {
		return nil, next
	}
	return heap.Pop(&w.due).(*Session), time.Time{}
}

// remove forgets s.
func (w *wakes) remove(s *Session) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s.heapAt > 0 {
		heap.Remove(&w.due, s.heapAt-1)
	}
}

// dueHeap is a heap of sessions by due, which know their places in it.
type dueHeap []*Session

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heapAt, h[j].heapAt = i+1, j+1
}

func (h *dueHeap) Push(x any) {
	s := x.(*Session)
	*h = append(*h, s)
	s.heapAt = len(*h)
}

func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	s := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	s.heapAt = 0
	return s
}
