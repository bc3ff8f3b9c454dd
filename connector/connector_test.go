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
	"github.com/moorage-dev/moorage/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSessionReachesItsService(t *testing.T) {
	service := echo(t)
	near, far := tcpPair(t)
	s := &testSession{Conn: tunnel.TCP{TCPConn: near}}
	var wg sync.WaitGroup
	cfg := &Config{Services: map[string]string{"web": service}}
	wg.Go(func() { cfg.handle(t.Context(), tcp("a1", "web"), s) })

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
	if !s.accepted {
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
		cfg := &Config{
			Services: map[string]string{"web": closed.Addr().String()},
			Agents:   tt.agents,
			Log:      slog.New(slog.NewTextHandler(&log, nil)),
		}
		if err := cfg.Check(); err != nil {
			t.Fatal(err)
		}
		s := new(testSession)
		cfg.handle(t.Context(), tcp(tt.agent, tt.service), s)
		if s.accepted || s.why.Reason != tt.reason || s.why.Text != tt.text {
			t.Errorf("%s: got %v %q, want %v %q", tt.desc, s.why.Reason, s.why.Text, tt.reason, tt.text)
		}
		if !strings.Contains(log.String(), session.ReasonName(tt.reason)) {
			t.Errorf("%s: the reason is not in the log: %s", tt.desc, log.String())
		}
	}
}

// TestVerifiedNameCounts holds that an agent is judged by what the gateway
// verified, whatever it calls itself.
func TestVerifiedNameCounts(t *testing.T) {
	for _, tt := range []struct{ identity, claimed, want string }{{"a1", "root", "a1"}, {"", "a2", "a2"}} {
		if got := request(controller.Info{Identity: tt.identity, Agent: tt.claimed}).agent; got != tt.want {
			t.Errorf("verified %q, claimed %q: judged as %q", tt.identity, tt.claimed, got)
		}
	}
}

func TestNativeSessionsAreRefused(t *testing.T) {
	s := new(testSession)
	cfg := &Config{Services: map[string]string{"web": "127.0.0.1:1"}}
	cfg.handle(t.Context(), asked{agent: "a1", kind: linkv1.ServiceKind_SERVICE_KIND_NATIVE}, s)
	if s.why.Reason != linkv1.Reason_REASON_REFUSED {
		t.Errorf("got %+v", s.why)
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
	cfg := &Config{Services: map[string]string{"web": l.Addr().String()}}
	wg.Go(func() { cfg.handle(ctx, tcp("a1", "web"), &testSession{Conn: tunnel.TCP{TCPConn: near}}) })
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
	} {
		if err := cfg.Check(); err == nil {
			t.Errorf("%+v passed", cfg)
		}
	}
}

// testSession records what was decided; its bytes are Conn's.
type testSession struct {
	tunnel.Conn
	accepted bool
	why      session.Ending
}

func (s *testSession) Accept() { s.accepted = true }

func (s *testSession) Reject(why session.Ending) { s.why = why }

func tcp(agent, service string) asked {
	return asked{agent: agent, service: service, kind: linkv1.ServiceKind_SERVICE_KIND_TCP}
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

func tcpPair(t *testing.T) (near, far *net.TCPConn) {
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
