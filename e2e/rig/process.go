//go:build unix

package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// A Process is a child whose output stands in a file. It dies with the test,
// and with the test binary, even when that is killed.
type Process struct {
	Name string
	t    *testing.T
	log  string // file with all it said
	cmd  *exec.Cmd
	done chan struct{} // closed when it is dead and reaped
}

// Start runs a program in a process group of its own.
func Start(t *testing.T, name, program string, args ...string) *Process {
	t.Helper()
	return StartWith(t, name, nil, program, args...)
}

// StartWith is Start; env is put behind this process's environment.
func StartWith(t *testing.T, name string, env []string, program string, args ...string) *Process {
	t.Helper()
	p := &Process{t: t, Name: name, log: filepath.Join(t.ArtifactDir(), name+".log"), cmd: exec.Command(program, args...), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	Must(t, err)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = childAttr()
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
			_ = p.cmd.Wait() // State says how it ended
		}
	}()
	Must(t, <-started)
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			fmt.Fprintf(t.Output(), "--- the end of what %s (pid %d) said:\n%s\n", name, p.PID(), p.Tail(4000))
		}
	})
	return p
}

// PID is the process's id, its group's too.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// State says how it ended; nil while it runs.
func (p *Process) State() *os.ProcessState {
	if p.Running() {
		return nil
	}
	return p.cmd.ProcessState
}

// Running reports whether it is not dead and reaped yet.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Signal reaches the process and its children.
func (p *Process) Signal(sig syscall.Signal) {
	p.t.Helper()
	if err := syscall.Kill(-p.PID(), sig); err != nil {
		p.t.Errorf("%v to %s: %v", sig, p.Name, err)
	}
}

// Freeze stops the process in the middle of whatever it does; its connections
// stay open and say nothing.
func (p *Process) Freeze() { p.Signal(syscall.SIGSTOP) }

// Thaw lets it go on as if no time had passed.
func (p *Process) Thaw() { p.Signal(syscall.SIGCONT) }

// Kill ends the process as a crash does, and returns when it is dead.
func (p *Process) Kill() {
	if p.Running() {
		_ = syscall.Kill(-p.PID(), syscall.SIGKILL) // fails only for one that ended meanwhile
		<-p.done
	}
}

// Exit waits for the process to end by itself and returns its exit code.
func (p *Process) Exit(within time.Duration) int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(within):
		p.t.Fatalf("%s still runs after %v", p.Name, within)
	}
	return p.cmd.ProcessState.ExitCode()
}

// Said returns all that the process has put out.
func (p *Process) Said() []byte {
	out, err := os.ReadFile(p.log)
	Must(p.t, err)
	return out
}

// Tail returns the last n bytes of it.
func (p *Process) Tail(n int) []byte {
	out := p.Said()
	return out[max(0, len(out)-n):]
}

// WaitSaid returns when the process has put out text.
func (p *Process) WaitSaid(text string, within time.Duration) {
	p.t.Helper()
	p.WaitSaidTimes(text, 1, within)
}

// WaitSaidTimes returns when the process has put out text so many times.
func (p *Process) WaitSaidTimes(text string, times int, within time.Duration) {
	p.t.Helper()
	Eventually(p.t, fmt.Sprintf("%s says %q", p.Name, text), within, func() bool {
		running := p.Running() // looked at first: what it said last counts
		if bytes.Count(p.Said(), []byte(text)) >= times {
			return true
		}
		if !running {
			p.t.Fatalf("%s ended (%v) before it said %q", p.Name, p.cmd.ProcessState, text)
		}
		return false
	})
}

// WaitReady returns when /readyz of a gateway's admin address says that agents
// may come; client reaches it.
func (p *Process) WaitReady(client *http.Client, admin string, within time.Duration) {
	p.t.Helper()
	Eventually(p.t, p.Name+" is ready", within, func() bool {
		if !p.Running() {
			p.t.Fatalf("%s ended: %v", p.Name, p.cmd.ProcessState)
		}
		answer, err := client.Get("http://" + admin + "/readyz")
		if err != nil {
			return false
		}
		defer answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
}

// Output runs a command to its end and returns what it wrote to stdout.
func Output(t *testing.T, program string, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, args...).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		t.Fatalf("%s %q: %v\n%s", program, args, err, exit.Stderr)
	}
	Must(t, err)
	return out
}
