// Package e2e_test runs the whole system: link, gateways, Kafka, controller.
package e2e_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/nettest"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/broker"
	"github.com/moorage-dev/moorage/controller"
	"github.com/moorage-dev/moorage/gateway"
	"github.com/moorage-dev/moorage/link"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A path is everything between two applications, in one process.
type path struct {
	t          *testing.T
	kafka      bridge.Config
	controller *controller.Controller
	client     *link.Client

	mu       sync.Mutex
	gateways map[string]*gateway.Gateway // by address
	links    map[net.Conn]struct{}       // TCP connections of the agent side
}

// newPath starts an embedded broker, two gateways, a controller and a client.
func newPath(t *testing.T) *path {
	t.Helper()
	p := &path{t: t, gateways: make(map[string]*gateway.Gateway), links: make(map[net.Conn]struct{})}
	kafka, err := broker.StartEmbedded(broker.EmbeddedConfig{Brokers: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kafka.Close)
	p.kafka = bridge.Config{Brokers: kafka.Addrs()}
	admin, err := bridge.Dial(t.Context(), p.kafka)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	spec := bridge.TopicSpec{Partitions: 4, SingleBroker: true, AllowSmall: true}
	if err := admin.CreateTopics(t.Context(), "ci", spec); err != nil {
		t.Fatal(err)
	}
	p.controller, err = controller.Start(t.Context(), controller.Config{
		Bridge: p.kafka, Name: "ci", SingleBroker: true, AllowSmall: true, Logger: p.logger("controller"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := p.controller.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	var addrs []string
	for range 2 {
		addrs = append(addrs, p.gateway("127.0.0.1:0"))
	}
	p.client, err = link.New(link.Config{
		Gateways: addrs, Controller: "ci", Agent: "a", Dial: p.dial, Logger: p.logger("link"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.client.Close() })
	return p
}

func (p *path) logger(who string) *slog.Logger {
	return slog.New(slog.NewTextHandler(p.t.Output(), nil)).With("who", who)
}

// gateway starts a gateway and returns its address.
func (p *path) gateway(addr string) string {
	p.t.Helper()
	lis, err := net.Listen("tcp", addr)
	if err != nil {
		p.t.Fatal(err)
	}
	g, err := gateway.New(p.t.Context(), gateway.Config{Bridge: p.kafka, Insecure: true, Logger: p.logger("gateway")})
	if err != nil {
		p.t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = g.Serve(lis) // it ends with an error when the gateway is killed
	}()
	p.t.Cleanup(func() {
		_ = g.Close() // perhaps killed before
		<-served
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gateways[lis.Addr().String()] = g
	return lis.Addr().String()
}

// A cuttable takes itself out of the path's list when it is closed.
type cuttable struct {
	net.Conn
	closed func()
}

func (c *cuttable) Close() error {
	c.closed()
	return c.Conn.Close()
}

func (p *path) dial(ctx context.Context, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.links[c] = struct{}{}
	return &cuttable{c, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.links, c)
	}}, nil
}

// cut breaks every connection of the agent side.
func (p *path) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.links {
		_ = c.Close() // perhaps broken before
	}
}

// session returns both ends of an accepted session.
func (p *path) session(t *testing.T) (near *link.Session, far *controller.Session) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	near, err := p.client.Open(ctx, link.Target{Kind: linkv1.ServiceKind_SERVICE_KIND_TCP, Service: "web"})
	if err != nil {
		t.Fatal(err)
	}
	if far, err = p.controller.Accept(ctx); err != nil {
		t.Fatal(err)
	}
	far.Accept()
	if err := near.Accepted(ctx); err != nil {
		t.Fatal(err)
	}
	return near, far
}

// The suite that every net.Conn of the standard library passes, along the
// whole path: link, gateway, Kafka, controller.
func TestNetConn(t *testing.T) {
	for _, tt := range []struct {
		desc   string
		turned bool
		every  time.Duration // how often all links are cut; 0: never
	}{
		{"from the agent side", false, 0},
		{"from the controller side", true, 0},
		{"while links are cut", false, 50 * time.Millisecond},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			p := newPath(t)
			if tt.every > 0 {
				defer p.cutting(tt.every)()
			}
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				near, far := p.session(t)
				c1, c2 = near, far
				if tt.turned {
					c1, c2 = c2, c1
				}
				return c1, c2, func() {
					_ = c1.Close()
					_ = c2.Close()
				}, nil
			})
		})
	}
}

// cutting cuts all links again and again, each time after a session got
// through, until stop is called.
func (p *path) cutting(every time.Duration) (stop func()) {
	tick := time.NewTicker(every)
	done, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		var cut, seen uint64 // attaches by the last cut, and by the last tick
		for {
			select {
			case <-tick.C:
			case <-done:
				return
			}
			now := p.client.Stats().Attached
			if now > cut && now == seen {
				p.cut()
				cut = now
			}
			seen = now
		}
	}()
	return func() {
		tick.Stop()
		close(done)
		<-gone
	}
}

// noise returns n bytes that no compressor and no chance repeats.
func noise(n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{1, 2, 3}), n)
}

// A half-closed upload and the answer to it, while the gateway in use is
// killed a few times.
func TestBytesSurviveKilledGateways(t *testing.T) {
	p := newPath(t)
	near, far := p.session(t)
	const size = 24 << 20
	var sent, got [sha256.Size]byte
	var wg sync.WaitGroup
	wg.Go(func() { // the service: reads all, answers with the hash, ends
		h := sha256.New()
		n, err := io.Copy(h, far)
		if n != size || err != nil {
			t.Errorf("the service read %d bytes, %v", n, err)
		}
		if _, err := far.Write(h.Sum(nil)); err != nil {
			t.Error(err)
		}
		if err := far.Close(); err != nil {
			t.Error(err)
		}
	})
	h := sha256.New()
	body := io.TeeReader(noise(size), h)
	for range 4 {
		if _, err := io.CopyN(near, body, size/4); err != nil {
			t.Fatal(err)
		}
		p.kill(near)
	}
	if err := near.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	copy(sent[:], h.Sum(nil))
	if _, err := io.ReadFull(near, got[:]); err != nil {
		t.Fatal(err)
	}
	if sent != got {
		t.Error("what arrived is not what was sent")
	}
	if n, err := near.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("after the answer: %d, %v, want io.EOF", n, err)
	}
	wg.Wait()
	<-near.Done()
	if e, ok := errors.AsType[*session.EndedError](near.Err()); !ok || e.Reason != linkv1.Reason_REASON_OK {
		t.Errorf("ended with %v", near.Err())
	}
	if got := p.client.Stats(); got.Lost < 4 {
		t.Errorf("%+v: want four lost streams", got)
	}
}

// kill kills the gateway that holds a session, as SIGKILL would, and starts
// an empty one in its place.
func (p *path) kill(s *link.Session) {
	p.t.Helper()
	if err := s.Flush(p.t.Context()); err != nil { // then it is attached, whatever came before
		p.t.Fatal(err)
	}
	addr, _, _, _ := s.Status()
	p.mu.Lock()
	g := p.gateways[addr]
	p.mu.Unlock()
	g.Kill()
	p.gateway(addr)
}
