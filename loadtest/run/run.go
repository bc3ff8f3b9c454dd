package run

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"time"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/loadtest/results"
	"github.com/moorage-dev/moorage/loadtest/scenario"
	"github.com/moorage-dev/moorage/loadtest/site"
)

// A Config says what to run. Scenario, Site, Spawn and Settle must be given.
type Config struct {
	Scenario scenario.Scenario
	Site     site.Config // what all passes have in common: System, Run and Local are filled in
	// Baselines are systems that alternate with moorage, Pairs times; nil: none.
	Baselines []string
	Pairs     int    // 0: 1
	Workers   int    // of agents; 0: one for each 8,000
	Command   string // to repeat it, for the results
	Version   string // of the binary under test, for the results

	// Start brings up what is measured.
	Start func(context.Context, site.Config) (site.Site, error)
	Spawn Spawn
	// Acks says what an acknowledgement means in a system; nil: nothing is said.
	Acks func(system string) string

	Tick  func(run string, t results.Tick) // each second of a pass; nil: nobody looks
	Event func(results.Event)              // nil: the same
	Log   *slog.Logger                     // nil discards
	// Hurry is closed when the run is to end at once: somebody has interrupted it
	// a second time. nil: never.
	Hurry <-chan struct{}
}

// agentsPerWorker is for how many agents a worker is started.
const agentsPerWorker = 8000

// ErrInterrupted is the cause in Results' verdict of a run that was ended early.
var ErrInterrupted = errors.New("run: interrupted; the results are of what ran until then")

// ErrHurried is the cause of a pass's end of which nothing was judged, for
// nobody waited for what was under way.
var ErrHurried = errors.New("run: ended at once, and nothing was judged")

// Run runs the scenario on moorage, and on the baselines in turn. When ctx ends
// it ends in order within some fourteen seconds, and returns what was measured until
// then together with ErrInterrupted. When Hurry is closed, too, workers are killed
// and the site is closed; of that pass there are no results. Results are nil only
// if nothing ran.
func Run(ctx context.Context, cfg Config) (*results.Results, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	r := &results.Results{
		Version: results.Version, Scenario: cfg.Scenario, Command: cfg.Command, Started: time.Now(), Machine: machine(),
	}
	r.Machine.Moorage = cfg.Version
	systems := append([]string{site.Moorage}, cfg.Baselines...)
	var failed error
	for pair := range cfg.Pairs {
		for _, system := range systems {
			p := newPass(&cfg, system, pair)
			one, words, err := p.run(ctx)
			if words != "" && (r.Machine.Kafka == "" || system == site.Moorage) {
				r.Machine.Kafka = words
			}
			if one != nil {
				r.Runs = append(r.Runs, *one)
			}
			if err != nil {
				if failed = err; len(systems) > 1 {
					failed = fmt.Errorf("%s: %w", p.label, err)
				}
				break
			}
		}
		if failed != nil {
			break
		}
	}
	r.Ended = time.Now()
	if len(r.Runs) == 0 {
		return nil, failed
	}
	return r, failed
}

// Check tells what cannot work before anything starts. Run does so too.
func (c Config) Check() error {
	for _, g := range c.Scenario.Groups {
		if g.Kind == scenario.Legacy && len(c.Baselines) > 0 {
			return fmt.Errorf("run: scenario %s has legacy agents (group %s), which no baseline can carry: run it without --baseline, or take the group out", c.Scenario.Name, g.Name)
		}
		if g.Kind == scenario.Legacy && g.Door != scenario.DoorShim && len(c.Site.Gateways) > 0 {
			// The door's one controller is in its gateway's flags. To be that one
			// would be to replace a controller that may have builds running.
			return fmt.Errorf("run: group %s has legacy agents that come to a gateway's door, which with --gateway leads to that deployment's own controller: write door: %s, for a shim that is started here, or use --local",
				g.Name, scenario.DoorShim)
		}
	}
	if _, err := c.Foresee(); err != nil {
		return err
	}
	return c.withDefaults().enoughFiles(openFiles())
}

func (c Config) withDefaults() Config {
	if c.Pairs == 0 {
		c.Pairs = 1
	}
	if c.Workers == 0 {
		c.Workers = max(1, (agents(c.Scenario)+agentsPerWorker-1)/agentsPerWorker)
	}
	if c.Scenario.Seed == 0 {
		c.Scenario.Seed = 1
	}
	if c.Scenario.Drain == 0 {
		c.Scenario.Drain = scenario.Duration(time.Minute)
	}
	if c.Scenario.Quiet == 0 {
		c.Scenario.Quiet = scenario.Duration(30 * time.Second)
	}
	if c.Tick == nil {
		c.Tick = func(string, results.Tick) {}
	}
	if c.Event == nil {
		c.Event = func(results.Event) {}
	}
	if c.Acks == nil {
		c.Acks = func(string) string { return "" }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Site.Log == nil {
		c.Site.Log = c.Log
	}
	return c
}

func agents(sc scenario.Scenario) (n int) {
	for _, g := range sc.Groups {
		n += g.Agents
	}
	return n
}

// spareFiles is what a process needs beside its agents' connections.
const spareFiles = 200

// enoughFiles tells before anything starts that files would run out.
func (c Config) enoughFiles(limit int) error {
	if limit == 0 {
		return nil
	}
	all := agents(c.Scenario)
	if need := all/c.Workers + spareFiles; need > limit {
		return fmt.Errorf("run: %d agents in %d processes need %d files in each, and a process may have %d open (ulimit -n): --workers %d would do",
			all, c.Workers, need, limit, all/max(limit-spareFiles, 1)+1)
	}
	if len(c.Site.Gateways) > 0 {
		return nil
	}
	gateways := max(c.Scenario.Local.Gateways, 1)
	if need := all/gateways + spareFiles; need > limit {
		return fmt.Errorf("run: %d agents at %d gateways need %d files in each, and a process may have %d open (ulimit -n): --local gateways=%d would do",
			all, gateways, need, limit, all/max(limit-spareFiles, 1)+1)
	}
	return nil
}

// fresh makes a name for a pass that no other run has.
func fresh(name, system string, pair int) string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	short := strings.TrimRight(name[:min(len(name), 16)], "-")
	return fmt.Sprintf("%s-%s-%d-%s", short, system, pair, hex.EncodeToString(b[:]))
}

// secret is the key of legacy agents' secrets, for one pass.
func secret() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// cores is what the generator shares with the rest of the machine.
func cores() int { return runtime.GOMAXPROCS(0) }

// accounts are what the two sides saw.
type accounts struct{ agent, controller []check.Account }
