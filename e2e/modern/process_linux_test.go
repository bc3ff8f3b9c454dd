package modern_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/moorage-dev/moorage/e2e/rig"
	"github.com/moorage-dev/moorage/standin"
)

// agentWord makes the test binary an agent: what follows are an agent.jar's
// options.
const agentWord = "stand-in-agent"

// runAgent is the agent's process.
func runAgent(args []string) (code int) {
	var a standin.Agent
	options := flag.NewFlagSet(agentWord, flag.ExitOnError)
	options.StringVar(&a.URL, "url", "", "")
	options.StringVar(&a.Name, "name", "", "")
	options.StringVar(&a.Secret, "secret", "", "")
	options.BoolVar(&a.WebSocket, "webSocket", false, "")
	_ = options.Parse(args) // it exits
	if file, ok := strings.CutPrefix(a.Secret, "@"); ok {
		secret, err := os.ReadFile(file)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		a.Secret = strings.TrimSpace(string(secret))
	}
	fmt.Println("agent pid", os.Getpid())
	a.Observe = func(e standin.Event) { fmt.Println("agent", e.State, e.Protocol, e.Err) }
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	err := a.Run(ctx)
	fmt.Println("agent ends:", err)
	if exit, ok := errors.AsType[*standin.ExitError](err); ok {
		return exit.Code
	}
	return 143 // as Java ends by SIGTERM
}

// agentArgv is the command line of an agent of a controller that cannot be
// reached by that address.
func agentArgv(t *testing.T, j *jenkins, name, url string, m manner) []string {
	t.Helper()
	self, err := os.Executable()
	rig.Must(t, err)
	argv := []string{self, agentWord, "-url", url, "-secret", j.Secret(name), "-name", name}
	if m.protocol == standin.WebSocket {
		argv = append(argv, "-webSocket")
	}
	return argv
}

// agentPID is the process id of the agent that runs below a shim.
func agentPID(t *testing.T, shim *rig.Process) int {
	t.Helper()
	said := shim.Said()
	at := bytes.LastIndex(said, []byte("agent pid "))
	if at < 0 {
		t.Fatalf("%s has started no agent", shim.Name)
	}
	line, _, _ := strings.Cut(string(said[at+len("agent pid "):]), "\n")
	pid, err := strconv.Atoi(line)
	rig.Must(t, err)
	return pid
}
