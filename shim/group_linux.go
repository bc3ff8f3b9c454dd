package shim

import "syscall"

// dieWithUs has the kernel kill a child whose parent is gone, should the guard
// be gone too.
func dieWithUs(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }

// self returns this program, even when another was put in its place since.
func self() (string, error) { return "/proc/self/exe", nil }
