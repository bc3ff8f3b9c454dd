package connector

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/moorage-dev/moorage/controller"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/remoting"
)

// patience is how long tests wait for what must come.
const patience = 20 * time.Second

// A fakeJenkins is a controller as far as a connector sees one: an HTTP port
// with the page that agents look up, and an agent port.
type fakeJenkins struct {
	t    testing.TB
	http *httptest.Server

	mu      sync.Mutex // guards what follows
	agents  net.Listener
	port    int         // that the look-up names; 0: the page is a 404
	down    bool        // every page is a 503
	listen  http.Header // of the page for agents
	pages   http.Header // of every other page
	jar     http.Header // of slave.jar
	socket  http.HandlerFunc
	looked  int // look-ups so far
	silent  bool
	refusal string // instead of an ACK
	conns   chan *agentConn
}

// An agentConn is a connection that came to the agent port.
type agentConn struct {
	*net.TCPConn
	protocol string
}

var identity = sync.OnceValue(func() string {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		panic(err)
	}
	return base64.StdEncoding.EncodeToString(der)
})

// startJenkins is a Jenkins of today; secure: its HTTP port speaks TLS.
func startJenkins(t testing.TB, secure bool) *fakeJenkins {
	t.Helper()
	j := &fakeJenkins{t: t, conns: make(chan *agentConn, 1000)}
	j.listen = http.Header{
		"X-Instance-Identity": {identity()}, "X-Jenkins-Agent-Protocols": {"JNLP4-connect, Ping"},
		"X-Remoting-Minimum-Version": {"3176.v207ec082a_8c0"},
	}
	j.pages = http.Header{"X-Jenkins": {"2.999"}, "X-Hudson": {"1.395"}, "X-Jenkins-Session": {"first"}}
	mux := http.NewServeMux()
	mux.HandleFunc("/", j.page)
	if secure {
		j.http = httptest.NewTLSServer(mux)
	} else {
		j.http = httptest.NewServer(mux)
	}
	t.Cleanup(j.http.Close)
	j.openPort()
	t.Cleanup(j.closePort)
	return j
}

// becomeHudson makes it one.
func (j *fakeJenkins) becomeHudson() {
	j.set(func() {
		j.listen = http.Header{}
		j.pages = http.Header{"X-Hudson": {"3.3.2"}}
		j.jar = http.Header{"Last-Modified": {"Mon, 02 Jan 2006 15:04:05 GMT"}, "Content-Length": {"777"}}
	})
}

func (j *fakeJenkins) set(f func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	f()
}

func (j *fakeJenkins) page(w http.ResponseWriter, r *http.Request) {
	j.mu.Lock()
	defer j.mu.Unlock()
	with := func(h http.Header) {
		maps.Copy(w.Header(), h)
	}
	switch path := strings.TrimPrefix(r.URL.Path, "/ci"); {
	case j.down:
		w.WriteHeader(http.StatusServiceUnavailable)
	case path == "/tcpSlaveAgentListener/":
		j.looked++
		if j.port == 0 {
			http.NotFound(w, r)
			return
		}
		with(j.listen)
		w.Header().Set("X-Hudson-JNLP-Port", strconv.Itoa(j.port))
		if j.pages.Get("X-Jenkins") != "" {
			w.Header().Set("X-Jenkins-JNLP-Port", strconv.Itoa(j.port))
		}
	case path == "/jnlpJars/slave.jar" && j.jar != nil:
		with(j.jar)
	case path == "/wsagents/" && j.socket != nil:
		j.mu.Unlock()
		defer j.mu.Lock()
		j.socket(w, r)
	default:
		with(j.pages)
	}
}

// openPort opens an agent port, and names it.
func (j *fakeJenkins) openPort() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		j.t.Fatal(err)
	}
	j.set(func() { j.agents, j.port = l, l.Addr().(*net.TCPAddr).Port })
	go j.serve(l)
}

// closePort makes the agent port refuse.
func (j *fakeJenkins) closePort() {
	j.set(func() { _ = j.agents.Close() })
}

func (j *fakeJenkins) serve(l net.Listener) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		wg.Go(func() { j.agent(c.(*net.TCPConn)) })
	}
}

// agent reads the greeting, and for JNLP4 exchanges ACKs.
func (j *fakeJenkins) agent(c *net.TCPConn) {
	j.t.Cleanup(func() { _ = c.Close() }) // closed already by most tests
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		_ = c.Close()
		return
	}
	text := make([]byte, int(length[0])<<8|int(length[1]))
	if _, err := io.ReadFull(c, text); err != nil {
		_ = c.Close()
		return
	}
	a := &agentConn{TCPConn: c, protocol: strings.TrimPrefix(string(text), "Protocol:")}
	j.mu.Lock()
	refusal, silent := j.refusal, j.silent
	j.mu.Unlock()
	if a.protocol == remoting.Ping {
		_, _ = io.WriteString(c, remoting.Pong)
		_ = c.Close()
		return
	}
	if a.protocol == remoting.JNLP4 && !silent {
		answer := remoting.ACK
		if refusal != "" {
			answer = refusal
		}
		if _, err := io.WriteString(c, answer); err != nil || refusal != "" {
			_ = c.Close()
			return
		}
		ack := make([]byte, len(remoting.ACK))
		if _, err := io.ReadFull(c, ack); err != nil || string(ack) != remoting.ACK {
			j.t.Errorf("the connector's ACK: %q, %v", ack, err)
		}
	}
	j.conns <- a
}

// dialled returns the next connection that came behind its greeting.
func (j *fakeJenkins) dialled() *agentConn {
	j.t.Helper()
	select {
	case c := <-j.conns:
		return c
	case <-time.After(patience):
		j.t.Fatal("nobody dialled the agent port")
	}
	return nil
}

// beside starts a connector beside it that looks it up until the test ends.
func (j *fakeJenkins) beside(cfg Config) (*connector, *board) {
	j.t.Helper()
	b := &board{t: j.t, posted: make(chan *linkv1.Jenkins, 1000)}
	if cfg.Jenkins == nil {
		cfg.Jenkins = &Jenkins{URL: j.http.URL}
	}
	if j.http.TLS != nil && cfg.Jenkins.RootCAs == nil {
		cfg.Jenkins.RootCAs = x509.NewCertPool()
		cfg.Jenkins.RootCAs.AddCert(j.http.Certificate())
	}
	c, err := newConnector(cfg, func(found *linkv1.Jenkins) { b.posted <- found })
	if err != nil {
		j.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { c.jenkins.watch(ctx) })
	j.t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return c, b
}

// A board is where a connector publishes what it found.
type board struct {
	t      testing.TB
	posted chan *linkv1.Jenkins
}

// until returns the first that is as wanted.
func (b *board) until(desc string, ok func(*linkv1.Jenkins) bool) *linkv1.Jenkins {
	b.t.Helper()
	limit := time.After(patience)
	var last *linkv1.Jenkins
	for {
		select {
		case last = <-b.posted:
			if ok(last) {
				return last
			}
		case <-limit:
			b.t.Fatalf("%s: never published; the last was %v", desc, last)
		}
	}
}

func reachable(j *linkv1.Jenkins) bool { return j.GetReachable() }

func TestLookUpFindsJenkins(t *testing.T) {
	j := startJenkins(t, false)
	_, b := j.beside(Config{})
	got := b.until("a reachable Jenkins", reachable)
	if got.GetHudson() || got.GetVersion() != "2.999" || got.GetInstanceIdentity() != identity() || int(got.GetAgentPort()) != j.port ||
		got.GetMinimumVersion() != "3176.v207ec082a_8c0" || fmt.Sprint(got.GetProtocols()) != "[JNLP4-connect Ping]" || got.GetEpoch() == "" || got.GetPath() != "/" {
		t.Errorf("found %v", got)
	}
}

func TestLookUpFindsHudsonBelowAPath(t *testing.T) {
	j := startJenkins(t, true)
	j.becomeHudson()
	_, b := j.beside(Config{Jenkins: &Jenkins{URL: j.http.URL + "/ci"}})
	got := b.until("a reachable Hudson", reachable)
	if !got.GetHudson() || got.GetVersion() != "3.3.2" || got.GetInstanceIdentity() != "" || len(got.GetProtocols()) > 0 || got.GetEpoch() == "" || got.GetPath() != "/ci/" {
		t.Errorf("found %v", got)
	}
}

func TestSessionReachesTheAgentPort(t *testing.T) {
	for _, protocol := range []string{remoting.JNLP4, remoting.JNLP2, remoting.JNLP1} {
		t.Run(protocol, func(t *testing.T) {
			j := startJenkins(t, false)
			c, b := j.beside(Config{})
			b.until("a reachable Jenkins", reachable)
			agent, s := c.session(t, remotingSession(protocol, "a1"))
			jenkins := j.dialled()
			if jenkins.protocol != protocol {
				t.Errorf("asked for %q", jenkins.protocol)
			}
			wantBytes(t, jenkins, agent, "up")
			wantBytes(t, agent, jenkins, "down")
			if s.wasAccepted() == nil {
				t.Error("not accepted")
			}
		})
	}
}

func TestSessionReachesTheHTTPPort(t *testing.T) {
	for _, secure := range []bool{false, true} {
		j := startJenkins(t, secure)
		c, b := j.beside(Config{})
		b.until("a reachable Jenkins", reachable)
		agent, _ := c.session(t, controller.Info{Kind: linkv1.ServiceKind_SERVICE_KIND_HTTP, Remoting: &linkv1.Remoting{}})
		if _, err := io.WriteString(agent, "GET /login HTTP/1.1\r\nHost: door\r\nConnection: close\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(agent)
		if err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 200") || !strings.Contains(string(got), "X-Jenkins: 2.999") {
			t.Errorf("TLS %v: got %q, %v", secure, got, err)
		}
	}
}

func TestSessionReachesTheWebSocket(t *testing.T) {
	for _, secure := range []bool{false, true} {
		j := startJenkins(t, secure)
		up, down := make(chan []byte, 10), make(chan string)
		j.set(func() {
			j.socket = func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Node-Name") != "agent\xe9" || r.Header.Get("Origin") != "" {
					t.Errorf("asked with %v", r.Header)
				}
				ws, err := (&websocket.Upgrader{}).Upgrade(w, r, http.Header{"X-Remoting-Capability": {"abc"}, "Connection-Cookie": {"c0"}})
				if err != nil {
					t.Error(err)
					return
				}
				defer ws.Close()
				pong := make(chan string, 1)
				ws.SetPongHandler(func(text string) error { pong <- text; return nil })
				if err := ws.WriteControl(websocket.PingMessage, []byte("are you there"), time.Now().Add(patience)); err != nil {
					t.Error(err)
				}
				var wg sync.WaitGroup
				defer wg.Wait()
				wg.Go(func() {
					for {
						kind, message, err := ws.ReadMessage()
						if err != nil {
							close(up)
							return
						}
						if kind != websocket.BinaryMessage {
							t.Errorf("a message of kind %d", kind)
						}
						up <- message
					}
				})
				select {
				case got := <-pong:
					if got != "are you there" {
						t.Errorf("pong %q", got)
					}
				case <-time.After(patience):
					t.Error("a ping was not answered")
				}
				for text := range down {
					if err := ws.WriteMessage(websocket.BinaryMessage, []byte(text)); err != nil {
						t.Error(err)
					}
				}
				wg.Wait()
			}
		})
		c, b := j.beside(Config{})
		b.until("a reachable Jenkins", reachable)
		agent, s := c.session(t, controller.Info{Kind: linkv1.ServiceKind_SERVICE_KIND_WEBSOCKET, Remoting: &linkv1.Remoting{Agent: "agenté", Headers: []*linkv1.Header{
			{Name: "Node-Name", Value: []byte("agent\xe9")}, {Name: "Origin", Value: []byte("http://door")}, {Name: "Upgrade", Value: []byte("h2c")},
		}}})
		<-s.accepted
		if a := s.wasAccepted(); a.GetStatus() != 101 || fmt.Sprint(headersOf(a)) != "map[Connection-Cookie:c0 X-Remoting-Capability:abc]" {
			t.Errorf("accepted with %v", a)
		}
		// Two chunks in odd pieces arrive as one message each.
		big := remoting.AppendChunkHeader(nil, remoting.MaxChunk, false)
		big = append(big, make([]byte, remoting.MaxChunk)...)
		all := append(remoting.AppendCommand(nil, []byte("hello")), big...)
		for _, piece := range [][]byte{all[:1], all[1:3], all[3:100], all[100:]} {
			if _, err := agent.Write(piece); err != nil {
				t.Fatal(err)
			}
		}
		if got := <-up; string(got) != "\x00\x05hello" {
			t.Errorf("first message %q", got)
		}
		if got := <-up; len(got) != 2+remoting.MaxChunk {
			t.Errorf("second message of %d bytes", len(got))
		}
		down <- "\x00\x03bye"
		want := make([]byte, 5)
		if _, err := io.ReadFull(agent, want); err != nil || string(want) != "\x00\x03bye" {
			t.Errorf("got %q, %v", want, err)
		}
		// The agent's end ends the controller's.
		if err := agent.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		close(down)
		if more, ok := <-up; ok {
			t.Errorf("another message: %q", more)
		}
		if _, err := io.ReadAll(agent); err != nil {
			t.Errorf("the agent's side ends with %v", err)
		}
	}
}

func TestWebSocketRefusalIsPassedOn(t *testing.T) {
	j := startJenkins(t, false)
	j.set(func() {
		j.socket = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Why", "no such agent")
			http.Error(w, "no such agent", http.StatusBadRequest)
		}
	})
	c, _ := j.beside(Config{})
	agent, s := c.session(t, controller.Info{Kind: linkv1.ServiceKind_SERVICE_KIND_WEBSOCKET, Remoting: &linkv1.Remoting{Agent: "a1"}})
	got, err := io.ReadAll(agent)
	if a := s.wasAccepted(); err != nil || string(got) != "no such agent\n" || a.GetStatus() != 400 || headersOf(a)["X-Why"] != "no such agent" {
		t.Errorf("got %q, %v; accepted with %v", got, err, a)
	}
	if s.ending().Reason != linkv1.Reason_REASON_OK {
		t.Errorf("ended with %v", s.ending())
	}
}

// A proxy's error page is longer than what is kept of a refusal. Agents read
// the status and the headers; the page's beginning is for people.
func TestLongRefusalOfAWebSocketIsCutShort(t *testing.T) {
	j := startJenkins(t, false)
	page := strings.Repeat("no such agent\n", 1000)
	j.set(func() {
		j.socket = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Why", "no such agent")
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, page) // it may be cut off: nobody reads all of it
		}
	})
	c, _ := j.beside(Config{})
	agent, s := c.session(t, controller.Info{Kind: linkv1.ServiceKind_SERVICE_KIND_WEBSOCKET, Remoting: &linkv1.Remoting{Agent: "a1"}})
	got, err := io.ReadAll(agent)
	if a := s.wasAccepted(); err != nil || string(got) != page[:1024] || a.GetStatus() != 403 || headersOf(a)["X-Why"] != "no such agent" {
		t.Errorf("got %d bytes, %v; accepted with %v", len(got), err, a)
	}
	if s.ending().Reason != linkv1.Reason_REASON_OK {
		t.Errorf("ended with %v", s.ending())
	}
}

func headersOf(a *linkv1.Accept) map[string]string {
	all := map[string]string{}
	for _, h := range a.GetHeaders() {
		if h.GetName() != "Date" && h.GetName() != "Content-Type" && h.GetName() != "X-Content-Type-Options" {
			all[h.GetName()] = string(h.GetValue())
		}
	}
	return all
}

func remotingSession(protocol, agent string) controller.Info {
	return controller.Info{Kind: linkv1.ServiceKind_SERVICE_KIND_REMOTING, Resumable: true, Remoting: &linkv1.Remoting{Protocol: protocol, Agent: agent}}
}

// session opens a session and returns the agent's end of it.
func (c *connector) session(t testing.TB, i controller.Info) (agent *net.TCPConn, s *testSession) {
	t.Helper()
	near, far := tcpPair(t)
	s = newSession(i, near)
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	wg.Go(func() { c.handle(ctx, s) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return far, s
}

// wantBytes sends a text one way and wants it there.
func wantBytes(t testing.TB, to io.Reader, from io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(from, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(to, got); err != nil || string(got) != text {
		t.Fatalf("got %q, %v; want %q", got, err, text)
	}
}
