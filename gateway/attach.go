package gateway

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/tap"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/seeded"
	"github.com/moorage-dev/moorage/session"
)

// A cuttable is a stream's context with the means to end it. A handler that
// waits in Recv can be woken only through the context its stream was made
// with; so it is put in before the stream is.
type cuttable struct {
	context.Context
	cut context.CancelCauseFunc
}

type cutKey struct{}

func (c *cuttable) Value(key any) any {
	if key == (cutKey{}) {
		return c
	}
	return c.Context.Value(key)
}

// whyTrailer is the trailer that tells why a stream was cut: a word of status.go.
const whyTrailer = "moorage-why"

func because(err error) metadata.MD { return metadata.Pairs(whyTrailer, judge(err).word) }

// tapped runs before a stream exists, on its connection's goroutine.
func tapped(ctx context.Context, _ *tap.Info) (context.Context, error) {
	ctx, cut := context.WithCancelCause(ctx)
	return &cuttable{ctx, cut}, nil
}

// Attach serves one stream.
func (g *Gateway) Attach(rpc grpc.BidiStreamingServer[linkv1.AttachRequest, linkv1.AttachResponse]) error {
	n := g.streams.Add(1)
	g.metrics.streams.Inc()
	defer func() {
		g.streams.Add(-1)
		g.metrics.streams.Dec()
	}()
	var s *stream
	err := fmt.Errorf("%w: streams", errTooMany)
	if n <= int64(g.cfg.MaxStreams) {
		s, err = g.welcome(rpc)
	}
	if err != nil {
		g.metrics.refused.WithLabelValues(judge(err).word).Inc()
		return statusOf(err)
	}
	if s == nil { // told of its session's end
		g.metrics.refused.WithLabelValues("gone").Inc()
		return nil
	}
	err = s.receive(rpc)
	s.finish(err)
	g.metrics.ended.WithLabelValues(s.word(err)).Inc()
	return statusOf(err)
}

// welcome takes a stream from its begin to Welcome. s is nil without an error
// if the session is over and the agent side was told.
func (g *Gateway) welcome(rpc grpc.BidiStreamingServer[linkv1.AttachRequest, linkv1.AttachResponse]) (s *stream, err error) {
	c, ok := rpc.Context().Value(cutKey{}).(*cuttable)
	if !ok {
		return nil, fmt.Errorf("gateway: a stream without its tap")
	}
	if g.draining.Load() {
		return nil, errDraining
	}
	from, _ := peer.FromContext(rpc.Context())
	h, identity, began, err := g.hello(rpc, c, from)
	if err != nil {
		return nil, err
	}
	b, over, err := g.bind(rpc.Context(), &h, identity)
	if err != nil {
		return nil, err
	}
	if over != nil {
		return nil, rpc.Send(closeMessage(*over))
	}
	if g.sessions.Add(1) > int64(g.cfg.MaxSessions) {
		g.sessions.Add(-1)
		return nil, fmt.Errorf("%w: sessions", errTooMany)
	}
	g.metrics.sessions.Inc()
	s = &stream{
		g: g, p: b.p, rpc: rpc, cancel: c.cut, identity: identity,
		relay: *session.NewRelay(began, &h, b.start, b.incarnation, g.cfg.Heartbeat),
	}
	how, err := s.attach(&h, &b)
	if err == nil {
		err = s.greet(&b)
	}
	if err != nil {
		s.finish(err)
		return nil, causeOf(rpc.Context(), err)
	}
	g.metrics.attached.WithLabelValues(how).Inc()
	g.metrics.attachSeconds.Observe(time.Since(began).Seconds())
	g.cfg.Logger.Info("attach", "session", s.relay.ID(), "agent", h.Agent, "controller", h.Controller,
		"attempt", h.Attempt, "how", how)
	return s, nil
}

// hello takes the first message, and returns when it was taken and whose it is.
func (g *Gateway) hello(rpc grpc.BidiStreamingServer[linkv1.AttachRequest, linkv1.AttachResponse], c *cuttable, from *peer.Peer) (h session.Hello, identity string, began time.Time, err error) {
	leave, err := g.threshold.enter(from, g.cfg.MaxGreeting)
	if err != nil {
		return h, "", began, err
	}
	defer leave()
	late := time.AfterFunc(g.cfg.HelloTimeout, func() {
		rpc.SetTrailer(because(errHello))
		c.cut(errHello)
	})
	m, err := rpc.Recv()
	late.Stop()
	if err != nil {
		return h, "", began, causeOf(rpc.Context(), err)
	}
	began = time.Now()
	h, err = session.ParseHello(m.GetHello())
	if err != nil {
		return h, "", began, err
	}
	identity, err = g.authenticate(from, h.Agent, h.Credential)
	if err != nil {
		return h, "", began, err
	}
	return h, identity, began, nil
}

// A binding is what a session is bound to for life, and what its controller says now.
type binding struct {
	p           *partition
	view        view
	down        envelope.TopicID
	incarnation envelope.Incarnation
	start       envelope.Position
	lost        bool // the position is of a log that is no more
	stale       bool // view is of a meta topic that is no more, incarnation is not
	fresh       bool // the session opens with this stream
}

// bind finds what the session is, or becomes, bound to. over is set if its
// incarnation is gone.
func (g *Gateway) bind(ctx context.Context, h *session.Hello, identity string) (b binding, over *session.Close, err error) {
	index := h.Start.Partition
	if h.Resume() {
		// Before anything is asked of Kafka for it.
		err = g.cfg.Keys.check(h.Ticket, &claim{h.ID(), identity, h.Controller, index, h.Incarnation}, time.Now())
		if err != nil {
			return b, nil, err
		}
		if index >= envelope.Slots { // what an insecure gateway's tickets vouch for is nothing
			return b, nil, fmt.Errorf("%w: partition %d", session.ErrViolation, index)
		}
	}
	c, v, err := g.find(ctx, h.Controller)
	if err != nil {
		return b, nil, err
	}
	b.view, b.incarnation, b.start = v, h.Incarnation, h.Start
	b.down = v.down
	if b.fresh = !h.Resume(); b.fresh {
		index = envelope.PartitionOf(envelope.SlotOf(h.Agent, h.ID()), v.partitions)
		b.p = c.partition(index)
		switch {
		case v.leaving || v.silent > silentBeats:
			return b, nil, fmt.Errorf("%w: %s", errSilent, c.name)
		case b.p.open.Load():
			return b, nil, errStalled
		}
		end, err := b.p.start(ctx, b.down)
		b.incarnation = v.incarnation
		b.start = envelope.Position{Topic: v.down, Partition: index, Offset: end}
		return b, nil, err
	}
	stale, err := c.behind(ctx, &v, h.Incarnation)
	if err != nil {
		return b, nil, err
	}
	b.stale = stale
	if !stale && v.incarnation.NewerThan(h.Incarnation) {
		gone := goneClose(v.incarnation, "a newer process of controller "+c.name+" has taken over")
		return b, &gone, nil
	}
	if h.Start.Topic != v.down || index >= v.partitions {
		// The heartbeat read here may be old; the broker knows.
		down, err := g.k.Topic(ctx, c.topics.Down)
		if err != nil {
			return b, nil, err
		}
		b.down = down.ID
		b.lost = h.Start.Topic != down.ID || index >= down.Partitions
		if seeded.On(seeded.ForeignPosition) && b.lost {
			b.lost, index = false, index%down.Partitions
		}
	}
	b.p = c.partition(index)
	return b, nil, nil
}

// attach claims the session, has its down log followed, and waits until Kafka
// has the attach.
func (s *stream) attach(h *session.Hello, b *binding) (how string, err error) {
	if err := s.claim(); err != nil {
		return "", err
	}
	position := b.start.Offset
	if h.Resume() {
		position = h.Position.Offset
	}
	if b.lost {
		s.feed.fail(bridge.ErrTopicChanged)
		how = "kafka"
	} else if how, err = s.feed.follow(s, b.down, position); err != nil {
		return "", err
	}
	if !h.Resume() {
		how = "open"
	}
	ctx := s.rpc.Context()
	until := time.Now().Add(freshWait)
	// An agent that comes again and again while Kafka is away leaves nothing behind.
	if !s.p.roomy() {
		if err := s.room(h, until); err != nil {
			return "", err
		}
	}
	var late <-chan time.Time
	if !h.Resume() { // a resume waits: there is nowhere better
		t := time.NewTimer(time.Until(until))
		defer t.Stop()
		late = t.C
	}
	rec := s.relay.Attached(s.g.self)
	persisted := make(chan error, 1)
	s.said = true
	s.g.put(s.p, s.relay.ID(), &rec, func(_ int64, err error) { persisted <- err })
	select {
	case err = <-persisted:
	case <-late:
		return "", errStalled
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	if err != nil {
		return "", fmt.Errorf("%w: %w", session.ErrProduce, err)
	}
	return how, nil
}

// room waits until the partition can take the attach. It has a function of its
// own, for a context that had a child keeps the map of its children.
func (s *stream) room(h *session.Hello, until time.Time) error {
	ctx := s.rpc.Context()
	if !h.Resume() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, until, errStalled)
		defer cancel()
	}
	return s.p.ready(ctx)
}

// greet sends Welcome and lets frames flow.
func (s *stream) greet(b *binding) error {
	w := session.Welcome{
		Ticket:   s.ticket(time.Now()),
		UpWindow: b.view.upWindow, MaxFrame: b.view.maxFrame, Grace: b.view.grace,
	}
	f := s.feed
	f.mu.Lock()
	if f.s != s {
		f.mu.Unlock()
		return session.ErrTakenOver
	}
	if b.fresh && f.failed != nil {
		// The controller's heartbeat names a log that is gone. A session that
		// opened in it would be lost at once; better it waits for the next.
		defer f.mu.Unlock()
		return fmt.Errorf("%w: its log cannot be read: %w", errSilent, f.failed)
	}
	s.relay.Welcome(&w)
	f.mu.Unlock()
	if err := s.rpc.Send(&linkv1.AttachResponse{Message: &linkv1.AttachResponse_Welcome{Welcome: session.WelcomeMessage(&w)}}); err != nil {
		return err
	}
	s.p.add(s)
	s.g.wheel.add(s)
	f.mu.Lock()
	s.welcomed, s.ticketAt = true, s.g.now()
	s.kick()
	f.mu.Unlock()
	// A heartbeat read meanwhile found the stream not yet among those to tell.
	v := s.p.c.current()
	stale := b.stale && v.incarnation.Topic == b.view.incarnation.Topic
	if !stale && v.incarnation.NewerThan(s.relay.Incarnation()) {
		s.end(goneClose(v.incarnation, "a newer process of controller "+s.p.c.name+" has taken over"))
	}
	if s.g.draining.Load() {
		s.leave(0)
	}
	return nil
}

// causeOf returns why a stream ended: what the gateway ended it for, if it
// did, or what gRPC says.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && cause != context.Canceled {
		return cause
	}
	return err
}

func closeMessage(c session.Close) *linkv1.AttachResponse {
	return &linkv1.AttachResponse{Message: &linkv1.AttachResponse_Close{Close: session.CloseMessage(c)}}
}

// Describe returns what is known of a controller.
func (g *Gateway) Describe(ctx context.Context, req *linkv1.DescribeRequest) (*linkv1.DescribeResponse, error) {
	from, _ := peer.FromContext(ctx)
	if _, err := g.authenticate(from, req.GetAgent(), req.GetCredential()); err != nil {
		return nil, statusOf(err)
	}
	_, v, err := g.find(ctx, req.GetController())
	if err != nil {
		return nil, statusOf(err)
	}
	return &linkv1.DescribeResponse{
		Incarnation: session.IncarnationMessage(v.incarnation),
		Services:    v.services,
		AgeMs:       uint64((g.now() - v.read).Milliseconds()),
		Jenkins:     v.jenkins,
	}, nil
}
