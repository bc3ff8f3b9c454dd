package run

import "syscall"

// childAttr keeps Ctrl-C from a worker: the coordinator ends a run in order.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

// freeze does nothing: there are no such signals here.
func freeze(int, bool) {}

// openFiles is how many files a process may have open; 0: unknown.
func openFiles() int { return 0 }
