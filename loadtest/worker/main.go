package worker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/loadtest/results"
	"github.com/moorage-dev/moorage/loadtest/scenario"
)

// Why a worker ends.
var (
	// ErrOrphan: the coordinator is gone. A worker never outlives it.
	ErrOrphan = errors.New("worker: the coordinator is gone")
	errQuit   = errors.New("worker: told to quit")
)

// partingTime bounds how long a worker without coordinator takes to close what
// it has open.
const partingTime = 2 * time.Second

// Main is a worker: it reads a Plan and Orders from in, makes its part of the
// load over the transport that the plan names, and says Words to out. It
// returns nil when it was told to quit, ErrOrphan when in ended, and otherwise
// why it could not go on, which it has also said. transports are those beside
// moorage's own.
//
// A goroutine that reads in may outlive it until in ends.
func Main(ctx context.Context, in io.Reader, out io.Writer, transports map[string]Transport) error {
	return serve(ctx, in, out, transports, newAlarm)
}

// A part is a worker's share of one side.
type part interface {
	run(ctx context.Context, start time.Time) error // makes the load until ctx ends
	order(o Order)
	// drain ends the load, and waits for what is under way until ctx ends, which
	// it does with errStopped. within is how long it may take while all goes well.
	drain(ctx context.Context, within time.Duration)
	tick(t *Tick)           // adds what was since the call before
	tally(a *check.Account) // adds the anomalies so far
	final(f *Final)         // adds the whole
}

// A worker is one process of the load.
type worker struct {
	plan   *Plan
	say    *voice
	meter  *meter
	start  time.Time
	parts  []part
	opened []func() error // closes what the parts stand on
	ready  Ready
	blamed uint64 // anomalies, by the tick before
}

func serve(ctx context.Context, in io.Reader, out io.Writer, transports map[string]Transport, alarms func() alarm) error {
	say := newVoice(out)
	defer say.close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	plans, orders := make(chan *Plan), make(chan Order)
	go read(ctx, in, plans, orders, cancel)
	err := func() error {
		select {
		case p := <-plans:
			w := &worker{plan: p, say: say}
			return w.serve(ctx, cancel, orders, transports, alarms)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}()
	if errors.Is(err, errQuit) {
		return nil
	}
	if !errors.Is(err, ErrOrphan) {
		_ = say.word(Word{Fail: err.Error()}) // the exit code says it too
	}
	return err
}

// read reads a plan and orders until in ends.
func read(ctx context.Context, in io.Reader, plans chan<- *Plan, orders chan<- Order, cancel context.CancelCauseFunc) {
	lines := json.NewDecoder(in)
	fail := func(what string, err error) {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, os.ErrClosed) {
			cancel(ErrOrphan)
			return
		}
		cancel(fmt.Errorf("worker: read %s: %w", what, err))
	}
	p := new(Plan)
	if err := lines.Decode(p); err != nil {
		fail("the plan", err)
		return
	}
	select {
	case plans <- p:
	case <-ctx.Done():
		return
	}
	for {
		var o Order
		if err := lines.Decode(&o); err != nil {
			fail("an order", err)
			return
		}
		select {
		case orders <- o:
		case <-ctx.Done():
			return
		}
	}
}

// serve does a plan from its opening to its end.
func (w *worker) serve(ctx context.Context, cancel context.CancelCauseFunc, orders <-chan Order, transports map[string]Transport, alarms func() alarm) error {
	var names []string
	for _, g := range w.plan.Scenario.Groups {
		names = append(names, g.Name)
	}
	w.meter = newMeter(names)
	w.ready.PID = os.Getpid()
	var running sync.WaitGroup
	defer func() { w.part(ctx, cancel, &running) }()
	if err := w.open(ctx, transports, alarms); err != nil {
		return err
	}
	if err := w.say.word(Word{Ready: &w.ready}); err != nil {
		return err
	}
	var (
		failed  = make(chan error, len(w.parts))
		drained = make(chan struct{})
		ticks   <-chan time.Time
		rest    *rest // nil: no stop yet
		ticking ticking
	)
	for {
		select {
		case o := <-orders:
			switch {
			case o.Do == "quit":
				return errQuit
			case o.Do == "start" && w.start.IsZero():
				w.begin(o.At)
				ticking.begin(w.start)
				ticks = ticking.timer.C
				defer ticking.timer.Stop()
				for _, p := range w.parts {
					running.Go(func() {
						if err := p.run(ctx, w.start); ctx.Err() == nil {
							failed <- err
						}
					})
				}
			case w.start.IsZero():
				return fmt.Errorf("worker: order %q before the start", o.Do)
			case o.Do == "stop":
				within := w.within(o)
				if rest != nil {
					rest.limit(within + o.Beyond)
					continue
				}
				if o.Leave {
					for _, p := range w.parts {
						p.order(o)
					}
				}
				rest = newRest(ctx, within+o.Beyond)
				running.Go(func() { w.drain(rest, within); close(drained) })
			default:
				for _, p := range w.parts {
					p.order(o)
				}
			}
		case <-ticks:
			t := ticking.next()
			for _, p := range w.parts {
				p.tick(t)
			}
			w.meter.tick(t)
			if t.Anomaly != w.blamed {
				w.blamed, t.Tally = t.Anomaly, &check.Account{}
				for _, p := range w.parts {
					p.tally(t.Tally)
				}
			}
			if err := w.say.word(Word{Tick: t}); err != nil {
				return err
			}
		case <-drained:
			drained, ticks = nil, nil
			if err := w.say.word(Word{Final: w.final()}); err != nil {
				return err
			}
		case err := <-failed:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// open makes the parts of the plan's role, ready to start.
func (w *worker) open(ctx context.Context, transports map[string]Transport, alarms func() alarm) error {
	p := w.plan
	host := legacyHost{record: w.meter.take, event: w.event}
	transport := transports[p.Transport]
	if transport == nil && p.Transport == "moorage" {
		transport = Moorage{}
	}
	if transport == nil && p.Role != RoleLegacy {
		return fmt.Errorf("worker: no transport %q in this binary", p.Transport)
	}
	switch p.Role {
	case RoleAgents:
		if n := fleetSize(p); n > 0 {
			far, err := transport.Agents(ctx, p)
			if err != nil {
				return err
			}
			w.opened = append(w.opened, far.Close)
			w.parts = append(w.parts, newFleet(newLoad(ctx, p, check.Agent, n, w.meter, w.event, alarms()), far))
		}
		if len(legacyGroups(p)) > 0 {
			agents, err := newLegacyAgents(p, host)
			if err != nil {
				return err
			}
			w.parts = append(w.parts, agents)
		}
	case RoleApp:
		far, err := transport.Application(ctx, p)
		if err != nil {
			return err
		}
		w.opened = append(w.opened, far.Close)
		if a, ok := far.(Addresser); ok {
			w.ready.Addr = a.Addr()
		}
		w.parts = append(w.parts, newApplication(newLoad(ctx, p, check.Controller, allAgents(p), w.meter, w.event, alarms()), far))
	case RoleLegacy:
		c, err := newLegacyController(p, host)
		if err != nil {
			return err
		}
		w.ready.Jenkins = c.jenkins.URL
		w.parts = append(w.parts, c)
	default:
		return fmt.Errorf("worker: no role %q", p.Role)
	}
	return nil
}

// allAgents counts the agents of all workers that are not legacy's.
func allAgents(p *Plan) (n int) {
	for _, g := range p.Scenario.Groups {
		if g.Kind != scenario.Legacy {
			n += g.Agents
		}
	}
	return n
}

// begin sets the start. It gets the process's own clock, so that a step of the
// wall clock does not move the schedule's end.
func (w *worker) begin(at time.Time) {
	w.start = time.Now().Add(time.Until(at))
	w.meter.warm = at.Add(time.Duration(w.plan.Scenario.Warmup)).UnixNano()
}

// event makes a line of the events file.
func (w *worker) event(kind, who, text string) {
	w.say.event(results.Event{At: time.Since(w.start).Seconds(), Kind: kind, Who: who, Text: text})
}

// within is how long a stop lets what is under way take.
func (w *worker) within(o Order) time.Duration {
	return cmp.Or(o.Within, time.Duration(w.plan.Scenario.Drain), time.Minute)
}

// A rest is the time in which what is under way may still come. Its ctx ends
// with errStopped when that is over.
type rest struct {
	ctx   context.Context
	stop  context.CancelCauseFunc
	timer *time.Timer
}

func newRest(ctx context.Context, limit time.Duration) *rest {
	r := &rest{}
	r.ctx, r.stop = context.WithCancelCause(ctx)
	r.timer = time.AfterFunc(limit, func() { r.stop(errStopped) })
	return r
}

// limit sets how much longer it may take, from now on.
func (r *rest) limit(d time.Duration) { r.timer.Reset(d) }

// end is called when nothing is waited for any more.
func (r *rest) end() {
	r.timer.Stop()
	r.stop(nil)
}

// drain ends the load and waits for what is under way.
func (w *worker) drain(r *rest, within time.Duration) {
	defer r.end()
	var wg sync.WaitGroup
	for _, p := range w.parts {
		wg.Go(func() { p.drain(r.ctx, within) })
	}
	wg.Wait()
}

func (w *worker) final() *Final {
	f := &Final{}
	for _, p := range w.parts {
		p.final(f)
	}
	f.Latency = w.meter.all()
	return f
}

// part is the end: everything is closed, and what was started has ended. A
// worker without coordinator does not wait for it for long.
func (w *worker) part(ctx context.Context, cancel context.CancelCauseFunc, running *sync.WaitGroup) {
	cancel(errQuit)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var wg sync.WaitGroup
		for _, end := range w.opened {
			wg.Go(func() {
				if err := end(); err != nil {
					w.event("process", w.plan.Role, err.Error())
				}
			})
		}
		wg.Wait()
		running.Wait()
	}()
	if !errors.Is(context.Cause(ctx), ErrOrphan) {
		<-done
		return
	}
	limit := time.NewTimer(partingTime)
	defer limit.Stop()
	select {
	case <-done:
	case <-limit.C:
	}
}

// ticking is the seconds of a run, from its start on.
type ticking struct {
	timer *time.Timer
	at    time.Time     // the end of the present second
	then  time.Time     // when next was called last
	cpu   time.Duration // used by then
}

// begin sets the seconds up; a worker that comes late, in another's place, joins
// in the present one.
func (s *ticking) begin(start time.Time) {
	s.at, s.then, s.cpu = start.Add(time.Second), time.Now(), cpuTime()
	if late := s.then.Sub(s.at); late >= 0 {
		s.at = s.at.Add(late.Truncate(time.Second) + time.Second)
	}
	s.timer = time.NewTimer(time.Until(s.at))
}

// next ends a second. One that the process slept through is left out.
func (s *ticking) next() *Tick {
	now, cpu := time.Now(), cpuTime()
	t := &Tick{At: s.at, Extra: map[string]float64{}}
	if d := now.Sub(s.then); d > 0 {
		t.CPU = (cpu - s.cpu).Seconds() / d.Seconds()
	}
	s.then, s.cpu = now, cpu
	for s.at = s.at.Add(time.Second); !s.at.After(now); {
		s.at = s.at.Add(time.Second)
	}
	s.timer.Reset(time.Until(s.at))
	return t
}
