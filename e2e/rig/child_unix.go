//go:build unix && !linux

package rig

import "syscall"

// childAttr puts the child in a group of its own. Without Linux' parent-death
// signal it outlives a parent that is killed.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
