//go:build seeded

package demo

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/moorage-dev/moorage/seeded"
)

// caught lists the seeded bugs that the demonstration's everyday faults bring
// to light; the others need stranger ones, and e2e/mutants finds them.
var caught = []seeded.Bug{
	seeded.AckBeforeKafka, seeded.ReplayLiveGap, seeded.ReplayOffByOne, seeded.DedupForgets,
	seeded.DrainDropsTail, seeded.StartAfterOpen, seeded.RecutOnResume,
}

func TestBrokenVerdictFails(t *testing.T) {
	for _, bug := range append([]seeded.Bug{""}, caught...) {
		t.Run("break="+string(bug), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, err := Run(t.Context(), Config{Agents: 20, Gateways: 2, Faults: 24, Duration: 12 * time.Second, Seed: 1, Break: string(bug)})
				if err != nil {
					t.Fatal(err)
				}
				if r.Clean() != (bug == "") {
					t.Errorf("clean=%v:\n%v", r.Clean(), r)
				}
			})
		})
	}
}
