package worker

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// minNap is the shortest sleep of a pacer: what is due within it goes out
// together, a little late, so that a high rate does not cost a wake-up each.
const minNap = 200 * time.Microsecond

// A pacer calls events at their times, all from its one goroutine. An event
// must not block: a session whose window is full keeps its messages itself.
type pacer struct {
	alarm alarm

	mu       sync.Mutex // guards the following
	incoming []event    // not yet in the heap

	events events // the goroutine's own
}

// An event is due at a time, in nanoseconds since 1970.
type event struct {
	at int64
	do doer
}

// A doer does what is due and says when it wants to be called next; false: no more.
type doer interface {
	due(now int64) (next int64, again bool)
}

func newPacer(a alarm) *pacer { return &pacer{alarm: a} }

// add may be called by anybody.
func (p *pacer) add(at int64, do doer) {
	p.mu.Lock()
	first := len(p.incoming) == 0
	p.incoming = append(p.incoming, event{at, do})
	p.mu.Unlock()
	if first {
		p.alarm.poke()
	}
}

// run calls events until ctx ends.
func (p *pacer) run(ctx context.Context) {
	defer context.AfterFunc(ctx, p.alarm.poke)()
	for ctx.Err() == nil {
		p.mu.Lock()
		for i, e := range p.incoming {
			heap.Push(&p.events, e)
			p.incoming[i] = event{}
		}
		p.incoming = p.incoming[:0]
		p.mu.Unlock()
		now := time.Now().UnixNano()
		for len(p.events) > 0 && p.events[0].at <= now {
			if next, again := p.events[0].do.due(now); again {
				p.events[0].at = next
				heap.Fix(&p.events, 0)
			} else {
				heap.Pop(&p.events)
			}
		}
		nap := time.Hour
		if len(p.events) > 0 {
			nap = max(time.Duration(p.events[0].at-time.Now().UnixNano()), minNap)
		}
		p.alarm.sleep(nap)
	}
}

// events is a heap by time.
type events []event

func (h events) Len() int           { return len(h) }
func (h events) Less(i, j int) bool { return h[i].at < h[j].at }
func (h events) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *events) Push(x any)        { *h = append(*h, x.(event)) }
func (h *events) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = event{}
	*h = (*h)[:last]
	return e
}
