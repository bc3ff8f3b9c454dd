//go:build unix && !linux

package shim

import (
	"os"
	"syscall"
)

// dieWithUs does nothing: without Linux there is the guard alone.
func dieWithUs(*syscall.SysProcAttr) {}

func self() (string, error) { return os.Executable() }
