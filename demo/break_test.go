//go:build seeded

package demo

import (
	"cmp"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moorage-dev/moorage/seeded"
)

// tries bounds the runs that a bug gets to be met in. Some need a race that the
// goroutines of one run in two don't run into, whatever the seed.
const tries = 16

// shown lists the bugs that a demonstration can show.
func shown() (bugs []seeded.Bug) {
	for _, bug := range seeded.All {
		if CanShow(string(bug)) == nil {
			bugs = append(bugs, bug)
		}
	}
	return bugs
}

func TestBrokenVerdictFails(t *testing.T) {
	for _, bug := range shown() {
		t.Run("break="+string(bug), func(t *testing.T) {
			var last Result
			for seed := range uint64(tries) {
				if last = broken(t, Config{Seed: 1 + seed, Break: string(bug)}); !last.Clean() {
					t.Logf("seed %d: %+v %q settled=%v, faults met: %v", 1+seed, last.Verdict, last.Wrong, last.Settled, last.Faults)
					return
				}
			}
			t.Errorf("not met in %d runs; the last:\n%v", tries, last)
		})
	}
}

// Without the bug the same faults in the same world break nothing: it is the
// bug that the verdict is about. Bugs that are provoked alike share a run.
func TestBrokenVerdictNeedsTheBug(t *testing.T) {
	ran := make(map[string]bool)
	for _, bug := range shown() {
		p := provocations[bug]
		how := fmt.Sprintf("%v %p", p.faults, p.world)
		if ran[how] {
			continue
		}
		ran[how] = true
		t.Run("provoke="+string(bug), func(t *testing.T) {
			t.Parallel() // no bug is on
			if r := broken(t, Config{Seed: 1, provoke: bug}); !r.Clean() {
				t.Errorf("no bug is on, settled=%v:\n%v", r.Settled, r)
			}
		})
	}
	t.Run("everyday", func(t *testing.T) {
		if r := broken(t, Config{Seed: 1}); !r.Clean() {
			t.Errorf("no bug is on, settled=%v:\n%v", r.Settled, r)
		}
	})
}

func TestBrokenVerdictIsPromisedForEachBug(t *testing.T) {
	for _, bug := range seeded.All {
		if p, known := provocations[bug]; !known || (p.refuse == "") != (len(p.faults) > 0) {
			t.Errorf("%s: want faults that show it, or a reason why none can", bug)
		}
	}
	if len(provocations) != len(seeded.All) {
		t.Errorf("%d provocations for %d bugs", len(provocations), len(seeded.All))
	}
}

func broken(t *testing.T, cfg Config) (r Result) {
	t.Helper()
	cfg.Agents, cfg.Gateways, cfg.Faults, cfg.Duration = 8, 2, 12, 6*time.Second
	if provocations[cmp.Or(cfg.provoke, seeded.Bug(cfg.Break))].legacy != nil { // real sockets: no bubble
		cfg.patience = time.Minute
		if cfg.Break != "" {
			cfg.patience = 3 * time.Second / 2 // what is broken never comes
		}
		r, err := Run(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	synctest.Test(t, func(t *testing.T) {
		var err error
		if r, err = Run(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	})
	return r
}
