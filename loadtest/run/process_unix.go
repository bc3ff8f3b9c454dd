//go:build unix

package run

import "syscall"

// freeze stops a process in the middle of whatever it does, or lets it go on.
func freeze(pid int, on bool) {
	signal := syscall.SIGCONT
	if on {
		signal = syscall.SIGSTOP
	}
	_ = syscall.Kill(pid, signal) // it may have ended meanwhile
}

// openFiles is how many files a process may have open; 0: unknown.
func openFiles() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return int(min(limit.Max, 1<<30)) // Go raises what is allowed to what is possible
}
