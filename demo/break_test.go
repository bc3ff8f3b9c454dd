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

// tries bounds the runs that a bug gets to be met in. Some need a race that the
// goroutines of one run in two don't run into, whatever the seed.
const tries = 16

func TestBrokenVerdictFails(t *testing.T) {
	for _, bug := range append([]seeded.Bug{""}, caught...) {
		t.Run("break="+string(bug), func(t *testing.T) {
			for seed := range uint64(tries) {
				r := broken(t, bug, 1+seed)
				switch {
				case bug == "" && !r.Clean():
					t.Fatalf("no bug is on:\n%v", r)
				case bug == "" || !r.Clean():
					return
				}
			}
			t.Errorf("not met in %d runs", tries)
		})
	}
}

func broken(t *testing.T, bug seeded.Bug, seed uint64) (r Result) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var err error
		r, err = Run(t.Context(), Config{Agents: 20, Gateways: 2, Faults: 24, Duration: 12 * time.Second, Seed: seed, Break: string(bug)})
		if err != nil {
			t.Fatal(err)
		}
	})
	return r
}
