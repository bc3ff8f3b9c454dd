package worker

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/loadtest/scenario"
)

// A sink is a transport without cost: what is sent is counted, and half of the
// sessions receive what a message costs to judge.
type sink struct{ sent atomic.Uint64 }

type sinkSession struct {
	s    *sink
	done chan struct{}
}

func (s *sink) Open(context.Context, string, string) (Session, error) {
	return &sinkSession{s, make(chan struct{})}, nil
}
func (*sink) Cut(func(string) bool) {}
func (*sink) Close() error          { return nil }

func (s *sinkSession) Send(context.Context, []byte) error { s.s.sent.Add(1); return nil }
func (s *sinkSession) CloseSend() error                   { return nil }
func (s *sinkSession) Close() error                       { return nil }
func (s *sinkSession) Receive(ctx context.Context) ([]byte, error) {
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-s.done:
		return nil, io.EOF
	}
}

// What the generator costs by itself: messages by their schedule, without a
// transport. cpu-ns/op is all of the process's.
func BenchmarkPacedSend(b *testing.B) {
	for _, rate := range []float64{1000, 40_000} {
		b.Run(fmt.Sprintf("%.0f-per-s", rate), func(b *testing.B) {
			const agents = 2000
			ctx, cancel := context.WithCancelCause(b.Context())
			defer cancel(errQuit)
			f, s := benchFleet(ctx, agents, &scenario.Flow{Rate: rate / agents, Pattern: scenario.Constant, Size: bytes(256)})
			go func() { _ = f.run(ctx, time.Now()) }()
			for f.open() < agents {
				runtime.Gosched()
			}
			b.ReportAllocs()
			b.ResetTimer()
			cpu, before := cpuTime(), s.sent.Load()
			for s.sent.Load() < before+uint64(b.N) { // an operation is a message
				time.Sleep(time.Millisecond)
			}
			b.ReportMetric(float64(cpuTime()-cpu)/float64(s.sent.Load()-before), "cpu-ns/op")
			b.ReportMetric(float64(f.meter.lag.Load())/1e3, "worst-lag-µs")
		})
	}
}

// A message of a closed loop: what the generator puts beside each message that a
// system takes as fast as it can.
func BenchmarkClosedSend(b *testing.B) {
	ctx, cancel := context.WithCancelCause(b.Context())
	defer cancel(errQuit)
	f, s := benchFleet(ctx, 1, &scenario.Flow{Closed: true, Size: bytes(256)})
	go func() { _ = f.run(ctx, time.Now()) }()
	for s.sent.Load() == 0 {
		runtime.Gosched()
	}
	b.ReportAllocs()
	b.ResetTimer()
	for before := s.sent.Load(); s.sent.Load() < before+uint64(b.N); {
		time.Sleep(time.Millisecond)
	}
}

// What comes is judged, measured and counted.
func BenchmarkReceive(b *testing.B) {
	f, _ := benchFleet(b.Context(), 1, nil)
	leaf := f.book.Open("a/0/0")
	from := check.NewBook(check.Controller, check.Config{}).Open("a/0/0")
	t := &talk{load: f.load, group: f.groups[0], leaf: leaf}
	var buf []byte
	session := &source{next: func() []byte {
		m := from.Next(time.Now())
		buf = check.AppendMessage(buf[:0], m, 256)
		return buf
	}, left: b.N}
	t.s = session
	b.ReportAllocs()
	b.ResetTimer()
	_ = t.receive(b.Context()) // it ends with the source
}

// A source is a session from which so many messages come.
type source struct {
	sinkSession
	next func() []byte
	left int
}

func (s *source) Receive(context.Context) ([]byte, error) {
	if s.left--; s.left < 0 {
		return nil, io.EOF
	}
	return s.next(), nil
}

func benchFleet(ctx context.Context, agents int, up *scenario.Flow) (*fleet, *sink) {
	p := &Plan{Of: 1, Scenario: scenario.Scenario{
		Length: seconds(3600), Groups: []scenario.Group{{Name: "a", Kind: scenario.Native, Agents: agents, Up: up}},
	}}
	s := &sink{}
	l := newLoad(ctx, p, check.Agent, agents, newMeter([]string{"a"}), func(string, string, string) {}, newAlarm())
	return newFleet(l, s), s
}

// What an idle session costs here, beside its transport.
func BenchmarkIdleSession(b *testing.B) {
	for b.Loop() {
		const agents = 10_000
		ctx, cancel := context.WithCancelCause(b.Context())
		before := inUse()
		f, _ := benchFleet(ctx, agents, &scenario.Flow{Rate: 0.001, Pattern: scenario.Constant, Size: bytes(256)})
		done := make(chan struct{})
		go func() { defer close(done); _ = f.run(ctx, time.Now()) }()
		for f.open() < agents {
			time.Sleep(time.Millisecond)
		}
		b.ReportMetric(float64(inUse()-before)/agents, "B/session")
		cancel(errQuit)
		<-done
	}
}

func inUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}
