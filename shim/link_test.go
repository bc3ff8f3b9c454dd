package shim

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/moorage-dev/moorage/door"
	"github.com/moorage-dev/moorage/link"
	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

var _ door.Backend = (*Link)(nil)

func TestLookUpIsAnsweredFromTheGateway(t *testing.T) {
	inBubble(t, func(t *testing.T, g *fakeGateway) {
		l := g.link(t, "")
		g.knows(&linkv1.Jenkins{InstanceIdentity: "old", AgentPort: 50000})
		wantIdentity(t, l, "old", 0)
		g.knows(&linkv1.Jenkins{InstanceIdentity: "new"})
		wantIdentity(t, l, "new", 0)
	})
}

func TestLookUpIsAnsweredWhileEveryGatewayIsAway(t *testing.T) {
	inBubble(t, func(t *testing.T, g *fakeGateway) {
		file := StateFile(t.TempDir(), "ci", "a/../1")
		l := g.link(t, file)
		g.knows(&linkv1.Jenkins{InstanceIdentity: "id"})
		wantIdentity(t, l, "id", 0)

		g.away(true)
		wantIdentity(t, l, "id", patience)
		next := g.link(t, file) // a shim that is started only now
		wantIdentity(t, next, "id", patience)

		g.knows(&linkv1.Jenkins{InstanceIdentity: "new"})
		g.away(false)
		time.Sleep(askFor) // who asked before had no luck
		wantIdentity(t, next, "new", time.Second)
	})
}

// A gateway that is silent may be one of several: the look-up does not wait
// for it, and what it says later is there for the next one.
func TestLookUpDoesNotWaitForASilentGateway(t *testing.T) {
	inBubble(t, func(t *testing.T, g *fakeGateway) {
		l := g.link(t, "")
		g.knows(&linkv1.Jenkins{InstanceIdentity: "id"})
		wantIdentity(t, l, "id", 0)
		g.delay(3 * time.Second)
		g.knows(&linkv1.Jenkins{InstanceIdentity: "new"})
		wantIdentity(t, l, "id", patience)
		time.Sleep(2 * time.Second)
		g.delay(0)
		wantIdentity(t, l, "new", 0)
		if n := g.asks(); n != 3 {
			t.Errorf("the gateway was asked %d times, want 3", n)
		}
	})
}

func TestConnectorThatHasNotLookedTakesNothingAway(t *testing.T) {
	inBubble(t, func(t *testing.T, g *fakeGateway) {
		l := g.link(t, "")
		if d, err := l.Describe(t.Context(), "ci"); err != nil || d.Jenkins != nil {
			t.Errorf("before anything is known: %v, %v", d, err)
		}
		g.knows(&linkv1.Jenkins{InstanceIdentity: "id"})
		wantIdentity(t, l, "id", 0)
		g.knows(nil)
		wantIdentity(t, l, "id", 0)
	})
}

func TestControllerThatDoesNotExist(t *testing.T) {
	inBubble(t, func(t *testing.T, g *fakeGateway) {
		l := g.link(t, "")
		g.refuse(status.Error(codes.NotFound, "no such controller"))
		if _, err := l.Describe(t.Context(), "ci"); !errors.Is(err, door.ErrUnknownController) {
			t.Errorf("Describe: %v, want ErrUnknownController", err)
		}
		if _, err := l.Open(t.Context(), door.Request{Controller: "ci", Remoting: new(linkv1.Remoting)}); !errors.Is(err, door.ErrUnknownController) {
			t.Errorf("Open: %v, want ErrUnknownController", err)
		}
		for _, err := range []error{second(l.Describe(t.Context(), "other")), second(l.Open(t.Context(), door.Request{Controller: "other"}))} {
			if !errors.Is(err, door.ErrUnknownController) {
				t.Errorf("another controller than the shim's own: %v, want ErrUnknownController", err)
			}
		}
	})
}

func TestGatewayAwayIsNoRefusal(t *testing.T) {
	inBubble(t, func(t *testing.T, g *fakeGateway) {
		l := g.link(t, "")
		g.away(true)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := l.Describe(ctx, "ci"); err == nil || errors.Is(err, door.ErrUnknownController) {
			t.Errorf("Describe: %v, want an error that asks for patience", err)
		}
		if _, err := l.Open(ctx, door.Request{Controller: "ci", Remoting: new(linkv1.Remoting)}); err == nil || errors.Is(err, door.ErrUnknownController) {
			t.Errorf("Open: %v, want an error that asks for patience", err)
		}
	})
}

func TestRefusalIsSaidNowAndThen(t *testing.T) {
	inBubble(t, func(t *testing.T, g *fakeGateway) {
		l := g.link(t, "")
		g.refuse(status.Error(codes.Unauthenticated, "the token is for another name"))
		began := time.Now()
		for time.Since(began) < 90*time.Second { // as the door asks, for an agent that waits
			if _, err := l.Describe(t.Context(), "ci"); err == nil || errors.Is(err, door.ErrUnknownController) {
				t.Fatalf("Describe: %v", err)
			}
			time.Sleep(2 * time.Second)
		}
		if n := strings.Count(g.log.String(), "the token is for another name"); n != 2 {
			t.Errorf("said %d times in 90 s, want 2:\n%s", n, g.log.String())
		}
		if strings.Contains(g.log.String(), "credential-of-a1") {
			t.Error("the credential stands in the log")
		}
	})
}

func TestAgentsSessionIsWatched(t *testing.T) {
	inBubble(t, func(t *testing.T, g *fakeGateway) {
		l := g.link(t, "")
		s, err := l.Open(t.Context(), door.Request{
			Controller: "ci", Kind: linkv1.ServiceKind_SERVICE_KIND_REMOTING,
			Remoting: &linkv1.Remoting{Protocol: "JNLP4-connect", Agent: "builder-7"},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Accepted(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s.Answer() == nil {
			t.Error("no answer beside the yes")
		}
		if _, err := s.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 16)
		if n, err := s.Read(buf); err != nil || string(buf[:n]) != "hello" {
			t.Fatalf("got %q, %v", buf[:n], err)
		}

		g.away(true)
		time.Sleep(4 * time.Second)
		g.wantLog(t, "a short break is not worth a line", "", "shim: detached")
		time.Sleep(26 * time.Second)
		g.wantLog(t, "a longer one is", "agent=builder-7", "")
		g.wantLog(t, "with the limits", "from 240 s its pings may fail, from 540 s they always do", "")
		g.away(false)
		time.Sleep(10 * time.Second)
		g.wantLog(t, "and its end", "shim: attached again", "")

		g.away(true)
		began := time.Now()
		<-s.Done()
		time.Sleep(time.Second)
		if took := time.Since(began); took < 240*time.Second || took > 243*time.Second {
			t.Errorf("given up after %v, want 240 s", took)
		}
		g.wantLog(t, "the agent's side is told why", "reason=GRACE", "")
		g.wantLog(t, "in words", "no gateway could be reached for 4m0s", "")
		if _, err := s.Read(buf); err == nil {
			t.Error("the session still reads")
		}
	})
}

func TestStateFileThatCannotBeUsedHoldsNobodyUp(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"garbage":            "{",
		"another controller": `{"controller":"other","jenkins":{}}`,
		"no message":         `{"controller":"ci","jenkins":[1]}`,
		"huge":               strings.Repeat(" ", mostStored) + `{"controller":"ci","jenkins":{}}`,
	} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		inBubble(t, func(t *testing.T, g *fakeGateway) {
			l := g.link(t, file)
			g.wantLog(t, name, "cannot be read", "")
			g.knows(&linkv1.Jenkins{InstanceIdentity: "id"})
			wantIdentity(t, l, "id", 0)
			if k, err := (&store{file, "ci"}).read(); err != nil || k.jenkins.GetInstanceIdentity() != "id" {
				t.Errorf("%s: not written anew: %v, %v", name, k, err)
			}
		})
	}
	inBubble(t, func(t *testing.T, g *fakeGateway) {
		l := g.link(t, filepath.Join(dir, "garbage", "below a file"))
		g.knows(&linkv1.Jenkins{InstanceIdentity: "id"})
		wantIdentity(t, l, "id", 0)
		g.wantLog(t, "it cannot be written", "cannot be kept on disk", "")
	})
}

func TestStateFilesAreApart(t *testing.T) {
	seen := map[string]bool{}
	for _, agent := range []string{"", "a", "a/b", "a%2Fb", "..", "../../etc/passwd", strings.Repeat("ü", 200), strings.Repeat("ü", 201)} {
		file := StateFile("/d", "ci", agent)
		if filepath.Dir(file) != "/d" || len(file) > 200 || seen[file] {
			t.Errorf("agent %q: %s", agent, file)
		}
		seen[file] = true
	}
}

func second[T any](_ T, err error) error { return err }

func wantIdentity(t *testing.T, l *Link, want string, within time.Duration) {
	t.Helper()
	began := time.Now()
	d, err := l.Describe(t.Context(), "ci")
	if err != nil || d.Jenkins.GetInstanceIdentity() != want {
		t.Errorf("look-up: %v, %v; want identity %q", d.Jenkins, err, want)
	}
	if took := time.Since(began); took > within {
		t.Errorf("the look-up took %v, want %v at most", took, within)
	}
}

// A fakeGateway welcomes everybody and echoes what it gets; the test says what
// it knows, and whether it is there.
type fakeGateway struct {
	linkv1.UnimplementedLinkServiceServer
	log     lockedBuffer
	lis     *bufconn.Listener  // in a bubble
	address string             // at a real socket
	ends    chan *linkv1.Close // what ends the session that is attached; nil: nothing does

	mu      sync.Mutex // guards the following
	jenkins *linkv1.Jenkins
	no      error
	isAway  bool
	wait    time.Duration
	asked   int
	conns   []net.Conn
}

func inBubble(t *testing.T, f func(t *testing.T, g *fakeGateway)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGateway{lis: bufconn.Listen(64 << 10)}
		server := grpc.NewServer(grpc.WaitForHandlers(true))
		linkv1.RegisterLinkServiceServer(server, g)
		go func() { _ = server.Serve(g.lis) }()
		t.Cleanup(server.Stop)
		f(t, g)
	})
}

func (g *fakeGateway) link(t *testing.T, file string) *Link {
	t.Helper()
	log := slog.New(slog.NewTextHandler(&g.log, nil))
	client, err := link.New(link.Config{
		Gateways: []string{"g1:1"}, Controller: "ci", Agent: "a1", Credential: "credential-of-a1",
		Dial: g.dial, GiveUp: 240 * time.Second, Logger: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	l := NewLink(client, "ci", file, log)
	ctx, stop := context.WithCancel(context.Background())
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		l.Watch(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-watching
		l.Close()
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func (g *fakeGateway) dial(ctx context.Context, _ string) (net.Conn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.isAway {
		return nil, errors.New("connection refused")
	}
	c, err := g.lis.DialContext(ctx)
	if err == nil {
		g.conns = append(g.conns, c)
	}
	return c, err
}

func (g *fakeGateway) knows(j *linkv1.Jenkins) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.jenkins = j
}

func (g *fakeGateway) refuse(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.no = err
}

func (g *fakeGateway) delay(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wait = d
}

func (g *fakeGateway) asks() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.asked
}

func (g *fakeGateway) away(is bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.isAway = is
	if is {
		for _, c := range g.conns {
			_ = c.Close() // gone already, perhaps
		}
		g.conns = nil
	}
}

// wantLog wants one text in the log, and not the other; "" is none.
func (g *fakeGateway) wantLog(t *testing.T, why, want, not string) {
	t.Helper()
	if got := g.log.String(); !strings.Contains(got, want) || not != "" && strings.Contains(got, not) {
		t.Errorf("%s: the log has no %q or some %q:\n%s", why, want, not, got)
	}
}

// end ends the session that is attached, as its controller side does.
func (g *fakeGateway) end(reason linkv1.Reason, text string) {
	g.ends <- &linkv1.Close{Reason: reason, Text: text, Incarnation: session.IncarnationMessage(incarnation)}
}

var incarnation = envelope.Incarnation{Topic: envelope.TopicID{1}, Offset: 7}

func (g *fakeGateway) Describe(ctx context.Context, _ *linkv1.DescribeRequest) (*linkv1.DescribeResponse, error) {
	g.mu.Lock()
	wait := g.wait
	g.asked++
	g.mu.Unlock()
	pause(ctx, wait)
	g.mu.Lock()
	defer g.mu.Unlock()
	return &linkv1.DescribeResponse{Jenkins: g.jenkins, AgeMs: 500}, g.no
}

func (g *fakeGateway) Attach(rpc grpc.BidiStreamingServer[linkv1.AttachRequest, linkv1.AttachResponse]) error {
	g.mu.Lock()
	no := g.no
	g.mu.Unlock()
	if no != nil {
		return no
	}
	m, err := rpc.Recv()
	if err != nil {
		return err
	}
	hello := m.GetHello()
	w := session.WelcomeMessage(&session.Welcome{
		Start:       envelope.Position{Topic: envelope.TopicID{2}, Partition: 3, Offset: 100},
		Incarnation: incarnation, Ticket: []byte("ticket"),
		UpWindow: 1 << 20, MaxFrame: 64 << 10, Grace: 4 * time.Minute, Heartbeat: 5 * time.Second, Persisted: hello.GetUpPersisted(),
	})
	if err := rpc.Send(&linkv1.AttachResponse{Message: &linkv1.AttachResponse_Welcome{Welcome: w}}); err != nil {
		return err
	}
	var sending sync.Mutex
	send := func(m *linkv1.AttachResponse) error {
		sending.Lock()
		defer sending.Unlock()
		return rpc.Send(m)
	}
	received := make(chan error, 1)
	go func() { received <- echo(rpc.Recv, send, hello.GetLastDownReceived()) }()
	select {
	case err := <-received:
		return err
	case end := <-g.ends:
		err := send(&linkv1.AttachResponse{Message: &linkv1.AttachResponse_Close{Close: end}})
		<-received // the agent side leaves
		return err
	}
}

// echo answers what an agent side sends with the same.
func echo(receive func() (*linkv1.AttachRequest, error), send func(*linkv1.AttachResponse) error, seq uint64) error {
	for {
		m, err := receive()
		if err != nil {
			return err
		}
		kind := m.GetFrame().GetKind()
		switch {
		case m.GetHeartbeat() != nil:
			err = send(&linkv1.AttachResponse{Message: &linkv1.AttachResponse_Heartbeat{Heartbeat: new(linkv1.Heartbeat)}})
		case kind == linkv1.FrameKind_FRAME_KIND_OPEN, kind == linkv1.FrameKind_FRAME_KIND_DATA, kind == linkv1.FrameKind_FRAME_KIND_CLOSE:
			seq++
			answer := session.Frame{Seq: seq, Kind: envelope.Accept}
			if kind != linkv1.FrameKind_FRAME_KIND_OPEN {
				answer.Kind, answer.Payload = envelope.Kind(kind), m.GetFrame().GetPayload()
			}
			f := session.FrameMessage(answer)
			f.Persisted, f.Delivered = m.GetFrame().GetSeq(), m.GetFrame().GetSeq()
			err = send(&linkv1.AttachResponse{Message: &linkv1.AttachResponse_Frame{Frame: f}})
		}
		if err != nil {
			return err
		}
	}
}
