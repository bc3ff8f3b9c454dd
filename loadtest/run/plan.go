package run

import (
	"slices"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/loadtest/fault"
	"github.com/moorage-dev/moorage/loadtest/site"
)

// Foresee decides what is broken and when, before anything starts: what the target
// can do is known from the config. Of a fault that cannot be done the error, a
// [*scenario.Problem], tells in one line. Black holes and full disks may still
// turn out to need rights that are missing.
func (c Config) Foresee() ([]fault.Planned, error) {
	target := c.Site
	target.System, target.Local = site.Moorage, c.Scenario.Local
	prepare(&target, c.Scenario)
	return fault.Plan(c.Scenario, withAgents(site.Kinds(target)), c.withDefaults().Scenario.Seed)
}

// schedule decides what is broken and when.
func (p *pass) schedule() (err error) {
	p.plan, err = fault.Plan(p.Scenario, withAgents(p.site.Can()), p.Scenario.Seed)
	return err
}

// withAgents adds to what a target can do the faults of agents, which workers do.
func withAgents(kinds []string) []string {
	for _, k := range fault.OnAgents {
		if !slices.Contains(kinds, k) {
			kinds = append(slices.Clone(kinds), k)
		}
	}
	return kinds
}

// terms are what the accounts are held to.
func (p *pass) terms() check.Terms {
	t := fault.Terms(p.plan, p.Scenario, p.begun)
	t.Anomalies = maxAnomalies
	return t
}
