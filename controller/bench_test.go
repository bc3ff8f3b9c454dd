package controller

import (
	"log/slog"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

// A sink takes records as a bridge.Queue does and has them persisted when it
// is told to.
type sink struct {
	offset int64
	waits  []func(int64, error)
	value  []byte
}

func (q *sink) Put(_ envelope.SessionID, r *envelope.Record, done func(int64, error)) {
	q.value = envelope.Append(q.value[:0], r)
	q.waits = append(q.waits, done)
}

func (q *sink) Full() bool { return false }

func (q *sink) persist() {
	waits := q.waits
	q.waits = nil
	for _, done := range waits {
		q.offset++
		done(q.offset, nil)
	}
	if q.waits == nil {
		q.waits = waits[:0]
	}
}

// A bench is one accepted session on one partition, without a Kafka.
type bench struct {
	c   *Controller
	p   *partition
	q   *sink
	s   *Session
	rec envelope.Record // the last up record
	raw []byte
	at  int64
}

func newBench(tb testing.TB) *bench {
	cfg, err := Config{Name: "bench", Window: 16 << 20, Logger: slog.New(slog.DiscardHandler)}.resolve()
	if err != nil {
		tb.Fatal(err)
	}
	b := &bench{c: newController(cfg), q: new(sink)}
	tb.Cleanup(func() { b.c.end(errLeft) })
	b.c.incarnation = envelope.Incarnation{Topic: envelope.TopicID{1}}
	b.c.topics.down.ID = envelope.TopicID{2}
	b.c.clock.start(time.Now())
	b.p = newPartition(b.c, 0, b.q)
	b.c.parts = []*partition{b.p}
	b.rec = envelope.Record{Attempt: 1, Session: envelope.SessionID{7}, Incarnation: b.c.incarnation}
	b.up(envelope.Open, marshal(&linkv1.Open{
		Agent: "agent", Resumable: true, DownWindow: 16 << 20,
		StartPosition: session.PositionMessage(envelope.Position{Topic: b.c.topics.down.ID}),
	}))
	b.s = <-b.c.opened
	b.s.Accept()
	b.q.persist()
	return b
}

// up gives the partition's handler the session's next frame.
func (b *bench) up(kind envelope.Kind, payload []byte) {
	b.rec.Kind, b.rec.Payload = kind, payload
	b.rec.Seq++
	b.rec.Stable = b.rec.Seq - 1
	b.raw = envelope.Append(b.raw[:0], &b.rec)
	b.at++
	b.p.take(bridge.Message{Offset: b.at, Value: b.raw})
}

// BenchmarkUp is one frame from the partition's handler to the application.
func BenchmarkUp(b *testing.B) {
	x, payload := newBench(b), make([]byte, 256)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		x.up(envelope.Data, payload)
		if _, err := x.s.Receive(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDown is one frame from the application to the partition's queue,
// its outcome, and the news that it was delivered.
func BenchmarkDown(b *testing.B) {
	x, payload := newBench(b), make([]byte, 256)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if err := x.s.Send(ctx, payload); err != nil {
			b.Fatal(err)
		}
		x.q.persist()
		x.rec.Delivered++
		x.told(x.rec.Delivered + 1)
	}
}

// told gives the partition's handler the agent side's delivered.
func (b *bench) told(delivered uint64) {
	rec := b.rec
	rec.Kind, rec.Seq, rec.Stable, rec.Delivered, rec.Payload = envelope.Delivered, 0, b.rec.Seq, delivered, nil
	b.raw = envelope.Append(b.raw[:0], &rec)
	b.at++
	b.p.take(bridge.Message{Offset: b.at, Value: b.raw})
}

// BenchmarkLease is one entry of a lease: what each attached session costs
// every 10 s.
func BenchmarkLease(b *testing.B) {
	x := newBench(b)
	g := envelope.Gateway{Name: "gw", Boot: 1}
	e := &envelope.LeaseEntry{Session: x.s.id, Incarnation: x.c.incarnation, Attempt: 1, Stable: 1}
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		x.s.lease(now, g, e)
	}
}

// BenchmarkForeign is a record of a session that nobody holds.
func BenchmarkForeign(b *testing.B) {
	x := newBench(b)
	raw := envelope.Append(nil, &envelope.Record{
		Kind: envelope.Data, Seq: 2, Session: envelope.SessionID{8}, Incarnation: x.c.incarnation, Payload: make([]byte, 256),
	})
	b.ReportAllocs()
	for b.Loop() {
		x.p.take(bridge.Message{Offset: 1, Value: raw})
	}
}
