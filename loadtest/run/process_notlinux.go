//go:build unix && !linux

package run

import "syscall"

// childAttr keeps Ctrl-C from a worker: the coordinator ends a run in order. A
// worker ends with its stdin when the coordinator is killed.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
