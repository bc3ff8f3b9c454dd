package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/loadtest/baseline/flow"
	"github.com/moorage-dev/moorage/loadtest/worker"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

// acceptQueue is how many sessions wait for Accept. Above, what comes waits.
const acceptQueue = 1024

// Application makes the run's streams and follows what agents send.
func (Transport) Application(ctx context.Context, p *worker.Plan) (worker.Application, error) {
	a := &application{
		down: downStream(p) + ".", arrivals: make(chan arrival, acceptQueue), closed: make(chan struct{}),
		by: map[string]*flow.Session{},
	}
	var err error
	a.client, err = connect(p, &a.dialer, newFlight(), func() { a.end(errors.New("nats: the server is gone")) }, a.failed)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (worker.Application, error) {
		a.end(errClosed)
		a.client.nc.Close()
		return nil, err
	}
	for _, name := range []string{upStream(p), downStream(p)} {
		_, err := a.client.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
			Name: name, Subjects: []string{name + ".*"}, Storage: jetstream.FileStorage, Replicas: 1,
		})
		if err != nil {
			return fail(fmt.Errorf("nats: stream %s: %w", name, err))
		}
	}
	// As the agents it takes what comes from now on: runs have streams of their own.
	a.consume, err = a.client.consume(ctx, upStream(p), upStream(p)+".*", jetstream.DeliverAllPolicy, a.take)
	if err != nil {
		return fail(err)
	}
	a.wg.Go(a.tell)
	return a, nil
}

type application struct {
	client   *client
	dialer   dialer
	consume  jetstream.ConsumeContext
	down     string // subjects of agents begin with it
	arrivals chan arrival
	closed   chan struct{}
	once     sync.Once
	why      error // valid once closed
	wg       sync.WaitGroup

	mu sync.RWMutex             // guards the following
	by map[string]*flow.Session // by the last part of their subjects
}

type arrival struct {
	key     string
	session *flow.Session
}

// last is the part of a subject that names the session.
func last(subject string) string { return subject[strings.LastIndexByte(subject, '.')+1:] }

// take is called for one message after the other.
func (a *application) take(subject string, f *linkv1.Frame) {
	id := last(subject)
	if f.Kind == linkv1.FrameKind_FRAME_KIND_OPEN {
		a.open(id, f)
		return
	}
	if s := a.session(id); s != nil {
		s.Take(f)
	}
}

func (a *application) session(id string) *flow.Session {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.by[id]
}

func (a *application) open(id string, f *linkv1.Frame) {
	open := &linkv1.Open{}
	if proto.Unmarshal(f.Payload, open) != nil {
		return // nobody else writes here
	}
	subject := a.down + id
	s := flow.New(int(open.DownWindow), func(f *linkv1.Frame) error { return a.client.publish(subject, f) }, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.by, id)
	})
	a.mu.Lock()
	a.by[id] = s
	a.mu.Unlock()
	s.Take(f)
	if s.Push(linkv1.FrameKind_FRAME_KIND_ACCEPT, nil) != nil {
		return // it is over, as the connection is
	}
	select {
	case a.arrivals <- arrival{open.Agent, s}:
	case <-a.closed:
	}
}

// failed ends everything: a run that lacks a message proves nothing, and relay
// ends by it too.
func (a *application) failed(_ string, why error) { a.end(why) }

// tell says what each session took, a second after at the latest.
func (a *application) tell() {
	tick := time.NewTicker(flow.DeliveredAfter)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			for _, s := range a.all() {
				s.Tell(0)
			}
		case <-a.closed:
			return
		}
	}
}

func (a *application) all() (list []*flow.Session) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	for _, s := range a.by {
		list = append(list, s)
	}
	return list
}

func (a *application) Accept(ctx context.Context) (string, worker.Session, error) {
	select {
	case next := <-a.arrivals:
		return next.key, next.session, nil
	case <-a.closed:
		return "", nil, a.why
	case <-ctx.Done():
		return "", nil, context.Cause(ctx)
	}
}

// end ends everything here; the first reason stays.
func (a *application) end(why error) {
	a.once.Do(func() {
		a.why = why
		close(a.closed)
	})
	for _, s := range a.all() {
		s.End(flow.Lost)
	}
}

// Close waits until what sessions sent is acknowledged, for some seconds.
func (a *application) Close() error {
	limit := time.NewTimer(closeWait)
	defer limit.Stop()
	select {
	case <-a.client.js.PublishAsyncComplete():
	case <-a.closed:
	case <-limit.C:
	}
	a.end(errClosed)
	a.consume.Stop()
	a.client.nc.Close()
	<-a.consume.Closed()
	a.wg.Wait()
	if a.why != errClosed {
		return a.why
	}
	return nil
}
