package door

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

func TestOnlyWhatAgentsAskForIsAnswered(t *testing.T) {
	s := newStage(t, Config{Default: "main"})
	s.known("main", &linkv1.Jenkins{Path: "/", AgentPort: 50000})
	for _, path := range []string{
		"/", "/jobs", "/login/", "/script", "/computer/", "/computer/a/", "/computer/a/api/json", "/computer/a/b/slave-agent.jnlp",
		"/computer/../slave-agent.jnlp", "/computer/%2e%2e/slave-agent.jnlp", "/computer/a%2Fb/slave-agent.jnlp", "/computer/a%00b/slave-agent.jnlp",
		"/jnlpJars/", "/jnlpJars/../agent.jar", "/jnlpJars/.htaccess", "/jnlpJars/a/b.jar", "/jnlpJars/" + strings.Repeat("a", 129),
		"/computer/" + strings.Repeat("a", 256) + "/slave-agent.jnlp", "/elsewhere/tcpSlaveAgentListener/", "/elsewhere/login", "/main/wsagents/x",
	} {
		if got := s.get(path); got.StatusCode != http.StatusNotFound {
			t.Errorf("GET %s: %s, want 404", path, got.Status)
		}
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT"} {
		got := s.raw(method + " /login HTTP/1.1\r\nHost: door\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 405") {
			t.Errorf("%s: %q, want 405", method, got)
		}
	}
	if n := s.opened(); n != 0 {
		t.Errorf("%d sessions for pages that there are not", n)
	}
}

func FuzzFind(f *testing.F) {
	for _, path := range []string{"/login", "//login", "/main/login", "/a/b/tcpSlaveAgentListener/", "/jnlpJars/agent.jar", "/main/ci/computer/a%20b/slave-agent.jnlp", "/%2e/../wsagents"} {
		f.Add(path, "door:1", "agent1")
	}
	d, err := New(Config{Backend: new(stage), Default: "main", Controllers: []string{"main"}, Routes: []Route{{Controller: "other", Prefix: "/ci/"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, path, host, node string) {
		u, err := url.ParseRequestURI(path)
		if err != nil {
			return
		}
		r := &http.Request{Method: http.MethodGet, URL: u, Host: host, Header: http.Header{"Node-Name": {node}}}
		p, ok := d.web.find(r)
		if !ok {
			return
		}
		if p.controller == "" || !strings.HasPrefix(p.root, "/") || !strings.HasSuffix(p.root, "/") || strings.HasPrefix(p.path, "/") {
			t.Errorf("%q leads to %+v", path, p)
		}
		for segment := range strings.SplitSeq(p.path, "/") {
			if s, err := url.PathUnescape(segment); err != nil || s == ".." || s == "." || strings.Contains(s, "/") {
				t.Errorf("%q asks the controller for %q", path, p.path)
			}
		}
	})
}

func TestEndlessHeadersAreRefused(t *testing.T) {
	s := newStage(t, Config{Default: "main"})
	got := s.raw("GET /login HTTP/1.1\r\nHost: door\r\n" + strings.Repeat("X-A: "+strings.Repeat("a", 1000)+"\r\n", 64) + "\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 431") {
		t.Errorf("64 KiB of headers: %q, want 431", got)
	}
	got = s.raw("GET /wsagents/ HTTP/1.1\r\nHost: door\r\nNode-Name: " + strings.Repeat("n", 65535) + "\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 431") {
		t.Errorf("a name of 65535 bytes: %q, want 431", got)
	}
	for _, body := range []string{"Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"} {
		if got := s.raw("GET /login HTTP/1.1\r\nHost: door\r\n" + body); !strings.HasPrefix(got, "HTTP/1.1 413") {
			t.Errorf("a body: %q, want 413", got)
		}
	}
	if n := s.opened(); n != 0 {
		t.Errorf("%d sessions for garbage", n)
	}
	waitFor(t, "both heads counted as refused", func() bool { // each has half a second to read the answer
		return value(s.door.m.refused.WithLabelValues(refusedHeader)) == 2
	})
}

func TestLoginNeedsNoController(t *testing.T) {
	s := newStage(t, Config{Default: "main", Controllers: []string{"other"}})
	for _, path := range []string{"/login", "/other/login", "//login"} {
		if got := s.get(path); got.StatusCode != http.StatusOK {
			t.Errorf("GET %s: %s while nothing is known; want 200", path, got.Status)
		}
	}
}

func TestUnknownControllersAreRefused(t *testing.T) {
	s := newStage(t, Config{Controllers: []string{"one"}}) // no default
	s.known("one", &linkv1.Jenkins{Path: "/", AgentPort: 50000})
	for _, path := range []string{"/tcpSlaveAgentListener/", "/two/tcpSlaveAgentListener/", "/two/login", "/two/wsagents/"} {
		if got := s.get(path); got.StatusCode != http.StatusNotFound {
			t.Errorf("GET %s: %s, want 404", path, got.Status)
		}
	}
}

func TestShutDoorEndsWhatIsHeld(t *testing.T) {
	s := newStage(t, Config{Controllers: []string{"new", "away", "here"}})
	s.known("away", &linkv1.Jenkins{Path: "/", AgentPort: 1, Epoch: "e"})
	hangs := make(chan struct{}, 2)
	s.jenkins = func(_ http.ResponseWriter, r *http.Request) {
		hangs <- struct{}{}
		<-r.Context().Done()
	}
	sessions := make(chan *far, 2)
	s.ws = func(r Request, f *far) {
		if r.Controller == "here" {
			f.answer(http.StatusSwitchingProtocols)
		}
		sessions <- f
	}
	var wg sync.WaitGroup
	for _, path := range []string{"new/tcpSlaveAgentListener/", "away/jnlpJars/agent.jar", "away/computer/a/slave-agent.jnlp"} {
		wg.Go(func() {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+path, nil)
			if err != nil {
				t.Error(err)
				return
			}
			if resp, err := http.DefaultTransport.RoundTrip(req); err == nil {
				_ = resp.Body.Close() // nobody looks at it
				t.Errorf("GET /%s: %s from a door that is shut", path, resp.Status)
			}
		})
	}
	wg.Go(func() {
		if _, _, err := s.dial("/away/wsagents/", agentRequest("agent1")); err == nil {
			t.Error("a WebSocket that was never accepted")
		}
	})
	c, _, err := s.dial("/here/wsagents/", agentRequest("agent2"))
	if err != nil {
		t.Fatal(err)
	}
	one, two := <-sessions, <-sessions
	<-hangs
	<-hangs
	s.shut()
	wg.Wait()
	if _, _, err := c.ReadMessage(); err == nil {
		t.Error("a message from a door that is shut")
	}
	one.wantEnded(t, linkv1.Reason_REASON_PEER_RESET)
	two.wantEnded(t, linkv1.Reason_REASON_PEER_RESET)
}

// A stage is a door between a test, which plays the agents, and controllers
// whose HTTP port is in this process.
type stage struct {
	t       testing.TB
	door    *Door
	url     string // ends with '/'
	address string
	shut    func()           // ends the door
	jenkins http.HandlerFunc // answers sessions of kind HTTP
	ws      func(Request, *far)

	listener *piped
	wg       sync.WaitGroup
	asked    atomic.Int64 // requests that reached a controller's HTTP port

	mu        sync.Mutex // guards the following
	described map[string]*linkv1.Jenkins
	requests  []Request
	news      chan struct{} // closed and renewed when described changes
}

func newStage(t testing.TB, cfg Config) *stage {
	s := &stage{t: t, described: make(map[string]*linkv1.Jenkins), listener: newPiped(), news: make(chan struct{})}
	cfg.Backend = s
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.door = d
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = l.Addr().String()
	s.url = "http://" + s.address + "/"
	ctx, shut := context.WithCancel(context.Background()) // outlives the test's own until the cleanup
	s.wg.Go(func() {
		if err := d.Serve(ctx, l); err != nil {
			t.Errorf("door: %v", err)
		}
	})
	controller := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		s.jenkins(rw, r)
	})}
	s.wg.Go(func() { _ = controller.Serve(s.listener) }) // the same
	s.shut = shut
	t.Cleanup(func() {
		shut()
		_ = controller.Close() // everything of it is over
		s.wg.Wait()
		http.DefaultClient.CloseIdleConnections()
	})
	return s
}

// known lets the world know what a controller's connector has learned.
func (s *stage) known(controller string, j *linkv1.Jenkins) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.described[controller] = j
	close(s.news)
	s.news = make(chan struct{})
}

func (s *stage) opened() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.requests)
}

func (s *stage) Describe(ctx context.Context, controller string) (Description, error) {
	for {
		s.mu.Lock()
		j, ok := s.described[controller]
		news := s.news
		s.mu.Unlock()
		switch {
		case ok && j == nil:
			return Description{}, errors.New("no news")
		case ok:
			return Description{Jenkins: j}, nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return Description{}, ctx.Err()
		}
	}
}

func (s *stage) Open(ctx context.Context, r Request) (Session, error) {
	s.mu.Lock()
	s.requests = append(s.requests, r)
	s.mu.Unlock()
	near, far := newSessionPair()
	if r.Kind == linkv1.ServiceKind_SERVICE_KIND_WEBSOCKET {
		s.ws(r, far)
		return near, nil
	}
	near.accept(nil)
	a, b := net.Pipe()
	s.wg.Go(func() {
		_, _ = io.Copy(a, far) // the end of either ends both
		_ = a.Close()
	})
	s.wg.Go(func() {
		_, _ = io.Copy(far, a)
		far.end(linkv1.Reason_REASON_OK)
	})
	s.listener.give(b)
	return near, nil
}

func (s *stage) get(path string, header ...string) *http.Response {
	s.t.Helper()
	resp, _ := s.fetch(path, header...)
	return resp
}

// fetch asks as an agent does: no redirects are followed, no compression.
func (s *stage) fetch(path string, header ...string) (*http.Response, string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, strings.TrimSuffix(s.url, "/")+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Host" {
			req.Host = value
		}
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		s.t.Fatalf("GET %s: %v", path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatalf("GET %s: %v", path, err)
	}
	return resp, string(body)
}

// raw sends what no client of the library's would, and returns the beginning of the answer.
func (s *stage) raw(request string) string {
	s.t.Helper()
	c, err := net.Dial("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second)) // a TCP connection takes one
	_, _ = io.WriteString(c, request)                   // it may be refused before its end
	buf := make([]byte, 64)
	n, _ := io.ReadFull(c, buf) // whatever there is
	return string(buf[:n])
}

// A piped listener accepts what is given to it.
type piped struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newPiped() *piped { return &piped{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *piped) give(c net.Conn) {
	select {
	case p.conns <- c:
	case <-p.done:
		_ = c.Close() // nobody is there
	}
}

func (p *piped) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *piped) Close() error { p.once.Do(func() { close(p.done) }); return nil }
func (*piped) Addr() net.Addr { return nowhere{} }

// newSessionPair returns a session as the door sees it, and its far side.
func newSessionPair() (*near, *far) {
	upR, upW := io.Pipe()
	downR, downW := io.Pipe()
	n := &near{r: downR, w: upW, accepted: make(chan struct{}), done: make(chan struct{})}
	f := &far{Reader: upR, near: n, up: upR, down: downW}
	return n, f
}

type near struct {
	r *io.PipeReader
	w *io.PipeWriter

	mu       sync.Mutex // guards the following
	answer   *linkv1.Accept
	accepted chan struct{}
	once     sync.Once
	done     chan struct{}
	ending   error
}

func (n *near) accept(a *linkv1.Accept) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answer = a
	select {
	case <-n.accepted:
	default:
		close(n.accepted)
	}
}

// over ends the session; what was written before can still be read.
func (n *near) over(r linkv1.Reason) {
	n.once.Do(func() {
		n.mu.Lock()
		n.ending = &session.EndedError{Ending: session.Ending{Reason: r}}
		n.mu.Unlock()
		close(n.done)
	})
}

func (n *near) Read(p []byte) (int, error)  { return n.r.Read(p) }
func (n *near) Write(p []byte) (int, error) { return n.w.Write(p) }
func (n *near) CloseWrite() error           { return n.w.Close() }

func (n *near) Close() error {
	n.over(linkv1.Reason_REASON_OK)
	_ = n.r.CloseWithError(net.ErrClosed) // cannot fail
	return n.w.Close()
}

func (n *near) Abort(error) {
	n.over(linkv1.Reason_REASON_PEER_RESET)
	_ = n.r.CloseWithError(net.ErrClosed)               // cannot fail
	_ = n.w.CloseWithError(errors.New("session reset")) // the same
}

func (n *near) Accepted(ctx context.Context) error {
	select {
	case <-n.accepted:
		return nil
	case <-n.done:
		if n.Answer() != nil { // it was accepted before it ended
			return nil
		}
		return n.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (n *near) Answer() *linkv1.Accept {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.answer
}

func (n *near) Done() <-chan struct{} { return n.done }

func (n *near) Err() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ending
}

// far is the controller side of a session.
type far struct {
	io.Reader
	near *near
	up   *io.PipeReader
	down *io.PipeWriter
}

func (f *far) Write(p []byte) (int, error) { return f.down.Write(p) }

// answer accepts a WebSocket, or refuses it with another status.
func (f *far) answer(status int, headers ...string) {
	a := &linkv1.Accept{Status: uint32(status)}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		a.Headers = append(a.Headers, &linkv1.Header{Name: textproto.CanonicalMIMEHeaderKey(name), Value: []byte(value)})
	}
	f.near.accept(a)
}

// end ends the session behind what was written.
func (f *far) end(r linkv1.Reason) {
	f.near.over(r)
	if r == linkv1.Reason_REASON_OK {
		_ = f.down.Close() // cannot fail
	} else {
		_ = f.down.CloseWithError(f.near.Err()) // the same
	}
	_ = f.up.CloseWithError(f.near.Err()) // the same
}

// wantEnded checks how the door ended a session.
func (f *far) wantEnded(t *testing.T, want linkv1.Reason) {
	t.Helper()
	select {
	case <-f.near.done:
	case <-time.After(90 * time.Second):
		t.Fatalf("the session goes on; want it ended with %v", want)
	}
	if ended, ok := errors.AsType[*session.EndedError](f.near.Err()); !ok || ended.Reason != want {
		t.Fatalf("session ended: %v, want %v", f.near.Err(), want)
	}
}

func wantHeader(t *testing.T, resp *http.Response, name, want string) {
	t.Helper()
	if got := fmt.Sprint(strings.Join(resp.Header.Values(name), "|")); got != want {
		t.Errorf("%s: %q, want %q", name, got, want)
	}
}
