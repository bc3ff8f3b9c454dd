package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/loadtest/baseline/flow"
	"github.com/moorage-dev/moorage/loadtest/worker"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

// dialWait bounds the dialling of a connection, and then the server's first
// word. The library's own 2 s are too short for a busy machine.
const dialWait = 10 * time.Second

// ackWait bounds the wait for one acknowledgement. Then the message counts as
// not stored.
const ackWait = time.Minute

// A consumer that hears nothing from the server for twice as long begins anew
// behind what it has taken. There is one server, and a connection that breaks
// is noticed without it. The library's own 5 s are too short for thousands of
// consumers of a busy server: they all begin anew, again and again, which costs
// the server more than their messages do. It is the longest that it allows.
const consumerBeat = 30 * time.Second

// allWindows bounds what is under way in all sessions of a run and one
// direction, in bytes: what was sent and not yet delivered. Each has an even
// share, and never more than relay's. A server that delivers slowly has to get
// through it all after the load's end, and before the drain's.
const allWindows = 16 << 20

// windowOf is a session's window in either direction.
func windowOf(p *worker.Plan) int {
	sessions := 0
	for _, g := range p.Scenario.Groups {
		sessions += g.Agents
	}
	return min(allWindows/max(sessions, 1), flow.Window)
}

// unstored is why a session ended of which a message was not acknowledged.
const unstored = "UNSTORED"

var errClosed = errors.New("nats: closed")

// Transport is JetStream as a load test's transport. Plans name the server as
// their gateway.
type Transport struct{}

// names of a run's streams; subjects are the stream's, a dot and the session's.
func upStream(p *worker.Plan) string   { return stream(p, "up") }
func downStream(p *worker.Plan) string { return stream(p, "down") }

// stream keeps to what JetStream allows in names.
func stream(p *worker.Plan, direction string) string {
	return strings.NewReplacer(".", "-", "*", "-", ">", "-", " ", "-", "/", "-").Replace(p.Run) + "-" + direction
}

// A client is one connection that publishes in order.
type client struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	places *places
}

// A dialer keeps the connection under its client, so that it can be broken.
type dialer struct {
	source string // "": the kernel's choice

	mu  sync.Mutex // guards the following
	raw net.Conn
}

func (d *dialer) Dial(network, addr string) (net.Conn, error) {
	from := net.Dialer{Timeout: dialWait}
	if d.source != "" {
		from.LocalAddr = &net.TCPAddr{IP: net.ParseIP(d.source)}
	}
	conn, err := from.Dial(network, addr)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.raw = conn
	return conn, nil
}

func (d *dialer) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.raw != nil {
		_ = d.raw.Close() // it may be closed already
	}
}

// connect dials the server. lost is called when the connection has broken, and
// failed when a message with that subject was not acknowledged, with the
// reason; both may be called while a publish waits.
func connect(p *worker.Plan, d *dialer, f flight, lost func(), failed func(subject string, why error)) (*client, error) {
	if p.CAFile != "" || p.Scenario.Local.TLS {
		return nil, errors.New("nats: it speaks plaintext only here: leave tls out of the scenario to compare with it")
	}
	addr := p.App
	if len(p.Gateways) > 0 {
		addr = p.Gateways[0]
	}
	if addr == "" {
		return nil, errors.New("nats: the plan has no address to dial")
	}
	own := &places{flight: f, gone: make(chan struct{})}
	nc, err := nats.Connect("nats://"+addr,
		nats.SetCustomDialer(d), nats.NoReconnect(), nats.Timeout(dialWait),
		nats.ClosedHandler(func(*nats.Conn) { own.end(); lost() }),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), // what matters ends a session
	)
	if err != nil {
		return nil, fmt.Errorf("nats: %w", err)
	}
	js, err := jetstream.New(nc,
		jetstream.WithPublishAsyncMaxPending(2*mostFlying), // never met: at the library's own bound each place wakes all who wait
		jetstream.WithPublishAsyncTimeout(ackWait),
		jetstream.WithPublishAsyncAckHandler(func(jetstream.JetStream, *nats.Msg, *jetstream.PubAck) { own.free() }),
		jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, m *nats.Msg, err error) {
			own.free()
			failed(m.Subject, fmt.Errorf("nats: a message of %s was not stored: %w", m.Subject, err))
		}),
	)
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("nats: %w", err)
	}
	return &client{nc, js, own}, nil
}

// publish hands a frame over, as soon as there is a place in the flight; its
// acknowledgement is heard of later. It is not tried again: what was published
// after it would come before it.
func (c *client) publish(subject string, f *linkv1.Frame) error {
	value, err := proto.Marshal(f)
	if err != nil {
		return err
	}
	if err := c.places.take(); err != nil {
		return err
	}
	_, err = c.js.PublishMsgAsync(&nats.Msg{Subject: subject, Data: value}, jetstream.WithRetryAttempts(0))
	if err != nil {
		c.places.free()
	}
	return err
}

// consume calls take for every message under subject, in order, from the
// stream's first or from now on.
func (c *client) consume(ctx context.Context, stream, subject string, from jetstream.DeliverPolicy, take func(subject string, f *linkv1.Frame)) (jetstream.ConsumeContext, error) {
	consumer, err := c.js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{FilterSubjects: []string{subject}, DeliverPolicy: from})
	if err != nil {
		return nil, fmt.Errorf("nats: consumer of %s: %w", subject, err)
	}
	return consumer.Consume(func(m jetstream.Msg) {
		f := &linkv1.Frame{}
		if proto.Unmarshal(m.Data(), f) == nil { // nobody else writes here
			take(m.Subject(), f)
		}
	}, jetstream.PullHeartbeat(consumerBeat), jetstream.PullExpiry(2*consumerBeat))
}

// sources gives the addresses to dial from, in turn.
type sources struct {
	all  []string
	next atomic.Uint64
}

func (s *sources) take() string {
	if len(s.all) == 0 {
		return ""
	}
	return s.all[(s.next.Add(1)-1)%uint64(len(s.all))]
}

// openLimit bounds the opening of a session.
func openLimit(p *worker.Plan) time.Duration { return cmp.Or(p.Limit, time.Minute) }
