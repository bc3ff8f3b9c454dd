//go:build seeded

package demo

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moorage-dev/moorage/seeded"
)

// tries bounds the runs that a bug gets to be met in. Some need a race that the
// goroutines of one run in two don't run into, whatever the seed.
const tries = 16

// tried lists the bugs of these tests. One takes moorage itself: cmd/moorage has it.
func tried() []seeded.Bug {
	return slices.DeleteFunc(slices.Clone(seeded.All), func(b seeded.Bug) bool { return b == seeded.ChildOrphaned })
}

// alone, in the environment, is for a process that breaks one thing.
const alone = "DEMO_TEST_ALONE"

func TestBrokenVerdictFails(t *testing.T) {
	for _, bug := range tried() {
		t.Run("break="+string(bug), func(t *testing.T) {
			if os.Getenv(alone) == "" { // there is one bug at a time in a process
				t.Parallel()
				breakAlone(t)
				return
			}
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

// breakAlone runs the test in a process of its own.
func breakAlone(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.v", "-test.run=^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$")
	cmd.Env = append(os.Environ(), alone+"=yes")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Error(err)
	}
	t.Logf("%s", out)
}

// Without the bug the same faults in the same world break nothing: it is the
// bug that the verdict is about. Bugs that are provoked alike share a run.
func TestBrokenVerdictNeedsTheBug(t *testing.T) {
	ran := make(map[string]bool)
	for _, bug := range tried() {
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
		if len(provocations[bug].faults) == 0 {
			t.Errorf("%s: want faults that show it", bug)
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
