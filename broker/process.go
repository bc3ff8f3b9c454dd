//go:build unix

package broker

import (
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// A process is a child in a process group of its own, whose end is awaited.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process is dead and reaped
}

// startProcess starts cmd with its output going to the end of logFile, on a
// thread that enter has moved; nil: on any.
func startProcess(cmd *exec.Cmd, logFile string, enter func() error) (*process, error) {
	out, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = childAttr()
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		defer close(p.done)
		defer out.Close()
		// Linux kills the child when the *thread* that started it ends, so
		// this goroutine keeps one for itself as long as the child lives.
		runtime.LockOSThread()
		if enter == nil {
			defer runtime.UnlockOSThread()
		} else if err := enter(); err != nil {
			started <- err // and the thread, wherever it is, is used no more
			return
		}
		err := cmd.Start()
		started <- err
		if err == nil {
			// How it ended is for the log; callers ask whether.
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		<-p.done
		return nil, err
	}
	return p, nil
}

// running tells whether the process was started and isn't known to be dead.
func (p *process) running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// signal reaches the process and its children.
func (p *process) signal(sig syscall.Signal) error {
	return syscall.Kill(-p.cmd.Process.Pid, sig)
}

// kill is harmless on what is dead or never ran.
func (p *process) kill() {
	if p.running() {
		// It fails only for a process that ended meanwhile.
		_ = p.signal(syscall.SIGKILL)
	}
}

func (p *process) wait() {
	if p != nil {
		<-p.done
	}
}
