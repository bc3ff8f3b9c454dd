package demo

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/seeded"
)

// A Config says what a demonstration does.
type Config struct {
	Agents   int           // 0: 200
	Gateways int           // 0: 3
	Faults   int           // 0: 30; negative: none
	Duration time.Duration // of the traffic; 0: 30 s
	Seed     uint64        // of the schedule and the messages
	Break    string        // a seeded bug to switch on; "": none
	Program  string        // moorage itself, for bugs of a process that dies; "": these cannot be shown

	Out      io.Writer // lines for a human
	Terminal bool      // Out is a terminal: one line, drawn again and again
	World    WorldConfig

	provoke  seeded.Bug    // the faults and the world are for this one, on or not; "": Break
	patience time.Duration // of a story; 0: legacy's
}

// A Result is what a demonstration showed.
type Result struct {
	check.Report
	Seed     uint64            `json:"seed"`
	Agents   int               `json:"agents"`
	Gateways int               `json:"gateways"`
	Duration time.Duration     `json:"duration"` // of the traffic; the schedule is stretched over it
	Break    string            `json:"break,omitempty"`
	Faults   map[FaultKind]int `json:"faults"` // met, by kind
	Schedule []Fault           `json:"schedule"`
	Settled  bool              `json:"settled"`         // everything came to rest in time
	Wrong    []string          `json:"wrong,omitempty"` // beside the sessions

	Interrupted bool `json:"interrupted,omitempty"` // before its time was over
}

// Clean reports whether every promise was kept.
func (r Result) Clean() bool { return r.Settled && len(r.Wrong) == 0 && r.Report.Clean() }

// settle is how long everything may take to come to rest after the traffic.
const settle = 90 * time.Second

// Run runs one demonstration. An error means that it could not be carried
// out; whether promises were kept, the Result says.
func Run(ctx context.Context, cfg Config) (Result, error) {
	cfg.defaults()
	kinds, legacy := Everyday, false
	if cfg.Break != "" {
		if err := seeded.Set(cfg.Break); err != nil {
			return Result{}, err
		}
		defer seeded.Set("")
		cfg.provoke = seeded.Bug(cfg.Break)
	}
	if cfg.provoke != "" {
		p := provocations[cfg.provoke]
		kinds, legacy = p.faults, p.legacy != nil
		if p.world != nil {
			p.world(&cfg.World)
		}
	}
	r := Result{
		Seed: cfg.Seed, Agents: cfg.Agents, Gateways: cfg.Gateways, Duration: cfg.Duration, Break: cfg.Break,
		Schedule: Schedule(cfg.Seed, kinds, cfg.Faults, cfg.Agents, cfg.Gateways, cfg.Duration),
	}
	fmt.Fprintf(cfg.Out, "moorage demo: the Kafka here is embedded, in memory, and gone when this ends\n")
	if legacy {
		return play(ctx, cfg, r, provocations[cfg.provoke])
	}
	fmt.Fprintf(cfg.Out, "%d agents, %d gateways, %d faults in %v, seed %d\n", cfg.Agents, cfg.Gateways, len(r.Schedule), cfg.Duration, cfg.Seed)

	// An interruption ends the schedule, not the world: what is under way is
	// still waited for, and judged.
	w, err := NewWorld(context.WithoutCancel(ctx), cfg.World)
	if err != nil {
		return r, err
	}
	defer w.Close()
	d := display{out: cfg.Out, terminal: cfg.Terminal, w: w, started: time.Now()}
	stop := d.run()
	if err := w.follow(ctx, r.Schedule, cfg.Duration, d.say); err != nil {
		r.Interrupted = true
		d.say("interrupted; the verdict so far follows when what is under way has arrived")
	} else {
		d.say("traffic ends; waiting for everything under way")
	}
	r.Settled = w.rest(settle, cfg.Break != "")
	stop()
	r.Report, r.Faults, r.Wrong = w.Report(true), w.Met(), w.Wrong()
	return r, nil
}

// rest lets everybody finish, see Quiet. If somethingBreaks, it goes on only
// until something has: what is broken may never come to rest.
func (w *World) rest(within time.Duration, somethingBreaks bool) bool {
	if !somethingBreaks {
		return w.Quiet(within)
	}
	settled := make(chan bool, 1)
	go func() { settled <- w.Quiet(within) }()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case ok := <-settled:
			return ok
		case <-tick.C:
			if !w.Report(false).Clean() || len(w.Wrong()) > 0 {
				return false
			}
		}
	}
}

func (cfg *Config) defaults() {
	if cfg.Agents == 0 {
		cfg.Agents = 200
	}
	if cfg.Gateways == 0 {
		cfg.Gateways = 3
	}
	if cfg.Faults == 0 {
		cfg.Faults = 30
	}
	cfg.Faults = max(cfg.Faults, 0)
	if cfg.Duration == 0 {
		cfg.Duration = 30 * time.Second
	}
	if cfg.Out == nil {
		cfg.Out = io.Discard
	}
	cfg.World.Agents, cfg.World.Gateways, cfg.World.Seed = cfg.Agents, cfg.Gateways, cfg.Seed
}

// follow carries the schedule out and returns when d is over.
func (w *World) follow(ctx context.Context, plan []Fault, d time.Duration, say func(string, ...any)) error {
	start := time.Now()
	wait := func(at time.Duration) error {
		select {
		case <-time.After(time.Until(start.Add(at))):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for _, f := range plan {
		if err := wait(f.At); err != nil {
			return err
		}
		say("%-18s %s", f.Kind, w.describe(f))
		w.Strike(f)
	}
	return wait(d)
}

// describe tells whom a fault strikes.
func (w *World) describe(f Fault) string {
	switch f.Kind {
	case GatewayKilled, GatewayDrained, GatewayFrozen:
		return w.node(f.Target).name
	case KafkaCut:
		if f.Target < len(w.gateways) {
			return w.gateways[f.Target].name
		}
		return "controller"
	case ProduceDoubtful, ProduceRefused, FetchFailed:
		return fmt.Sprintf("%d requests", f.Target)
	case ControllerDied:
		return controllerName
	case ProduceLost:
		return w.agents[f.Target/2%len(w.agents)].name
	case CloseRefused, KafkaStalled:
		return fmt.Sprintf("for %v", f.For)
	case TicketForged, StreamTwice, NewsRefused, PositionForeign:
		return "a session by hand"
	case AgentSlow:
		return fmt.Sprintf("%s for %v", w.agents[f.Target%len(w.agents)].name, f.For)
	}
	return w.agents[f.Target%len(w.agents)].name
}

// String is the report for a human; its first line is the verdict.
func (r Result) String() string {
	var b strings.Builder
	b.WriteString(r.Report.String())
	for _, k := range slices.Concat(All, Strange) {
		if n, ok := r.Faults[k]; ok {
			fmt.Fprintf(&b, "met %-20s %d\n", k, n)
		}
	}
	for _, w := range r.Wrong {
		fmt.Fprintln(&b, "wrong:", w)
	}
	if r.Interrupted {
		fmt.Fprintln(&b, "interrupted before its time was over")
	}
	if !r.Settled && r.Break != "" && !(r.Report.Clean() && len(r.Wrong) == 0) {
		fmt.Fprintln(&b, "not waited until everything came to rest: the verdict stands")
	} else if !r.Settled {
		fmt.Fprintf(&b, "not everything came to rest within %v\n", settle)
	}
	fmt.Fprintf(&b, "the same schedule again: moorage demo --agents %d --gateways %d --faults %d --duration %v --seed %d",
		r.Agents, r.Gateways, len(r.Schedule), r.Duration, r.Seed)
	if r.Break != "" {
		fmt.Fprintf(&b, " --break=%s", r.Break)
	}
	fmt.Fprintln(&b)
	return b.String()
}

// A display shows what goes on: one line on a terminal, a line every few
// seconds elsewhere.
type display struct {
	out      io.Writer
	terminal bool
	w        *World
	started  time.Time
	lines    chan string
}

func (d *display) say(format string, args ...any) {
	d.lines <- fmt.Sprintf("%5.1fs  ", time.Since(d.started).Seconds()) + fmt.Sprintf(format, args...)
}

// run shows until the returned function is called.
func (d *display) run() (stop func()) {
	d.lines = make(chan string)
	done := make(chan struct{})
	every := 5 * time.Second
	if d.terminal {
		every = 200 * time.Millisecond
	}
	go func() {
		defer close(done)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case line, ok := <-d.lines:
				if !ok {
					d.clear()
					return
				}
				d.clear()
				fmt.Fprintln(d.out, line)
			case <-tick.C:
				d.status()
			}
		}
	}()
	return func() {
		close(d.lines)
		<-done
	}
}

func (d *display) clear() {
	if d.terminal {
		fmt.Fprint(d.out, "\r\x1b[K")
	}
}

func (d *display) status() {
	r := d.w.Report(false)
	line := fmt.Sprintf("%5.1fs  attached %d/%d  up %d/%d  down %d/%d  lost=%d repeated=%d reordered=%d",
		time.Since(d.started).Seconds(), d.w.Attached(), d.w.cfg.Agents,
		r.Received[check.Agent], r.Sent[check.Agent], r.Received[check.Controller], r.Sent[check.Controller],
		r.Lost, r.Repeated, r.Reordered)
	if d.terminal {
		fmt.Fprint(d.out, "\r\x1b[K\x1b[?7l"+line+"\x1b[?7h") // cut off at the edge, not wrapped
		return
	}
	fmt.Fprintln(d.out, line)
}

// FaultTable tells how often each kind of fault struck a session in each state.
func FaultTable(states map[FaultKind]map[State]int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-20s", "fault")
	for _, s := range States {
		fmt.Fprintf(&b, "%12s", s)
	}
	for _, k := range All {
		if row, ok := states[k]; ok {
			fmt.Fprintf(&b, "\n%-20s", k)
			for _, s := range States {
				fmt.Fprintf(&b, "%12d", row[s])
			}
		}
	}
	return b.String() + "\n"
}
