package modern_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

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
	must(t, err)
	argv := []string{self, agentWord, "-url", url, "-secret", j.Secret(name), "-name", name}
	if m.protocol == standin.WebSocket {
		argv = append(argv, "-webSocket")
	}
	return argv
}

// A process is a child whose output stands in a file. It dies with the test,
// and with the test binary, even when that is killed.
type process struct {
	t    *testing.T
	name string
	log  string // file with all it said
	cmd  *exec.Cmd
	done chan struct{} // closed when it is dead and reaped
}

// start runs a program in a process group of its own.
func start(t *testing.T, name string, argv ...string) *process {
	t.Helper()
	p := &process{t: t, name: name, log: filepath.Join(t.ArtifactDir(), name+".log"), cmd: exec.Command(argv[0], argv[1:]...), done: make(chan struct{})}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(t, err)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		defer close(p.done)
		defer out.Close()
		// The child dies with the thread that started it, so this goroutine
		// keeps one for itself.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // cmd.ProcessState says how it ended
		}
	}()
	must(t, <-started)
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			out := p.said()
			fmt.Fprintf(t.Output(), "--- the end of what %s said:\n%s\n", name, out[max(0, len(out)-3000):])
		}
	})
	return p
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// kill ends the process as a crash does, and returns when it is dead.
func (p *process) kill() {
	if p.running() {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // fails only for one that ended meanwhile
		<-p.done
	}
}

func (p *process) said() []byte {
	out, err := os.ReadFile(p.log)
	must(p.t, err)
	return out
}

// waitSaid returns when the process has put out a text so many times.
func (p *process) waitSaid(text string, times int, within time.Duration) {
	p.t.Helper()
	eventually(p.t, fmt.Sprintf("%s says %q", p.name, text), within, func() bool {
		if !p.running() {
			p.t.Fatalf("%s ended (%v) before it said %q", p.name, p.cmd.ProcessState, text)
		}
		return bytes.Count(p.said(), []byte(text)) >= times
	})
}

// agentPID is the process id of the agent that runs below a shim.
func (p *process) agentPID() int {
	p.t.Helper()
	said := p.said()
	at := bytes.LastIndex(said, []byte("agent pid "))
	if at < 0 {
		p.t.Fatalf("%s has started no agent", p.name)
	}
	line, _, _ := strings.Cut(string(said[at+len("agent pid "):]), "\n")
	pid, err := strconv.Atoi(line)
	must(p.t, err)
	return pid
}

// output runs a command to its end and returns what it wrote to stdout.
func output(t *testing.T, argv ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		t.Fatalf("%q: %v\n%s", argv, err, exit.Stderr)
	}
	must(t, err)
	return out
}

// ready waits until a gateway says that agents may come.
func (p *process) ready(admin string) {
	p.t.Helper()
	eventually(p.t, p.name+" is ready", 60*time.Second, func() bool {
		if !p.running() {
			p.t.Fatalf("%s ended: %v", p.name, p.cmd.ProcessState)
		}
		answer, err := http.Get("http://" + admin + "/readyz")
		if err != nil {
			return false
		}
		defer answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
}
