package link_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/moorage-dev/moorage/link"
	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

var (
	incarnation = envelope.Incarnation{Topic: envelope.TopicID{1}, Offset: 7}
	start       = envelope.Position{Topic: envelope.TopicID{2}, Partition: 3, Offset: 100}
)

// A fleet is a network in memory with gateways whose part the test plays.
type fleet struct {
	t        *testing.T
	attaches chan *peer // in the order in which they come, whatever the gateway

	mu       sync.Mutex
	gateways map[string]*bufconn.Listener
	servers  []*grpc.Server
	dials    map[string]int
	conns    map[string][]*holeConn
}

// inBubble runs f in a bubble, with a fleet of the given gateways.
func inBubble(t *testing.T, f func(t *testing.T, fl *fleet), gateways ...string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		fl := &fleet{
			t: t, attaches: make(chan *peer, 1000), gateways: make(map[string]*bufconn.Listener),
			dials: make(map[string]int), conns: make(map[string][]*holeConn),
		}
		for _, name := range gateways {
			fl.listen(name)
		}
		defer func() {
			for _, s := range fl.servers {
				s.Stop()
			}
		}()
		f(t, fl)
	})
}

func (fl *fleet) listen(name string) {
	lis := bufconn.Listen(64 << 10)
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	linkv1.RegisterLinkServiceServer(server, &fakeGateway{fleet: fl, name: name})
	fl.mu.Lock()
	fl.gateways[name] = lis
	fl.servers = append(fl.servers, server)
	fl.mu.Unlock()
	go func() { _ = server.Serve(lis) }()
}

func (fl *fleet) dial(ctx context.Context, addr string) (net.Conn, error) {
	fl.mu.Lock()
	lis := fl.gateways[addr]
	fl.dials[addr]++
	fl.mu.Unlock()
	if lis == nil {
		return nil, errors.New("connection refused")
	}
	c, err := lis.DialContext(ctx)
	if err != nil {
		return nil, err
	}
	h := &holeConn{Conn: c}
	fl.mu.Lock()
	fl.conns[addr] = append(fl.conns[addr], h)
	fl.mu.Unlock()
	return h, nil
}

func (fl *fleet) dialed(addr string) int {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	return fl.dials[addr]
}

// used returns those of gateways to which a connection was made.
func (fl *fleet) used(gateways []string) (used []string) {
	for _, g := range gateways {
		if fl.dialed(g) > 0 {
			used = append(used, g)
		}
	}
	return used
}

// blackhole makes every connection to a gateway swallow what is written.
func (fl *fleet) blackhole(addr string) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	for _, c := range fl.conns[addr] {
		c.hole.Store(true)
	}
}

// A holeConn is a connection that can become half-open.
type holeConn struct {
	net.Conn
	hole atomic.Bool
}

func (c *holeConn) Write(p []byte) (int, error) {
	if c.hole.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// client returns a client of the fleet that is closed at the test's end.
func (fl *fleet) client(change func(*link.Config)) *link.Client {
	fl.t.Helper()
	cfg := link.Config{Controller: "ci", Agent: "foobar", Credential: "secret", Dial: fl.dial}
	change(&cfg)
	c, err := link.New(cfg)
	if err != nil {
		fl.t.Fatal(err)
	}
	return c
}

func at(gateways ...string) func(*link.Config) {
	return func(cfg *link.Config) { cfg.Gateways = gateways }
}

type fakeGateway struct {
	linkv1.UnimplementedLinkServiceServer
	fleet *fleet
	name  string
}

// A peer is one stream as its gateway sees it.
type peer struct {
	t       *testing.T
	gateway string
	at      time.Time
	group   string
	hello   *linkv1.Hello
	rpc     grpc.BidiStreamingServer[linkv1.AttachRequest, linkv1.AttachResponse]
	up      chan *linkv1.AttachRequest
	finish  chan error
	gone    chan struct{} // the agent side has left
}

func (g *fakeGateway) Attach(rpc grpc.BidiStreamingServer[linkv1.AttachRequest, linkv1.AttachResponse]) error {
	m, err := rpc.Recv()
	if err != nil {
		return err
	}
	p := &peer{
		t: g.fleet.t, gateway: g.name, at: time.Now(), hello: m.GetHello(), rpc: rpc,
		up: make(chan *linkv1.AttachRequest, 10_000), finish: make(chan error, 1), gone: make(chan struct{}),
	}
	if md, ok := metadata.FromIncomingContext(rpc.Context()); ok && len(md["moorage-group"]) == 1 {
		p.group = md["moorage-group"][0]
	}
	g.fleet.attaches <- p
	go func() {
		defer close(p.gone)
		for {
			m, err := rpc.Recv()
			if err != nil {
				return
			}
			p.up <- m
		}
	}()
	select {
	case err := <-p.finish:
		return err
	case <-p.gone:
		return nil
	}
}

func (g *fakeGateway) Describe(_ context.Context, r *linkv1.DescribeRequest) (*linkv1.DescribeResponse, error) {
	if r.GetCredential() != "secret" {
		return nil, status.Error(codes.Unauthenticated, "bad credential")
	}
	return &linkv1.DescribeResponse{
		Incarnation: session.IncarnationMessage(incarnation), Services: []string{"ssh", "web"}, AgeMs: 1500,
	}, nil
}

// attach returns the next stream that comes.
func (fl *fleet) attach(why string) *peer {
	fl.t.Helper()
	select {
	case p := <-fl.attaches:
		if p.hello == nil {
			fl.t.Fatalf("%s: the first message is no Hello", why)
		}
		return p
	case <-time.After(10 * time.Minute):
		fl.t.Fatalf("%s: nobody attaches", why)
		return nil
	}
}

// idle checks that nobody attaches for a while.
func (fl *fleet) idle(why string, d time.Duration) {
	fl.t.Helper()
	select {
	case p := <-fl.attaches:
		fl.t.Fatalf("%s: attach %d comes to %s", why, p.hello.GetAttempt(), p.gateway)
	case <-time.After(d):
	}
}

func (p *peer) send(m *linkv1.AttachResponse) {
	p.t.Helper()
	if err := p.rpc.Send(m); err != nil {
		p.t.Errorf("send to the agent side: %v", err)
	}
}

// welcome welcomes the stream as a gateway that knows nothing more than Hello does.
func (p *peer) welcome(change ...func(*linkv1.Welcome)) *peer {
	p.t.Helper()
	w := session.WelcomeMessage(&session.Welcome{
		Start: start, Incarnation: incarnation, Ticket: []byte("ticket"), UpWindow: 1 << 20, MaxFrame: 64 << 10,
		Grace: 4 * time.Minute, Heartbeat: 5 * time.Second, Persisted: p.hello.GetUpPersisted(),
	})
	for _, f := range change {
		f(w)
	}
	p.send(&linkv1.AttachResponse{Message: &linkv1.AttachResponse_Welcome{Welcome: w}})
	return p
}

func (p *peer) frame(seq uint64, kind envelope.Kind, payload []byte) {
	p.t.Helper()
	p.send(&linkv1.AttachResponse{Message: &linkv1.AttachResponse_Frame{
		Frame: session.FrameMessage(session.Frame{Seq: seq, Kind: kind, Payload: payload}),
	}})
}

func (p *peer) beat(h session.Heartbeat) {
	p.t.Helper()
	p.send(&linkv1.AttachResponse{Message: &linkv1.AttachResponse_Heartbeat{Heartbeat: session.HeartbeatMessage(h)}})
}

func (p *peer) end(c session.Close) {
	p.t.Helper()
	p.send(&linkv1.AttachResponse{Message: &linkv1.AttachResponse_Close{Close: session.CloseMessage(c)}})
}

func (p *peer) drain(d *linkv1.Drain) {
	p.t.Helper()
	p.send(&linkv1.AttachResponse{Message: &linkv1.AttachResponse_Drain{Drain: d}})
}

// refuse ends the stream with a status, and a time to come back if it is not 0.
func (p *peer) refuse(code codes.Code, text string, retry time.Duration) {
	st := status.New(code, text)
	if retry > 0 {
		var err error
		if st, err = st.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(retry)}); err != nil {
			p.t.Fatal(err)
		}
	}
	p.finish <- st.Err()
}

// wantFrame returns the next frame up and checks what it is; heartbeats are passed over.
func (p *peer) wantFrame(why string, seq uint64, kind envelope.Kind, payload string) *linkv1.Frame {
	p.t.Helper()
	for {
		select {
		case m := <-p.up:
			f := m.GetFrame()
			if f == nil {
				continue
			}
			if f.GetSeq() != seq || envelope.Kind(f.GetKind()) != kind || payload != "*" && string(f.GetPayload()) != payload {
				p.t.Fatalf("%s: frame %d %v %q, want %d %v %q", why, f.GetSeq(), f.GetKind(), f.GetPayload(), seq, kind, payload)
			}
			return f
		case <-time.After(time.Second):
			p.t.Fatalf("%s: frame %d does not come", why, seq)
		}
	}
}

// wantBeat returns the next message up, which is to be a heartbeat.
func (p *peer) wantBeat(why string, within time.Duration) *linkv1.Heartbeat {
	p.t.Helper()
	synctest.Wait()
	select {
	case m := <-p.up:
		if m.GetHeartbeat() == nil {
			p.t.Fatalf("%s: %v, want a heartbeat", why, m)
		}
		return m.GetHeartbeat()
	case <-time.After(within + time.Millisecond):
		p.t.Fatalf("%s: no heartbeat", why)
		return nil
	}
}

// wantLeft waits until the agent side has left the stream, which it does in the given time.
func (p *peer) wantLeft(why string, within time.Duration) {
	p.t.Helper()
	synctest.Wait()
	select {
	case <-p.gone:
		return
	default:
	}
	select {
	case <-p.gone:
	case <-time.After(within + time.Millisecond):
		p.t.Fatalf("%s: the agent side stays", why)
	}
}

// An opening is an Open under way.
type opening struct {
	session *link.Session
	err     error
	done    chan struct{}
}

func open(ctx context.Context, c *link.Client, target link.Target) *opening {
	o := &opening{done: make(chan struct{})}
	go func() {
		defer close(o.done)
		o.session, o.err = c.Open(ctx, target)
	}()
	return o
}

// opened returns an accepted session and its stream.
func (fl *fleet) opened(c *link.Client) (*link.Session, *peer) {
	fl.t.Helper()
	o := open(fl.t.Context(), c, link.Target{})
	p := fl.attach("open").welcome()
	<-o.done
	if o.err != nil {
		fl.t.Fatal(o.err)
	}
	p.wantFrame("seq 1 is OPEN", 1, envelope.Open, "*")
	p.frame(1, envelope.Accept, nil)
	if err := o.session.Accepted(fl.t.Context()); err != nil {
		fl.t.Fatal(err)
	}
	return o.session, p
}

func wantEnded(t *testing.T, err error, reason linkv1.Reason) {
	t.Helper()
	if e, ok := errors.AsType[*session.EndedError](err); !ok || e.Reason != reason {
		t.Fatalf("error %v, want an ending with %s", err, session.ReasonName(reason))
	}
}

func closeClient(t *testing.T, c *link.Client) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(fmt.Errorf("close: %w", err))
	}
}
