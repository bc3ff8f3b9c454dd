package door

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/remoting"
	"github.com/moorage-dev/moorage/session"
	"github.com/moorage-dev/moorage/standin"
	"github.com/moorage-dev/moorage/tunnel"
)

// Stand-ins for every sort of agent come through a door to a stand-in for their
// controller, and exchange commands with it. Neither can be told from the
// other's direct peer; what lies between, Kafka and a connector, is left out.
func TestAgentsOfEverySortComeThroughADoor(t *testing.T) {
	const name = "agenté 1"
	file := func(door string) string { return door + "computer/" + url.PathEscape(name) + "/jenkins-agent.jnlp" }
	for _, test := range []struct {
		desc     string
		cfg      standin.Config
		agent    func(door string) standin.Agent // door is a URL
		protocol string
	}{
		{"-url", standin.Config{}, func(door string) standin.Agent {
			return standin.Agent{URL: door}
		}, remoting.JNLP4},
		{"-url with the controller's name", standin.Config{Prefix: "ci"}, func(door string) standin.Agent {
			return standin.Agent{URL: door + "main/"}
		}, remoting.JNLP4},
		{"-url with the controller's own path", standin.Config{Prefix: "ci"}, func(door string) standin.Agent {
			return standin.Agent{URL: door + "ci/"}
		}, remoting.JNLP4},
		{"-url over HTTPS", standin.Config{}, func(door string) standin.Agent {
			return standin.Agent{URL: "https" + strings.TrimPrefix(door, "http"), TLS: agentTLS}
		}, remoting.JNLP4},
		{"-direct", standin.Config{}, func(door string) standin.Agent {
			return standin.Agent{Direct: hostOf(door)}
		}, remoting.JNLP4},
		{"-webSocket", standin.Config{}, func(door string) standin.Agent {
			return standin.Agent{URL: door, WebSocket: true}
		}, standin.WebSocket},
		{"-webSocket with the controller's name", standin.Config{Prefix: "ci"}, func(door string) standin.Agent {
			return standin.Agent{URL: door + "main/", WebSocket: true}
		}, standin.WebSocket},
		{"-webSocket over HTTPS", standin.Config{}, func(door string) standin.Agent {
			return standin.Agent{URL: "https" + strings.TrimPrefix(door, "http"), WebSocket: true, TLS: agentTLS}
		}, standin.WebSocket},
		{"-jnlpUrl in clear", standin.Config{Prefix: "ci", Options: []string{"-tunnel", "192.0.2.1:1"}}, func(door string) standin.Agent {
			return standin.Agent{JNLPURL: file(door + "main/"), Secret: "none"}
		}, remoting.JNLP4},
		{"-jnlpUrl -secret", standin.Config{Options: []string{"-tunnel", "192.0.2.1:1"}}, func(door string) standin.Agent {
			return standin.Agent{JNLPURL: file(door)}
		}, remoting.JNLP4},
		{"-jnlpUrl of a WebSocket", standin.Config{Options: []string{"-webSocket"}}, func(door string) standin.Agent {
			return standin.Agent{JNLPURL: file(door)}
		}, standin.WebSocket},
		{"of Hudson's age", standin.Config{Hudson: true}, func(door string) standin.Agent {
			return standin.Agent{URL: door, Hudson: true}
		}, remoting.JNLP2},
		{"of 1.395's age", standin.Config{Hudson: true, Protocols: []string{remoting.JNLP1}}, func(door string) standin.Agent {
			return standin.Agent{URL: door, Hudson: true, Protocols: []string{remoting.JNLP1}}
		}, remoting.JNLP1},
	} {
		t.Run(test.desc, func(t *testing.T) {
			t.Parallel()
			controller := run(t, test.cfg)
			s := &straight{controller: controller, cfg: test.cfg}
			door := behind(t, s)
			a := test.agent(door)
			a.Name, a.Identity = name, controller.Identity
			switch a.Secret {
			case "":
				a.Secret = controller.Secret(name)
			case "none":
				a.Secret = ""
			}
			if a.Direct == "" {
				a.Identity = ""
			}
			a.Observe = func(e standin.Event) { t.Logf("%s %s %v", e.State, e.Protocol, e.Err) }
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			defer wg.Wait()
			defer cancel()
			wg.Go(func() {
				if err := a.Run(ctx); !errors.Is(err, context.Canceled) {
					t.Errorf("the agent ended: %v", err)
				}
			})
			limit, stop := context.WithTimeout(t.Context(), time.Minute)
			defer stop()
			if err := controller.WaitOnline(limit, name); err != nil {
				t.Fatalf("not online: %v", err)
			}
			if got := controller.Agents(); len(got) != 1 || got[0].Protocol != test.protocol {
				t.Errorf("online are %v, want one by %s", got, test.protocol)
			}
			for _, size := range []int{0, 1, remoting.ChunkSize, 2 << 20} {
				if err := controller.Call(limit, name, size, size); err != nil {
					t.Fatalf("a call of %d bytes both ways: %v", size, err)
				}
			}
			if n := s.came(test.protocol); n != 1 {
				t.Errorf("%d sessions for it, want one: did it go past the door?", n)
			}
			cancel() // its process ends
			if err := controller.WaitOffline(limit, name); err != nil {
				t.Fatalf("still online: %v", err)
			}
			if stats := controller.Stats(); stats.Corrupt != 0 || stats.CloseNotify != 0 || stats.Lost != 1 {
				t.Errorf("the controller counts %+v", stats)
			}
		})
	}
}

func hostOf(door string) string {
	u, err := url.Parse(door)
	if err != nil {
		panic(err)
	}
	return u.Host
}

// run starts a stand-in for a controller.
func run(t *testing.T, cfg standin.Config) *standin.Controller {
	t.Helper()
	controller, err := standin.NewController(cfg)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = controller.Run(ctx) }) // it ends with ctx
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return controller
}

// behind opens a door and returns its URL.
func behind(t *testing.T, s *straight) string {
	t.Helper()
	d, err := New(Config{
		Backend: s, Default: "main", Controllers: []string{"main"},
		TLS:    &tls.Config{Certificates: []tls.Certificate{certificate(t)}},
		Secret: func(agent string) (string, bool) { return s.controller.Secret(agent), true },
	})
	must(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := d.Serve(ctx, l); err != nil {
			t.Errorf("door: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		s.wg.Wait()
	})
	return "http://" + l.Addr().String() + "/"
}

// straight is a Backend that does what a connector does, without anything
// between it and the door.
type straight struct {
	controller *standin.Controller
	cfg        standin.Config
	wg         sync.WaitGroup

	mu       sync.Mutex // guards the following
	requests []Request
}

// came counts the sessions of agents that speak a protocol.
func (s *straight) came(protocol string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, r := range s.requests {
		if r.Remoting.Protocol == protocol && r.Kind == linkv1.ServiceKind_SERVICE_KIND_REMOTING ||
			protocol == standin.WebSocket && r.Kind == linkv1.ServiceKind_SERVICE_KIND_WEBSOCKET {
			n++
		}
	}
	return n
}

func (s *straight) Describe(context.Context, string) (Description, error) {
	j := &linkv1.Jenkins{Path: "/", AgentPort: 50000, InstanceIdentity: s.controller.Identity, Protocols: []string{remoting.JNLP4, remoting.Ping}, Version: "2.528", Epoch: "e"}
	if s.cfg.Prefix != "" {
		j.Path = "/" + s.cfg.Prefix + "/"
	}
	if s.cfg.Hudson {
		j.Hudson, j.InstanceIdentity, j.Protocols = true, "", nil
	}
	return Description{Jenkins: j}, nil
}

func (s *straight) Open(ctx context.Context, r Request) (Session, error) {
	s.mu.Lock()
	s.requests = append(s.requests, r)
	s.mu.Unlock()
	switch r.Kind {
	case linkv1.ServiceKind_SERVICE_KIND_HTTP:
		return s.dial(ctx, hostOf(s.controller.URL))
	case linkv1.ServiceKind_SERVICE_KIND_WEBSOCKET:
		return s.dialWebSocket(ctx, r)
	default:
		return s.dialAgentPort(ctx, r.Remoting.Protocol)
	}
}

func (s *straight) dial(ctx context.Context, address string) (*dialled, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &dialled{TCP: tunnel.TCP{TCPConn: c.(*net.TCPConn)}, done: make(chan struct{})}, nil
}

func (s *straight) dialAgentPort(ctx context.Context, protocol string) (Session, error) {
	c, err := s.dial(ctx, s.controller.AgentAddr)
	if err != nil {
		return nil, err
	}
	hello := remoting.AppendGreeting(nil, protocol)
	ack := remoting.AppendString(nil, "ACK")
	if protocol == remoting.JNLP4 {
		hello = append(hello, ack...)
	}
	if _, err := c.Write(hello); err != nil {
		return nil, err
	}
	if protocol == remoting.JNLP4 {
		if _, err := io.ReadFull(c, ack); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (s *straight) dialWebSocket(ctx context.Context, r Request) (Session, error) {
	header := http.Header{}
	for _, h := range r.Remoting.Headers {
		header.Add(h.Name, string(h.Value))
	}
	near, far := newSessionPair()
	c, resp, err := websocket.DefaultDialer.DialContext(ctx, "ws"+strings.TrimPrefix(s.controller.URL, "http")+"wsagents/", header)
	if resp == nil {
		return nil, err
	}
	a := &linkv1.Accept{Status: uint32(resp.StatusCode)}
	for name := range resp.Header {
		a.Headers = append(a.Headers, &linkv1.Header{Name: name, Value: []byte(resp.Header.Get(name))})
	}
	near.accept(a)
	if err != nil {
		far.end(linkv1.Reason_REASON_OK)
		return near, nil
	}
	s.wg.Go(func() {
		for {
			_, message, err := c.ReadMessage()
			if err == nil {
				_, err = far.Write(message)
			}
			if err != nil {
				far.end(linkv1.Reason_REASON_OK)
				return
			}
		}
	})
	s.wg.Go(func() {
		defer c.Close()
		b := make([]byte, 2+1<<15)
		for {
			if _, err := io.ReadFull(far, b[:2]); err != nil {
				return
			}
			n, _, _ := remoting.ParseChunkHeader(b) // it has its two bytes
			if _, err := io.ReadFull(far, b[2:2+n]); err != nil {
				return
			}
			if err := c.WriteMessage(websocket.BinaryMessage, b[:2+n]); err != nil {
				return
			}
		}
	})
	return near, nil
}

// A dialled session is a connection to the controller itself.
type dialled struct {
	tunnel.TCP
	once sync.Once
	done chan struct{}
}

func (d *dialled) Close() error                   { d.over(); return d.TCP.Close() }
func (d *dialled) Abort(why error)                { d.over(); d.TCP.Abort(why) }
func (d *dialled) over()                          { d.once.Do(func() { close(d.done) }) }
func (d *dialled) Accepted(context.Context) error { return nil }
func (d *dialled) Answer() *linkv1.Accept         { return new(linkv1.Accept) }
func (d *dialled) Done() <-chan struct{}          { return d.done }
func (d *dialled) Err() error {
	return &session.EndedError{Ending: session.Ending{Reason: linkv1.Reason_REASON_OK}}
}
