package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"time"

	"github.com/moorage-dev/moorage/demo"
	"github.com/moorage-dev/moorage/seeded"
)

type demoCmd struct {
	Agents   int           `default:"200" help:"How many agents."`
	Gateways int           `default:"3" help:"How many gateways."`
	Faults   int           `default:"30" help:"How many faults to inject; 0 for none."`
	Duration time.Duration `default:"30s" least:"1s" help:"How long there is new traffic."`
	Seed     uint64        `help:"Seed of schedule and messages: the same seed, the same schedule. Default: a fresh one, printed."`
	JSON     string        `name:"json" placeholder:"FILE" help:"Write the result as JSON to this file."`
	Break    string        `placeholder:"NAME" help:"Switch one seeded bug on, and strike with the faults that bring it to light, to see the verdict fail; exit 1 in any case. list: print what there is to break. Only in builds with -tags seeded."`
}

// Help gives the examples.
func (*demoCmd) Help() string {
	return `
Needs nothing: an embedded broker (in memory), gateways, a controller and agents run in this process; gateways are killed, links cut or left half-open, produces answered wrongly, agents restarted and slowed down. At the end an independent checker gives its verdict. Exit 0 only if it is clean.

Examples:

  moorage demo
  moorage demo --break=list
  moorage demo --agents 50 --gateways 2 --faults 100 --duration 2m --seed 7 --json result.json
`
}

// errUnclean makes the exit code 1; the report has said why.
var errUnclean = errors.New("demo: the verdict is not clean; see the report above")

// Run runs the demonstration and prints the verdict.
func (c *demoCmd) Run(ctx context.Context, p *process) error {
	switch {
	case c.Agents < 1 || c.Agents > 5000:
		return usagef("--agents %d: want 1 to 5000", c.Agents)
	case c.Gateways < 1 || c.Gateways > 50:
		return usagef("--gateways %d: want 1 to 50", c.Gateways)
	case c.Faults < 0:
		return usagef("--faults %d: want 0 or more", c.Faults)
	}
	switch c.Break {
	case "":
	case "list":
		_, err := fmt.Fprint(p.stdout, demo.Bugs())
		return err
	default:
		if err := seeded.Set(c.Break); err != nil {
			return usagef("--break=%s: %w", c.Break, err)
		}
		if c.Faults == 0 || c.Gateways < 2 {
			return usagef("--break=%s: needs --faults 1 or more and --gateways 2 or more", c.Break)
		}
	}
	var out *os.File
	if c.JSON != "" {
		var err error
		if out, err = os.Create(c.JSON); err != nil {
			return usagef("--json: %w", err)
		}
		defer out.Close()
	}
	for c.Seed == 0 {
		c.Seed = uint64(rand.Uint32())
	}
	program, _ := os.Executable() // without it one seeded bug cannot be shown, which is said then
	cfg := demo.Config{
		Agents: c.Agents, Gateways: c.Gateways, Faults: c.Faults, Duration: c.Duration, Seed: c.Seed, Break: c.Break, Program: program,
		Out: p.stderr, Terminal: isTerminal(p.stderr),
	}
	if c.Faults == 0 {
		cfg.Faults = -1
	}
	if p.log.Enabled(ctx, slog.LevelDebug) {
		cfg.World.Log = p.log
	}
	r, err := demo.Run(ctx, cfg)
	if err != nil {
		return err
	}
	if out != nil {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		if err := enc.Encode(r); err != nil {
			return fmt.Errorf("--json: %w", err)
		}
	}
	fmt.Fprint(p.stdout, r.String())
	switch {
	case !r.Clean():
		return errUnclean
	case c.Break != "":
		return fmt.Errorf("--break=%s: this run did not bring it to light; try more --faults or another --seed; make mutants finds every one", c.Break)
	}
	return nil
}
