package run

import (
	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/loadtest/fault"
)

// schedule decides what is broken and when.
func (p *pass) schedule() (err error) {
	p.plan, err = fault.Plan(p.Scenario, p.can(), p.Scenario.Seed)
	return err
}

// terms are what the accounts are held to.
func (p *pass) terms() check.Terms {
	t := fault.Terms(p.plan, p.Scenario, p.begun)
	t.Anomalies = maxAnomalies
	return t
}
