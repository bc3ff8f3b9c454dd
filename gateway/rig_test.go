package gateway

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/broker"
	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	logv1 "github.com/moorage-dev/moorage/proto/moorage/log/v1"
	"github.com/moorage-dev/moorage/session"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = time.Minute // of fake time, in stories

var testKey = []byte("a key for tests, nothing more")

// A rig is a Kafka in memory, and what the test plays itself: the controller
// side, record by record, and the agent sides, message by message.
type rig struct {
	testing.TB
	net      kfake.VirtualNetwork
	kafka    *broker.Embedded
	client   *bridge.Client
	producer *bridge.Producer
	reader   *bridge.Reader
	names    bridge.Topics
	down     bridge.Topic
	meta     bridge.Topic
	log      *slog.Logger

	grace   time.Duration   // 0: a minute
	jenkins *linkv1.Jenkins // what the controller stands beside
	inc     envelope.Incarnation
	beat    uint64
	mute    chan struct{} // closed: the controller beats no more

	mu     sync.Mutex
	ups    map[envelope.SessionID]chan envelope.Record
	leases chan []envelope.LeaseEntry
}

// story runs a test in a bubble, where time is free.
func story(t *testing.T, tell func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.close()
		tell(r)
	})
}

// newRig makes the topics of the controller "test", of one partition, and its
// first heartbeat.
func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{
		TB: t, log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		ups: make(map[envelope.SessionID]chan envelope.Record), leases: make(chan []envelope.LeaseEntry, 1000),
	}
	var err error
	if r.kafka, err = broker.StartEmbedded(broker.EmbeddedConfig{Brokers: 1, ListenFn: r.net.Listen}); err != nil {
		t.Fatal(err)
	}
	if r.client, err = bridge.Dial(context.Background(), r.bridge()); err != nil {
		t.Fatal(err)
	}
	r.names = r.client.Topics("test")
	if r.producer, err = r.client.NewProducer(); err != nil {
		t.Fatal(err)
	}
	if r.reader, err = r.client.NewReader(); err != nil {
		t.Fatal(err)
	}
	r.topics()
	r.live()
	return r
}

func (r *rig) topics() {
	r.Helper()
	err := r.client.CreateTopics(context.Background(), "test", bridge.TopicSpec{Partitions: 1, SingleBroker: true, AllowSmall: true})
	if err != nil {
		r.Fatal(err)
	}
	up := r.topic(r.names.Up)
	r.down, r.meta = r.topic(r.names.Down), r.topic(r.names.Meta)
	r.reader.Follow(up, 0, 0, func(m bridge.Message) {
		rec, err := envelope.Parse(m.Value)
		if err != nil {
			r.Errorf("up record %d: %v", m.Offset, err)
			return
		}
		if rec.Kind == envelope.Lease {
			_, entries, err := envelope.ParseLease(rec.Payload)
			if err != nil {
				r.Errorf("lease: %v", err)
			}
			select {
			case r.leases <- entries:
			default:
			}
			return
		}
		select {
		case r.up(rec.Session) <- rec:
		default: // a benchmark does not look
		}
	}, func(error) {})
}

func (r *rig) topic(name string) bridge.Topic {
	r.Helper()
	topic, err := r.client.Topic(context.Background(), name)
	if err != nil {
		r.Fatal(err)
	}
	return topic
}

func (r *rig) up(id envelope.SessionID) chan envelope.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ups[id] == nil {
		r.ups[id] = make(chan envelope.Record, 1000)
	}
	return r.ups[id]
}

func (r *rig) close() {
	if r.mute != nil {
		r.silence()
	}
	r.client.Close()
	r.kafka.Close()
	time.Sleep(time.Second) // fake: what the broker does not wait for
}

func (r *rig) bridge() bridge.Config {
	return bridge.Config{Brokers: r.kafka.Addrs(), Dial: r.net.DialContext, Logger: r.log.With("process", "test")}
}

// live begins a new incarnation of the controller, which beats until silence.
func (r *rig) live() {
	r.Helper()
	r.beat++
	m := &logv1.ControllerHeartbeat{Boot: r.beat, Beat: 1, Partitions: 1, UpTopicId: make([]byte, 16), DownTopicId: r.down.ID[:],
		UpWindow: session.DefaultWindow, MaxFrame: session.MaxFrame, GraceMs: uint64(cmp.Or(r.grace, time.Minute).Milliseconds()), Services: []string{"ssh", "web"}, Jenkins: r.jenkins}
	offset := r.send(r.names.Meta, "heartbeat", m)
	r.inc = envelope.Incarnation{Topic: r.meta.ID, Offset: offset}
	m.Incarnation = session.IncarnationMessage(r.inc)
	mute := make(chan struct{})
	r.mute = mute
	go func() {
		for {
			select {
			case <-time.After(time.Second):
				m.Beat++
				value, _ := proto.Marshal(m)
				r.producer.Send(r.names.Meta, 0, []byte("heartbeat"), value, func(int64, error) {})
			case <-mute:
				return
			}
		}
	}()
}

func (r *rig) silence() {
	close(r.mute)
	r.mute = nil
}

func (r *rig) send(topic, key string, m proto.Message) int64 {
	r.Helper()
	value, err := proto.Marshal(m)
	if err != nil {
		r.Fatal(err)
	}
	return r.written(func(done func(int64, error)) { r.producer.Send(topic, 0, []byte(key), value, done) })
}

func (r *rig) written(put func(done func(int64, error))) int64 {
	r.Helper()
	type result struct {
		offset int64
		err    error
	}
	ch := make(chan result, 1)
	put(func(offset int64, err error) { ch <- result{offset, err} })
	res := <-ch
	if res.err != nil {
		r.Fatal(res.err)
	}
	return res.offset
}

var ports = 40_000

// A gate is a gateway that serves on a network of its own.
type gate struct {
	*Gateway
	rig    *rig
	lis    net.Listener
	conn   *grpc.ClientConn
	served chan struct{}
}

func (r *rig) gateway(change func(*Config)) *gate {
	r.Helper()
	cfg := Config{Name: "gw", Bridge: r.bridge(), Keys: Ring{Current: testKey}, Logger: r.log.With("process", "gw")}
	if change != nil {
		change(&cfg)
	}
	gw, err := New(context.Background(), cfg)
	if err != nil {
		r.Fatal(err)
	}
	g := &gate{Gateway: gw, rig: r, served: make(chan struct{})}
	ports++
	if g.lis, err = r.net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", ports)); err != nil {
		r.Fatal(err)
	}
	go func() {
		defer close(g.served)
		if err := g.Serve(g.lis); err != nil {
			r.Errorf("Serve: %v", err)
		}
	}()
	g.conn = g.dial()
	return g
}

func (g *gate) dial() *grpc.ClientConn {
	conn, err := grpc.NewClient("passthrough:///"+g.lis.Addr().String(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return g.rig.net.DialContext(ctx, "tcp", addr)
		}))
	if err != nil {
		g.rig.Fatal(err)
	}
	return conn
}

// stop ends the gateway in the way given.
func (g *gate) stop(how func()) {
	how()
	<-g.served
	g.conn.Close()
}

func (g *gate) shut() { g.stop(func() { g.Close() }) }

// An agent is the agent side of one session.
type agent struct {
	*rig
	name   string
	hello  *linkv1.Hello
	id     envelope.SessionID
	ups    chan envelope.Record
	seq    uint64 // last up seq sent
	stream linkv1.LinkService_AttachClient
	cancel context.CancelFunc
	downs  chan *linkv1.AttachResponse
	err    error // why downs was closed
	cutFor string
	gate   chan struct{} // not nil: nothing is received after Welcome until it is closed
}

var agents byte

// agent returns the agent side of a session nobody knows of.
func (r *rig) agent(name string) *agent {
	agents++
	a := &agent{rig: r, name: name, hello: &linkv1.Hello{
		Version: session.Version, SessionId: make([]byte, 16), Agent: name, Controller: "test",
		Credential: NewToken(testKey, name),
	}}
	a.hello.SessionId[0] = agents
	a.id = session.NewID(name, [16]byte(a.hello.SessionId))
	a.ups = r.up(a.id)
	return a
}

// dial begins a stream and sends Hello.
func (a *agent) dial(g *gate) {
	a.Helper()
	a.hello.Attempt++
	a.raw(g, &linkv1.AttachRequest{Message: &linkv1.AttachRequest_Hello{Hello: a.hello}})
}

// raw begins a stream with whatever message.
func (a *agent) raw(g *gate, first *linkv1.AttachRequest) {
	a.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := linkv1.NewLinkServiceClient(g.conn).Attach(ctx)
	if err != nil {
		a.Fatal(err)
	}
	a.stream, a.cancel = stream, cancel
	downs := make(chan *linkv1.AttachResponse, 10_000)
	a.downs = downs
	gate := a.gate
	go func() {
		for n := 0; ; n++ {
			if n == 1 && gate != nil {
				<-gate
			}
			m, err := stream.Recv()
			if err != nil {
				a.mu.Lock()
				a.err = err
				a.cutFor = strings.Join(stream.Trailer()[whyTrailer], "")
				a.mu.Unlock()
				close(downs)
				return
			}
			downs <- m
		}
	}()
	if first != nil {
		a.tell(first)
	}
}

func (a *agent) tell(m *linkv1.AttachRequest) { _ = a.stream.Send(m) } // Recv has the reason

// attach opens or resumes the session.
func (a *agent) attach(g *gate) *agent {
	a.Helper()
	a.dial(g)
	w := a.next().GetWelcome()
	if w == nil {
		a.Fatalf("no Welcome")
	}
	a.hello.Ticket = w.GetTicket()
	if a.hello.Incarnation == nil {
		a.hello.Incarnation, a.hello.StartPosition, a.hello.Position = w.GetIncarnation(), w.GetStartPosition(), w.GetStartPosition()
	}
	a.want("the attach is persisted before Welcome", envelope.Attached)
	return a
}

// open attaches for the first time and opens the session.
func (a *agent) open(g *gate) *agent {
	a.Helper()
	a.attach(g)
	payload, _ := proto.Marshal(&linkv1.Open{Kind: linkv1.ServiceKind_SERVICE_KIND_NATIVE, Agent: a.name, StartPosition: a.hello.StartPosition, Resumable: true, DownWindow: 1 << 20})
	a.frame(envelope.Open, payload)
	a.want("OPEN", envelope.Open)
	return a
}

func (a *agent) frame(kind envelope.Kind, payload []byte) {
	a.seq++
	a.tell(&linkv1.AttachRequest{Message: &linkv1.AttachRequest_Frame{Frame: &linkv1.Frame{
		Seq: a.seq, Kind: linkv1.FrameKind(kind), Payload: payload, Delivered: a.hello.DownDelivered,
	}}})
}

func (a *agent) heartbeat(h *linkv1.Heartbeat) {
	a.tell(&linkv1.AttachRequest{Message: &linkv1.AttachRequest_Heartbeat{Heartbeat: h}})
}

// alive makes the agent side beat, until the stream is over.
func (a *agent) alive() {
	stream := a.stream
	go func() {
		for stream.Context().Err() == nil {
			_ = stream.Send(&linkv1.AttachRequest{Message: &linkv1.AttachRequest_Heartbeat{Heartbeat: &linkv1.Heartbeat{}}})
			select {
			case <-time.After(5 * time.Second):
			case <-stream.Context().Done():
			}
		}
	}()
}

// next returns the next message of the gateway; nil: the stream is over.
func (a *agent) next() *linkv1.AttachResponse {
	a.Helper()
	select {
	case m := <-a.downs:
		return m
	case <-time.After(patience):
		a.Fatal("nothing comes down")
	}
	return nil
}

// wantFrame returns the next frame, which is the next in sequence.
func (a *agent) wantFrame(why string, kind envelope.Kind, payload string) {
	a.Helper()
	for began := time.Now(); ; {
		m := a.next()
		switch {
		case time.Since(began) > patience:
			a.Fatalf("%s: only heartbeats come", why)
		case m == nil:
			a.Fatalf("%s: the stream is over: %v", why, a.why())
		case m.GetHeartbeat() != nil:
			a.heard(m.GetHeartbeat())
			continue
		case m.GetFrame() == nil:
			a.Fatalf("%s: got %v", why, m)
		}
		f := m.GetFrame()
		a.hello.UpPersisted = max(a.hello.UpPersisted, f.GetPersisted())
		if f.GetSeq() != a.hello.LastDownReceived+1 || envelope.Kind(f.GetKind()) != kind || payload != "" && string(f.GetPayload()) != payload {
			a.Fatalf("%s: frame %d %v %.20q, want %d %v %.20q", why, f.GetSeq(), f.GetKind(), f.GetPayload(), a.hello.LastDownReceived+1, kind, payload)
		}
		a.hello.LastDownReceived, a.hello.DownDelivered = f.GetSeq(), f.GetSeq()
		return
	}
}

func (a *agent) heard(h *linkv1.Heartbeat) {
	a.hello.UpPersisted = max(a.hello.UpPersisted, h.GetPersisted())
	if h.GetPosition() != nil {
		a.hello.Position = h.GetPosition()
	}
	if h.GetTicket() != nil {
		a.hello.Ticket = h.GetTicket()
	}
}

// wantPersisted waits until the agent side knows seq persisted.
func (a *agent) wantPersisted(seq uint64) {
	a.Helper()
	for a.hello.UpPersisted < seq {
		m := a.next()
		if m.GetHeartbeat() == nil {
			a.Fatalf("waiting for persisted %d: got %v %v", seq, m, a.why())
		}
		a.heard(m.GetHeartbeat())
	}
}

// wantClose wants to be told that the session is over, and a stream that ends in good order.
func (a *agent) wantClose(reason linkv1.Reason) *linkv1.Close {
	a.Helper()
	for {
		m := a.next()
		if m.GetHeartbeat() != nil {
			continue
		}
		if m.GetClose().GetReason() != reason {
			a.Fatalf("got %v %v, want Close %v", m, a.why(), reason)
		}
		for a.next() != nil {
			a.Fatal("something after Close")
		}
		return m.GetClose()
	}
}

// wantEnd wants the stream to end with a code, whatever comes before.
func (a *agent) wantEnd(code codes.Code) *status.Status {
	a.Helper()
	for a.next() != nil {
	}
	st := a.why()
	if st.Code() != code {
		a.Fatalf("the stream ended with %v %q, want %v", st.Code(), st.Message(), code)
	}
	return st
}

// wantCut wants the gateway to cut the stream.
func (a *agent) wantCut(why string) {
	a.Helper()
	a.wantEnd(codes.Canceled)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cutFor != why {
		a.Fatalf("the stream was cut for %q, want %q", a.cutFor, why)
	}
}

func (a *agent) why() *status.Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err == nil || a.err.Error() == "EOF" {
		return status.New(codes.OK, "")
	}
	return status.Convert(a.err)
}

// drop breaks the stream off.
func (a *agent) drop() { a.cancel() }

// want returns the next up record of the session, which is of the kind.
func (a *agent) want(why string, kind envelope.Kind) envelope.Record {
	a.Helper()
	select {
	case rec := <-a.ups:
		if rec.Kind != kind {
			a.Fatalf("%s: up record %v seq %d, want %v", why, rec.Kind, rec.Seq, kind)
		}
		return rec
	case <-time.After(patience):
		a.Fatalf("%s: no up record, want %v", why, kind)
	}
	return envelope.Record{}
}

func (a *agent) wantNothingUp(why string) {
	a.Helper()
	select {
	case rec := <-a.ups:
		a.Fatalf("%s: up record %v seq %d", why, rec.Kind, rec.Seq)
	case <-time.After(time.Second):
	}
}

// say writes a down record of the session.
func (a *agent) say(kind envelope.Kind, seq uint64, payload string, change ...func(*envelope.Record)) int64 {
	a.Helper()
	rec := a.record(kind, seq, payload)
	for _, c := range change {
		c(rec)
	}
	return a.written(func(done func(int64, error)) { a.producer.Queue(a.names.Down, 0).Put(a.id, rec, done) })
}

func (a *agent) record(kind envelope.Kind, seq uint64, payload string) *envelope.Record {
	rec := &envelope.Record{Kind: kind, Session: a.id, Incarnation: a.inc, Attempt: a.hello.Attempt, Seq: seq, Payload: []byte(payload)}
	if seq > 0 {
		rec.Stable = seq - 1
	}
	return rec
}

// foreign writes n down records of other sessions.
func (r *rig) foreign(n int) {
	r.Helper()
	for i := range n {
		r.written(func(done func(int64, error)) {
			id := envelope.SessionID{255, byte(i)}
			r.producer.Queue(r.names.Down, 0).Put(id, &envelope.Record{Kind: envelope.Data, Session: id, Incarnation: r.inc, Seq: 1}, done)
		})
	}
}

func payload(i int) string { return fmt.Sprintf("payload %d", i) }
