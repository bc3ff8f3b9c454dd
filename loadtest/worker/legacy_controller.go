package worker

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/loadtest/pace"
	"github.com/moorage-dev/moorage/loadtest/scenario"
	"github.com/moorage-dev/moorage/standin"
)

// errLegacyStuck is why a call that is under way at the end is given up.
var errLegacyStuck = errors.New("worker: no answer, and the time to wait for one is over")

// legacyController is the controller of a scenario's legacy groups. It makes
// all their calls, in an open loop: up and down are calls with nearly nothing
// the other way, and a request from the agent is a call with the sizes
// exchanged, for what crosses the wire is the same.
//
// A call that is due while its agent has no channel is left out and counted as
// skipped: a real controller builds elsewhere then.
type legacyController struct {
	host    legacyHost
	plan    *Plan
	jenkins *standin.Controller
	lanes   []*legacyLane

	anomalies anomalyList
	calls     atomic.Uint64 // answered as they should be
	failed    atomic.Uint64 // whose channel ended before the answer
	skipped   atomic.Uint64
	overrun   atomic.Uint64
	corrupt   atomic.Uint64
	stuck     atomic.Uint64
	bytes     [2]atomic.Uint64 // of answered calls: up, down
	lag       atomic.Int64     // the pacer's, since the last tick

	done     context.Context // the load has ended
	end      context.CancelFunc
	patience context.Context // for answers
	abort    context.CancelCauseFunc
	wg       sync.WaitGroup // calls and the lanes that make them

	ticked struct{ calls, up, down uint64 } // of the ticks before; the ticker's alone
}

// A legacyLane is one flow of one agent.
type legacyLane struct {
	*legacyController
	group  *scenario.Group
	agent  string
	closed bool
	limit  int // calls at once

	// Of the pacer alone.
	pacer   *pace.Pacer
	answers *pace.Sizes // nil: nearly nothing goes the other way
	arrives time.Duration
	up      bool // the paced size is that of the answer
	next    legacyCall

	mu       sync.Mutex // guards the following
	underWay int
	waiting  []legacyCall
}

// A legacyCall is due at a time after the start.
type legacyCall struct {
	due      time.Duration
	up, down int
}

// newLegacyController opens the controller's ports.
func newLegacyController(p *Plan, h legacyHost) (*legacyController, error) {
	key, err := legacyKey(p)
	if err != nil {
		return nil, err
	}
	c := &legacyController{host: h, plan: p}
	if c.jenkins, err = standin.NewController(standin.Config{ListenHTTP: p.Jenkins, Key: key}); err != nil {
		return nil, fmt.Errorf("worker: legacy controller: %w", err)
	}
	c.done, c.end = context.WithCancel(context.Background())
	c.patience, c.abort = context.WithCancelCause(context.Background())
	for _, g := range legacyGroups(p) {
		for number := range g.Agents {
			if g.Down != nil {
				c.lane(g, number, "down", *g.Down)
			}
			if g.Up != nil {
				c.lane(g, number, "up", *g.Up).up = true
			}
			if r := g.Request; r != nil {
				l := c.lane(g, number, "request", r.Flow)
				l.up = r.From == "agent"
				l.answers = pace.NewSizes(r.Answer, pace.Seed(p.Scenario.Seed, g.Name+".answer"), number)
				if r.InFlight > 0 {
					l.limit = min(l.limit, r.InFlight)
				}
			}
		}
	}
	return c, nil
}

// lane adds one flow of an agent.
func (c *legacyController) lane(g *scenario.Group, number int, what string, f scenario.Flow) *legacyLane {
	l := &legacyLane{
		legacyController: c, group: g, agent: legacyName(c.plan, g, number), closed: f.Closed, limit: legacyInFlight,
		pacer: pace.New(f, pace.Seed(c.plan.Scenario.Seed, g.Name+"."+what), number), arrives: pace.At(*g, number),
	}
	c.lanes = append(c.lanes, l)
	return l
}

// run is the controller until ctx ends, and its load.
func (c *legacyController) run(ctx context.Context, start time.Time) error {
	var serving sync.WaitGroup
	defer serving.Wait()
	serving.Go(func() { _ = c.jenkins.Run(ctx) }) // it ends with ctx
	stop := context.AfterFunc(ctx, func() {
		c.end()
		c.abort(context.Cause(ctx))
	})
	defer stop()
	c.wg.Go(func() { c.pace(start) })
	c.wg.Wait()
	<-ctx.Done()
	return context.Cause(ctx)
}

// pace has each call begin when it is due, until the scenario's length is over
// or the load is ended.
func (c *legacyController) pace(start time.Time) {
	length := time.Duration(c.plan.Scenario.Length)
	var due lanesByTime
	for _, l := range c.lanes {
		if l.closed {
			c.wg.Go(func() { l.loop(start, start.Add(length)) })
		} else if l.draw() {
			due = append(due, l)
		}
	}
	heap.Init(&due)
	for len(due) > 0 && due[0].next.due < length {
		l := due[0]
		at := start.Add(l.next.due)
		if early := time.Until(at); early > 0 {
			if legacyWait(c.done, early) != nil {
				return
			}
			c.lagged(time.Since(at))
		} else if c.done.Err() != nil {
			return
		}
		l.begin(start)
		if l.draw() {
			heap.Fix(&due, 0)
		} else {
			heap.Pop(&due)
		}
	}
}

// lagged notes how late the pacer woke.
func (c *legacyController) lagged(by time.Duration) {
	if int64(by) > c.lag.Load() {
		c.lag.Store(int64(by)) // a tick may take it away meanwhile: it is one wake-up of many
	}
}

// draw makes the lane's next call; false: there is none.
func (l *legacyLane) draw() bool {
	offset, size, ok := l.pacer.Next()
	if !ok {
		return false
	}
	l.next = legacyCall{due: l.arrives + offset, down: size}
	if l.answers != nil {
		l.next.up = l.answers.Next()
	}
	if l.up {
		l.next.up, l.next.down = l.next.down, l.next.up
	}
	return true
}

// begin has the next call made, by a goroutine of its own or by one that is
// under way.
func (l *legacyLane) begin(start time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.underWay < l.limit:
		l.underWay++
		call := l.next
		l.wg.Go(func() { l.work(start, call) })
	case len(l.waiting) < legacyBacklog:
		l.waiting = append(l.waiting, l.next)
	default:
		l.overrun.Add(1)
	}
}

// work makes a call, and then those that wait.
func (l *legacyLane) work(start time.Time, call legacyCall) {
	for more := true; more; {
		l.call(call, start.Add(call.due))
		l.mu.Lock()
		if more = len(l.waiting) > 0; more {
			call = l.waiting[0]
			l.waiting = l.waiting[1:]
		} else {
			l.underWay--
		}
		l.mu.Unlock()
	}
}

// loop is a closed loop: call after call, whenever the agent has a channel.
func (l *legacyLane) loop(start, end time.Time) {
	ctx, cancel := context.WithDeadline(l.done, end)
	defer cancel()
	for legacyWait(ctx, time.Until(start.Add(l.arrives))) == nil && l.draw() {
		if l.jenkins.WaitOnline(ctx, l.agent) != nil {
			return
		}
		l.call(l.next, time.Now())
	}
}

// call makes one call and judges it.
func (l *legacyLane) call(call legacyCall, scheduled time.Time) {
	err := l.jenkins.Call(l.patience, l.agent, call.up, call.down)
	switch {
	case err == nil:
		l.calls.Add(1)
		l.bytes[0].Add(uint64(call.up))
		l.bytes[1].Add(uint64(call.down))
		l.host.record("request", l.group.Name, scheduled, time.Since(scheduled))
	case errors.Is(err, standin.ErrCorrupt):
		l.corrupt.Add(1)
		l.anomalies.add(check.Controller, "corrupted", l.agent, err.Error())
	case errors.Is(err, standin.ErrOffline):
		l.skipped.Add(1)
	case errors.Is(err, errLegacyStuck):
		l.stuck.Add(1)
		l.anomalies.add(check.Controller, "stuck", l.agent, fmt.Sprintf("a call of %d bytes, %d back: %v", call.down, call.up, err))
	default:
		l.failed.Add(1)
	}
}

func (c *legacyController) order(Order) {}

// drain ends the load and waits for the answers to what is under way.
func (c *legacyController) drain(ctx context.Context, _ time.Duration) {
	c.end()
	drained := make(chan struct{})
	go func() {
		c.wg.Wait()
		close(drained)
	}()
	select {
	case <-drained:
	case <-ctx.Done():
		why := context.Cause(ctx)
		if errors.Is(why, errStopped) {
			why = errLegacyStuck
		}
		c.abort(why)
		<-drained
	}
}

func (c *legacyController) tick(t *Tick) {
	calls, up, down := c.calls.Load(), c.bytes[0].Load(), c.bytes[1].Load()
	for way := range 2 {
		t.Sent[way] += calls - c.ticked.calls
		t.Received[way] += calls - c.ticked.calls
	}
	t.Bytes[0] += up - c.ticked.up
	t.Bytes[1] += down - c.ticked.down
	c.ticked.calls, c.ticked.up, c.ticked.down = calls, up, down
	t.Lag = max(t.Lag, time.Duration(c.lag.Swap(0)))
	t.Anomaly += c.anomalies.all()
}

func (c *legacyController) tally(a *check.Account) { c.anomalies.addTo(a) }

func (c *legacyController) final(f *Final) {
	stats := c.jenkins.Stats()
	f.Account.Side = check.Controller
	c.anomalies.addTo(&f.Account)
	addFigures(f, map[string]uint64{
		"calls": c.calls.Load(), "failed_calls": c.failed.Load(), "skipped_calls": c.skipped.Load(), "overrun_calls": c.overrun.Load(),
		"corrupt": max(c.corrupt.Load(), uint64(stats.Corrupt)), "stuck_calls": c.stuck.Load(),
		"legacy_online": uint64(stats.Online), "pings_missing": uint64(stats.PingsMissing), "close_notify": uint64(stats.CloseNotify),
	})
}

// lanesByTime is a heap of lanes by when their next call is due.
type lanesByTime []*legacyLane

func (h lanesByTime) Len() int           { return len(h) }
func (h lanesByTime) Less(i, j int) bool { return h[i].next.due < h[j].next.due }
func (h lanesByTime) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *lanesByTime) Push(x any)        { *h = append(*h, x.(*legacyLane)) }
func (h *lanesByTime) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}
