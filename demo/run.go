package demo

import (
	"context"
	"fmt"
	"io"
	"time"

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
