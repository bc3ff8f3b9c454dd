//go:build unix

package guard

import (
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/moorage-dev/moorage/seeded"
)

func init() {
	if private, isGuard := os.LookupEnv(Var); isGuard {
		stand(private)
	}
}

// stand leads the agent's process group until the shim is gone, and ends with it.
func stand(private string) {
	// What ends the agent comes for the group, and the guard goes last.
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGPIPE)
	_ = os.Chdir("/") // else it would only keep a file system busy
	_, err := os.Stdout.Write([]byte{1})
	if err == nil {
		_ = os.Stdout.Close()                // the shim has what it wanted
		_, _ = io.Copy(io.Discard, os.Stdin) // any end is the end
	}
	if private != "" {
		_ = os.RemoveAll(private) // nobody is left to tell
	}
	if !seeded.On(seeded.ChildOrphaned) {
		_ = syscall.Kill(0, syscall.SIGKILL) // itself too
	}
	os.Exit(1)
}
