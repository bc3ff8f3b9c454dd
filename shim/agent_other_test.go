//go:build !unix

package shim

// beShim is for tests that need a shell.
func beShim() {}
