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
				log := slog.New(slog.NewTextHandler(t.Output(), nil))
				var network kfake.VirtualNetwork
				kafka, err := broker.StartEmbedded(broker.EmbeddedConfig{Brokers: 1, ListenFn: network.Listen})
				if err != nil {
					t.Fatal(err)
				}
				defer func() {
					kafka.Close()
					time.Sleep(time.Second)
				}()
				toKafka, toGateways := &cable{dialer: network.DialContext}, &cable{dialer: network.DialContext}
				kcfg := bridge.Config{Brokers: kafka.Addrs(), Dial: toKafka.dial}
				admin, err := bridge.Dial(t.Context(), kcfg)
				if err != nil {
					t.Fatal(err)
				}
				if err := admin.CreateTopics(t.Context(), "ci", bridge.TopicSpec{Partitions: 2, SingleBroker: true, AllowSmall: true}); err != nil {
					t.Fatal(err)
				}
				admin.Close()
				c, err := controller.Start(t.Context(), controller.Config{Bridge: kcfg, Name: "ci", SingleBroker: true, AllowSmall: true, Logger: log.With("process", "controller")})
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close(context.Background())
				var addrs []string
				for i := range 2 {
					g, err := gateway.New(t.Context(), gateway.Config{Name: fmt.Sprintf("g%d", i), Bridge: kcfg, Insecure: true, Logger: log.With("process", i)})
					if err != nil {
						t.Fatal(err)
					}
					lis, err := network.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 50_000+i))
					if err != nil {
						t.Fatal(err)
					}
					served := make(chan struct{})
					go func() {
						defer close(served)
						if err := g.Serve(lis); err != nil {
							t.Error(err)
						}
					}()
					defer func() {
						g.Close()
						<-served
					}()
					addrs = append(addrs, lis.Addr().String())
				}
				cl, err := link.New(link.Config{
					Gateways: addrs, Controller: "ci", Agent: "a", Logger: log.With("process", "agent"),
					Dial: func(ctx context.Context, addr string) (net.Conn, error) {
						return toGateways.dial(ctx, "tcp", addr)
					},
				})
				if err != nil {
					t.Fatal(err)
				}
				defer cl.Close()
				near, err := cl.Open(t.Context(), link.Target{})
				if err != nil {
					t.Fatal(err)
				}
				far, err := c.Accept(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				far.Accept()
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
				defer cancel()
				if err := near.Accepted(ctx); err != nil {
					t.Fatal(err)
				}

				_, before, _, _ := near.Status()
				mend := tt.outage(toKafka)
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
						toGateways.breakAll()
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
