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

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSessionReachesItsService(t *testing.T) {
	service := echo(t)
	near, far := tcpPair(t)
	s := &testSession{Conn: tunnel.TCP{TCPConn: near}}
	var wg sync.WaitGroup
	cfg := &Config{Services: map[string]string{"web": service}}
	wg.Go(func() { cfg.Handle(t.Context(), "a1", "web", s) })

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
		cfg.Handle(t.Context(), tt.agent, tt.service, s)
		if s.accepted || s.reason != tt.reason || s.text != tt.text {
			t.Errorf("%s: got %v %q, want %v %q", tt.desc, s.reason, s.text, tt.reason, tt.text)
		}
		if !strings.Contains(log.String(), reasonName(tt.reason)) {
			t.Errorf("%s: the reason is not in the log: %s", tt.desc, log.String())
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
	cfg := &Config{Services: map[string]string{"web": l.Addr().String()}}
	wg.Go(func() { cfg.Handle(ctx, "a1", "web", &testSession{Conn: tunnel.TCP{TCPConn: near}}) })
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
	reason   linkv1.Reason
	text     string
}

func (s *testSession) Accept() error {
	s.accepted = true
	return nil
}

func (s *testSession) Reject(reason linkv1.Reason, text string) error {
	s.reason, s.text = reason, text
	return nil
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
