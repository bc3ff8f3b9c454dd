//go:build seeded

// Package seeded holds the deliberate defects that prove the tests can find
// them. They exist only in builds with -tags seeded, where [Set] switches one
// on at run time; in every other build On is the constant false.
package seeded

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
)

var active atomic.Value // of Bug

// Variable names the environment variable that switches a defect on from the
// start, so that the tests of any package can be run with it.
const Variable = "MOORAGE_SEEDED"

func init() {
	if err := Set(os.Getenv(Variable)); err != nil {
		panic(Variable + ": " + err.Error())
	}
}

// On reports whether the defect is switched on.
func On(b Bug) bool { return active.Load() == b }

// Set switches one defect on and every other off, here and in processes that
// are started from here on; "" switches all off.
func Set(name string) error {
	if name != "" && !slices.Contains(All, Bug(name)) {
		var names []string
		for _, b := range All {
			names = append(names, string(b))
		}
		return fmt.Errorf("no seeded bug %q; there are %s", name, strings.Join(names, ", "))
	}
	active.Store(Bug(name))
	return os.Setenv(Variable, name)
}
