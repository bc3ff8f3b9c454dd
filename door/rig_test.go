package door

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/remoting"
	"github.com/moorage-dev/moorage/session"
	"github.com/moorage-dev/moorage/tunnel"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// A rig is a door, and the test plays everybody around it: agents, and the
// controllers behind it. It is the door's Backend.
type rig struct {
	t    testing.TB
	d    *Door
	addr string    // where the door listens; "" with pipes
	in   *handover // takes pipes; nil with sockets
	stop func()

	sessions chan *call // opened, not accepted yet

	mu      sync.Mutex // guards the following
	jenkins *linkv1.Jenkins
	away    error // what Describe and Open say
	opens   int   // calls of Open
}

// newRig opens a door on a socket.
func newRig(t testing.TB, cfg Config) *rig {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	r := startRig(t, cfg, l)
	r.addr = l.Addr().String()
	return r
}

// newPipeRig opens a door for pipes, as a bubble needs them.
func newPipeRig(t testing.TB, cfg Config) *rig {
	t.Helper()
	in := newHandover()
	r := startRig(t, cfg, in)
	r.in = in
	return r
}

func startRig(t testing.TB, cfg Config, l net.Listener) *rig {
	r := &rig{t: t, sessions: make(chan *call, 1000)}
	r.jenkins = &linkv1.Jenkins{Path: "/", AgentPort: 50000, Protocols: []string{remoting.JNLP4, remoting.Ping}}
	cfg.Backend = r
	if cfg.Default == "" && cfg.Routes == nil && cfg.Controllers == nil {
		cfg.Default = "main"
	}
	cfg.Registerer = prometheus.NewPedanticRegistry()
	d, err := New(cfg)
	must(t, err)
	r.d = d
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- d.Serve(ctx, l) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-over; err != nil {
			t.Errorf("Serve: %v", err)
		}
		_ = d.GRPC().Close()
	})
	t.Cleanup(r.stop)
	return r
}

func (r *rig) Describe(context.Context, string) (Description, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Description{Jenkins: r.jenkins}, r.away
}

func (r *rig) Open(_ context.Context, req Request) (Session, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.opens++
	if r.away != nil {
		return nil, r.away
	}
	c := &call{t: r.t, Request: req, verdict: make(chan error, 1), done: make(chan struct{})}
	if r.in != nil {
		near, far := net.Pipe()
		c.Conn, c.far = pipeEnd{near}, far
	} else {
		near, far := tcpPair(r.t)
		c.Conn, c.far = tunnel.TCP{TCPConn: near}, far
	}
	r.sessions <- c
	return c, nil
}

// set changes what the controllers' side says.
func (r *rig) set(away error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.away = away
}

func (r *rig) opened() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.opens
}

// call waits for a session to be opened.
func (r *rig) call() *call {
	r.t.Helper()
	select {
	case c := <-r.sessions:
		return c
	case <-time.After(20 * time.Second):
		r.t.Fatal("no session was opened")
		return nil
	}
}

// accepted waits for a session and accepts it.
func (r *rig) accepted() *call {
	r.t.Helper()
	c := r.call()
	c.verdict <- nil
	return c
}

// dial is an agent that connects.
func (r *rig) dial() *agent {
	r.t.Helper()
	var c net.Conn
	if r.in != nil {
		near, far := net.Pipe()
		if !r.in.give(r.t.Context(), near) {
			r.t.Fatal("the door is shut")
		}
		c = far
	} else {
		var err error
		c, err = net.Dial("tcp", r.addr)
		must(r.t, err)
	}
	r.t.Cleanup(func() { _ = c.Close() }) // closed already in most tests
	return &agent{r.t, c}
}

// jnlp4 is an agent that has said all of JNLP4-connect that stands in front of TLS.
func (r *rig) jnlp4() *agent {
	r.t.Helper()
	a := r.dial()
	a.say(string(remoting.AppendGreeting(nil, remoting.JNLP4)) + remoting.ACK)
	a.want("its ACK comes at once", remoting.ACK)
	return a
}

// named is jnlp4 by way of the proxy protocol.
func (r *rig) named(node string) *agent {
	r.t.Helper()
	a := r.dial()
	a.say(jnlp4Proxy(node))
	a.want("its ACK comes at once", remoting.ACK)
	return a
}

func jnlp4Proxy(node string) string {
	b := remoting.AppendGreeting(nil, remoting.JNLP4Proxy)
	b = remoting.AppendProxyBlock(b, node)
	return string(remoting.AppendGreeting(b, remoting.JNLP4)) + remoting.ACK
}

// wantCount checks a counter or a gauge, and waits for it outside of bubbles.
func (r *rig) wantCount(what string, c prometheus.Metric, want float64) {
	r.t.Helper()
	if r.in != nil {
		if got := value(c); got != want {
			r.t.Errorf("%s: %v, want %v", what, got, want)
		}
		return
	}
	waitFor(r.t, what, func() bool { return value(c) == want })
}

func (r *rig) wantRefused(reason string, want float64) {
	r.t.Helper()
	r.wantCount("refused as "+reason, r.d.m.refused.WithLabelValues(reason), want)
}

// wantGreeting waits until so many connections of one address have yet to greet.
func (r *rig) wantGreeting(want int) {
	r.t.Helper()
	waitFor(r.t, "all are counted", func() bool {
		r.d.mu.Lock()
		defer r.d.mu.Unlock()
		for _, n := range r.d.greeting {
			return n == want
		}
		return false
	})
}

func (r *rig) wantCame(sort string, want float64) {
	r.t.Helper()
	r.wantCount("came as "+sort, r.d.m.came.WithLabelValues(sort), want)
}

func value(m prometheus.Metric) float64 {
	var v dto.Metric
	if err := m.Write(&v); err != nil {
		panic(err)
	}
	return v.GetCounter().GetValue() + v.GetGauge().GetValue()
}

func counted(r *rig, reason string) float64 { return value(r.d.m.refused.WithLabelValues(reason)) }

// A call is a session as the door has it, with its far end.
type call struct {
	t testing.TB
	Request
	tunnel.Conn
	far net.Conn // the controller's end

	verdict chan error
	once    sync.Once
	done    chan struct{}
	ending  session.Ending // set before done is closed
}

func (c *call) Accepted(ctx context.Context) error {
	select {
	case err := <-c.verdict:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *call) Answer() *linkv1.Accept { return new(linkv1.Accept) }
func (c *call) Done() <-chan struct{}  { return c.done }
func (c *call) Err() error             { return &session.EndedError{Ending: c.ending} }

func (c *call) end(reason linkv1.Reason) {
	c.once.Do(func() {
		c.ending.Reason = reason
		close(c.done)
	})
}

func (c *call) Close() error {
	c.end(linkv1.Reason_REASON_OK)
	return c.Conn.Close()
}

func (c *call) Abort(why error) {
	c.end(linkv1.Reason_REASON_PEER_RESET)
	c.Conn.Abort(why)
}

// wantEnd waits for the session's ending.
func (c *call) wantEnd(why string, want linkv1.Reason) {
	c.t.Helper()
	select {
	case <-c.done:
	case <-time.After(20 * time.Second):
		c.t.Fatalf("%s: the session goes on", why)
	}
	if c.ending.Reason != want {
		c.t.Errorf("%s: ended with %v, want %v", why, c.ending.Reason, want)
	}
}

// want reads what has come to the controller.
func (c *call) want(why, text string) {
	c.t.Helper()
	wantText(c.t, c.far, why, text)
}

func (c *call) say(text string) {
	c.t.Helper()
	_, err := io.WriteString(c.far, text)
	must(c.t, err)
}

// An agent is the far end of a connection to the door.
type agent struct {
	t testing.TB
	net.Conn
}

func (a *agent) say(text string) {
	a.t.Helper()
	_, err := io.WriteString(a, text)
	must(a.t, err)
}

func (a *agent) want(why, text string) {
	a.t.Helper()
	wantText(a.t, a, why, text)
}

// wantClosed wants text, and then the end in good order.
func (a *agent) wantClosed(why, text string) {
	a.t.Helper()
	_ = a.SetReadDeadline(time.Now().Add(20 * time.Second)) // shows as a wrong text
	got, err := io.ReadAll(a)
	if err != nil || string(got) != text {
		a.t.Errorf("%s: got %q, %v; want %q and the end", why, got, err, text)
	}
}

// wantGone wants the end, in whatever way, and nothing before it.
func (a *agent) wantGone(why string) {
	a.t.Helper()
	_ = a.SetReadDeadline(time.Now().Add(20 * time.Second)) // shows as a wrong error
	got, err := io.ReadAll(a)
	if len(got) > 0 || isTimeout(err) {
		a.t.Errorf("%s: got %q, %v; want the end", why, got, err)
	}
}

// wantSilence wants an open connection on which nothing has come for d.
func (a *agent) wantSilence(why string, d time.Duration) {
	a.t.Helper()
	_ = a.SetReadDeadline(time.Now().Add(d)) // shows as a wrong error
	n, err := a.Read(make([]byte, 1))
	if !isTimeout(err) {
		a.t.Errorf("%s: got %d bytes, %v; want silence", why, n, err)
	}
	_ = a.SetReadDeadline(time.Time{})
}

func wantText(t testing.TB, c net.Conn, why, text string) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second)) // shows as a wrong text
	got := make([]byte, len(text))
	n, err := io.ReadFull(c, got)
	if err != nil || string(got) != text {
		t.Fatalf("%s: got %q, %v; want %q", why, got[:n], err, text)
	}
	_ = c.SetReadDeadline(time.Time{})
}

type pipeEnd struct{ net.Conn }

func (p pipeEnd) CloseWrite() error { return p.Close() }
func (p pipeEnd) Abort(error)       { _ = p.Close() } // never fails

func tcpPair(t testing.TB) (dialled, accepted *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	d, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	a, err := l.Accept()
	must(t, err)
	t.Cleanup(func() {
		_ = d.Close() // closed already in most tests
		_ = a.Close()
	})
	return d.(*net.TCPConn), a.(*net.TCPConn)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var errAway = errors.New("away")
