// Package mutants switches every seeded bug on, one at a time, and sees that
// it is found.
//
// What finds a bug are ordinary tests that know nothing of it: stories of one
// package, families of the explorer, runs of the simulation. Their binaries
// are built with -tags seeded and run in a process of their own with the bug
// on, so that one that panics or hangs harms nobody. Without a bug the same
// runs must pass: a test that always fails finds nothing.
package mutants
