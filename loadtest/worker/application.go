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
	lives    map[agentID]int // each agent's latest session
}

// An agentID is a group's number and an agent's in it.
type agentID struct{ group, agent int32 }

func newApplication(l *load, far Application) *application {
	return &application{load: l, far: far, lives: map[agentID]int{}}
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
		id := agentID{int32(g.number), int32(agent)}
		a.lives[id] = max(a.lives[id], life)
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

// underWay reports whether a session is open that is worth waiting for. Those
// of agents that died and came as new stay until the grace is over: they count
// only with dead.
func (a *application) underWay(dead bool) (yes bool) {
	a.each(func(t *talk) {
		if dead {
			yes = true
			return
		}
		g, agent, life := a.parseKey(t.leaf.Key)
		a.mu.Lock()
		defer a.mu.Unlock()
		yes = yes || a.lives[agentID{int32(g.number), int32(agent)}] == life
	})
	return yes
}

// drain ends the schedule and waits until every session is over, and none has
// come for a while, or ctx ends. Sessions of dead agents are waited for where
// the grace is shorter than the time that is given: it stands still while Kafka is
// away, so nothing else tells whether their end is only late.
func (a *application) drain(ctx context.Context, within time.Duration) {
	a.mu.Lock()
	a.stopping = true
	a.last = time.Now()
	a.mu.Unlock()
	a.each((*talk).finish)
	grace := time.Duration(a.plan.Scenario.Local.Grace)
	dead := grace > 0 && grace < within
	for {
		a.mu.Lock()
		quiet := a.last.Add(acceptQuiet)
		a.mu.Unlock()
		if !time.Now().Before(quiet) && !a.underWay(dead) {
			return
		}
		// Sessions are over at any time; to look now and then is enough.
		next := time.Now().Add(50 * time.Millisecond)
		if quiet.After(next) {
			next = quiet
		}
		if sleepUntil(ctx, next) != nil {
			return
		}
	}
}
