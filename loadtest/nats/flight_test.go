package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/moorage-dev/moorage/loadtest/scenario"
	"github.com/moorage-dev/moorage/loadtest/worker"
)

// A gate is a way to the server on which answers can be held back.
type gate struct {
	addr string
	mu   sync.RWMutex // locked: no answer passes
}

func newGate(t *testing.T, server string) *gate {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{addr: lis.Addr().String()}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			near, err := lis.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { g.pass(t, near, server) })
		}
	})
	t.Cleanup(func() {
		_ = lis.Close()
		wg.Wait()
	})
	return g
}

// pass carries one connection until either side closes it.
func (g *gate) pass(t *testing.T, near net.Conn, server string) {
	defer near.Close()
	far, err := net.Dial("tcp", server)
	if err != nil {
		t.Error(err)
		return
	}
	defer far.Close()
	var others sync.WaitGroup
	defer others.Wait()
	defer near.Close()
	others.Go(func() {
		_, _ = io.Copy(far, near) // it ends when either is closed
		_ = far.Close()
	})
	// What is held back is read: the server would drop who does not take its answers.
	held := make(chan []byte, 1<<14)
	defer close(held)
	others.Go(func() {
		for b := range held {
			g.mu.RLock()
			_, _ = near.Write(b) // closed: the reader ends too
			g.mu.RUnlock()
		}
	})
	for {
		b := make([]byte, 4<<10)
		n, err := far.Read(b)
		if err != nil {
			return
		}
		held <- b[:n]
	}
}

// world is a server, an application that reaches it by a gate, and sessions
// of agents that reach it directly.
type world struct {
	gate        *gate
	plan        *worker.Plan
	app         worker.Application
	js          jetstream.JetStream // to look at the server from the side
	agents, far []worker.Session
}

func newWorld(t *testing.T, sessions int) *world {
	t.Helper()
	w := &world{plan: start(t)}
	w.plan.Scenario.Groups = []scenario.Group{{Name: "g", Kind: scenario.Native, Agents: sessions}}
	w.gate = newGate(t, w.plan.Gateways[0])
	nc, err := nats.Connect("nats://" + w.plan.Gateways[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if w.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	gated := *w.plan
	gated.Gateways = []string{w.gate.addr}
	if w.app, err = (Transport{}).Application(t.Context(), &gated); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.app.Close() }) // a test that wants its error closes it first
	agents, err := Transport{}.Agents(t.Context(), w.plan)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := agents.Close(); err != nil {
			t.Error(err)
		}
	})
	for n := range sessions {
		agent, err := agents.Open(t.Context(), fmt.Sprintf("g/%d/1", n), scenario.Native)
		if err != nil {
			t.Fatal(err)
		}
		_, far, err := w.app.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		w.agents, w.far = append(w.agents, agent), append(w.far, far)
	}
	return w
}

// stored is how many messages the server has in the stream.
func (w *world) stored(t *testing.T, name string) int {
	t.Helper()
	s, err := w.js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return int(info.State.Msgs)
}

// limit lets the server refuse larger messages in the stream.
func (w *world) limit(t *testing.T, name string, size int32) {
	t.Helper()
	_, err := w.js.UpdateStream(t.Context(), jetstream.StreamConfig{
		Name: name, Subjects: []string{name + ".*"}, Storage: jetstream.FileStorage, Replicas: 1, MaxMsgSize: size,
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A server that is slow to acknowledge is not buried under what waits for it:
// senders wait, for a place in the order in which they came. Buried, it would
// acknowledge the last of it too late, and sessions that nothing is wrong with
// would be given up.
func TestASlowServerHoldsSendersBack(t *testing.T) {
	const sessions, count = 20, 1000
	w := newWorld(t, sessions)
	for w.stored(t, downStream(w.plan)) < sessions { // the ACCEPTs
		if t.Context().Err() != nil {
			t.Fatal(context.Cause(t.Context()))
		}
	}
	w.gate.mu.Lock()
	shut := true
	defer func() {
		if shut {
			w.gate.mu.Unlock()
		}
	}()
	var sent atomic.Int64
	sending := make(chan error, sessions)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, s := range w.far {
		go func() {
			for n := range count {
				if err := s.Send(ctx, []byte{byte(n), byte(n >> 8)}); err != nil {
					sending <- err
					return
				}
				sent.Add(1)
			}
			sending <- s.CloseSend()
		}()
	}
	for last := int64(-1); last != sent.Load(); {
		last = sent.Load()
		select { // still for so long: they wait
		case <-time.After(300 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal(context.Cause(ctx))
		}
	}
	if got := w.stored(t, downStream(w.plan)) - sessions; got == 0 || got > mostFlying {
		t.Errorf("%d messages went out without an acknowledgement, want some and at most %d", got, mostFlying)
	}
	w.gate.mu.Unlock()
	shut = false
	for i, s := range w.agents {
		for n := range count {
			got, err := s.Receive(ctx)
			if err != nil || len(got) != 2 || int(got[0])+int(got[1])<<8 != n {
				t.Fatalf("session %d, message %d: %v, %v", i, n, got, err)
			}
		}
		if _, err := s.Receive(ctx); err != io.EOF {
			t.Errorf("session %d after the last message: %v, want io.EOF", i, err)
		}
	}
	for range sessions {
		if err := <-sending; err != nil {
			t.Error(err)
		}
	}
}

// What the server does not store ends the run with the server's own words: a
// figure that lacks it would flatter the server.
func TestARefusalEndsTheApplication(t *testing.T) {
	w := newWorld(t, 1)
	w.limit(t, downStream(w.plan), 1024)
	if err := w.far[0].Send(t.Context(), make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	_, _, err := w.app.Accept(t.Context())
	for _, want := range []string{"not stored", "message size exceeds maximum allowed"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Accept after a refusal: %v, want %q", err, want)
		}
	}
	if closing := w.app.Close(); closing == nil || !errors.Is(closing, err) {
		t.Errorf("Close: %v, want the same", closing)
	}
}

// An agent whose message is refused ends its session by a name of its own, and
// its application hears of it.
func TestARefusalEndsAnAgentsSession(t *testing.T) {
	w := newWorld(t, 2)
	w.limit(t, upStream(w.plan), 1024)
	if err := w.agents[0].Send(t.Context(), make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	_, err := w.agents[0].Receive(t.Context())
	if ended, ok := errors.AsType[*worker.EndedError](err); !ok || ended.Reason != unstored {
		t.Errorf("the agent: %v, want it to end by %s", err, unstored)
	}
	if err := w.agents[0].Close(); err != nil {
		t.Error(err)
	}
	if _, err := w.far[0].Receive(t.Context()); err == nil || err == io.EOF {
		t.Errorf("the application: %v, want an end that is not in order", err)
	}
	if err := w.agents[1].Send(t.Context(), []byte("x")); err != nil {
		t.Errorf("another session: %v", err)
	}
	if got, err := w.far[1].Receive(t.Context()); err != nil || string(got) != "x" {
		t.Errorf("another session: %q, %v", got, err)
	}
}

// A connection that breaks gives back the places of what it will never hear of.
func TestABrokenConnectionGivesItsPlacesBack(t *testing.T) {
	w := newWorld(t, 1)
	gated := *w.plan
	gated.Gateways = []string{w.gate.addr}
	flight := newFlight()
	broken := make(chan struct{})
	d := &dialer{}
	c, err := connect(&gated, d, flight, func() { close(broken) }, func(string, error) {})
	if err != nil {
		t.Fatal(err)
	}
	defer c.nc.Close()
	w.gate.mu.Lock()
	for range mostFlying {
		if err := c.publish(upStream(w.plan)+".nobody", nil); err != nil {
			t.Error(err)
			break
		}
	}
	refused := make(chan error, 1)
	go func() { refused <- c.publish(upStream(w.plan)+".nobody", nil) }()
	d.cut()
	w.gate.mu.Unlock()
	if err := <-refused; err == nil {
		t.Error("a publish on a broken connection has a place")
	}
	<-broken
	if got := len(flight); got != 0 {
		t.Errorf("%d places are taken, want none", got)
	}
}
