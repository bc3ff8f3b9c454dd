package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/broker"
	"github.com/moorage-dev/moorage/controller"
	"github.com/moorage-dev/moorage/gateway"
	"github.com/moorage-dev/moorage/link"
)

// A cable is the way to Kafka, or to the gateways: it can be cut, so that
// connections break and none can be made, or frozen, so that nobody hears
// anything.
type cable struct {
	dialer func(ctx context.Context, network, addr string) (net.Conn, error)

	mu     sync.Mutex
	down   bool
	frozen chan struct{} // closed: thawed; nil: not frozen
	conns  map[*strand]struct{}
}

type strand struct {
	net.Conn
	c    *cable
	once sync.Once
	gone chan struct{}
}

var errDown = errors.New("connection refused")

func (c *cable) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if err := c.pass(ctx.Done()); err != nil {
		return nil, err
	}
	conn, err := c.dialer(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	s := &strand{Conn: conn, c: c, gone: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conns == nil {
		c.conns = make(map[*strand]struct{})
	}
	c.conns[s] = struct{}{}
	return s, nil
}

// pass waits while the cable is frozen.
func (c *cable) pass(gone <-chan struct{}) error {
	c.mu.Lock()
	down, frozen := c.down, c.frozen
	c.mu.Unlock()
	if down {
		return errDown
	}
	if frozen == nil {
		return nil
	}
	select {
	case <-frozen:
		return nil
	case <-gone:
		return context.DeadlineExceeded
	}
}

func (s *strand) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if perr := s.c.pass(s.gone); perr != nil {
		return 0, net.ErrClosed
	}
	return n, err
}

func (s *strand) Write(p []byte) (int, error) {
	s.c.mu.Lock()
	frozen := s.c.frozen != nil
	s.c.mu.Unlock()
	if frozen {
		return len(p), nil // into the hole; the connection is of no use any more
	}
	return s.Conn.Write(p)
}

func (s *strand) Close() error {
	s.once.Do(func() { close(s.gone) })
	s.c.mu.Lock()
	delete(s.c.conns, s)
	s.c.mu.Unlock()
	return s.Conn.Close()
}

// breakAll breaks every connection.
func (c *cable) breakAll() {
	c.mu.Lock()
	all := make([]*strand, 0, len(c.conns))
	for s := range c.conns {
		all = append(all, s)
	}
	c.mu.Unlock()
	for _, s := range all {
		s.Close()
	}
}

func (c *cable) cut() (mend func()) {
	c.mu.Lock()
	c.down = true
	c.mu.Unlock()
	c.breakAll()
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.down = false
	}
}

func (c *cable) freeze() (thaw func()) {
	c.mu.Lock()
	c.frozen = make(chan struct{})
	c.mu.Unlock()
	return func() {
		c.mu.Lock()
		close(c.frozen)
		c.frozen = nil
		c.mu.Unlock()
		c.breakAll()
	}
}

// A world is the whole system in a bubble: a broker, gateways, a controller
// called ci and an agent side.
type world struct {
	*testing.T
	log                 *slog.Logger
	network             kfake.VirtualNetwork
	kafka               *broker.Embedded
	toKafka, toGateways *cable
	client              *link.Client
	controller          *controller.Controller
	ends                []func()
}

func newWorld(t *testing.T, gateways ...string) *world {
	t.Helper()
	w := &world{T: t, log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	var err error
	if w.kafka, err = broker.StartEmbedded(broker.EmbeddedConfig{Brokers: 1, ListenFn: w.network.Listen}); err != nil {
		t.Fatal(err)
	}
	w.ends = append(w.ends, func() {
		w.kafka.Close()
		time.Sleep(time.Second) // fake: what the broker does not wait for
	})
	w.toKafka, w.toGateways = &cable{dialer: w.network.DialContext}, &cable{dialer: w.network.DialContext}
	admin, err := bridge.Dial(t.Context(), w.bridge())
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if err := admin.CreateTopics(t.Context(), "ci", bridge.TopicSpec{Partitions: 2, SingleBroker: true, AllowSmall: true}); err != nil {
		t.Fatal(err)
	}
	var addrs []string
	for i, name := range gateways {
		addrs = append(addrs, w.gateway(name, fmt.Sprintf("127.0.0.1:%d", 50_000+i)))
	}
	w.client, err = link.New(link.Config{
		Gateways: addrs, Controller: "ci", Agent: "a", Logger: w.log.With("process", "agent"),
		Dial: func(ctx context.Context, addr string) (net.Conn, error) { return w.toGateways.dial(ctx, "tcp", addr) },
	})
	if err != nil {
		t.Fatal(err)
	}
	w.ends = append(w.ends, func() { w.client.Close() })
	return w
}

func (w *world) bridge() bridge.Config {
	return bridge.Config{Brokers: w.kafka.Addrs(), Dial: w.toKafka.dial}
}

func (w *world) gateway(name, addr string) string {
	w.Helper()
	g, err := gateway.New(w.Context(), gateway.Config{Name: name, Bridge: w.bridge(), Insecure: true, Logger: w.log.With("process", name)})
	if err != nil {
		w.Fatal(err)
	}
	lis, err := w.network.Listen("tcp", addr)
	if err != nil {
		w.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := g.Serve(lis); err != nil {
			w.Error(err)
		}
	}()
	w.ends = append(w.ends, func() {
		g.Close()
		<-served
	})
	return lis.Addr().String()
}

// start starts a process of the controller.
func (w *world) start() {
	w.Helper()
	c, err := controller.Start(w.Context(), controller.Config{
		Bridge: w.bridge(), Name: "ci", SingleBroker: true, AllowSmall: true, Logger: w.log.With("process", "controller"),
	})
	if err != nil {
		w.Fatal(err)
	}
	w.controller = c
	w.ends = append(w.ends, func() { c.Close(context.Background()) })
}

func (w *world) end() {
	for i := len(w.ends) - 1; i >= 0; i-- {
		w.ends[i]()
	}
}

// open opens a session that is accepted.
func (w *world) open() (near *link.Session, far *controller.Session) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
	defer cancel()
	near, err := w.client.Open(ctx, link.Target{})
	if err != nil {
		w.Fatal(err)
	}
	if far, err = w.controller.Accept(ctx); err != nil {
		w.Fatal(err)
	}
	far.Accept()
	if err := near.Accepted(ctx); err != nil {
		w.Fatal(err)
	}
	return near, far
}

// echo sends a word each way.
func (w *world) echo(near *link.Session, far *controller.Session, word string) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
	defer cancel()
	if err := near.Send(ctx, []byte(word)); err != nil {
		w.Fatalf("%s, up: %v", word, err)
	}
	if p, err := far.Receive(ctx); err != nil || string(p) != word {
		w.Fatalf("%s, up: %q, %v", word, p, err)
	}
	if err := far.Send(ctx, []byte(word)); err != nil {
		w.Fatalf("%s, down: %v", word, err)
	}
	if p, err := near.Receive(ctx); err != nil || string(p) != word {
		w.Fatalf("%s, down: %q, %v", word, p, err)
	}
}

// Kafka is away for longer than the grace: nobody is given up, and what both
// sides said meanwhile arrives. Who is attached stays so for as long as it
// takes; who loses its link meanwhile has the grace and a minute to come back,
// by its own clock.
func TestLongWithoutKafka(t *testing.T) {
	for _, tt := range []struct {
		desc   string
		outage func(*cable) func()
		pause  time.Duration // between messages, of which 100 are sent each way
		relink bool          // the agent's link breaks meanwhile
	}{
		{"refused", (*cable).cut, 6 * time.Second, false},
		{"frozen", (*cable).freeze, 6 * time.Second, false},
		{"refused, and the agent's link breaks", (*cable).cut, 2800 * time.Millisecond, true},
		{"frozen, and the agent's link breaks", (*cable).freeze, 2800 * time.Millisecond, true},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "g0", "g1")
				defer w.end()
				w.start()
				near, far := w.open()
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
				defer cancel()

				_, before, _, _ := near.Status()
				mend := tt.outage(w.toKafka)
				for i := range 100 {
					for _, end := range []interface {
						Send(context.Context, []byte) error
					}{near, far} {
						if err := end.Send(ctx, fmt.Append(nil, i)); err != nil {
							t.Fatal(err)
						}
					}
					time.Sleep(tt.pause)
					if i == 10 && tt.relink {
						w.toGateways.breakAll()
					}
				}
				if _, attempt, attached, _ := near.Status(); !tt.relink && (attempt != before || !attached) {
					t.Errorf("attached %v, attempt %d: the stream did not outlive the outage", attached, attempt)
				}
				mend()
				began := time.Now()
				for i := range 100 {
					for _, end := range []interface {
						Receive(context.Context) ([]byte, error)
					}{near, far} {
						p, err := end.Receive(ctx)
						if err != nil || string(p) != fmt.Sprint(i) {
							t.Fatalf("message %d: %q, %v", i, p, err)
						}
					}
				}
				if took := time.Since(began); took > 45*time.Second {
					t.Errorf("it took %v until all was there", took)
				}
				t.Log("caught up after", time.Since(began))
				time.Sleep(time.Minute)
				if err := near.Err(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
