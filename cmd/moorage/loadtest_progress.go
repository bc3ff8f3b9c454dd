package main

import (
	"fmt"
	"path/filepath"

	"github.com/moorage-dev/moorage/loadtest/report"
	"github.com/moorage-dev/moorage/loadtest/results"
	"github.com/moorage-dev/moorage/loadtest/scenario"
)

// progress tells on stderr how a run goes.
type progress struct{ p *process }

func newProgress(p *process, _ scenario.Scenario) *progress { return &progress{p} }

func (g *progress) tick(label string, t results.Tick) {
	if int(t.At)%5 == 0 {
		fmt.Fprintf(g.p.stderr, "%s %3.0fs agents %d up %d/s down %d/s anomalies %d\n", label, t.At, t.Agents, t.Received[0], t.Received[1], t.Anomaly)
	}
}

func (g *progress) end() {}

func (g *progress) summary(out string, r *results.Results) {
	for _, line := range r.Verdict.Lines {
		fmt.Fprintln(g.p.stdout, line)
	}
	fmt.Fprintln(g.p.stdout, "Report: "+filepath.Join(out, report.PageFile))
}
