package legacy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// A process is a child whose output stands in a file. It dies with the test,
// and with the test binary, even when that is killed.
type process struct {
	t    *testing.T
	name string
	log  string // file with all it said
	cmd  *exec.Cmd
	done chan struct{} // closed when it is dead and reaped
}

// start runs a program on the host, in a process group of its own.
func (h *host) start(t *testing.T, name, program string, args ...string) *process {
	t.Helper()
	return start(t, name, nil, h.argv(program, args...)...)
}

// start runs a command line; env is put behind this process's environment.
func start(t *testing.T, name string, env []string, argv ...string) *process {
	t.Helper()
	p := &process{t: t, name: name, log: filepath.Join(t.ArtifactDir(), name+".log"), cmd: exec.Command(argv[0], argv[1:]...), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
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
			fmt.Fprintf(t.Output(), "--- the end of what %s (pid %d) said:\n%s\n", name, p.pid(), p.tail(4000))
		}
	})
	return p
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// signal reaches the process and its children.
func (p *process) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := syscall.Kill(-p.pid(), sig); err != nil {
		p.t.Errorf("%v to %s: %v", sig, p.name, err)
	}
}

// kill ends the process as a crash does, and returns when it is dead.
func (p *process) kill() {
	if p.running() {
		_ = syscall.Kill(-p.pid(), syscall.SIGKILL) // fails only for one that ended meanwhile
		<-p.done
	}
}

// exit waits for the process to end by itself and returns its exit code.
func (p *process) exit(within time.Duration) int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(within):
		p.t.Fatalf("%s still runs after %v", p.name, within)
	}
	return p.cmd.ProcessState.ExitCode()
}

// said returns all that the process has put out.
func (p *process) said() []byte {
	out, err := os.ReadFile(p.log)
	must(p.t, err)
	return out
}

func (p *process) tail(n int) []byte {
	out := p.said()
	return out[max(0, len(out)-n):]
}

// waitSaid returns when the process has put out text.
func (p *process) waitSaid(text string, within time.Duration) {
	p.t.Helper()
	eventually(p.t, fmt.Sprintf("%s says %q", p.name, text), within, func() bool {
		if !p.running() && !bytes.Contains(p.said(), []byte(text)) {
			p.t.Fatalf("%s ended (%v) before it said %q", p.name, p.cmd.ProcessState, text)
		}
		return bytes.Contains(p.said(), []byte(text))
	})
}

// output runs a command to its end and returns what it wrote to stdout.
func output(t *testing.T, program string, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, args...).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		t.Fatalf("%s %q: %v\n%s", filepath.Base(program), args, err, exit.Stderr)
	}
	must(t, err)
	return out
}

// eventually polls, with a deadline: other processes' progress can only be
// looked at from outside.
func eventually(t *testing.T, what string, within time.Duration, done func() bool) {
	t.Helper()
	begin, limit := time.Now(), time.After(within)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("not within %v: %s", within, what)
		case <-t.Context().Done():
			t.Fatalf("the test ended before: %s", what)
		}
	}
	if took := time.Since(begin); took > time.Second {
		t.Logf("after %v: %s", took.Round(100*time.Millisecond), what)
	}
}

// pass lets real time go by, as a fault's length or calm to be measured in.
func pass(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		t.Fatal("the test ended while it waited")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
