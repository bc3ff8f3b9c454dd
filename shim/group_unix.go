//go:build unix

package shim

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/moorage-dev/moorage/shim/guard"
)

// terminate is what ends an agent when no other signal does.
const terminate = syscall.SIGTERM

// ends tells the signals that end an agent. They go to its whole group, as a
// terminal's do; all others are for the agent alone.
func ends(sig os.Signal) bool {
	return sig == syscall.SIGTERM || sig == syscall.SIGINT
}

// Forwarded are the signals that a shim passes on to its agent.
func Forwarded() []os.Signal {
	list := []os.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR1, syscall.SIGUSR2}
	if !signal.Ignored(syscall.SIGHUP) { // under nohup it stays ignored
		list = append(list, syscall.SIGHUP)
	}
	return list
}

// A group is the process group of an agent and of all that it starts. It must
// die with the shim, even when that is killed; so its leader is a guard, this
// same program again, that waits for the end of a pipe which the shim holds
// and never writes to. What leaves the group by itself leaves the guard too.
type group struct {
	private string  // removed by the guard
	leader  *leader // nil: not started yet
}

// A leader is the guard of a group as the shim sees it: the process that leads
// the group until the shim is gone.
type leader struct {
	cmd   *exec.Cmd
	held  *os.File      // its end is what the guard waits for
	ready *os.File      // the guard writes to it once it ignores what ends the agent; nil: it has
	done  chan struct{} // closed when it is dead and reaped
}

// guardReady is how long a guard may take to start.
const guardReady = 10 * time.Second

// startGuard starts a guard, and does not wait until it is ready.
func startGuard(private string) (*leader, error) {
	end, held, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer end.Close()
	ready, ack, err := os.Pipe()
	if err != nil {
		_ = held.Close()
		return nil, err
	}
	program, err := self()
	if err != nil {
		return nil, errors.Join(err, held.Close(), ready.Close(), ack.Close())
	}
	cmd := &exec.Cmd{
		Path: program, Args: []string{os.Args[0], "shim", "(guard of " + strconv.Itoa(os.Getpid()) + ")"}, Env: append(os.Environ(), guard.Var+"="+private),
		Stdin: end, Stdout: ack, SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
	}
	err = errors.Join(cmd.Start(), ack.Close())
	if err != nil {
		return nil, errors.Join(err, held.Close(), ready.Close())
	}
	g := &leader{cmd: cmd, held: held, ready: ready, done: make(chan struct{})}
	go func() {
		defer close(g.done)
		_ = cmd.Wait() // it is killed as a rule
	}()
	return g, nil
}

// await waits until the guard outlives what ends the agent.
func (g *leader) await() error {
	if g.ready == nil {
		return nil
	}
	err := g.ready.SetReadDeadline(time.Now().Add(guardReady))
	if err == nil {
		_, err = g.ready.Read(make([]byte, 1))
	}
	if err != nil {
		return errors.Join(errors.New("shim: the agent's guard does not start"), err)
	}
	g.forget()
	return nil
}

// forget lets go of the pipe by which the guard says that it is ready.
func (g *leader) forget() {
	if g.ready != nil {
		_ = g.ready.Close() // it holds no data
		g.ready = nil
	}
}

func (g *leader) alive() bool {
	if g == nil {
		return false
	}
	select {
	case <-g.done:
		return false
	default:
		return true
	}
}

func (g *leader) pgid() int { return g.cmd.Process.Pid }

// close kills the whole group.
func (g *leader) close() {
	killGroup(g.pgid())
	_ = g.held.Close() // it holds no data
	g.forget()
	<-g.done
}

// killGroup is harmless where nobody is left. The group's number is not given
// to another as long as one process in it lives.
func killGroup(pgid int) { _ = syscall.Kill(-pgid, syscall.SIGKILL) }

// A member is an agent in a group.
type member struct {
	cmd  *exec.Cmd
	pgid int
	done chan struct{} // closed when it is dead and reaped
}

// start starts cmd in the group. The guard is a process as large as the shim,
// and needs as long to begin: the agent need not wait for it. Should the shim
// be killed before the guard is ready, the guard finds that out first of all.
func (g *group) start(cmd *exec.Cmd) (*member, error) {
	if !g.leader.alive() {
		if g.leader != nil {
			g.leader.close() // somebody killed it; nobody guards what it led
		}
		l, err := startGuard(g.private)
		if err != nil {
			g.leader = nil
			return nil, err
		}
		g.leader = l
	}
	m := &member{cmd: cmd, pgid: g.leader.pgid(), done: make(chan struct{})}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: m.pgid}
	dieWithUs(cmd.SysProcAttr)
	started := make(chan error, 1)
	go func() {
		defer close(m.done)
		// Linux counts the death of the thread that started the agent as its
		// parent's, so this goroutine keeps one for itself until it has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended stands in ProcessState
		}
	}()
	if err := <-started; err != nil {
		<-m.done
		return nil, err
	}
	// From here on signals may go to the whole group.
	if err := g.leader.await(); err != nil {
		g.leader.close()
		g.leader = nil
		<-m.done
		return nil, err
	}
	return m, nil
}

// signal passes a signal on; the agent may just have ended.
func (m *member) signal(sig os.Signal) {
	s, ok := sig.(syscall.Signal)
	switch {
	case !ok:
	case ends(sig):
		_ = syscall.Kill(-m.pgid, s)
	default:
		_ = m.cmd.Process.Signal(s)
	}
}

// kill ends the agent and all of its group; the guard too.
func (m *member) kill() { killGroup(m.pgid) }

// close kills what is left of the group.
func (g *group) close() {
	if g.leader != nil {
		g.leader.close()
	}
}

// exitCode returns an exit code as a shell counts.
func exitCode(state *os.ProcessState) int {
	if state == nil {
		return 1
	}
	if w, ok := state.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return state.ExitCode()
}
