package worker

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// acceptQuiet is for how long no session may have come before an application
// says that all are over: agents and their application are stopped at once, and
// a session may be on its way.
const acceptQuiet = time.Second

// An application is the other side of all native and tunnel agents.
type application struct {
	*load
	far Application
	wg  sync.WaitGroup

	mu       sync.Mutex // guards the following
	last     time.Time  // when a session came last
	stopping bool
}

// run takes sessions until ctx ends, or nothing can be taken any more.
func (a *application) run(ctx context.Context, start time.Time) error {
	a.begin(start)
	err := a.accept(ctx)
	if ctx.Err() == nil {
		return err // the worker cannot go on
	}
	a.wg.Wait()
	a.wait()
	return err
}

// order does what concerns the application.
func (a *application) order(o Order) {
	if o.Do == "fault" {
		a.book.Fault(o.Fault, o.At)
	}
}

func (a *application) accept(ctx context.Context) error {
	for {
		key, s, err := a.far.Accept(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("worker: accept: %w", err)
		}
		g, agent, life := a.parseKey(key)
		if g == nil {
			a.event("lost-session", key, "a session of somebody else's: closed")
			kill(s)
			continue
		}
		a.opens.Add(1)
		t := a.talk(g, agent, life, a.book.Open(key), s)
		a.mu.Lock()
		a.last = time.Now()
		stopping := a.stopping
		a.mu.Unlock()
		if stopping {
			t.finish()
		}
		a.wg.Go(func() {
			defer a.forget(t)
			t.run(ctx)
		})
	}
}

// drain ends the schedule and waits until every session is over, and none has
// come for a while, or the limit has passed.
func (a *application) drain(ctx context.Context, limit time.Duration) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errStopped)
	defer cancel()
	a.mu.Lock()
	a.stopping = true
	a.last = time.Now()
	a.mu.Unlock()
	a.each((*talk).finish)
	for {
		a.mu.Lock()
		quiet := a.last.Add(acceptQuiet)
		a.mu.Unlock()
		if a.open() == 0 && !time.Now().Before(quiet) {
			return
		}
		// Sessions are over at any time; to look now and then is enough.
		next := time.Now().Add(20 * time.Millisecond)
		if quiet.After(next) {
			next = quiet
		}
		if sleepUntil(ctx, next) != nil {
			return
		}
	}
}
