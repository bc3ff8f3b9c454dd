package run

import (
	"slices"

	"github.com/moorage-dev/moorage/loadtest/fault"
	"github.com/moorage-dev/moorage/loadtest/scenario"
	"github.com/moorage-dev/moorage/loadtest/site"
)

// prepare has the site made ready for the faults of a scenario, and for no
// others: each costs something.
func prepare(cfg *site.Config, sc scenario.Scenario) {
	kinds := map[string]bool{}
	for _, f := range sc.Faults {
		kinds[f.Do] = true
	}
	if sc.Chaos != nil {
		for _, k := range sc.Chaos.Kinds {
			kinds[k] = true
		}
		if len(sc.Chaos.Kinds) == 0 {
			cfg.Proxied = true // all that the target can do
		}
	}
	cfg.Proxied = cfg.Proxied || slices.ContainsFunc(fault.OnLegs, func(k string) bool { return kinds[k] })
	cfg.Holes = cfg.Holes || kinds[fault.BlackHole]
	cfg.Small = cfg.Small || kinds[fault.DiskFull]
}
