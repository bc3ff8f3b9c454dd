package shim

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"time"
)

// A Restart says after which ends an agent is started again.
type Restart string

// Stock agents exit 0 when they are done for good (-noReconnectAfter, no
// protocol in common), and else when something failed that another start may
// mend: old ones exit 255 on the first trouble at connecting.
const (
	RestartAlways    Restart = "always"
	RestartOnFailure Restart = "on-failure" // after any exit code but 0
	RestartNever     Restart = "never"
)

// An Agent is a command that is kept running.
type Agent struct {
	// Args is the command and its arguments, with the addresses in place.
	Args []string
	// Env is its environment; nil: the shim's own. Where that names an HTTP
	// proxy, the agent is told to go past it to Host.
	Env []string
	// Host is where the door is; "": nothing is said of it to the agent.
	Host string
	// Ahead is called beside each start, to make ready what the agent will ask
	// for; its context ends with the agent. nil: nothing is.
	Ahead func(ctx context.Context)
	// Restart is when it is started again; "": RestartOnFailure.
	Restart Restart
	// StopTimeout is how long it has to end when it is told to; 0: 10 s. Then,
	// or when it is told a second time, its process group is killed.
	StopTimeout time.Duration
	// Signals are passed on to it; those that end a process to its whole
	// group. nil: none.
	Signals <-chan os.Signal
	// Stdout and Stderr take its output; nil: nobody does.
	Stdout, Stderr io.Writer
	// Log keeps its output too; nil: nothing is kept.
	Log *Rotated
	// Private is a directory that is removed when the shim is killed; "":
	// none. Who made it removes it otherwise.
	Private string
}

// An ExitError reports how an agent ended, or whoever told it to.
type ExitError struct {
	Code int // as a shell counts: 128 and n for signal n
}

func (e *ExitError) Error() string { return fmt.Sprintf("the agent ended with exit code %d", e.Code) }

// Waits between two starts: doubled after each, and forgotten once an agent
// has stayed up.
const (
	firstWait = time.Second
	mostWait  = time.Minute
	stayedUp  = time.Minute
)

// nextWait returns how long to wait after an agent that was up for so long.
func nextWait(last, up time.Duration) time.Duration {
	if last == 0 || up >= stayedUp {
		return firstWait
	}
	return min(2*last, mostWait)
}

// run keeps the agent running until ctx ends or it has ended for good. The
// last exit code is the error, an *ExitError, unless it is 0. Processes of the
// agent's group that outlive it live on while it is started again, as they do
// without a shim, and are killed when run returns.
func (a *Agent) run(ctx context.Context, log *slog.Logger) (err error) {
	out, err := a.output()
	if err != nil {
		return err
	}
	defer out.close()
	g := &group{private: a.Private}
	defer g.close()

	var wait time.Duration
	for {
		began := time.Now()
		code, err := a.once(ctx, g, out, log)
		up := time.Since(began)
		switch {
		case err != nil:
			log.Error("shim: the agent cannot be started", "err", err)
			code = 126
		case ctx.Err() != nil:
		case code == 0:
			log.Info("shim: the agent has ended", "code", code, "up", up.Round(time.Second).String())
		default:
			log.Warn("shim: the agent has ended", "code", code, "up", up.Round(time.Second).String())
		}
		if ctx.Err() != nil || a.Restart == RestartNever || a.Restart != RestartAlways && code == 0 {
			return exit(code)
		}
		wait = nextWait(wait, up)
		log.Info("shim: the agent is started again", "in", wait.String())
		pause(ctx, wait)
		if ctx.Err() != nil {
			return exit(code)
		}
	}
}

func exit(code int) error {
	if code == 0 {
		return nil
	}
	return &ExitError{code}
}

// once starts the agent and waits until it has ended.
func (a *Agent) once(ctx context.Context, g *group, out *output, log *slog.Logger) (code int, err error) {
	cmd := exec.Command(a.Args[0], a.Args[1:]...)
	cmd.Env = a.Env
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	if a.Host != "" {
		cmd.Env = childEnv(cmd.Env, a.Host)
	}
	cmd.Stdout, cmd.Stderr = out.stdout, out.stderr
	if a.Ahead != nil {
		var ahead sync.WaitGroup
		defer ahead.Wait()
		life, over := context.WithCancel(ctx)
		defer over()
		ahead.Go(func() { a.Ahead(life) })
	}
	m, err := g.start(cmd)
	if err != nil {
		return 0, err
	}
	log.Info("shim: the agent is running", "pid", cmd.Process.Pid)

	var told bool // to end
	var kill <-chan time.Time
	tell := func(sig os.Signal) {
		told = true
		m.signal(sig)
	}
	stop := ctx.Done()
	for {
		select {
		case <-m.done:
			return exitCode(cmd.ProcessState), nil
		case sig := <-a.Signals:
			switch {
			case !ends(sig):
				m.signal(sig)
			case told:
				m.kill() // somebody's patience is over
			default:
				tell(sig)
			}
		case <-stop:
			stop = nil
			late := time.NewTimer(cmp.Or(a.StopTimeout, 10*time.Second))
			defer late.Stop()
			kill = late.C
			if !told {
				tell(a.lastSignal())
			}
		case <-kill:
			kill = nil
			log.Warn("shim: the agent did not end in time and is killed, with its process group")
			m.kill()
		}
	}
}

// sameMoment bounds how long the signal that ended ctx may take to be known.
const sameMoment = 100 * time.Millisecond

// lastSignal returns what the agent is to be ended with: the signal that ends
// the shim, if one does.
func (a *Agent) lastSignal() os.Signal {
	if a.Signals == nil {
		return terminate
	}
	late := time.NewTimer(sameMoment)
	defer late.Stop()
	for {
		select {
		case sig := <-a.Signals:
			if ends(sig) {
				return sig
			}
		case <-late.C:
			return terminate
		}
	}
}
