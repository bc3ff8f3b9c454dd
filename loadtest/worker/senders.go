package worker

import (
	"context"
	"sync"
	"sync/atomic"
)

// idleSenders is how many goroutines wait for talks; a goroutine that finds so
// many waiting ends.
const idleSenders = 64

// senders is the goroutines that send. A talk has one while it has something
// to send; one whose window is full keeps its goroutine, and no other talk
// waits for it. So there are as many as there are blocked sessions, and a few.
type senders struct {
	ctx   context.Context // of the run
	turns chan *talk
	idle  atomic.Int32
	wg    sync.WaitGroup
}

func newSenders(ctx context.Context) *senders {
	return &senders{ctx: ctx, turns: make(chan *talk)}
}

// take never blocks. When the run is over nothing is sent any more.
func (s *senders) take(t *talk) {
	if s.ctx.Err() != nil {
		return
	}
	select {
	case s.turns <- t:
	default:
		s.wg.Go(func() { s.run(t) })
	}
}

func (s *senders) run(t *talk) {
	var buf []byte
	for {
		if buf = t.send(s.ctx, buf); cap(buf) > 64<<10 {
			buf = nil
		}
		if s.idle.Add(1) > idleSenders {
			s.idle.Add(-1)
			return
		}
		select {
		case t = <-s.turns:
			s.idle.Add(-1)
		case <-s.ctx.Done():
			s.idle.Add(-1)
			return
		}
	}
}
