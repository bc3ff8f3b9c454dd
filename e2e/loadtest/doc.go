// Package loadtest runs the load-test harness as its users do: the binary,
// real processes, exit codes and files; and has it look at systems that lose,
// repeat, reorder and corrupt, which it must see.
package loadtest
