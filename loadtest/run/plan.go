package run

import (
	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/loadtest/scenario"
)

type planned struct {
	scenario.Fault
	Index int
}

func (p *pass) schedule() error {
	for i, f := range p.Scenario.Faults {
		p.plan = append(p.plan, planned{f, i})
	}
	return nil
}

func (p *pass) terms() check.Terms {
	return check.Terms{Expect: func(check.Ending) []string {
		if p.killed.IsZero() {
			return nil
		}
		return []string{"CONTROLLER_GONE"}
	}}
}
