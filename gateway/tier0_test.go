package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	ctl "github.com/moorage-dev/moorage/controller"
	"github.com/moorage-dev/moorage/door"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
	"github.com/moorage-dev/moorage/tunnel"
)

// openDoor lets legacy agents into g on a socket of this host, until shut.
func openDoor(tb testing.TB, g *Gateway, controller string) (addr string, shut func()) {
	tb.Helper()
	d, err := door.New(door.Config{Backend: g.DoorBackend(), Default: controller, Tier0: true, OpenRate: 1e6, PerAddress: 100_000, Registerer: g.Registerer()})
	if err != nil {
		tb.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- d.Serve(ctx, lis) }()
	return lis.Addr().String(), sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			tb.Errorf("the door: %v", err)
		}
	})
}

const greeting = "\x00\x16Protocol:JNLP4-connect"

// dialLegacy is a stock agent that comes to a door: greeting, ACK, ACK.
func dialLegacy(tb testing.TB, addr string) *net.TCPConn {
	tb.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := io.WriteString(c, greeting+"\x00\x03ACK"); err != nil {
		tb.Fatal(err)
	}
	wantBytes(tb, c, "\x00\x03ACK")
	return c.(*net.TCPConn)
}

func wantBytes(tb testing.TB, r io.Reader, want string) {
	tb.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
		tb.Fatalf("read %q, %v; want %q", got, err, want)
	}
}

// Whatever ends on one side of a legacy agent's session is known on the other
// within 2 s, as what it was, and after everything that was said before.
func TestEndsOfLegacyAgents(t *testing.T) {
	r := newRig(t)
	defer r.close()
	c := r.realController(time.Minute)
	defer c.Close(context.Background())
	for _, tc := range []struct {
		desc   string
		strike func(g *gate, agent *net.TCPConn, far *ctl.Session)
		reason linkv1.Reason // as the controller side learns it
		reset  bool          // what the agent sees, if it is still there
	}{
		{"FIN of the agent", func(_ *gate, agent *net.TCPConn, _ *ctl.Session) {
			agent.CloseWrite()
		}, linkv1.Reason_REASON_OK, false},
		{"reset of the agent", func(_ *gate, agent *net.TCPConn, _ *ctl.Session) {
			agent.SetLinger(0)
			agent.Close()
		}, linkv1.Reason_REASON_PEER_RESET, false},
		{"FIN of the controller", func(_ *gate, _ *net.TCPConn, far *ctl.Session) {
			far.Close()
		}, linkv1.Reason_REASON_OK, false},
		{"reset of the controller", func(_ *gate, _ *net.TCPConn, far *ctl.Session) {
			tunnel.Session{Conn: far.Conn}.Abort(syscall.ECONNRESET)
		}, linkv1.Reason_REASON_PEER_RESET, true},
		{"the gateway is killed", func(g *gate, _ *net.TCPConn, _ *ctl.Session) {
			g.stop(g.Kill)
		}, linkv1.Reason_REASON_GATEWAY_GONE, true},
	} {
		t.Run(tc.desc, func(t *testing.T) {
			g := r.gateway(nil)
			addr, shut := openDoor(t, g.Gateway, "real")
			defer func() {
				shut()
				if !g.killed.Load() {
					g.shut()
				}
			}()
			agent := dialLegacy(t, addr)
			defer agent.Close()
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			far, err := c.Accept(ctx)
			if err != nil {
				t.Fatal(err)
			}
			far.Accept()
			io.WriteString(agent, "up")
			wantBytes(t, far, "up")
			io.WriteString(far, "down")
			wantBytes(t, agent, "down")
			if info := far.Info(); info.Resumable || info.RemoteAddr != agent.LocalAddr().String() || info.Remoting.GetProtocol() != "JNLP4-connect" {
				t.Errorf("the controller side sees %+v", info)
			}

			bound := 2 * time.Second
			if tc.reason == linkv1.Reason_REASON_GATEWAY_GONE {
				bound = 6 * time.Second // 4 beats and what is between two of them
			}
			began := time.Now()
			if tc.reason != linkv1.Reason_REASON_GATEWAY_GONE && !tc.reset {
				io.WriteString(agent, "last")
			}
			tc.strike(g, agent, far)
			agent.SetReadDeadline(began.Add(2 * time.Second))
			_, err = agent.Read(make([]byte, 1))
			switch {
			case tc.desc == "reset of the agent":
			case tc.reset && !errors.Is(err, syscall.ECONNRESET):
				t.Errorf("the agent sees %v, want a reset", err)
			case !tc.reset && err != io.EOF:
				t.Errorf("the agent sees %v, want a FIN", err)
			}
			if tc.desc == "FIN of the agent" {
				wantBytes(t, far, "last")
				if _, err := far.Read(make([]byte, 1)); err != io.EOF {
					t.Errorf("behind the last: %v", err)
				}
			}
			select {
			case <-far.Done():
			case <-time.After(time.Until(began.Add(bound))):
				t.Fatalf("the controller side does not know after %v", bound)
			}
			if e, ok := errors.AsType[*session.EndedError](far.Err()); !ok || e.Reason != tc.reason {
				t.Errorf("the controller side: %v, want %v", far.Err(), tc.reason)
			}
		})
	}
}

// BenchmarkIdleLegacyAgent reports what an idle legacy agent at a plaintext
// door costs the gateway's process, the agents' own ends of their sockets
// included.
func BenchmarkIdleLegacyAgent(b *testing.B) {
	const n = 2000
	for b.Loop() {
		g, _ := voidGateway(b, true)
		addr, shut := openDoor(b, g, "test")
		var agents []net.Conn
		use := func(n int) {
			for range n {
				c := dialLegacy(b, addr)
				for range 10 {
					io.WriteString(c, "sixteen bytes...")
					wantBytes(b, c, "sixteen bytes...")
				}
				agents = append(agents, c)
			}
		}
		use(100) // what is made once
		h0, s0 := memory()
		before := runtime.NumGoroutine()
		use(n)
		h1, s1 := memory()
		b.ReportMetric((float64(h1)-float64(h0))/n, "B/heap")
		b.ReportMetric((float64(s1)-float64(s0))/n, "B/stack")
		b.ReportMetric(float64(runtime.NumGoroutine()-before)/n, "goroutines")
		b.ReportMetric(0, "ns/op")
		for _, c := range agents {
			c.Close()
		}
		shut()
	}
}
