package site

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A child is a process that comes and goes under one name and one command
// line. Its orders may be given concurrently: they are taken one at a time.
type child struct {
	name string
	argv func() []string // asked at each start: an upgrade changes it
	env  []string        // beside ours
	log  string          // file, to whose end its output goes
	host *host           // network that it lives in; nil: ours
	// ready tells whether it serves. It is asked until it says so, or
	// readyWithin has passed.
	ready       func(ctx context.Context) error
	readyWithin time.Duration

	turn sync.Mutex // held by who starts or ends it

	mu     sync.Mutex // guards the following
	proc   *process   // of now, or the last one; nil before the first
	served bool       // it has been ready once
	shut   bool       // no more starts
}

// A process is one life of a child.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it is dead and reaped
	from int64         // where its output begins in the log
}

// start returns when the child serves. A process that does not is ended.
func (c *child) start(ctx context.Context) error {
	c.turn.Lock()
	defer c.turn.Unlock()
	return c.startLocked(ctx)
}

// startLocked starts again what ends before it serves, as a service manager
// does: a gateway ends when it finds no Kafka. But a first start that fails
// has a cause that is ours.
func (c *child) startLocked(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.readyWithin, fmt.Errorf("not ready in %v", c.readyWithin))
	defer cancel()
	for {
		ended, err := c.tryStart(ctx)
		c.mu.Lock()
		c.served = c.served || err == nil
		again := c.served && ended
		c.mu.Unlock()
		if err == nil || !again || hold(ctx, restartPause) != nil {
			return err
		}
	}
}

// restartPause is between a failed start and the next.
const restartPause = 200 * time.Millisecond

// tryStart starts one process; ended: it did so by itself before it served.
func (c *child) tryStart(ctx context.Context) (ended bool, err error) {
	if c.running() != nil {
		return false, nil
	}
	p, err := c.spawn()
	if err != nil {
		return false, fmt.Errorf("site: start %s: %w", c.name, err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := c.ready(ctx)
		if err == nil {
			return false, nil
		}
		select {
		case <-p.done:
			return true, c.died(p)
		case <-ctx.Done():
			p.signal(syscall.SIGKILL)
			<-p.done
			return false, fmt.Errorf("site: start %s: %w (%v); see %s", c.name, context.Cause(ctx), err, c.log)
		case <-tick.C:
		}
	}
}

// spawn starts the process, which dies with this one, even when that is killed.
func (c *child) spawn() (*process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shut {
		return nil, errors.New("the site is closed")
	}
	out, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	p := &process{done: make(chan struct{})}
	if info, err := out.Stat(); err == nil {
		p.from = info.Size()
	}
	argv := c.argv()
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Env = append(os.Environ(), c.env...)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		defer close(p.done)
		defer out.Close()
		// The child dies with the thread that started it, so this goroutine
		// keeps one for itself. One that has been to another network is not
		// given back.
		runtime.LockOSThread()
		if c.host == nil {
			defer runtime.UnlockOSThread()
		} else if err := c.host.enter(); err != nil {
			started <- err
			return
		}
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // how it ended stands in ProcessState
		}
	}()
	if err := <-started; err != nil {
		<-p.done
		return nil, err
	}
	c.proc = p
	return p, nil
}

// died explains a process that ended before it served, by its last line.
func (c *child) died(p *process) error {
	why := "it said nothing"
	if out, err := os.ReadFile(c.log); err == nil && int64(len(out)) > p.from {
		lines := strings.Split(strings.TrimSpace(string(bytes.ToValidUTF8(out[p.from:], nil))), "\n")
		why = lines[len(lines)-1]
	}
	return fmt.Errorf("site: start %s: it ended (%v): %s; see %s", c.name, p.cmd.ProcessState, why, c.log)
}

// running returns the process, nil if none runs.
func (c *child) running() *process {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proc == nil || c.proc.ended() {
		return nil
	}
	return c.proc
}

// pid is 0 while none runs.
func (c *child) pid() int {
	if p := c.running(); p != nil {
		return p.cmd.Process.Pid
	}
	return 0
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// signal reaches the process and its children.
func (p *process) signal(sig syscall.Signal) {
	_ = syscall.Kill(-p.cmd.Process.Pid, sig) // fails only for one that ended meanwhile
}

// kill ends the child as a crash does, and returns when it is dead. One that is
// about to start is down.
func (c *child) kill() error {
	if !c.turn.TryLock() {
		return fmt.Errorf("site: %s %w", c.name, ErrDown)
	}
	defer c.turn.Unlock()
	p := c.running()
	if p == nil {
		return fmt.Errorf("site: %s %w", c.name, ErrDown)
	}
	p.signal(syscall.SIGKILL)
	<-p.done
	return nil
}

// term asks the child to end in order; ended waits until it has, and kills one
// that has not within the limit.
func (c *child) term() (ended func(ctx context.Context, limit time.Duration) error, err error) {
	p := c.running()
	if p == nil {
		return nil, fmt.Errorf("site: %s %w", c.name, ErrDown)
	}
	p.signal(syscall.SIGTERM)
	return func(ctx context.Context, limit time.Duration) error {
		late := time.NewTimer(limit)
		defer late.Stop()
		select {
		case <-p.done:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-late.C:
			p.signal(syscall.SIGKILL)
			<-p.done
			return fmt.Errorf("site: %s did not end within %v of SIGTERM, and was killed", c.name, limit)
		}
	}, nil
}

// freeze stops the process in the middle of whatever it does. thaw lets the
// same one go on; it is harmless when that has died.
func (c *child) freeze() (thaw func(context.Context) error, err error) {
	p := c.running()
	if p == nil {
		return nil, fmt.Errorf("site: %s %w", c.name, ErrDown)
	}
	p.signal(syscall.SIGSTOP)
	return func(context.Context) error {
		if !p.ended() {
			p.signal(syscall.SIGCONT)
		}
		return nil
	}, nil
}

// close ends the child for good: in order within the limit, or hard; 0: hard.
func (c *child) close(limit time.Duration) {
	c.mu.Lock()
	c.shut = true
	p := c.proc
	c.mu.Unlock()
	if p == nil || p.ended() {
		return
	}
	if limit > 0 {
		p.signal(syscall.SIGCONT) // a frozen one would not hear
		p.signal(syscall.SIGTERM)
		late := time.NewTimer(limit)
		defer late.Stop()
		select {
		case <-p.done:
			return
		case <-late.C:
		}
	}
	p.signal(syscall.SIGKILL)
	<-p.done
}

// logFile is where a child's words go.
func (s *site) logFile(name string) string { return filepath.Join(s.cfg.Dir, name+".log") }
