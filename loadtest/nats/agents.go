package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/loadtest/baseline/flow"
	"github.com/moorage-dev/moorage/loadtest/worker"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

// closeWait bounds how long Close waits for what is not acknowledged yet.
const closeWait = 5 * time.Second

// Agents connects nothing yet but the one connection that speaks for agents
// whose own was cut.
func (Transport) Agents(_ context.Context, p *worker.Plan) (worker.Agents, error) {
	flight := newFlight()
	undertaker, err := connect(p, &dialer{}, flight, func() {}, func(string, error) {})
	if err != nil {
		return nil, err
	}
	a := &agents{plan: p, flight: flight, sources: sources{all: p.Sources}, undertaker: undertaker, by: map[string]*agent{}, stop: make(chan struct{})}
	a.wg.Go(a.tell)
	return a, nil
}

type agents struct {
	plan       *worker.Plan
	flight     flight // of all connections
	sources    sources
	undertaker *client
	stop       chan struct{}
	wg         sync.WaitGroup

	mu     sync.Mutex // guards the following
	by     map[string]*agent
	closed bool
}

// An agent is a session's end, with a connection of its own.
type agent struct {
	*flow.Session
	of      *agents
	key, up string // up: its subject
	dialer  dialer
	client  *client
	consume jetstream.ConsumeContext
}

func (a *agents) Open(ctx context.Context, key, _ string) (worker.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, openLimit(a.plan))
	defer cancel()
	id := rand.Text()
	s := &agent{of: a, key: key, up: upStream(a.plan) + "." + id, dialer: dialer{source: a.sources.take()}}
	s.Session = flow.New(windowOf(a.plan), func(f *linkv1.Frame) error { return s.client.publish(s.up, f) }, nil)
	lost := func() { s.End(flow.Lost) }
	var err error
	refused := func(string, error) { s.End(unstored) }
	if s.client, err = connect(a.plan, &s.dialer, a.flight, lost, refused); err != nil {
		return nil, err
	}
	s.consume, err = s.client.consume(ctx, downStream(a.plan), downStream(a.plan)+"."+id, jetstream.DeliverAllPolicy,
		func(_ string, f *linkv1.Frame) { s.Take(f) })
	if err != nil {
		s.client.nc.Close()
		return nil, err
	}
	if err := s.open(ctx); err != nil {
		s.leave()
		s.bury() // its OPEN may be stored, and nobody would ever come to the session
		return nil, err
	}
	a.mu.Lock()
	closed := a.closed
	if !closed {
		a.by[key] = s
	}
	a.mu.Unlock()
	if closed {
		s.leave()
		return nil, errClosed
	}
	return s, nil
}

// open says who is there, and waits until that is stored: as much as moorage's
// Welcome says.
func (s *agent) open(ctx context.Context) error {
	open, err := proto.Marshal(&linkv1.Open{Kind: linkv1.ServiceKind_SERVICE_KIND_NATIVE, Agent: s.key, DownWindow: uint32(windowOf(s.of.plan))})
	if err != nil {
		return err
	}
	if err := s.Push(linkv1.FrameKind_FRAME_KIND_OPEN, open); err != nil {
		return err
	}
	select {
	case <-s.client.js.PublishAsyncComplete():
	case <-ctx.Done():
		return fmt.Errorf("nats: open: %w", context.Cause(ctx))
	}
	return s.Err() // of an OPEN that was refused
}

func (s *agent) leave() {
	s.End(flow.Closed)
	s.consume.Stop()
	s.client.nc.Close()
	<-s.consume.Closed()
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	if s.of.by[s.key] == s {
		delete(s.of.by, s.key)
	}
}

// Kill breaks the connection without a word. The server tells nobody of it, so
// the application hears it from another connection.
func (s *agent) Kill() {
	s.End(flow.Cut)
	s.dialer.cut()
	s.leave()
	s.bury()
}

// bury tells the application what the session's own connection cannot say.
func (s *agent) bury() {
	_ = s.of.undertaker.publish(s.up, &linkv1.Frame{Seq: s.Sent() + 1, Kind: linkv1.FrameKind_FRAME_KIND_CLOSE}) // at the end of everything it may be gone
}

// Close ends the session, and waits until all that it sent is acknowledged.
func (s *agent) Close() error {
	ended, _ := errors.AsType[*worker.EndedError](s.Err())
	err := s.Session.Close()
	s.Settle()
	limit := time.NewTimer(closeWait)
	defer limit.Stop()
	select {
	case <-s.client.js.PublishAsyncComplete():
	case <-limit.C:
	}
	s.leave()
	if ended != nil && ended.Reason == unstored {
		s.bury()
	}
	return err
}

// tell says what each agent took, a second after at the latest.
func (a *agents) tell() {
	tick := time.NewTicker(flow.DeliveredAfter)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			for _, s := range a.all(nil) {
				s.Tell(0)
			}
		case <-a.stop:
			return
		}
	}
}

func (a *agents) all(keep func(string) bool) (list []*agent) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, s := range a.by {
		if keep == nil || keep(key) {
			list = append(list, s)
		}
	}
	return list
}

// Cut ends sessions: none of them outlives its connection.
func (a *agents) Cut(keep func(string) bool) {
	for _, s := range a.all(keep) {
		s.Kill()
	}
}

func (a *agents) Close() error {
	a.mu.Lock()
	first := !a.closed
	a.closed = true
	a.mu.Unlock()
	if !first {
		return nil
	}
	close(a.stop)
	for _, s := range a.all(nil) {
		s.leave()
	}
	a.undertaker.nc.Close()
	a.wg.Wait()
	return nil
}
