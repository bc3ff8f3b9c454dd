package door

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/remoting"
)

// agentRequest is what a stock agent sends, of the reference's vectors.
func agentRequest(name string) http.Header {
	return http.Header{
		"Node-Name":             {remoting.ToLatin1(name)},
		"Secret-Key":            {strings.Repeat("0", 63) + "1"},
		"X-Remoting-Capability": {remoting.CapabilityText(0x1fe)},
		"Origin":                {"http://elsewhere:1"},
	}
}

// dial comes as an agent and returns its WebSocket and the answer.
func (s *stage) dial(path string, header http.Header) (*websocket.Conn, *http.Response, error) {
	c, resp, err := websocket.DefaultDialer.DialContext(s.t.Context(), "ws://"+s.address+path, header)
	if err == nil {
		s.t.Cleanup(func() { _ = c.Close() }) // closed already, as a rule
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	}
	return c, resp, err
}

// attached returns an agent's WebSocket and the far side of its session.
func attached(t *testing.T) (*stage, *websocket.Conn, *far) {
	s := newStage(t, Config{Default: "main"})
	sessions := make(chan *far, 1)
	s.ws = func(_ Request, f *far) {
		f.answer(http.StatusSwitchingProtocols)
		sessions <- f
	}
	c, _, err := s.dial("/wsagents/", agentRequest("agent1"))
	if err != nil {
		t.Fatal(err)
	}
	return s, c, <-sessions
}

func TestWebSocketAsksTheControllerFirst(t *testing.T) {
	s := newStage(t, Config{Default: "main"})
	requests := make(chan Request, 1)
	s.ws = func(r Request, f *far) {
		f.answer(http.StatusSwitchingProtocols,
			"X-Remoting-Capability: theirs", "Connection-Cookie: 00ff", "X-Remoting-Minimum-Version: 3000", "Set-Cookie: a=b", "Sec-Websocket-Extensions: x")
		requests <- r
	}
	header := agentRequest("agenté")
	header.Set("Connection-Cookie", "00ff")
	header.Set("X-Own", "own")
	header.Set("X-Forwarded-For", "192.0.2.1")
	header.Set("Cookie", "c")
	c, resp, err := s.dial("/wsagents/", header)
	if err != nil {
		t.Fatal(err)
	}
	wantHeader(t, resp, "X-Remoting-Capability", "theirs")
	wantHeader(t, resp, "Connection-Cookie", "00ff")
	wantHeader(t, resp, "X-Remoting-Minimum-Version", "3000")
	wantHeader(t, resp, "Set-Cookie", "")
	wantHeader(t, resp, "Sec-Websocket-Extensions", "")

	r := <-requests
	var names []string
	for _, h := range r.Remoting.Headers {
		names = append(names, h.Name)
		if h.Name == "Node-Name" && string(h.Value) != "agent\xe9" {
			t.Errorf("Node-Name %q, want the bytes as they came", h.Value)
		}
	}
	want := []string{"Connection-Cookie", "Node-Name", "Secret-Key", "X-Own", "X-Remoting-Capability"}
	if !slices.Equal(names, want) {
		t.Errorf("headers %q, want %q", names, want)
	}
	if r.Controller != "main" || r.Kind != linkv1.ServiceKind_SERVICE_KIND_WEBSOCKET || r.Remoting.Agent != "agenté" || r.Remoting.Address != c.LocalAddr().String() {
		t.Errorf("session opened for %v", &r)
	}
}

func TestWebSocketIsHeldUntilTheControllerAnswers(t *testing.T) {
	s := newStage(t, Config{Default: "main"})
	sessions := make(chan *far, 1)
	s.ws = func(_ Request, f *far) { sessions <- f }
	done := make(chan error, 1)
	go func() {
		_, _, err := s.dial("/wsagents/", agentRequest("agent1"))
		done <- err
	}()
	f := <-sessions
	select {
	case err := <-done:
		t.Fatalf("answered (%v) before the controller has", err)
	case <-time.After(50 * time.Millisecond):
	}
	f.answer(http.StatusSwitchingProtocols)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestAgentThatLeavesWhileItIsHeldLeavesNothing(t *testing.T) {
	s := newStage(t, Config{Default: "main"})
	sessions := make(chan *far, 1)
	s.ws = func(_ Request, f *far) { sessions <- f }
	c, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.WriteString(c, "GET /wsagents/ HTTP/1.1\r\nHost: door\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nNode-Name: a\r\nSecret-Key: s\r\nX-Remoting-Capability: c\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	f := <-sessions
	_ = c.Close() // the agent is killed
	f.wantEnded(t, linkv1.Reason_REASON_PEER_RESET)
}

func TestControllersRefusalIsPassedOn(t *testing.T) {
	s := newStage(t, Config{Default: "main"})
	s.ws = func(_ Request, f *far) {
		f.answer(http.StatusForbidden, "Content-Type: text/html;charset=utf-8", "X-Error: wrong", "Set-Cookie: a=b")
		s.wg.Go(func() {
			_, _ = io.WriteString(f, "wrong "+"secret")                 // the agent sees it
			_, _ = f.Write(bytes.Repeat([]byte("x"), 2*largestRefusal)) // not all of it
			f.end(linkv1.Reason_REASON_OK)
		})
	}
	_, resp, err := s.dial("/wsagents/", agentRequest("agent1"))
	if !errors.Is(err, websocket.ErrBadHandshake) || resp.StatusCode != http.StatusForbidden {
		t.Fatalf("%v, %v; want 403", resp, err)
	}
	wantHeader(t, resp, "Content-Type", "text/html;charset=utf-8")
	wantHeader(t, resp, "X-Error", "wrong")
	wantHeader(t, resp, "Set-Cookie", "")
	if body, _ := io.ReadAll(resp.Body); !strings.HasPrefix(string(body), "wrong secret") {
		t.Errorf("body %q", body)
	}
}

func TestWhatIsNoAgentOpensNoSession(t *testing.T) {
	s := newStage(t, Config{Default: "main"})
	if resp := s.get("/wsagents/"); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("no upgrade: %s, want 400", resp.Status)
	}
	for _, name := range []string{"Node-Name", "Secret-Key", "X-Remoting-Capability"} {
		header := agentRequest("agent1")
		header.Del(name)
		if _, resp, err := s.dial("/wsagents/", header); err == nil || resp.StatusCode != http.StatusBadRequest {
			t.Errorf("without %s: %v, want 400", name, err)
		}
	}
	const front = "GET /wsagents/ HTTP/1.1\r\nHost: door\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nNode-Name: a\r\nSecret-Key: s\r\nX-Remoting-Capability: c\r\n"
	for _, rest := range []string{
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2Rl\r\n\r\n",
		"Sec-WebSocket-Version: 12\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n",
	} {
		if got := s.raw(front + rest); !strings.HasPrefix(got, "HTTP/1.1 400") {
			t.Errorf("%q: %q, want 400", rest, got)
		}
	}
	header := agentRequest("agent1")
	header.Set("X-Own", strings.Repeat("x", 9000))
	if _, resp, err := s.dial("/wsagents/", header); err == nil || resp.StatusCode != http.StatusBadRequest {
		t.Errorf("9000 bytes of headers: %v, want 400", err)
	}
	header = agentRequest(strings.Repeat("n", 2000))
	if _, resp, err := s.dial("/wsagents/", header); err == nil || resp.StatusCode != http.StatusBadRequest {
		t.Errorf("a name of 2000 bytes: %v, want 400", err)
	}
	if n := s.opened(); n != 0 {
		t.Errorf("%d sessions", n)
	}
}

func TestMessagesToTheAgentAreWholeChunks(t *testing.T) {
	s, c, f := attached(t)
	random := rand.New(rand.NewPCG(1, 2))
	var sent []byte
	for range 200 {
		command := make([]byte, random.IntN(50_000))
		for i := range command {
			command[i] = byte(random.Uint32())
		}
		sent = remoting.AppendCommand(sent, command)
	}
	// The largest chunk that there is.
	sent = append(remoting.AppendChunkHeader(sent, 32767, false), make([]byte, 32767)...)
	s.wg.Go(func() {
		for rest := sent; len(rest) > 0; {
			n := min(1+random.IntN(40_000), len(rest))
			_, _ = f.Write(rest[:n]) // the agent sees it
			rest = rest[n:]
		}
		f.end(linkv1.Reason_REASON_OK)
	})
	var got []byte
	for {
		kind, message, err := c.ReadMessage()
		if err != nil {
			if !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
				t.Fatalf("%v, want close 1000", err)
			}
			break
		}
		if kind != websocket.BinaryMessage || len(message) == 0 || len(message) > 2+1<<15 || wholeChunks(message) != len(message) {
			t.Fatalf("message of kind %d with %d bytes, %d of them in whole chunks", kind, len(message), wholeChunks(message))
		}
		got = append(got, message...)
	}
	if !bytes.Equal(got, sent) {
		t.Fatalf("%d bytes came, not the %d that were sent", len(got), len(sent))
	}
}

func TestMessagesOfTheAgentBecomeBytes(t *testing.T) {
	s, c, f := attached(t)
	var want []byte
	for i, size := range []int{1, 8194, 0, 100, 200_000, 32769} {
		want = append(want, bytes.Repeat([]byte{byte(i)}, size)...)
	}
	got := make(chan []byte, 1)
	s.wg.Go(func() {
		b, _ := io.ReadAll(f) // the length tells
		got <- b
	})
	for i, size := range []int{1, 8194, 0, 100, 200_000, 32769} {
		if err := c.WriteMessage(websocket.BinaryMessage, bytes.Repeat([]byte{byte(i)}, size)); err != nil {
			t.Fatal(err)
		}
	}
	err := c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if b := <-got; !bytes.Equal(b, want) {
		t.Fatalf("%d bytes came, want %d", len(b), len(want))
	}
	f.wantEnded(t, linkv1.Reason_REASON_OK)
	if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
		t.Errorf("%v, want the close frame back", err)
	}
}

func TestEndsOfAnAgentsSocket(t *testing.T) {
	for _, test := range []struct {
		desc string
		end  func(*websocket.Conn)
		want linkv1.Reason
	}{
		{"FIN without a close frame, as of a process that was killed", func(c *websocket.Conn) { _ = c.NetConn().Close() }, linkv1.Reason_REASON_OK},
		{"reset", func(c *websocket.Conn) {
			_ = c.NetConn().(*net.TCPConn).SetLinger(0)
			_ = c.NetConn().Close()
		}, linkv1.Reason_REASON_PEER_RESET},
		{"garbage", func(c *websocket.Conn) { _, _ = c.NetConn().Write([]byte("garbage garbage")) }, linkv1.Reason_REASON_PEER_RESET},
		{"a text message", func(c *websocket.Conn) { _ = c.WriteMessage(websocket.TextMessage, []byte("hello")) }, linkv1.Reason_REASON_OK},
		{"a message without end", func(c *websocket.Conn) { _ = c.WriteMessage(websocket.BinaryMessage, make([]byte, 2<<20)) }, linkv1.Reason_REASON_PEER_RESET},
	} {
		t.Run(test.desc, func(t *testing.T) {
			s, c, f := attached(t)
			s.wg.Go(func() { _, _ = io.Copy(io.Discard, f) })
			test.end(c)
			f.wantEnded(t, test.want)
		})
	}
}

func TestEndOfTheSessionClosesTheSocket(t *testing.T) {
	for _, test := range []struct {
		reason linkv1.Reason
		code   int
	}{
		{linkv1.Reason_REASON_OK, websocket.CloseNormalClosure},
		{linkv1.Reason_REASON_PEER_RESET, websocket.CloseInternalServerErr},
		{linkv1.Reason_REASON_CONTROLLER_GONE, websocket.CloseServiceRestart},
		{linkv1.Reason_REASON_GRACE, websocket.CloseServiceRestart},
	} {
		_, c, f := attached(t)
		f.end(test.reason)
		_, _, err := c.ReadMessage()
		if closed, ok := errors.AsType[*websocket.CloseError](err); !ok || closed.Code != test.code {
			t.Errorf("session ended with %v: %v, want close %d", test.reason, err, test.code)
		}
		if _, err := c.NetConn().Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("%v behind the close frame, want EOF", err)
		}
	}
}

func TestAgentThatDoesNotAnswerTheFarewellIsClosed(t *testing.T) {
	_, c, f := attached(t)
	began := time.Now()
	f.end(linkv1.Reason_REASON_OK)
	if b, err := io.ReadAll(c.NetConn()); err != nil || len(b) == 0 {
		t.Fatalf("%x, %v; want a close frame and EOF", b, err)
	}
	if took := time.Since(began); took > 5*time.Second { // a second on a machine that is not busy
		t.Errorf("closed after %v", took)
	}
}

// bubble runs an agent's WebSocket and its session in fake time.
func bubble(t *testing.T, story func(agent *websocket.Conn, f *far)) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		near, f := newSessionPair()
		l := newPiped()
		srv := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			c, err := upgrader.Upgrade(rw, r, nil)
			if err != nil {
				t.Error(err)
				return
			}
			newPump(c, near, newMetrics(nil)).run()
		})}
		var wg sync.WaitGroup
		wg.Go(func() { _ = srv.Serve(l) }) // until it is closed
		wg.Go(func() { l.give(b) })
		d := websocket.Dialer{NetDial: func(string, string) (net.Conn, error) { return a, nil }}
		c, _, err := d.Dial("ws://door/wsagents/", nil)
		if err != nil {
			t.Fatal(err)
		}
		story(c, f)
		_ = c.Close() // closed already at best
		f.end(linkv1.Reason_REASON_OK)
		_ = srv.Close() // the same
		wg.Wait()
		synctest.Wait()
	})
}

func TestPingsAreSentHereAndDoNotCross(t *testing.T) {
	bubble(t, func(agent *websocket.Conn, f *far) {
		pings := 0
		agent.SetPingHandler(func(string) error {
			pings++
			return agent.WriteControl(websocket.PongMessage, nil, time.Time{})
		})
		crossed := make(chan []byte, 1)
		go func() {
			b, _ := io.ReadAll(f) // what came is what counts
			crossed <- b
		}()
		go func() { _, _, _ = agent.ReadMessage() }() // it answers pings meanwhile
		time.Sleep(10*time.Minute + time.Second)
		synctest.Wait()
		if pings != 30 {
			t.Errorf("%d pings in ten minutes, want one every 20 s", pings)
		}
		_ = agent.NetConn().Close() // cannot fail
		if b := <-crossed; len(b) != 0 {
			t.Errorf("%d bytes crossed", len(b))
		}
	})
}

func TestSilentAgentIsGivenUp(t *testing.T) {
	bubble(t, func(agent *websocket.Conn, f *far) {
		began := time.Now()
		agent.SetPingHandler(func(string) error { return nil }) // no pong
		go func() { _, _, _ = agent.ReadMessage() }()
		f.wantEnded(t, linkv1.Reason_REASON_PEER_RESET)
		if took := time.Since(began); took != silence {
			t.Errorf("given up after %v, want %v", took, silence)
		}
	})
}

func TestAgentIsNotSilentWhileTheControllerIsSlow(t *testing.T) {
	bubble(t, func(agent *websocket.Conn, f *far) {
		agent.SetPingHandler(func(string) error { // a pong waits until it is taken
			return agent.WriteControl(websocket.PongMessage, nil, time.Time{})
		})
		go func() { _, _, _ = agent.ReadMessage() }()
		go func() {
			for range 3 {
				_ = agent.WriteMessage(websocket.BinaryMessage, []byte("hello"))
			}
		}()
		for range 3 {
			time.Sleep(5 * time.Minute) // nobody takes the session's bytes
			b := make([]byte, 5)
			if _, err := io.ReadFull(f, b); err != nil || string(b) != "hello" {
				t.Fatalf("%q, %v after five minutes in which the agent was not read", b, err)
			}
		}
	})
}

// idle attaches n agents that have nothing to say.
func idle(t testing.TB, s *stage, n int) {
	s.ws = func(_ Request, f *far) { f.answer(http.StatusSwitchingProtocols) }
	request := "GET /wsagents/ HTTP/1.1\r\nHost: door\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n" +
		"Node-Name: a\r\nSecret-Key: " + strings.Repeat("0", 64) + "\r\nX-Remoting-Capability: " + remoting.CapabilityText(0x1fe) + "\r\n\r\n"
	for range n {
		c, err := net.Dial("tcp", s.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() }) // nobody looks at it
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 4096)
		for have := 0; !bytes.Contains(b[:have], []byte("\r\n\r\n")); {
			k, err := c.Read(b[have:])
			if have += k; err != nil {
				t.Fatal(err)
			}
		}
	}
}

// An idle agent is to cost a gateway no more than 16 KiB and two goroutines;
// the sessions of this test and the agents' ends of the sockets are counted in.
func BenchmarkIdleWebSocket(b *testing.B) {
	const agents = 1000
	s := newStage(b, Config{Default: "main", OpenRate: 1e6, Again: -1})
	idle(b, s, 10)
	before, routines := footprint(), runtime.NumGoroutine()
	idle(b, s, agents)
	for b.Loop() {
	}
	b.ReportMetric(float64(footprint()-before)/agents, "B/agent")
	b.ReportMetric(float64(runtime.NumGoroutine()-routines)/agents, "goroutines/agent")
}

func footprint() uint64 {
	for range 5 { // each halves the stacks that are too large
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}
