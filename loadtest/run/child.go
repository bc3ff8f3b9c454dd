package run

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/loadtest/worker"
)

// A Child is a running worker as whoever started it hands it over.
type Child struct {
	PID   int
	In    io.WriteCloser // its orders; closing it ends the worker
	Out   io.Reader      // its words; ends with it
	Kill  func()         // at once, without a word; nil: closing In has to do
	Stop  func(on bool)  // freezes it, and lets it go on; nil: cannot be frozen
	Wait  func() error   // returns when it has ended; nil: when Out has
	Trail func() string  // the end of what it said otherwise, for an error; nil: nothing
}

// A Spawn starts a worker for a system, under a name such as agents-1. The
// worker must end when ctx does.
type Spawn func(ctx context.Context, system, name string) (*Child, error)

// errKilled is why a worker that a fault killed says no more.
var errKilled = errors.New("killed by a fault")

// A hand is a worker as the coordinator holds it: its words are sorted, and
// its end is noticed.
type hand struct {
	name  string
	role  string
	plan  worker.Plan
	child *Child
	hear  func(*hand, worker.Word) // each tick and event, in turn

	write sync.Mutex // one order at a time

	ready chan worker.Ready // has one
	final chan worker.Final // has one
	done  chan struct{}     // closed when nothing more comes

	// What it has told so far, should it be killed; guarded by the pass's mu.
	last  worker.Final   // Opens and Failed alone
	tally *check.Account // nil: of no anomaly
	err   error          // why, once done is closed; nil: it ended after its Final

	mu     sync.Mutex // guards the following
	killed bool
}

// start gives a new worker its plan.
func start(ctx context.Context, spawn Spawn, name string, plan worker.Plan, hear func(*hand, worker.Word)) (*hand, error) {
	child, err := spawn(ctx, plan.Transport, name)
	if err != nil {
		return nil, fmt.Errorf("run: start worker %s: %w", name, err)
	}
	h := &hand{
		name: name, role: plan.Role, plan: plan, child: child, hear: hear,
		ready: make(chan worker.Ready, 1), final: make(chan worker.Final, 1), done: make(chan struct{}),
	}
	go func() {
		defer close(h.done)
		h.err = h.listen()
	}()
	if err := h.say(plan); err != nil {
		h.end()
		return nil, h.why(err)
	}
	return h, nil
}

// listen sorts words until there are none left.
func (h *hand) listen() error {
	lines := bufio.NewScanner(h.child.Out)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	told := false
	for lines.Scan() {
		var w worker.Word
		if err := json.Unmarshal(lines.Bytes(), &w); err != nil {
			h.kill()
			h.wait()
			return fmt.Errorf("said what is no word: %w", err)
		}
		switch {
		case w.Fail != "":
			h.drop()
			return errors.New(w.Fail)
		case w.Ready != nil:
			select {
			case h.ready <- *w.Ready:
			default: // the first counts
			}
		case w.Final != nil:
			if !told {
				told = true
				h.final <- *w.Final
			}
		default:
			h.hear(h, w)
		}
	}
	if err := lines.Err(); err != nil {
		h.kill()
		h.wait()
		return err
	}
	err := h.wait()
	switch {
	case h.wasKilled():
		return errKilled
	case told:
		return nil
	case err == nil:
		err = errors.New("ended before its time")
	}
	if h.child.Trail != nil {
		if trail := h.child.Trail(); trail != "" {
			err = fmt.Errorf("%w: %s", err, trail)
		}
	}
	return err
}

// drop lets go of a worker that has said all it will.
func (h *hand) drop() {
	_ = h.child.In.Close() // it ends by itself anyway
	_, _ = io.Copy(io.Discard, h.child.Out)
	h.wait()
}

func (h *hand) wait() error {
	if h.child.Wait == nil {
		return nil
	}
	return h.child.Wait()
}

// say sends a plan or an order.
func (h *hand) say(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	h.write.Lock()
	defer h.write.Unlock()
	_, err = h.child.In.Write(append(line, '\n'))
	return err
}

// awaitReady returns the worker's first word.
func (h *hand) awaitReady(ctx context.Context) (worker.Ready, error) {
	select {
	case r := <-h.ready:
		return r, nil
	case <-h.done:
		return worker.Ready{}, h.why(h.err)
	case <-ctx.Done():
		return worker.Ready{}, context.Cause(ctx)
	}
}

// awaitFinal returns the worker's account; not after the deadline.
func (h *hand) awaitFinal(deadline <-chan struct{}) (worker.Final, error) {
	select {
	case f := <-h.final:
		return f, nil
	default:
	}
	select {
	case f := <-h.final:
		return f, nil
	case <-h.done:
		select {
		case f := <-h.final:
			return f, nil
		default:
			return worker.Final{}, h.why(h.err)
		}
	case <-deadline:
		return worker.Final{}, h.why(errors.New("gave no account in time"))
	}
}

// kill is SIGKILL: nothing of it is left but what it has told.
func (h *hand) kill() {
	h.mu.Lock()
	h.killed = true
	h.mu.Unlock()
	if h.child.Kill != nil {
		h.child.Kill()
	} else {
		_ = h.child.In.Close() // as good as dead
	}
}

func (h *hand) wasKilled() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.killed
}

// patience is how long a worker may take to end when it is told to.
const patience = 3 * time.Second

// end asks the worker to leave, kills it if it does not, and returns when it is gone.
func (h *hand) end() {
	_ = h.say(worker.Order{Do: "quit"}) // it may be dead
	_ = h.child.In.Close()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-h.done:
	case <-timer.C:
		h.kill()
		<-h.done
	}
}

func (h *hand) why(err error) error { return fmt.Errorf("worker %s: %w", h.name, err) }
