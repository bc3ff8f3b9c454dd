package gateway

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"log/slog"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/moorage-dev/moorage/buffer"
	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

// voidGateway is a gateway over a void, and a stream of it that sends nowhere.
func voidGateway(tb testing.TB, echo bool) (*Gateway, *void) {
	tb.Helper()
	cfg, err := Config{Name: "gw", Insecure: true, Heartbeat: time.Hour, Logger: slog.New(slog.DiscardHandler)}.resolve()
	if err != nil {
		tb.Fatal(err)
	}
	v := newVoid()
	v.echo = echo
	g := start(cfg, v)
	tb.Cleanup(func() { g.Close() })
	return g, v
}

func voidStream(tb testing.TB, g *Gateway, v *void) (*stream, *nullStream) {
	tb.Helper()
	h := session.Hello{Agent: "a", Controller: "test", Attempt: 1}
	rand.Read(h.Secret[:])
	c, view, err := g.find(tb.Context(), "test")
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	rpc := &nullStream{ctx: ctx}
	s := &stream{g: g, p: c.partition(0), rpc: rpc, cancel: cancel,
		relay: *session.NewRelay(time.Now(), &h, envelope.Position{Topic: v.down}, view.incarnation, g.cfg.Heartbeat)}
	b := binding{p: s.p, view: view, incarnation: view.incarnation}
	b.down = v.down
	if _, err := s.attach(&h, &b); err != nil {
		tb.Fatal(err)
	}
	if err := s.greet(&b); err != nil {
		tb.Fatal(err)
	}
	g.sessions.Add(1)
	tb.Cleanup(func() { s.finish(errLeft) })
	return s, rpc
}

func dataFrame(seq uint64, p []byte) *linkv1.AttachRequest {
	return &linkv1.AttachRequest{Message: &linkv1.AttachRequest_Frame{Frame: &linkv1.Frame{Seq: seq, Kind: linkv1.FrameKind_FRAME_KIND_DATA, Payload: p}}}
}

// BenchmarkUpFrame is a frame's way from gRPC to the bridge and its
// acknowledgement's way back to gRPC, without either.
func BenchmarkUpFrame(b *testing.B) {
	g, v := voidGateway(b, false)
	s, _ := voidStream(b, g, v)
	open := dataFrame(1, nil)
	open.GetFrame().Kind = linkv1.FrameKind_FRAME_KIND_OPEN
	if err := s.take(open); err != nil {
		b.Fatal(err)
	}
	m := dataFrame(2, make([]byte, 256))
	b.ReportAllocs()
	for b.Loop() {
		if err := s.take(m); err != nil {
			b.Fatal(err)
		}
		m.GetFrame().Seq++
	}
}

// BenchmarkDownFrame is a record's way from the bridge to gRPC, without
// either: into the cache, out of it, through the Relay.
func BenchmarkDownFrame(b *testing.B) {
	g, v := voidGateway(b, false)
	s, rpc := voidStream(b, g, v)
	rec := envelope.Record{Kind: envelope.Accept, Attempt: 1, Session: s.relay.ID(), Incarnation: s.relay.Incarnation(), Seq: 1, Payload: make([]byte, 256)}
	raw := envelope.Append(nil, &rec)
	b.ReportAllocs()
	n := int64(0)
	for b.Loop() {
		binary.BigEndian.PutUint64(raw[48:], uint64(n+1)) // seq
		if n == 1 {
			raw[2] = byte(envelope.Data)
		}
		for !s.feed.Record(n, raw) {
			runtime.Gosched()
		}
		n++
		for rpc.sent.Load() < n-64 {
			runtime.Gosched()
		}
	}
}

// BenchmarkVisit is what the wheel costs per stream when nothing is due.
func BenchmarkVisit(b *testing.B) {
	g, v := voidGateway(b, false)
	s, _ := voidStream(b, g, v)
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		s.visit(now)
	}
}

// TestIdleWorkAllocatesNothing holds what is done for every idle session, all
// the time, to zero allocations.
func TestIdleWorkAllocatesNothing(t *testing.T) {
	g, v := voidGateway(t, false)
	s, _ := voidStream(t, g, v)
	now := time.Now()
	next := int64(100)
	for what, f := range map[string]func(){
		"a visit of the wheel": func() { s.visit(now) },
		"news of the position": func() { next++; s.feed.Advanced(next) },
		"its entry in a lease": func() { s.lease() },
		"a heartbeat": func() {
			if err := s.takeHeartbeat(now, session.Heartbeat{}); err != nil {
				t.Error(err)
			}
		},
	} {
		if n := testing.AllocsPerRun(100, f); n > 0 {
			t.Errorf("%s: %v allocations", what, n)
		}
	}
}

// bare is a stream handler that does nothing but read and echo.
type bare struct {
	linkv1.UnimplementedLinkServiceServer
}

func (bare) Attach(rpc linkv1.LinkService_AttachServer) error {
	for {
		m, err := rpc.Recv()
		if err != nil {
			return nil
		}
		if f := m.GetFrame(); f != nil {
			if err := rpc.Send(&linkv1.AttachResponse{Message: &linkv1.AttachResponse_Frame{Frame: f}}); err != nil {
				return err
			}
		}
	}
}

// memory returns heap and stacks in use, when nothing is garbage and stacks
// have shrunk.
func memory() (heap, stack uint64) {
	for range 6 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc, m.StackInuse
}

const idleSessions = 4000

// idle returns the bytes per stream of n streams that have done ten round
// trips and do nothing now, clients included: they are the same whatever
// serves them.
func idle(b *testing.B, srv *grpc.Server, serve func(net.Listener) error) (heap, stack float64) {
	var vnet kfake.VirtualNetwork
	ports++
	lis, err := vnet.Listen("tcp", "127.0.0.1:45000")
	if err != nil {
		b.Fatal(err)
	}
	served := make(chan struct{})
	go func() { defer close(served); serve(lis) }()
	conn, err := grpc.NewClient("passthrough:///127.0.0.1:45000", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return vnet.DialContext(ctx, "tcp", addr) }))
	if err != nil {
		b.Fatal(err)
	}
	client := linkv1.NewLinkServiceClient(conn)
	one := func() linkv1.LinkService_AttachClient {
		s, err := client.Attach(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		return s
	}
	trip := func(s linkv1.LinkService_AttachClient, seq uint64) {
		m := dataFrame(seq, make([]byte, 64))
		if seq == 1 {
			m.GetFrame().Kind = linkv1.FrameKind_FRAME_KIND_OPEN
		}
		if err := s.Send(m); err != nil {
			b.Fatal(err)
		}
		for {
			r, err := s.Recv()
			if err != nil {
				b.Fatal(err)
			}
			if r.GetFrame() != nil {
				return
			}
		}
	}
	streams := make([]linkv1.LinkService_AttachClient, 0, idleSessions)
	use := func(n int) {
		for range n {
			s := one()
			secret := make([]byte, 16)
			rand.Read(secret)
			s.Send(&linkv1.AttachRequest{Message: &linkv1.AttachRequest_Hello{Hello: &linkv1.Hello{
				Version: 1, SessionId: secret, Agent: "agent", Controller: "test", Attempt: 1,
			}}})
			for seq := range uint64(11) {
				trip(s, seq+1)
			}
			streams = append(streams, s)
		}
	}
	use(10) // what is made once
	h0, s0 := memory()
	use(idleSessions - 10)
	h1, s1 := memory()
	conn.Close()
	srv.Stop()
	<-served
	return float64(h1-h0) / (idleSessions - 10), float64(s1-s0) / (idleSessions - 10)
}

// BenchmarkIdleSession reports what an idle session costs over a bare
// grpc-go stream, in heap and stacks. The cache has its own bound.
func BenchmarkIdleSession(b *testing.B) {
	warm := grpc.NewServer()
	linkv1.RegisterLinkServiceServer(warm, bare{})
	idle(b, warm, warm.Serve)
	for b.Loop() {
		g, _ := voidGateway(b, true)
		g.cfg.CacheBytes = 4 << 20
		g.cache = buffer.NewRecent(64 << 10)
		srv := grpc.NewServer(grpc.ReadBufferSize(4<<10), grpc.StaticStreamWindowSize(streamWindow), grpc.StaticConnWindowSize(connWindow))
		linkv1.RegisterLinkServiceServer(srv, bare{})
		ourHeap, ourStack := idle(b, g.srv, g.Serve)
		heap, stack := idle(b, srv, srv.Serve)
		b.ReportMetric(heap+stack, "B/stream")
		b.ReportMetric(ourHeap-heap, "B/heap-over")
		b.ReportMetric(ourStack-stack, "B/stack-over")
		b.ReportMetric(0, "ns/op")
	}
}
