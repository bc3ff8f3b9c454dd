package connector

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/moorage-dev/moorage/controller"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/remoting"
	"github.com/moorage-dev/moorage/session"
)

// How a socket ends, and how its other end sees that.
const (
	byFIN   = "FIN"
	byReset = "reset"
)

// TestEndings holds that either side's end becomes the other's, as exactly
// what it was, after everything that was said before.
func TestEndings(t *testing.T) {
	for _, tt := range []struct {
		desc   string
		end    func(agent, jenkins *net.TCPConn, s *testSession)
		sees   string // what the other side sees
		agent  bool   // the other side is the agent's
		reason linkv1.Reason
	}{
		{"the agent closes", func(agent, _ *net.TCPConn, _ *testSession) { finish(t, agent) }, byFIN, false, linkv1.Reason_REASON_OK},
		{"the agent breaks", func(agent, _ *net.TCPConn, _ *testSession) { reset(t, agent) }, byReset, false, linkv1.Reason_REASON_PEER_RESET},
		{"Jenkins closes", func(_, jenkins *net.TCPConn, _ *testSession) { finish(t, jenkins) }, byFIN, true, linkv1.Reason_REASON_OK},
		{"Jenkins breaks", func(_, jenkins *net.TCPConn, _ *testSession) { reset(t, jenkins) }, byReset, true, linkv1.Reason_REASON_PEER_RESET},
		{"grace is over", func(_, _ *net.TCPConn, s *testSession) {
			s.CloseWithReason(session.Ending{Reason: linkv1.Reason_REASON_GRACE, Text: "detached longer than 4m0s"})
		}, byReset, false, linkv1.Reason_REASON_GRACE},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			j := startJenkins(t, false)
			c, b := j.beside(Config{})
			b.until("a reachable Jenkins", reachable)
			agent, s := c.session(t, remotingSession(remoting.JNLP4, "a1"))
			jenkins := j.dialled().TCPConn
			wantBytes(t, agent, jenkins, "hello")

			last := bytes.Repeat([]byte("last words "), 20_000)
			from, to := agent, jenkins
			if tt.agent {
				from, to = jenkins, agent
			}
			if tt.sees == byFIN {
				go func() { // more than sockets hold
					if _, err := from.Write(last); err != nil {
						t.Error(err)
					}
					tt.end(agent, jenkins, s)
				}()
				wantEnd(t, to, last, byFIN)
			} else {
				tt.end(agent, jenkins, s)
				wantEnd(t, to, nil, byReset)
			}
			wantEnding(t, s, tt.reason)
		})
	}
}

// TestWebSocketEndings is TestEndings for a connection that has words for it.
func TestWebSocketEndings(t *testing.T) {
	for _, tt := range []struct {
		desc    string
		jenkins func(*websocket.Conn)            // what Jenkins does
		agent   func(*net.TCPConn, *testSession) // what the agent's side does instead
		code    int                              // of the close frame that Jenkins reads; 0: it sees a reset, or is the one to end
		sees    string                           // what the agent sees
		reason  linkv1.Reason
	}{
		{desc: "the agent closes", agent: func(c *net.TCPConn, _ *testSession) { finish(t, c) }, code: websocket.CloseNormalClosure, sees: byFIN, reason: linkv1.Reason_REASON_OK},
		{desc: "the agent breaks", agent: func(c *net.TCPConn, _ *testSession) { reset(t, c) }, reason: linkv1.Reason_REASON_PEER_RESET},
		{desc: "grace is over", agent: func(_ *net.TCPConn, s *testSession) {
			s.CloseWithReason(session.Ending{Reason: linkv1.Reason_REASON_GRACE})
		}, sees: byReset, reason: linkv1.Reason_REASON_GRACE},
		{desc: "Jenkins says good-bye", jenkins: func(ws *websocket.Conn) {
			_ = ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseGoingAway, "restart"), time.Now().Add(patience))
			_, _, _ = ws.ReadMessage()
			_ = ws.Close()
		}, sees: byFIN, reason: linkv1.Reason_REASON_OK},
		{desc: "Jenkins closes", jenkins: func(ws *websocket.Conn) { _ = ws.Close() }, sees: byFIN, reason: linkv1.Reason_REASON_OK},
		{desc: "Jenkins breaks", jenkins: func(ws *websocket.Conn) { reset(t, ws.NetConn().(*net.TCPConn)) }, sees: byReset, reason: linkv1.Reason_REASON_PEER_RESET},
		{desc: "Jenkins sends text", jenkins: func(ws *websocket.Conn) {
			_ = ws.WriteMessage(websocket.TextMessage, []byte("hello"))
			_, _, _ = ws.ReadMessage()
			_ = ws.Close()
		}, sees: byReset, reason: linkv1.Reason_REASON_PEER_RESET},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			j := startJenkins(t, false)
			seen := make(chan error, 1)
			j.set(func() {
				j.socket = func(w http.ResponseWriter, r *http.Request) {
					ws, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
					if err != nil {
						t.Error(err)
						return
					}
					if err := ws.WriteMessage(websocket.BinaryMessage, []byte("\x00\x02hi")); err != nil {
						t.Error(err)
					}
					if tt.jenkins != nil {
						tt.jenkins(ws)
						return
					}
					_, _, err = ws.ReadMessage()
					seen <- err
					_ = ws.Close()
				}
			})
			c, _ := j.beside(Config{})
			agent, s := c.session(t, controller.Info{Kind: linkv1.ServiceKind_SERVICE_KIND_WEBSOCKET, Resumable: true, Remoting: &linkv1.Remoting{Agent: "a1"}})
			said := []byte("\x00\x02hi")
			if tt.agent != nil {
				if _, err := io.ReadFull(agent, make([]byte, len(said))); err != nil {
					t.Fatal(err)
				}
				said = nil
				tt.agent(agent, s)
				err := <-seen
				if tt.code != 0 && !websocket.IsCloseError(err, tt.code) {
					t.Errorf("Jenkins sees %v, want code %d", err, tt.code)
				}
				if tt.code == 0 && !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("Jenkins sees %v, want a reset", err)
				}
			}
			if tt.sees == byReset {
				said = nil // a reset may overtake what was said
			}
			if tt.sees != "" {
				wantEnd(t, agent, said, tt.sees)
			}
			wantEnding(t, s, tt.reason)
		})
	}
}

func finish(t testing.TB, c *net.TCPConn) {
	if err := c.CloseWrite(); err != nil {
		t.Error(err)
	}
}

func reset(t testing.TB, c *net.TCPConn) {
	if err := errors.Join(c.SetLinger(0), c.Close()); err != nil {
		t.Error(err)
	}
}

// wantEnd wants a connection to end that way, behind those bytes; nil: whatever.
func wantEnd(t testing.TB, c *net.TCPConn, said []byte, how string) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if said != nil && !bytes.Equal(got, said) {
		t.Errorf("%d bytes came before the end, want %d", len(got), len(said))
	}
	if how == byFIN && err != nil || how == byReset && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("ends with %v, want a %s", err, how)
	}
}

// wantEnding wants the session to have ended for that reason.
func wantEnding(t testing.TB, s *testSession, reason linkv1.Reason) {
	t.Helper()
	select {
	case <-s.done:
	case <-time.After(patience):
		t.Fatal("the session goes on")
	}
	if why := s.ending(); why.Reason != reason {
		t.Errorf("ended with %v %q, want %v", why.Reason, why.Text, reason)
	}
}
