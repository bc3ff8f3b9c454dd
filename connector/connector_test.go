package connector

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/moorage-dev/moorage/controller"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSessionReachesItsService(t *testing.T) {
	service := echo(t)
	near, far := tcpPair(t)
	s := newSession(tcp("a1", "web"), near)
	var wg sync.WaitGroup
	c := start(t, Config{Services: map[string]string{"web": service}})
	wg.Go(func() { c.handle(t.Context(), s) })

	if _, err := io.WriteString(far, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := far.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(far); err != nil || string(got) != "hello" {
		t.Errorf("got %q, %v", got, err)
	}
	wg.Wait()
	if s.wasAccepted() == nil {
		t.Error("the session carried bytes and was never accepted")
	}
}

func TestRejections(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close() // nobody listens there now
	for _, tt := range []struct {
		desc           string
		agents         []string
		agent, service string
		reason         linkv1.Reason
		text           string
	}{
		{"unknown service", nil, "a1", "ssh", linkv1.Reason_REASON_REFUSED, `unknown service "ssh"`},
		{"refused dial", nil, "a1", "web", linkv1.Reason_REASON_DIAL_FAILED, `service "web": connection refused`},
		{"another agent", []string{"b*", "a2"}, "a1", "web", linkv1.Reason_REASON_REFUSED, `agent name "a1" is not allowed here`},
		{"allowed by pattern", []string{"a?"}, "a1", "web", linkv1.Reason_REASON_DIAL_FAILED, `service "web": connection refused`},
		{"no name", []string{"a?"}, "", "web", linkv1.Reason_REASON_REFUSED, `agent name "" is not allowed here`},
	} {
		var log bytes.Buffer
		c := start(t, Config{
			Services: map[string]string{"web": closed.Addr().String()},
			Agents:   tt.agents,
			Log:      slog.New(slog.NewTextHandler(&log, nil)),
		})
		s := newSession(tcp(tt.agent, tt.service), nil)
		c.handle(t.Context(), s)
		if s.wasAccepted() != nil || s.why.Reason != tt.reason || s.why.Text != tt.text {
			t.Errorf("%s: got %v %q, want %v %q", tt.desc, s.why.Reason, s.why.Text, tt.reason, tt.text)
		}
		if !strings.Contains(log.String(), session.ReasonName(tt.reason)) {
			t.Errorf("%s: the reason is not in the log: %s", tt.desc, log.String())
		}
		if dialled := tt.reason == linkv1.Reason_REASON_DIAL_FAILED; strings.Contains(log.String(), "err=") != dialled || strings.Contains(log.String(), "nil") {
			t.Errorf("%s: want an error in the log where there was one: %s", tt.desc, log.String())
		}
	}
}

// TestVerifiedNameCounts holds that an agent is judged by what the gateway
// verified, whatever it calls itself; without that, by the name it showed the
// controller's door, for that is the one it would connect with.
func TestVerifiedNameCounts(t *testing.T) {
	const remoting, http = linkv1.ServiceKind_SERVICE_KIND_REMOTING, linkv1.ServiceKind_SERVICE_KIND_HTTP
	c := start(t, Config{Services: map[string]string{"web": "127.0.0.1:1"}, Agents: []string{"a*"}})
	for _, tt := range []struct {
		desc string
		info controller.Info
		who  string
		ok   bool
	}{
		{"verified", controller.Info{Identity: "a1", Agent: "root"}, "a1", true},
		{"verified another", controller.Info{Identity: "root", Agent: "a1"}, "root", false},
		{"claimed", controller.Info{Agent: "a2"}, "a2", true},
		{"verified shim, legacy name claimed", controller.Info{Kind: remoting, Identity: "root", Remoting: &linkv1.Remoting{Agent: "a1"}}, "root", false},
		{"legacy name", controller.Info{Kind: remoting, Remoting: &linkv1.Remoting{Agent: "a1"}}, "a1", true},
		{"opaque, straight from a gateway", controller.Info{Kind: remoting, Remoting: &linkv1.Remoting{}}, "", false},
		{"a look-up, straight from a gateway", controller.Info{Kind: http, Remoting: &linkv1.Remoting{}}, "", true},
		{"a look-up of a shim", controller.Info{Kind: http, Agent: "root"}, "root", false},
	} {
		if who, ok := c.allowed(tt.info); who != tt.who || ok != tt.ok {
			t.Errorf("%s: judged as %q, %v; want %q, %v", tt.desc, who, ok, tt.who, tt.ok)
		}
	}
}

func TestOtherKindsAreRefused(t *testing.T) {
	c := start(t, Config{Services: map[string]string{"web": "127.0.0.1:1"}})
	for kind := range linkv1.ServiceKind_name {
		if linkv1.ServiceKind(kind) == linkv1.ServiceKind_SERVICE_KIND_TCP {
			continue
		}
		s := newSession(controller.Info{Kind: linkv1.ServiceKind(kind), Agent: "a1"}, nil)
		c.handle(t.Context(), s)
		if s.why.Reason != linkv1.Reason_REASON_REFUSED {
			t.Errorf("kind %d: got %+v", kind, s.why)
		}
	}
}

func TestStopResetsBothSides(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, far := tcpPair(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	var wg sync.WaitGroup
	c := start(t, Config{Services: map[string]string{"web": l.Addr().String()}})
	wg.Go(func() { c.handle(ctx, newSession(tcp("a1", "web"), near)) })
	local, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	// One byte through: the tunnel stands.
	if _, err := local.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := far.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	cancel(errors.New("stopping"))
	for side, c := range map[string]net.Conn{"service": local, "agent": far} {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the %s side reads %v, want a reset", side, err)
		}
	}
	wg.Wait()
}

func TestCheck(t *testing.T) {
	for _, cfg := range []Config{
		{},
		{Services: map[string]string{"web": "127.0.0.1"}},
		{Services: map[string]string{"web": "127.0.0.1:80"}, Agents: []string{"["}},
		{Services: map[string]string{"web": "127.0.0.1:80"}, Hold: -1},
		{Jenkins: &Jenkins{}},
		{Jenkins: &Jenkins{URL: "127.0.0.1:8080"}},
		{Jenkins: &Jenkins{URL: "ftp://127.0.0.1/"}},
		{Jenkins: &Jenkins{URL: "http:///ci"}},
		{Jenkins: &Jenkins{URL: "http://ci.example.org/?a=b"}},
		{Jenkins: &Jenkins{URL: "http://ci.example.org/", AgentAddress: "50000"}},
	} {
		if err := cfg.Check(); err == nil {
			t.Errorf("%+v passed", cfg)
		}
	}
	secret := Config{Jenkins: &Jenkins{URL: "http://admin:hunter2@ci.example.org/"}}
	if err := secret.Check(); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a password in the URL: %v", err)
	}
}

func tcp(agent, service string) controller.Info {
	return controller.Info{Agent: agent, Service: service, Kind: linkv1.ServiceKind_SERVICE_KIND_TCP}
}

// start returns a connector that looks nothing up by itself.
func start(t testing.TB, cfg Config) *connector {
	t.Helper()
	c, err := newConnector(cfg, func(*linkv1.Jenkins) {})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// echo is a service that sends back what it gets and closes.
func echo(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.Copy(c, c) // the far end sees what is missing
		_ = c.Close()
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

func tcpPair(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = a.Close() // closed already by most tests
		_ = b.Close()
	})
	return a.(*net.TCPConn), b.(*net.TCPConn)
}
