package scenario_test

import (
	"testing"

	"github.com/moorage-dev/moorage/loadtest/fault"
	"github.com/moorage-dev/moorage/loadtest/scenario"
)

// A target that can do everything must find nothing impossible, and enough to do.
func TestReadyScenariosCanBePlanned(t *testing.T) {
	for _, name := range scenario.Names() {
		s, _, err := scenario.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		plan, err := fault.Plan(s, fault.Kinds, s.Seed)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if least := s.Thresholds["faults.min"]; float64(len(plan)) < least {
			t.Errorf("%s: %d faults, want %v", name, len(plan), least)
		}
	}
}
