package worker

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/loadtest/pace"
	"github.com/moorage-dev/moorage/loadtest/scenario"
)

const (
	// openLimit is how long opening one session may take, unless the plan says
	// otherwise.
	openLimit = 60 * time.Second
	// Between a session that failed and the agent's next one: as a service
	// manager starts a process again.
	firstWait, mostWait = 100 * time.Millisecond, 5 * time.Second
)

var errStopped = errors.New("worker: the run is over")

// A fleet is the native and tunnel agents of one worker.
type fleet struct {
	*load
	agents []*agent
	far    Agents
	limit  time.Duration
	comes  context.Context // ends when no session is to be opened any more
	stop   context.CancelCauseFunc
	wg     sync.WaitGroup
	orders uint64      // so far
	leaves atomic.Bool // agents go without waiting for the other end; set before comes ends
}

// An agent is one agent through all its sessions. A goroutine lives it.
type agent struct {
	*fleet
	group  *group
	number int

	mu   sync.Mutex // guards the following
	talk *talk      // of the present session; nil: none
	key  string     // of talk, or of the session that is being opened
}

// ours are the numbers of a group's agents that a worker has.
func ours(p *Plan, g *scenario.Group) (numbers []int) {
	for n := p.Index; n < g.Agents; n += max(p.Of, 1) {
		numbers = append(numbers, n)
	}
	return numbers
}

// comes is when an agent arrives in a run that began at start. Those of a worker
// that takes another's place come when it does, if their time is over.
func (p *Plan) comes(start time.Time, g *scenario.Group, number int) time.Time {
	at := start.Add(pace.At(*g, number))
	if now := time.Now(); p.First > 0 && at.Before(now) {
		return now
	}
	return at
}

// fleetSize counts the agents of a worker that are not legacy's.
func fleetSize(p *Plan) (n int) {
	for i := range p.Scenario.Groups {
		if g := &p.Scenario.Groups[i]; g.Kind != scenario.Legacy {
			n += len(ours(p, g))
		}
	}
	return n
}

func newFleet(l *load, far Agents) *fleet {
	f := &fleet{load: l, far: far, limit: l.plan.Limit}
	f.comes, f.stop = context.WithCancelCause(l.ctx)
	if f.limit == 0 {
		f.limit = openLimit
	}
	for _, g := range l.groups {
		if g.Kind == scenario.Legacy {
			continue
		}
		for _, n := range ours(l.plan, g.Group) {
			f.agents = append(f.agents, &agent{fleet: f, group: g, number: n})
		}
	}
	return f
}

// run has the agents come and stay until their time is over or drain says so,
// and ends with ctx.
func (f *fleet) run(ctx context.Context, start time.Time) error {
	f.begin(start)
	for _, a := range f.agents {
		f.wg.Go(func() { a.live(ctx, f.comes) })
	}
	<-ctx.Done()
	f.wg.Wait()
	f.wait()
	return context.Cause(ctx)
}

// order does what concerns agents.
func (f *fleet) order(o Order) {
	f.orders++
	switch o.Do {
	case "fault":
		f.book.Fault(o.Fault, o.At)
	case "cut":
		f.cut(o, f.orders)
	case "restart":
		f.restart(o.Share, f.orders)
	case "stop":
		f.leaves.Store(o.Leave)
	}
}

// drain ends the schedule and waits for what is under way, until ctx ends at most.
func (f *fleet) drain(ctx context.Context, _ time.Duration) {
	f.stop(errStopped)
	f.each(f.part)
	done := make(chan struct{})
	go func() { // it ends with the agents, at the latest when their transport is closed
		defer close(done)
		f.wg.Wait()
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// part ends a session's schedule.
func (f *fleet) part(t *talk) {
	if f.leaves.Load() {
		t.leave()
		return
	}
	t.finish()
}

// live is one agent from its arrival on, session after session.
func (a *agent) live(ctx, comes context.Context) {
	wanted := a.plan.comes(a.start, a.group.Group, a.number)
	if sleepUntil(comes, wanted) != nil {
		return
	}
	wait := firstWait
	for life := a.plan.First; comes.Err() == nil && !a.over(); life++ {
		t := a.open(comes, life, wanted)
		if t == nil {
			wait = min(2*wait, mostWait)
		} else {
			wait = firstWait
			reason := t.run(ctx)
			a.left(t)
			wanted = time.Now()
			if reason == check.OK {
				continue // the next one begins at once
			}
		}
		if sleepUntil(comes, time.Now().Add(time.Duration(rand.Int64N(int64(wait))))) != nil {
			return
		}
		if t != nil {
			wanted = time.Now()
		}
	}
}

// open opens the agent's next session, wanted since then; nil: it failed.
func (a *agent) open(comes context.Context, life int, wanted time.Time) *talk {
	key := keyOf(a.group.Name, a.number, life)
	a.mu.Lock()
	a.key = key
	a.mu.Unlock()
	ctx, cancel := context.WithTimeout(comes, a.limit)
	defer cancel()
	s, err := a.far.Open(ctx, key, a.group.Kind)
	leaf := a.book.Open(key)
	if err != nil {
		leaf.Gone() // the other end may know of it all the same
		if comes.Err() == nil {
			a.couldNot(err)
			a.event("lost-session", key, "could not be opened: "+err.Error())
		}
		return nil
	}
	a.opens.Add(1)
	a.meter.record(leaf.Hash, a.group.number, whatConnect, wanted.UnixNano(), time.Since(wanted))
	t := a.load.talk(a.group, a.number, life, leaf, s)
	a.mu.Lock()
	a.talk = t
	a.mu.Unlock()
	if comes.Err() != nil { // drain may not have seen it
		a.part(t)
	}
	return t
}

func (a *agent) left(t *talk) {
	a.mu.Lock()
	a.talk = nil
	a.mu.Unlock()
	a.forget(t)
}

// restart is the death of a share of the agents, chosen by seed: not a word is
// said, and each comes back as a new process does.
func (f *fleet) restart(share float64, seed uint64) {
	for _, a := range f.chosen(share, seed) {
		a.mu.Lock()
		t := a.talk
		a.mu.Unlock()
		if t != nil {
			t.kill()
		}
	}
}

// cut breaks the connections of a share of the agents, and keeps them away.
func (f *fleet) cut(o Order, seed uint64) {
	var which func(string) bool // nil: all
	if o.Share < 1 {
		keys := map[string]bool{}
		for _, a := range f.chosen(o.Share, seed) {
			a.mu.Lock()
			keys[a.key] = true
			a.mu.Unlock()
		}
		which = func(key string) bool { return keys[key] }
	}
	if far, ok := f.far.(Holder); ok && o.For > 0 {
		far.Hold(which, time.Now().Add(o.For))
	}
	f.far.Cut(which)
}

// chosen is a share of the agents, at least one; the same seed chooses the same.
func (f *fleet) chosen(share float64, seed uint64) []*agent {
	n := min(max(int(share*float64(len(f.agents))+0.5), 1), len(f.agents))
	order := rand.New(rand.NewPCG(f.plan.Scenario.Seed, seed<<16|uint64(f.plan.Index))).Perm(len(f.agents))
	some := make([]*agent, n)
	for i := range some {
		some[i] = f.agents[order[i]]
	}
	return some
}

// sleepUntil waits until at, or returns why ctx has ended.
func sleepUntil(ctx context.Context, at time.Time) error {
	if d := time.Until(at); d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	return context.Cause(ctx)
}
