package run

import "syscall"

// childAttr has a worker die with the coordinator, even when that is killed,
// and keeps Ctrl-C from it: it is the coordinator that ends a run in order.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
