package shim

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

	"github.com/moorage-dev/moorage/tunnel"
)

func TestMain(m *testing.M) {
	beShim()
	goleak.VerifyTestMain(m)
}

func TestConnectionReachesItsService(t *testing.T) {
	ts := start(t, Config{})
	client := ts.connect()
	session := ts.session()

	ts.write(client, "hello")
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	ts.wantAll("what the client said", session, "hello")
	ts.write(session, "goodbye")
	if err := session.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	ts.wantAll("what the service said", client, "goodbye")
	ts.stop()
	ts.wantLog("nothing to complain about", "")
}

func TestRefusalEndsTheConnectionAtOnce(t *testing.T) {
	connected := make(chan struct{})
	ts := start(t, Config{Dial: func(_ context.Context, service string) (tunnel.Conn, error) {
		<-connected // a reset any earlier would fail the connect itself
		return nil, errors.New("session ended: REFUSED: no service " + service)
	}})
	client := ts.connect()
	close(connected)
	ts.wantReset("the client waits for nothing", client)
	ts.stop()
	ts.wantLog("the reason", "session ended: REFUSED: no service web")
}

func TestStopResetsWhatIsOpen(t *testing.T) {
	ts := start(t, Config{})
	client := ts.connect()
	session := ts.session()
	ts.stop()
	ts.wantReset("the client does not take a stop for an end", client)
	ts.wantReset("nor does the session", session)
}

func TestConnectionsAreBounded(t *testing.T) {
	ts := start(t, Config{MaxConns: 1})
	first := ts.connect()
	session := ts.session()
	second := ts.connect() // the kernel takes it, the shim does not yet

	ts.write(session, "x")
	if n := len(ts.sessions); n != 0 {
		t.Fatalf("%d sessions above the bound", n)
	}
	_ = first.Close()
	_ = session.Close()
	ts.write(ts.session(), "y")
	buf := make([]byte, 1)
	if _, err := io.ReadFull(second, buf); err != nil || buf[0] != 'y' {
		t.Errorf("the second connection got %q, %v", buf, err)
	}
}

// testShim is a shim with one forward, to web; the test plays client and service.
type testShim struct {
	*testing.T
	address  string
	sessions chan *net.TCPConn // far ends of the sessions it opened
	log      *lockedBuffer
	stop     func()
}

func start(t *testing.T, cfg Config) *testShim {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ts := &testShim{T: t, address: l.Addr().String(), sessions: make(chan *net.TCPConn, 8), log: new(lockedBuffer)}
	cfg.Forwards = []Forward{{l, "web"}}
	cfg.Log = slog.New(slog.NewTextHandler(ts.log, nil))
	if cfg.Dial == nil {
		cfg.Dial = ts.dial
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := Run(ctx, cfg); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	ts.stop = func() {
		cancel(errors.New("stopping"))
		wg.Wait()
	}
	t.Cleanup(ts.stop)
	return ts
}

// dial gives one end of a TCP connection as the session.
func (ts *testShim) dial(context.Context, string) (tunnel.Conn, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	far, err := l.Accept()
	if err != nil {
		return nil, err
	}
	ts.Cleanup(func() { _ = far.Close() }) // the test may have closed it
	ts.sessions <- far.(*net.TCPConn)
	return tunnel.TCP{TCPConn: near.(*net.TCPConn)}, nil
}

func (ts *testShim) connect() *net.TCPConn {
	ts.Helper()
	c, err := net.Dial("tcp", ts.address)
	if err != nil {
		ts.Fatal(err)
	}
	ts.Cleanup(func() { _ = c.Close() }) // the test may have closed it
	return c.(*net.TCPConn)
}

func (ts *testShim) session() *net.TCPConn { return <-ts.sessions }

func (ts *testShim) write(c net.Conn, s string) {
	ts.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		ts.Fatal(err)
	}
}

func (ts *testShim) wantAll(why string, r io.Reader, want string) {
	ts.Helper()
	if got, err := io.ReadAll(r); err != nil || string(got) != want {
		ts.Errorf("%s: got %q, %v; want %q", why, got, err, want)
	}
}

func (ts *testShim) wantReset(why string, c net.Conn) {
	ts.Helper()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		ts.Errorf("%s: got %v, want a reset", why, err)
	}
}

func (ts *testShim) wantLog(why, want string) {
	ts.Helper()
	if got := ts.log.String(); !strings.Contains(got, want) || want == "" && got != "" {
		ts.Errorf("%s: log is %q, want %q", why, got, want)
	}
}

type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
