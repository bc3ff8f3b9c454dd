//go:build !seeded

// Package seeded holds the deliberate defects that prove the tests can find
// them. They exist only in builds with -tags seeded, where [Set] switches one
// on at run time; in every other build On is the constant false.
package seeded

import "errors"

// On reports whether the defect is switched on.
func On(Bug) bool { return false }

// Set refuses: this build has no seeded defects.
func Set(string) error {
	return errors.New("this build has no seeded bugs: build it with -tags seeded")
}
