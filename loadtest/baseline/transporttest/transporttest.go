// Package transporttest holds what every transport of load tests must do,
// told as stories that each transport's own tests run.
package transporttest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/loadtest/scenario"
	"github.com/moorage-dev/moorage/loadtest/worker"
)

// limit is so long that only a test that hangs meets it.
const limit = time.Minute

// largest is the most that a window and the buffers around it may hold before
// a sender must wait: far more than any window, far less than what is offered.
const largest = 48 << 20

// Run tells all stories about one transport. plan returns a plan for a fresh
// target, where an application that listens may choose its port.
func Run(t *testing.T, transport worker.Transport, plan func(t *testing.T) *worker.Plan) {
	stories := []struct {
		name string
		tell func(t *testing.T, w *world)
	}{
		{"both directions in order", inOrder},
		{"half-close", halfClose},
		{"the window stops the sender", window},
		{"a hundred sessions", crowd(100, 20)},
		{"twenty busy sessions", crowd(20, 1000)},
		{"a cut is seen", cut},
		{"an early close is seen", earlyClose},
		{"a context ends what waits", cancelled},
	}
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			p := plan(t)
			p.Scenario.Groups = []scenario.Group{{Name: "g", Kind: scenario.Native, Agents: 1}}
			app, err := transport.Application(ctx, p)
			if err != nil {
				t.Fatal(err)
			}
			if a, ok := app.(interface{ Addr() string }); ok {
				p.App = a.Addr()
			}
			agents, err := transport.Agents(ctx, p)
			if err != nil {
				t.Fatal(errors.Join(err, app.Close()))
			}
			defer func() {
				if err := errors.Join(agents.Close(), app.Close()); err != nil {
					t.Error(err)
				}
				if _, _, err := app.Accept(ctx); err == nil || ctx.Err() != nil {
					t.Errorf("Accept after Close: %v, want an error at once", err)
				}
			}()
			s.tell(t, &world{T: t, ctx: ctx, agents: agents, app: app})
		})
	}
}

// A world is one application and one process of agents.
type world struct {
	*testing.T
	ctx    context.Context
	agents worker.Agents
	app    worker.Application
}

// pair opens a session and returns its two ends.
func (w *world) pair(key string) (agent, app worker.Session) {
	w.Helper()
	agent, err := w.agents.Open(w.ctx, key, scenario.Native)
	if err != nil {
		w.Fatal(err)
	}
	got, app, err := w.app.Accept(w.ctx)
	if err != nil {
		w.Fatal(err)
	}
	if got != key {
		w.Fatalf("accepted %q, want %q", got, key)
	}
	return agent, app
}

// pattern fills messages: each begins at another place of it.
var pattern = func() (p [64<<10 + 256]byte) {
	for i := range p {
		p[i] = byte(i * i >> 3)
	}
	return p
}()

// message is the n-th, of size bytes, which differ from its neighbours'.
func message(b []byte, n uint64, size int) []byte {
	b = append(b[:0], pattern[n%256:][:size]...)
	binary.BigEndian.PutUint64(b, n)
	return b
}

// size of the n-th message: small ones, a full frame, and odd ones.
func size(n uint64) int {
	switch n % 50 {
	case 7:
		return 64 << 10
	case 23:
		return 8<<10 + 1
	}
	return 48 + int(n%200)
}

// send sends count messages and then says that there are no more.
func send(ctx context.Context, s worker.Session, count uint64) error {
	var b []byte
	for n := range count {
		b = message(b, n, size(n)) // the same memory each time: nobody may hold on to it
		if err := s.Send(ctx, b); err != nil {
			return fmt.Errorf("message %d: %w", n, err)
		}
	}
	return s.CloseSend()
}

// receive wants count messages, in order and whole, and then the end.
func receive(ctx context.Context, s worker.Session, count uint64) error {
	var want []byte
	for n := range count {
		got, err := s.Receive(ctx)
		if err != nil {
			return fmt.Errorf("message %d: %w", n, err)
		}
		if want = message(want, n, size(n)); string(got) != string(want) {
			return fmt.Errorf("message %d is another or damaged: %d bytes, want %d", n, len(got), len(want))
		}
	}
	if m, err := s.Receive(ctx); err != io.EOF {
		return fmt.Errorf("after the last message: %d bytes, %v; want io.EOF", len(m), err)
	}
	return nil
}

// together runs what and returns all errors.
func together(what ...func() error) error {
	var wg sync.WaitGroup
	errs := make([]error, len(what))
	for i, f := range what {
		wg.Go(func() { errs[i] = f() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func exchange(ctx context.Context, agent, app worker.Session, up, down uint64) error {
	return together(
		func() error { return say("agent sends", send(ctx, agent, up)) },
		func() error { return say("agent receives", receive(ctx, agent, down)) },
		func() error { return say("application sends", send(ctx, app, down)) },
		func() error { return say("application receives", receive(ctx, app, up)) },
	)
}

func say(who string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", who, err)
	}
	return nil
}

func inOrder(t *testing.T, w *world) {
	agent, app := w.pair("g/0/1")
	if err := exchange(w.ctx, agent, app, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	if err := together(agent.Close, app.Close); err != nil {
		t.Errorf("closing a session that is over: %v", err)
	}
	// Its agent's next session.
	agent, app = w.pair("g/0/2")
	if err := exchange(w.ctx, agent, app, 1, 0); err != nil {
		t.Fatal(err)
	}
	if err := together(agent.Close, app.Close); err != nil {
		t.Error(err)
	}
}

func halfClose(t *testing.T, w *world) {
	for i, reversed := range []bool{false, true} {
		first, second := w.pair(fmt.Sprintf("g/%d/1", i))
		if reversed {
			first, second = second, first
		}
		if err := send(w.ctx, first, 3); err != nil {
			t.Fatal(err)
		}
		if err := receive(w.ctx, second, 3); err != nil {
			t.Fatal(err)
		}
		// The other half lives on.
		if err := send(w.ctx, second, 3); err != nil {
			t.Fatal(err)
		}
		if err := receive(w.ctx, first, 3); err != nil {
			t.Fatal(err)
		}
		if err := together(first.Close, second.Close); err != nil {
			t.Error(err)
		}
	}
}

func window(t *testing.T, w *world) {
	const size = 32 << 10
	for i, down := range []bool{false, true} {
		from, to := w.pair(fmt.Sprintf("g/%d/1", i))
		if down {
			from, to = to, from
		}
		ctx, cancel := context.WithCancel(w.ctx)
		var sent atomic.Int64
		progress := make(chan struct{}, 1)
		done := make(chan error, 1)
		go func() {
			payload := make([]byte, size)
			for sent.Load() < largest {
				if err := from.Send(ctx, payload); err != nil {
					done <- err
					return
				}
				sent.Add(size)
				select {
				case progress <- struct{}{}:
				default:
				}
			}
			done <- errors.New("nothing stopped the sender")
		}()
		w.untilStill(progress, done)
		stopped := sent.Load()
		if stopped == 0 {
			t.Fatal("not even one message fits")
		}
		// One window's worth taken makes room.
		for taken := int64(0); taken <= stopped; taken += size {
			if taken == stopped {
				break
			}
			if _, err := to.Receive(w.ctx); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case <-progress:
		case err := <-done:
			t.Fatalf("after the window moved: %v", err)
		case <-w.ctx.Done():
			t.Fatalf("%d bytes were sent and taken, and the sender waits still", stopped)
		}
		cancel()
		<-done
		if err := together(from.Close, to.Close); err != nil {
			t.Error(err)
		}
	}
}

// untilStill waits until nothing is sent any more.
func (w *world) untilStill(progress chan struct{}, done chan error) {
	w.Helper()
	const still = 500 * time.Millisecond
	timer := time.NewTimer(still)
	defer timer.Stop()
	for {
		select {
		case <-progress:
			timer.Reset(still)
		case <-timer.C:
			return
		case err := <-done:
			w.Fatal(err)
		}
	}
}

// crowd is sessions at once, with so many messages each way.
func crowd(sessions int, messages uint64) func(t *testing.T, w *world) {
	return func(t *testing.T, w *world) { converse(t, w, sessions, messages) }
}

func converse(t *testing.T, w *world, sessions int, messages uint64) {
	serving := make(chan error, 1)
	go func() {
		var each []func() error
		seen := map[string]bool{}
		for range sessions {
			key, s, err := w.app.Accept(w.ctx)
			if err != nil {
				serving <- err
				return
			}
			if seen[key] {
				serving <- fmt.Errorf("%s comes twice", key)
				return
			}
			seen[key] = true
			each = append(each, func() error {
				return errors.Join(together(
					func() error { return send(w.ctx, s, messages) },
					func() error { return receive(w.ctx, s, messages) },
				), s.Close())
			})
		}
		serving <- together(each...)
	}()
	var each []func() error
	for n := range sessions {
		each = append(each, func() error {
			s, err := w.agents.Open(w.ctx, fmt.Sprintf("g/%d/1", n), scenario.Native)
			if err != nil {
				return err
			}
			return errors.Join(together(
				func() error { return send(w.ctx, s, messages) },
				func() error { return receive(w.ctx, s, messages) },
			), s.Close())
		})
	}
	if err := together(each...); err != nil {
		t.Error(err)
	}
	if err := <-serving; err != nil {
		t.Error(err)
	}
}

func cut(t *testing.T, w *world) {
	agent, app := w.pair("g/cut/1")
	spared, its := w.pair("g/spared/1")
	w.agents.Cut(func(key string) bool { return key == "g/cut/1" })
	wantEnd(w, "the agent", agent)
	wantEnd(w, "the application", app)
	if err := exchange(w.ctx, spared, its, 5, 5); err != nil {
		t.Errorf("a session that was to be spared: %v", err)
	}
	if err := together(agent.Close, app.Close, spared.Close, its.Close); err != nil {
		t.Error(err)
	}
}

func earlyClose(t *testing.T, w *world) {
	for i, byAgent := range []bool{true, false} {
		first, second := w.pair(fmt.Sprintf("g/%d/1", i))
		if !byAgent {
			first, second = second, first
		}
		if err := first.Close(); err != nil {
			t.Error(err)
		}
		wantEnd(w, "the other end", second)
		if err := second.Close(); err != nil {
			t.Error(err)
		}
	}
}

// wantEnd wants the session to be over, otherwise than in order.
func wantEnd(w *world, who string, s worker.Session) {
	w.Helper()
	_, err := s.Receive(w.ctx)
	if e, ok := errors.AsType[*worker.EndedError](err); !ok || e.Reason == "" {
		w.Errorf("%s receives %v, want an EndedError with a reason", who, err)
	}
	if err := s.Send(w.ctx, make([]byte, 48)); err == nil {
		w.Errorf("%s can still send", who)
	}
}

func cancelled(t *testing.T, w *world) {
	agent, app := w.pair("g/0/1")
	for _, s := range []worker.Session{agent, app} {
		ctx, cancel := context.WithCancel(w.ctx)
		failed := make(chan error, 1)
		go func() {
			_, err := s.Receive(ctx)
			failed <- err
		}()
		cancel()
		if err := <-failed; err == nil {
			t.Error("Receive returns a message that nobody sent")
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
