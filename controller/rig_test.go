package controller

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/broker"
	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	logv1 "github.com/moorage-dev/moorage/proto/moorage/log/v1"
	"github.com/moorage-dev/moorage/session"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

// A rig is a Kafka in memory, and what the test plays itself: the gateways.
type rig struct {
	*testing.T
	net      *freezable
	kafka    *broker.Embedded
	client   *bridge.Client
	producer *bridge.Producer
	reader   *bridge.Reader
	names    bridge.Topics
	down     bridge.Topic

	mu    sync.Mutex
	peers map[envelope.SessionID]*peer
}

// newRig makes the topics of the controller "test": one partition.
func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{T: t, net: newFreezable(), peers: make(map[envelope.SessionID]*peer)}
	var err error
	if r.kafka, err = broker.StartEmbedded(broker.EmbeddedConfig{Brokers: 1, ListenFn: r.net.Listen}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.kafka.Close)
	if r.client, err = bridge.Dial(t.Context(), r.bridge(false)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.client.Close() })
	r.names = r.client.Topics("test")
	r.createTopics()
	if r.producer, err = r.client.NewProducer(); err != nil {
		t.Fatal(err)
	}
	if r.reader, err = r.client.NewReader(); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) createTopics() {
	r.Helper()
	err := r.client.CreateTopics(r.Context(), "test", bridge.TopicSpec{Partitions: 1, SingleBroker: true, AllowSmall: true})
	if err != nil {
		r.Fatal(err)
	}
	if r.down, err = r.client.Topic(r.Context(), r.names.Down); err != nil {
		r.Fatal(err)
	}
}

// follow hands the down records to the peers.
func (r *rig) follow() {
	r.reader.Follow(r.down, 0, 0, func(m bridge.Message) {
		rec, err := envelope.Parse(m.Value)
		if err != nil {
			r.Errorf("down record %d: %v", m.Offset, err)
			return
		}
		r.mu.Lock()
		p := r.peers[rec.Session]
		r.mu.Unlock()
		if p != nil {
			p.down <- rec
		}
	}, func(err error) {})
}

// bridge returns how Kafka is reached; through the freezer, if asked for.
func (r *rig) bridge(freezable bool) bridge.Config {
	dial := r.net.DialContext
	if freezable {
		dial = r.net.dial
	}
	return bridge.Config{
		Brokers: r.kafka.Addrs(), Dial: dial,
		Logger: slog.New(slog.NewTextHandler(r.Output(), nil)).With("test", r.Name()),
	}
}

// config is a controller's that the freezer can cut off from Kafka.
func (r *rig) config() Config {
	return Config{
		Bridge: r.bridge(true), Name: "test", Grace: time.Minute, SingleBroker: true, AllowSmall: true,
		Logger: slog.New(slog.NewTextHandler(r.Output(), nil)),
	}
}

// start starts a controller and closes it at the end.
func (r *rig) start(cfg Config) *Controller {
	r.Helper()
	c, err := Start(r.Context(), cfg)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { c.Kill() })
	return c
}

func (r *rig) written(put func(done func(int64, error))) int64 {
	r.Helper()
	type result struct {
		offset int64
		err    error
	}
	ch := make(chan result, 1)
	put(func(offset int64, err error) { ch <- result{offset, err} })
	select {
	case res := <-ch:
		if res.err != nil {
			r.Fatal(res.err)
		}
		return res.offset
	case <-time.After(patience):
		r.Fatal("not written")
	}
	return 0
}

// A gate is a gateway process that beats until it is killed.
type gate struct {
	envelope.Gateway
	kill    context.CancelFunc
	done    chan struct{}
	stalled atomic.Bool // it says that it can't write up
}

func (r *rig) gateway(name string, boot uint64) *gate {
	ctx, kill := context.WithCancel(r.Context())
	g := &gate{Gateway: envelope.Gateway{Name: name, Boot: boot}, kill: kill, done: make(chan struct{})}
	go func() {
		defer close(g.done)
		for beat := uint64(1); ; beat++ {
			hb := &logv1.GatewayHeartbeat{Name: name, Boot: boot, Beat: beat}
			if g.stalled.Load() {
				hb.Stalled = []*logv1.StalledUp{{Controller: "another", Partitions: []int32{0}}, {Controller: "test", Partitions: []int32{7, 0}}}
			}
			value := marshal(hb)
			r.producer.Send(r.client.GatewaysTopic(), 0, []byte(name), value, func(int64, error) {})
			select {
			case <-time.After(beatEvery):
			case <-ctx.Done():
				return
			}
		}
	}()
	r.Cleanup(func() { kill(); <-g.done })
	return g
}

// A peer is an agent and the gateways that serve it, in one: it writes up
// records and sees down records.
type peer struct {
	*rig
	id          envelope.SessionID
	incarnation envelope.Incarnation
	attempt     uint32
	seq         uint64 // last up seq written
	got         uint64 // last down seq seen: what delivered says
	down        chan envelope.Record
}

var sessions byte

// peer returns the agent side of a session that is not opened yet.
func (r *rig) peer(c *Controller) *peer {
	sessions++
	p := &peer{
		rig: r, id: session.NewID("agent", [16]byte{sessions}), incarnation: c.Incarnation(), attempt: 1,
		down: make(chan envelope.Record, 10_000),
	}
	r.mu.Lock()
	r.peers[p.id] = p
	r.mu.Unlock()
	return p
}

// open is what a gateway writes for a new session.
func (p *peer) open(g *gate, change func(*linkv1.Open)) *peer {
	p.Helper()
	p.attach(g)
	open := &linkv1.Open{
		Kind: linkv1.ServiceKind_SERVICE_KIND_NATIVE, Agent: "agent", Labels: map[string]string{"os": "linux"},
		StartPosition: session.PositionMessage(envelope.Position{Topic: p.rig.down.ID}), Resumable: true, DownWindow: 1 << 20,
	}
	if change != nil {
		change(open)
	}
	p.frame(envelope.Open, marshal(open), marshal(&linkv1.Verified{
		Identity: "agent", RemoteAddress: "192.0.2.1:5000", Gateway: g.Name, Boot: g.Boot,
	}))
	return p
}

func (p *peer) attach(g *gate) {
	p.Helper()
	p.record(envelope.Attached, envelope.AppendGateway(nil, g.Gateway))
}

// frame writes the next frame.
func (p *peer) frame(kind envelope.Kind, payload, appendix []byte) {
	p.Helper()
	p.seq++
	p.put(&envelope.Record{Kind: kind, Seq: p.seq, Payload: payload, Appendix: appendix})
}

func (p *peer) data(s string) { p.Helper(); p.frame(envelope.Data, []byte(s), nil) }

// record writes a record that is not a frame.
func (p *peer) record(kind envelope.Kind, payload []byte) {
	p.Helper()
	p.put(&envelope.Record{Kind: kind, Payload: payload})
}

func (p *peer) put(rec *envelope.Record) {
	p.Helper()
	rec.Session, rec.Incarnation, rec.Attempt, rec.Delivered = p.id, p.incarnation, p.attempt, p.got
	if rec.Seq > 0 {
		rec.Stable = rec.Seq - 1
	} else {
		rec.Stable = p.seq
	}
	p.written(func(done func(int64, error)) { p.producer.Queue(p.names.Up, 0).Put(p.id, rec, done) })
}

// lease writes what a gateway says each 10 s.
func (p *peer) lease(g *gate) {
	p.Helper()
	payload := envelope.AppendLeaseEntry(envelope.AppendGateway(nil, g.Gateway), envelope.LeaseEntry{
		Session: p.id, Incarnation: p.incarnation, Attempt: p.attempt, Stable: p.seq, Delivered: p.got,
	})
	p.written(func(done func(int64, error)) {
		p.producer.Queue(p.names.Up, 0).Put(envelope.SessionID{}, &envelope.Record{Kind: envelope.Lease, Payload: payload}, done)
	})
}

// want returns the next down record of a kind, which comes within the time
// given. Of frames it accepts exactly the next one, as every reader does;
// records of other kinds may come before.
func (p *peer) want(kind envelope.Kind, within time.Duration) envelope.Record {
	p.Helper()
	late := time.After(within)
	for {
		select {
		case rec := <-p.down:
			if rec.Kind.IsFrame() {
				if rec.Seq != p.got+1 {
					continue // a repeat, or one that comes again behind its predecessor
				}
				p.got = rec.Seq
			}
			if rec.Kind == kind {
				return rec
			}
			if rec.Kind.IsFrame() {
				p.Fatalf("down frame %d is %v %q, want %v", rec.Seq, rec.Kind, rec.Payload, kind)
			}
		case <-late:
			p.Fatalf("no %v within %v", kind, within)
		}
	}
}

func (p *peer) wantData(s string) {
	p.Helper()
	if rec := p.want(envelope.Data, patience); string(rec.Payload) != s {
		p.Fatalf("got %q, want %q", rec.Payload, s)
	}
}

// wantEnd wants an ending as the agent side learns it.
func (p *peer) wantEnd(kind envelope.Kind, reason linkv1.Reason, within time.Duration) {
	p.Helper()
	rec := p.want(kind, within)
	if e := session.ParseEnding(rec.Payload); e.Reason != reason {
		p.Fatalf("%v says %v %q, want %v", kind, e.Reason, e.Text, reason)
	}
}

// accept takes the next session on.
func (r *rig) accept(c *Controller) *Session {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	s, err := c.Accept(ctx)
	if err != nil {
		r.Fatal(err)
	}
	s.Accept()
	return s
}

// wantMessage wants the application to receive a message.
func (r *rig) wantMessage(s *Session, want string) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	got, err := s.Receive(ctx)
	if err != nil || string(got) != want {
		r.Fatalf("received %q, %v; want %q", got, err, want)
	}
}

// wantEnded wants the application to be told.
func (r *rig) wantEnded(s *Session, reason linkv1.Reason, within time.Duration) {
	r.Helper()
	select {
	case <-s.Done():
	case <-time.After(within):
		r.Fatalf("not ended within %v", within)
	}
	if e, ok := s.Err().(*session.EndedError); !ok || e.Reason != reason {
		r.Fatalf("ended with %v, want %v", s.Err(), reason)
	}
}

// A freezable network lets its connections be silenced: nothing comes back
// over them until it thaws.
type freezable struct {
	kfake.VirtualNetwork
	mu     sync.Mutex
	thawed chan struct{} // closed unless frozen
}

func newFreezable() *freezable {
	n := &freezable{thawed: make(chan struct{})}
	close(n.thawed)
	return n
}

func (n *freezable) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := n.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &frozenConn{Conn: conn, n: n, closed: make(chan struct{})}, nil
}

func (n *freezable) freeze() (thaw func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.thawed = make(chan struct{})
	return sync.OnceFunc(func() { close(n.thawed) })
}

type frozenConn struct {
	net.Conn
	n      *freezable
	closed chan struct{}
	once   sync.Once
}

func (c *frozenConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.n.mu.Lock()
	thawed := c.n.thawed
	c.n.mu.Unlock()
	select {
	case <-thawed:
		return n, err
	case <-c.closed:
		return 0, net.ErrClosed
	}
}

func (c *frozenConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// presence reads what operators would see, by session.
func (r *rig) presence() map[string]*logv1.SessionPresence {
	r.Helper()
	t, err := r.client.Topic(r.Context(), r.names.Sessions)
	if err != nil {
		r.Fatal(err)
	}
	all := make(map[string]*logv1.SessionPresence)
	var mu sync.Mutex
	for i := range t.Partitions {
		_, next, err := r.client.Bounds(r.Context(), t.Name, i)
		if err != nil {
			r.Fatal(err)
		}
		if next == 0 {
			continue
		}
		read := make(chan struct{})
		f := r.reader.Follow(t, i, 0, func(m bridge.Message) {
			mu.Lock()
			defer mu.Unlock()
			p := new(logv1.SessionPresence)
			delete(all, string(m.Key))
			if m.Value != nil {
				if err := proto.Unmarshal(m.Value, p); err != nil {
					r.Error(err)
				}
				all[string(m.Key)] = p
			}
			if m.Offset == next-1 {
				close(read)
			}
		}, func(err error) { r.Error(fmt.Errorf("presence: %w", err)) })
		<-read
		f.Stop()
	}
	return all
}

// admin returns a client for what only an operator does.
func (r *rig) admin() *kgo.Client {
	r.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(r.kafka.Addrs()...), kgo.Dialer(r.net.DialContext))
	if err != nil {
		r.Fatal(err)
	}
	return cl
}

// recreate deletes a topic of one partition and makes it anew.
func (r *rig) recreate(topic string) {
	r.Helper()
	cl := r.admin()
	defer cl.Close()
	del := kmsg.NewDeleteTopicsRequest()
	del.TopicNames = []string{topic}
	del.Topics = []kmsg.DeleteTopicsRequestTopic{{Topic: &topic}}
	if _, err := del.RequestWith(r.Context(), cl); err != nil {
		r.Fatal(err)
	}
	create := kmsg.NewCreateTopicsRequest()
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = topic, 1, 1
	create.Topics = append(create.Topics, t)
	if _, err := create.RequestWith(r.Context(), cl); err != nil {
		r.Fatal(err)
	}
}

// addPartitions raises the up and the down topic to n partitions.
func (r *rig) addPartitions(n int32) {
	r.Helper()
	cl := r.admin()
	defer cl.Close()
	req := kmsg.NewCreatePartitionsRequest()
	for _, topic := range []string{r.names.Up, r.names.Down} {
		t := kmsg.NewCreatePartitionsRequestTopic()
		t.Topic, t.Count = topic, n
		req.Topics = append(req.Topics, t)
	}
	if _, err := req.RequestWith(r.Context(), cl); err != nil {
		r.Fatal(err)
	}
}
