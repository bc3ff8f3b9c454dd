package shim

import (
	"os"
	"syscall"
)

// dieWithUs has the kernel kill a child whose parent is gone, should the guard
// be gone too.
func dieWithUs(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }

const running = "/proc/self/exe"

// self returns this program: under its own name, by which ps shows it, unless
// another was put in its place since.
func self() (string, error) {
	name, err := os.Executable()
	if err != nil {
		return running, nil
	}
	now, err := os.Stat(name)
	if err != nil {
		return running, nil // it was removed
	}
	then, err := os.Stat(running)
	if err != nil || !os.SameFile(now, then) {
		return running, nil
	}
	return name, nil
}
