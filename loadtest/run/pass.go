package run

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/loadtest/fault"
	"github.com/moorage-dev/moorage/loadtest/results"
	"github.com/moorage-dev/moorage/loadtest/scenario"
	"github.com/moorage-dev/moorage/loadtest/site"
	"github.com/moorage-dev/moorage/loadtest/spool"
	"github.com/moorage-dev/moorage/loadtest/worker"
)

// Bounds of a pass's phases.
const (
	readyLimit     = 2 * time.Minute  // for all workers to be ready
	interruptDrain = 8 * time.Second  // for what is under way when somebody interrupts
	refusedLimit   = 5 * time.Second  // from when the first agent is turned away until somebody gets in
	nobodyLimit    = 30 * time.Second // from when the first agent comes until one gets in
	undoLimit      = time.Minute      // for faults to be undone at the end
	accountLimit   = 30 * time.Second // for accounts, beyond the drain
	restLimit      = 10 * time.Minute // for what still moves, beyond the drain
)

// A pass is one scenario on one system.
type pass struct {
	*Config
	system string
	pair   int
	label  string // for events: moorage/0
	name   string // unique
	log    *slog.Logger
	plan   []fault.Planned

	life  context.Context // of all processes; ends with the pass
	site  site.Site
	begun time.Time // schedules count from it

	gone    chan struct{} // closed when a worker ended that should not have
	goneErr error
	wreck   sync.Once

	mu        sync.Mutex // guards the following
	hands     []*hand    // workers, dead ones left out
	frozen    map[string]int
	heard     map[string]time.Time
	moved     time.Time // when a worker last told of a message or of another number of sessions
	present   map[string]int
	seconds   *seconds
	limits    *limits
	ticks     *spool.List[results.Tick] // nil before the start
	marks     []results.FaultMark
	ledger    check.Ledger // of sessions that are over
	cpu       float64      // the most cores that a worker used
	most      int          // agents of one worker with a session, ever
	away      string       // why somebody could not get one, last
	awaySince time.Time    // first
	killed    time.Time    // when the application was, last; zero: never
	past      []remains    // of workers that faults ended
	deaths    []death      // of processes of agents
}

func newPass(cfg *Config, system string, pair int) *pass {
	label := fmt.Sprintf("%s/%d", system, pair)
	return &pass{
		Config: cfg, system: system, pair: pair, label: label, name: fresh(cfg.Scenario.Name, system, pair),
		log: cfg.Log.With("run", label), gone: make(chan struct{}), frozen: map[string]int{}, heard: map[string]time.Time{},
		present: map[string]int{},
	}
}

// run does the pass. words are what the site is made of.
func (p *pass) run(ctx context.Context) (one *results.Run, words string, err error) {
	// Processes outlive the interruption, which is for an end in order; while
	// they start it ends them at once.
	life, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(errors.New("run: the pass is over"))
	p.life = life
	go func() {
		select {
		case <-p.Hurry:
			end(ErrHurried)
		case <-life.Done():
		}
	}()
	started := context.AfterFunc(ctx, func() { end(context.Cause(ctx)) })

	defer func() {
		err = errors.Join(err, p.close())
	}()
	if err := p.startAll(); err != nil {
		if ctx.Err() != nil {
			err = ErrInterrupted
		}
		return nil, words, err
	}
	words = p.site.Words()
	if !started() {
		return nil, words, ErrInterrupted
	}
	one, err = p.measure(ctx)
	return one, words, err
}

// close ends workers first, which would only complain of a site that went away.
func (p *pass) close() error {
	var wg sync.WaitGroup
	for _, h := range p.living("") {
		wg.Go(h.end)
	}
	wg.Wait()
	var err error
	if p.ticks != nil {
		err = p.ticks.Close()
	}
	if p.site == nil {
		return err
	}
	return errors.Join(err, p.site.Close())
}

func (p *pass) startAll() (err error) {
	cfg := p.Config.Site
	cfg.System, cfg.Run, cfg.Local = p.system, p.name, p.Scenario.Local
	legacy := false
	for _, g := range p.Scenario.Groups {
		if g.Kind == scenario.Legacy {
			legacy = true
			if g.Door == "shim" {
				cfg.Shims = 1 // a shim is made for many agents of one host
			} else {
				cfg.Doors = true
			}
		}
	}
	if p.system == site.Moorage {
		prepare(&cfg, p.Scenario)
	} else {
		cfg.Proxied, cfg.Holes, cfg.Small = false, false, false
	}
	p.tell("process", "", "starting "+p.system)
	if p.site, err = p.Start(p.life, cfg); err != nil {
		return err
	}
	if p.system == site.Moorage {
		if err := p.schedule(); err != nil {
			return err
		}
	}
	return p.startWorkers(legacy)
}

// order is the plan of a role.
func (p *pass) order(role string, index, of int) worker.Plan {
	plan := worker.Plan{
		Role: role, Index: index, Of: of, Transport: p.system, Run: p.name, Scenario: p.Scenario,
		Gateways: p.site.Gateways(), Kafka: p.site.Kafka(), Doors: p.site.Doors(), Shims: p.site.Shims(),
		Controller: p.site.Controller(), Token: p.site.Token(), CAFile: p.site.CAFile(),
		Prefix: p.Config.Site.Prefix,
	}
	if role == worker.RoleApp {
		plan.Access = p.Config.Site.Access
	}
	if at := agents(p.Scenario); at > 20_000 && len(p.Config.Site.Gateways) == 0 {
		// One address has some 28,000 ports for connections to one other. What
		// is not on this machine can't be dialled from its loopback addresses.
		for i := range at/20_000 + 1 {
			plan.Sources = append(plan.Sources, fmt.Sprintf("127.0.0.%d", 2+i))
		}
	}
	return plan
}

// startWorkers starts the application, then the legacy controller, then the agents.
func (p *pass) startWorkers(legacy bool) error {
	ctx, cancel := context.WithTimeoutCause(p.life, readyLimit, fmt.Errorf("run: not all workers were ready within %v", readyLimit))
	defer cancel()
	secrets := secret()
	app, ready, err := p.startWorker(ctx, worker.RoleApp, p.order(worker.RoleApp, 0, 1), time.Time{})
	if err != nil {
		return err
	}
	if ready.Addr != "" {
		p.site.SetApp(ready.Addr)
	}
	app.plan.App = ready.Addr // so that a new one listens where the old did
	if legacy {
		plan := p.order(worker.RoleLegacy, 0, 1)
		plan.Secrets = secrets
		_, ready, err := p.startWorker(ctx, worker.RoleLegacy, plan, time.Time{})
		if err != nil {
			return err
		}
		if err := p.site.Connect(ctx, ready.Jenkins); err != nil {
			return err
		}
	}
	var wg sync.WaitGroup
	errs := make([]error, p.Workers)
	for i := range p.Workers {
		plan := p.order(worker.RoleAgents, i, p.Workers)
		plan.App, plan.Secrets = ready.Addr, secrets
		wg.Go(func() {
			_, _, errs[i] = p.startWorker(ctx, agentsName(i), plan, time.Time{})
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// startWorker returns when the worker is ready, and has it watched. One that
// takes another's place in a run that began already is told so before anybody
// else can give it orders.
func (p *pass) startWorker(ctx context.Context, name string, plan worker.Plan, begun time.Time) (*hand, worker.Ready, error) {
	h, err := start(p.life, p.Spawn, name, plan, p.hear)
	if err != nil {
		return nil, worker.Ready{}, err
	}
	if !begun.IsZero() {
		_ = h.say(worker.Order{Do: "start", At: begun}) // one that is dead already is never ready
	}
	p.mu.Lock()
	delete(p.heard, name) // the one before it said it
	p.hands = append(p.hands, h)
	p.mu.Unlock()
	ready, err := h.awaitReady(ctx)
	if err != nil {
		return nil, ready, err
	}
	p.site.Track(name, cmp.Or(h.child.PID, ready.PID))
	p.tell("process", name, "ready")
	go func() {
		<-h.done
		if h.err != nil && !h.wasKilled() {
			p.abandon(h.why(h.err))
		}
	}()
	return h, ready, nil
}

// abandon ends the pass: it has lost a worker.
func (p *pass) abandon(err error) {
	p.wreck.Do(func() {
		p.goneErr = err
		close(p.gone)
	})
}

// living returns the workers of a role; "": all.
func (p *pass) living(role string) []*hand {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []*hand
	for _, h := range p.hands {
		if role == "" || h.role == role {
			all = append(all, h)
		}
	}
	return all
}

// hear takes a worker's tick or event.
func (p *pass) hear(h *hand, w worker.Word) {
	if e := w.Event; e != nil {
		e.Run = p.label
		p.Event(*e)
		if e.Kind == "lost-session" {
			p.turnedAway(e)
		}
	}
	if w.Tick == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard[h.name] = time.Now()
	if p.seconds == nil {
		return // before the start
	}
	if t := w.Tick; t.Sent != [2]uint64{} || t.Received != [2]uint64{} || t.Agents != p.present[h.name] {
		p.moved, p.present[h.name] = time.Now(), t.Agents
	}
	p.limits.add(h.name, *w.Tick)
	p.ledger.Add(sideOf(h), w.Tick.Over)
	h.last.Opens, h.last.Failed = w.Tick.Opens, w.Tick.Failed
	h.tally = cmp.Or(w.Tick.Tally, h.tally)
	p.cpu = max(p.cpu, w.Tick.CPU)
	if h.role == worker.RoleAgents {
		p.most = max(p.most, w.Tick.Agents)
	}
	if err := p.seconds.add(h.name, h.role == worker.RoleAgents, *w.Tick); err != nil {
		go p.abandon(h.why(err))
	}
}

// sideOf is the side whose sessions a worker has.
func sideOf(h *hand) check.Side {
	if h.role == worker.RoleAgents {
		return check.Agent
	}
	return check.Controller
}

// turnedAway notes why an agent has no session.
func (p *pass) turnedAway(e *results.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.away = e.Text; p.awaySince.IsZero() {
		p.awaySince = time.Now()
	}
}

// nobodyLocked tells why no agent ever had a session; nil: one had, or it is
// too early to tell. p.mu is held.
func (p *pass) nobodyLocked() error {
	switch now := time.Now(); {
	case p.most > 0:
		return nil
	case p.away != "" && now.Sub(p.awaySince) > refusedLimit:
		return fmt.Errorf("run: no agent gets in: %s", p.away)
	case now.Sub(p.begun)-p.firstArrival() > nobodyLimit:
		return errNobody
	}
	return nil
}

// errLoadOver is why no fault strikes any more, in a run that went well.
var errLoadOver = errors.New("run: load has ended")

// errNobody is all that can be said when not even agents are told why.
var errNobody = errors.New("run: no agent gets in, and none is told why: do agents and gateways agree on TLS (--tls-ca), and do gateways reach this Kafka?")

// firstArrival is when the first agent comes.
func (p *pass) firstArrival() time.Duration {
	first := time.Duration(p.Scenario.Length)
	for _, g := range p.Scenario.Groups {
		first = min(first, time.Duration(g.Arrive.After))
	}
	return first
}

// tell is an event of the coordinator's own.
func (p *pass) tell(kind, who, text string) {
	at := 0.0
	if !p.begun.IsZero() {
		at = time.Since(p.begun).Seconds()
	}
	p.log.Debug("run: "+kind, "who", who, "text", text)
	p.Event(results.Event{At: at, Run: p.label, Kind: kind, Who: who, Text: text})
}

// sayAll gives an order to all workers of a role. One that is dead is noticed elsewhere.
func (p *pass) sayAll(role string, o worker.Order) {
	for _, h := range p.living(role) {
		_ = h.say(o)
	}
}

// measure is a pass from the start of load on.
func (p *pass) measure(ctx context.Context) (*results.Run, error) {
	ticks, err := spool.New[results.Tick](p.Config.Site.Dir)
	if err != nil {
		return nil, fmt.Errorf("run: no room for the seconds: %w", err)
	}
	p.mu.Lock()
	p.ticks = ticks
	p.begun = time.Now().Add(time.Second)
	end := p.begun.Add(time.Duration(p.Scenario.Length))
	p.seconds = newSeconds(p.begun)
	p.limits = newLimits(p.begun.Add(time.Duration(p.Scenario.Warmup)), end, cores(), len(p.hands), &p.Scenario)
	p.mu.Unlock()
	p.tell("start", "", p.name)
	p.sayAll("", worker.Order{Do: "start", At: p.begun})

	watch, unwatch := context.WithCancel(p.life)
	var watching sync.WaitGroup
	watching.Go(func() { p.site.Measure(watch, p.begun) })
	watching.Go(func() { p.look(watch) })
	defer watching.Wait()
	defer unwatch()

	loading, calm := context.WithCancelCause(p.life)
	defer calm(nil)
	faults := make(chan struct{})
	go func() {
		defer close(faults)
		p.strikeAll(loading)
	}()

	interrupted := error(nil)
	drain := time.Duration(p.Scenario.Drain)
	over := time.NewTimer(time.Until(end))
	defer over.Stop()
	select {
	case <-over.C:
	case <-p.gone:
		interrupted = p.goneErr
	case <-ctx.Done():
		interrupted, drain = ErrInterrupted, min(drain, interruptDrain)
	}
	length := min(time.Since(p.begun), time.Duration(p.Scenario.Length))
	p.tell("stop", "", "load has ended; what is under way drains")
	if interrupted != nil {
		calm(interrupted)
	}
	calm(errLoadOver) // the first counts
	select {
	case <-faults:
	case <-p.life.Done(): // a site that is closed is mended no more
	}
	finals, err := p.gather(ctx, drain, interrupted == nil)
	if interrupted == nil && ctx.Err() != nil {
		interrupted = ErrInterrupted // what was under way had no time
	}
	if hurried := context.Cause(p.life); hurried != nil {
		return nil, hurried
	}
	unwatch()
	watching.Wait()
	p.publish(true)
	if interrupted == nil {
		interrupted = err
	}
	one, err := p.result(finals, max(length, 0))
	if interrupted == nil {
		interrupted = err
	}
	if interrupted != nil {
		one.Invalid = interrupted.Error()
	}
	p.tell("end", "", "")
	return one, interrupted
}

// look gives out each second as it becomes complete, until ctx ends.
func (p *pass) look(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		asked, cancel := context.WithTimeout(ctx, time.Second)
		extra := p.site.Extra(asked)
		cancel()
		// Buckets of histograms are for whoever can subtract them.
		maps.DeleteFunc(extra, func(key string, _ float64) bool { return strings.Contains(key, "_bucket{") })
		p.mu.Lock()
		if len(extra) > 0 {
			p.seconds.extra = extra
		}
		silent := ""
		for _, h := range p.hands {
			if last, ok := p.heard[h.name]; ok && p.frozen[h.name] == 0 && time.Since(last) > SilentLimit {
				silent = h.name
			}
		}
		refused := p.nobodyLocked()
		p.mu.Unlock()
		if refused != nil {
			p.abandon(refused)
		}
		if silent != "" {
			p.abandon(fmt.Errorf("worker %s: has said nothing for %v", silent, SilentLimit))
		}
		p.publish(false)
	}
}

// publish gives out the seconds that are complete.
func (p *pass) publish(all bool) {
	p.mu.Lock()
	var names []string
	for _, h := range p.hands {
		names = append(names, h.name)
	}
	fresh := p.seconds.take(names, all)
	for _, t := range fresh {
		if err := p.ticks.Add(t); err != nil {
			go p.abandon(fmt.Errorf("run: keep a second: %w", err))
			break
		}
	}
	p.mu.Unlock()
	for _, t := range fresh {
		p.Tick(p.label, t)
	}
}

// gather stops all workers and collects their accounts. Of a run that went well
// what is under way has longer than the drain, if it needs it: see rest. Of one
// that was interrupted or lost a worker it has the drain, which is short then.
func (p *pass) gather(ctx context.Context, drain time.Duration, well bool) (map[*hand]worker.Final, error) {
	beyond := time.Duration(0)
	if well {
		beyond = restLimit
	}
	p.sayAll("", worker.Order{Do: "stop", Within: drain, Beyond: beyond})
	limit, cancel := context.WithTimeout(p.life, drain+beyond+accountLimit)
	defer cancel()
	if well {
		var resting sync.WaitGroup
		defer resting.Wait()
		gathered := make(chan struct{})
		defer close(gathered)
		resting.Go(func() { p.rest(ctx, gathered, drain, cancel) })
	}
	finals := map[*hand]worker.Final{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var errs []error
	for _, h := range p.living("") {
		wg.Go(func() {
			f, err := h.awaitFinal(limit.Done())
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			finals[h] = f
			p.mu.Lock()
			delete(p.heard, h.name) // it has no more to say
			p.mu.Unlock()
		})
	}
	wg.Wait()
	return finals, errors.Join(errs...)
}

// rest looks on while what is under way drains. What needs longer than the
// drain is slow, not stuck, as long as messages still arrive somewhere: a
// machine that is busy with other things, or a long queue, breaks no promise.
// When nothing has moved for the scenario's Quiet, or after restLimit, workers
// are told to wait no longer. An interruption, or a worker that is lost, leaves little time.
func (p *pass) rest(ctx context.Context, gathered <-chan struct{}, drain time.Duration, giveUp func()) {
	timer := time.NewTimer(drain)
	defer timer.Stop()
	still, last := time.Duration(p.Scenario.Quiet), time.Now().Add(drain+restLimit)
	said := false
	for {
		hurry := interruptDrain
		select {
		case <-gathered:
			return
		case <-timer.C:
			p.mu.Lock()
			quiet := min(time.Until(p.moved.Add(still)), time.Until(last))
			p.mu.Unlock()
			if quiet > 0 {
				if !said {
					said = true
					p.tell("slow", "", fmt.Sprintf("the drain of %v is over, and messages still arrive: they are waited for", drain))
				}
				timer.Reset(quiet)
				continue
			}
			hurry = time.Millisecond
		case <-ctx.Done():
		case <-p.gone:
		}
		p.sayAll("", worker.Order{Do: "stop", Within: hurry})
		timer.Reset(hurry + accountLimit)
		select {
		case <-gathered:
		case <-timer.C:
			giveUp()
		}
		return
	}
}
