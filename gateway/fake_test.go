package gateway

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	logv1 "github.com/moorage-dev/moorage/proto/moorage/log/v1"
)

// A void is a Kafka that takes everything, keeps nothing, and costs next to
// nothing: what is measured over it is the gateway. One controller, "test",
// beats in it, and answers every DATA frame with one of the same payload, if
// echo is set.
type void struct {
	inc  envelope.Incarnation
	down envelope.TopicID
	echo bool

	mu     sync.Mutex
	offset int64
	sinks  map[envelope.SessionID]bridge.Sink
	seqs   map[envelope.SessionID]uint64
}

func newVoid() *void {
	return &void{
		inc: envelope.Incarnation{Topic: envelope.TopicID{1}}, down: envelope.TopicID{2},
		sinks: make(map[envelope.SessionID]bridge.Sink), seqs: make(map[envelope.SessionID]uint64),
	}
}

func (v *void) Topics(string) bridge.Topics {
	return bridge.Topics{Up: "up", Down: "down", Sessions: "sessions", Meta: "meta"}
}
func (v *void) GatewaysTopic() string { return "gateways" }

func (v *void) Fetched() (live, scanned bridge.Traffic) { return live, scanned }
func (v *void) Waits() (queues, scans uint64)           { return 0, 0 }
func (v *void) Topic(context.Context, string) (bridge.Topic, error) {
	return bridge.Topic{Name: "meta", ID: v.inc.Topic, Partitions: 1}, nil
}
func (v *void) Bounds(context.Context, string, int32) (int64, int64, error) { return 0, 1, nil }
func (v *void) Queue(string, int32) queue                                   { return v }
func (v *void) Stalled(string, int32) (time.Duration, bool)                 { return 0, false }
func (v *void) Beat(_, _ []byte, done func(int64, error))                   { done(0, nil) }
func (v *void) Tail(bridge.Topic, int32) tail                               { return voidTail{v} }
func (v *void) Close() error                                                { return nil }
func (v *void) Wait(context.Context) error                                  { return nil }
func (v *void) Full() bool                                                  { return false }

func (v *void) Follow(_ bridge.Topic, _ int32, _ int64, h func(bridge.Message), _ func(error)) follower {
	value, _ := proto.Marshal(&logv1.ControllerHeartbeat{
		Partitions: 16, DownTopicId: v.down[:], UpWindow: 1 << 20, MaxFrame: 64 << 10, GraceMs: 3600_000,
	})
	go h(bridge.Message{Key: []byte("heartbeat"), Value: value})
	return voidFollower{}
}

type voidFollower struct{}

func (voidFollower) Next() int64 { return 1 }
func (voidFollower) Stop()       {}

type voidTail struct{ v *void }

func (t voidTail) Next() (int64, bool) { return 0, true }

func (t voidTail) Subscribe(id envelope.SessionID, _ int64, s bridge.Sink) subscription {
	t.v.mu.Lock()
	defer t.v.mu.Unlock()
	t.v.sinks[id] = s
	return &voidSub{t.v, id}
}

type voidSub struct {
	v  *void
	id envelope.SessionID
}

func (s *voidSub) Resume(int64) {}
func (s *voidSub) Cancel() {
	s.v.mu.Lock()
	defer s.v.mu.Unlock()
	delete(s.v.sinks, s.id)
}

func (v *void) Put(id envelope.SessionID, r *envelope.Record, done func(int64, error)) {
	v.mu.Lock()
	v.offset++
	offset, sink := v.offset, v.sinks[id]
	var answer []byte
	if v.echo && sink != nil && (r.Kind == envelope.Data || r.Kind == envelope.Open) {
		v.seqs[id]++
		kind := envelope.Data
		if r.Kind == envelope.Open {
			kind = envelope.Accept
		}
		answer = envelope.Append(nil, &envelope.Record{
			Kind: kind, Attempt: r.Attempt, Session: id, Incarnation: r.Incarnation,
			Seq: v.seqs[id], Stable: v.seqs[id] - 1, Delivered: r.Seq, Payload: r.Payload,
		})
	}
	v.mu.Unlock()
	done(offset, nil)
	if answer != nil {
		sink.Record(offset, answer)
	}
}

// A nullStream takes what a worker sends, and counts it.
type nullStream struct {
	linkv1.LinkService_AttachServer
	ctx  context.Context
	sent atomic.Int64
}

func (n *nullStream) Context() context.Context { return n.ctx }
func (n *nullStream) Send(*linkv1.AttachResponse) error {
	n.sent.Add(1)
	return nil
}
