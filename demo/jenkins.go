package demo

import (
	"context"
	"fmt"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/demo/legacy"
)

// A story is what happens at a Jenkins. It takes real time and real sockets,
// and nothing of it is left to chance: one strike is enough.
type story func(*legacy.Site, context.Context) error

// play has a story played, and judged like any other demonstration.
func play(ctx context.Context, cfg Config, r Result, p provocation) (Result, error) {
	fmt.Fprintf(cfg.Out, "%s: a stand-in for Jenkins, a connector, a gateway and an agent on 127.0.0.1\n", p.faults[0])
	r.Schedule = []Fault{{Kind: p.faults[0]}}
	checker := check.New(check.Config{})
	site, err := legacy.Start(context.WithoutCancel(ctx), legacy.Config{
		Check: checker, Patience: cfg.patience, Program: cfg.Program, Log: cfg.World.Log,
	})
	if err != nil {
		return r, err
	}
	defer site.Close()
	if err := p.legacy(site, ctx); err != nil {
		return r, fmt.Errorf("demo: %s: %w", p.faults[0], err)
	}
	r.Settled, r.Report, r.Faults = true, checker.Report(true), map[FaultKind]int{p.faults[0]: 1}
	r.Interrupted = ctx.Err() != nil
	return r, nil
}
