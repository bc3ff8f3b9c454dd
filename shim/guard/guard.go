// Package guard turns a process that a shim has started to guard its agent
// into that guard, before the rest of the program is initialised.
//
// A guard is the same program again, for no other is sure to be there. It needs
// nothing of it, and begins while the agent does, which wants the processor. So
// this package imports next to nothing and does its work in init: Go runs that
// when half of all other packages are still waiting for theirs.
package guard

// Var is the environment variable that makes a process a guard, even if it is
// empty. Its value is a directory that the guard removes at the end; "": none.
const Var = "MOORAGE_SHIM_GUARD"
