package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/moorage-dev/moorage/loadtest/baseline"
	"github.com/moorage-dev/moorage/proto/envelope"
)

// A figures is what one run of a row measured, by name; the unit is part of the name.
type figures map[string]float64

// A row is one line or a few of the table: a measurement, done to each system.
type row struct {
	name  string
	what  string
	goals []goal
	cache string                                                 // moorage's --cache-bytes; "": its default
	run   func(ctx context.Context, r *running) (figures, error) // nil figures: nothing to measure in this system
	limit time.Duration                                          // of one run; zero: six minutes
	once  bool                                                   // measured in the first pair only
}

// A goal bounds one figure of a row.
type goal struct {
	figure  string
	of      basis
	atLeast bool // otherwise at most
	limit   float64
}

// A basis says what of a figure a goal bounds: of our median, or of the median
// over the pairs.
type basis uint8

const (
	ratio      basis = iota // ours ÷ relay's
	difference              // ours - relay's
	absolute                // ours
)

var rows = []row{
	{name: "roundtrip", what: "round trip agent → controller → agent, 256 B, one in flight", run: roundTrip,
		goals: []goal{{"p50 ms", ratio, false, 1.15}, {"p99 ms", ratio, false, 1.3}}},
	{name: "up16", what: "up, persisted, 256 B, 16 agents", run: persisted(16), goals: []goal{{"frames/s", ratio, true, 0.9}}},
	{name: "up1000", what: "up, persisted, 256 B, 1,000 agents", run: persisted(1000), goals: []goal{{"frames/s", ratio, true, 0.8}}},
	{name: "tunnel1", what: "64 KiB frames, one session", run: tunnel(1),
		goals: []goal{{"up MB/s", ratio, true, 0.8}, {"down MB/s", ratio, true, 0.8}}},
	{name: "tunnel16", what: "64 KiB frames, 16 sessions", run: tunnel(16),
		goals: []goal{{"up MB/s", ratio, true, 0.8}, {"down MB/s", ratio, true, 0.8}}},
	{name: "sockets1", what: "byte tunnel, socket to socket, one connection", run: sockets(1)},
	{name: "sockets16", what: "byte tunnel, socket to socket, 16 connections", run: sockets(16)},
	{name: "cpu", what: "CPU per delivered command, 256 B, 100 sessions, 2,000/s", run: commandCPU,
		goals: []goal{{"gateway µs/command", ratio, false, 1.15}}},
	{name: "idle", what: "memory per idle session at the gateway", run: idle, cache: "4MiB",
		goals: []goal{{"RSS B", difference, false, 1500}, {"heap+stack B", difference, false, 1500}}},
	{name: "flood", what: "round trip beside a flood on its partition", run: flood,
		goals: []goal{{"flooded/calm p99", absolute, false, 3}}},
	{name: "cold", what: "first frame after attaching to a partition not yet followed", run: cold,
		goals: []goal{{"Welcome to first frame p99 ms", absolute, false, 150}}},
	{name: "storm", what: "sessions cut at once, 10 frames waiting each, all back and caught up", run: storm,
		goals: []goal{{"back/bare", absolute, true, 0.85}}},
	{name: "legacy-roundtrip", what: "legacy agent, small command there and back, JNLP4", run: legacyRoundTrip,
		goals: []goal{{added(tier0), ratio, false, 1.3}, {added(tier1), ratio, false, 1.3}}},
	{name: "legacy-start", what: "legacy stand-in, from start to online and through a first build's calls, JNLP4", run: legacyStart},
	{name: "legacy-idle", what: "idle legacy agent, tier 0, plaintext door", run: legacyIdle, cache: "4MiB", limit: 15 * time.Minute,
		goals: []goal{
			{"gateway RSS B", absolute, false, 16 << 10}, {"gateway heap+stack B", absolute, false, 16 << 10}, {"gateway goroutines", absolute, false, 2},
			{"connector RSS B", absolute, false, 32 << 10}, {"connector heap+stack B", absolute, false, 32 << 10}, {"connector goroutines", absolute, false, 3},
		}},
	{name: "legacy-build", what: "real Hudson and agent", run: legacyBuild, limit: 45 * time.Minute, once: true, goals: billGoals()},
}

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, time.Minute.Nanoseconds(), 3)
}

func record(h *hdrhistogram.Histogram, d time.Duration) {
	_ = h.RecordValue(min(max(int64(d), 1), int64(time.Minute))) // held within its range
}

func ms(h *hdrhistogram.Histogram, q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1e6 }

// roundTrips sends one message after the other and times each until it is back.
func roundTrips(ctx context.Context, a *agent, size int, warm, measure time.Duration) (*hdrhistogram.Histogram, error) {
	h := newHistogram()
	payload := make([]byte, size)
	begin := time.Now()
	for time.Since(begin) < warm+measure {
		sent := time.Now()
		want := a.data.Load() + 1
		if err := a.send(payload); err != nil {
			return nil, err
		}
		if err := a.until(ctx, func() bool { return a.data.Load() >= want }); err != nil {
			return nil, err
		}
		if sent.Sub(begin) >= warm {
			record(h, time.Since(sent))
		}
	}
	return h, nil
}

func roundTrip(ctx context.Context, r *running) (figures, error) {
	f, err := launch(ctx, 1, func(i int) *agent { return r.agent(i, baseline.Mode{Do: "echo"}) })
	if err != nil {
		return nil, err
	}
	defer f.close()
	h, err := roundTrips(ctx, f.agents[0], 256, r.bench.warm, r.bench.measure)
	if err != nil {
		return nil, err
	}
	return figures{"p50 ms": ms(h, 50), "p99 ms": ms(h, 99), "n": float64(h.TotalCount())}, nil
}

// pump sends payloads of size until ctx ends, with at most inFlight frames not
// yet persisted and a window of bytes not yet delivered.
func pump(ctx context.Context, a *agent, size, inFlight int) error {
	payload := make([]byte, size)
	for ctx.Err() == nil {
		room := func() bool {
			return a.sent-a.persisted.Load() < uint64(inFlight) &&
				(a.sent-a.delivered.Load())*uint64(size) < window
		}
		if err := a.until(ctx, room); err != nil {
			return err
		}
		if err := a.send(payload); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// load pumps from all agents while measure runs.
func (f *fleet) load(ctx context.Context, size, inFlight int, measure func(ctx context.Context)) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var (
		wg    sync.WaitGroup
		fault atomic.Pointer[error]
	)
	for _, a := range f.agents {
		wg.Go(func() {
			if err := pump(ctx, a, size, inFlight); ctx.Err() == nil {
				fault.CompareAndSwap(nil, &err)
				stop()
			}
		})
	}
	measure(ctx)
	stop()
	wg.Wait()
	if err := fault.Load(); err != nil {
		return *err
	}
	return nil
}

// rest waits for d or for the end of ctx.
func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// rate returns how fast count grows per second, after warming up.
func (b *bench) rate(ctx context.Context, count func() uint64) float64 {
	rest(ctx, b.warm)
	from, begin := count(), time.Now()
	rest(ctx, b.measure)
	return float64(count()-from) / time.Since(begin).Seconds()
}

func persisted(n int) func(context.Context, *running) (figures, error) {
	return func(ctx context.Context, r *running) (figures, error) {
		f, err := launch(ctx, n, func(i int) *agent { return r.agent(i, baseline.Mode{Do: "sink"}) })
		if err != nil {
			return nil, err
		}
		defer f.close()
		var perSecond float64
		err = f.load(ctx, 256, max(16, 16384/n), func(ctx context.Context) {
			perSecond = r.bench.rate(ctx, func() uint64 { return f.sum(func(a *agent) *atomic.Uint64 { return &a.persisted }) })
		})
		return figures{"frames/s": perSecond}, err
	}
}

func tunnel(n int) func(context.Context, *running) (figures, error) {
	return func(ctx context.Context, r *running) (figures, error) {
		const size = baseline.MaxFrame
		up, err := launch(ctx, n, func(i int) *agent { return r.agent(i, baseline.Mode{Do: "sink"}) })
		if err != nil {
			return nil, err
		}
		var frames float64
		err = up.load(ctx, size, window/size, func(ctx context.Context) {
			frames = r.bench.rate(ctx, func() uint64 { return up.sum(func(a *agent) *atomic.Uint64 { return &a.delivered }) })
		})
		up.close()
		if err != nil {
			return nil, err
		}
		down, err := launch(ctx, n, func(i int) *agent {
			return r.agent(1000+i, baseline.Mode{Do: "source", Size: size})
		})
		if err != nil {
			return nil, err
		}
		defer down.close()
		bytes := r.bench.rate(ctx, func() uint64 { return down.sum(func(a *agent) *atomic.Uint64 { return &a.bytes }) })
		tcp, err := direct(ctx, r.bench, n)
		return figures{"up MB/s": frames * size / 1e6, "down MB/s": bytes / 1e6, "direct TCP MB/s": tcp / 1e6}, err
	}
}

// latencies makes agents time what a source sends them.
type latencies struct {
	mu sync.Mutex
	h  *hdrhistogram.Histogram
}

func (l *latencies) take(payload []byte) {
	due := time.Unix(0, int64(binary.BigEndian.Uint64(payload)))
	l.mu.Lock()
	defer l.mu.Unlock()
	record(l.h, time.Since(due))
}

func commandCPU(ctx context.Context, r *running) (figures, error) {
	const sessions, perSecond = 100, 2000
	l := &latencies{h: newHistogram()}
	f, err := launch(ctx, sessions, func(i int) *agent {
		a := r.agent(i, baseline.Mode{Do: "source", Size: 256, Rate: perSecond / sessions})
		a.onData = l.take
		return a
	})
	if err != nil {
		return nil, err
	}
	defer f.close()
	rest(ctx, r.bench.warm)
	got := func() uint64 { return f.sum(func(a *agent) *atomic.Uint64 { return &a.data }) }
	before, n := cpuOf(r.gateway), got()
	appBefore := cpuOf(r.app)
	rest(ctx, r.bench.measure)
	used, app, n := cpuOf(r.gateway)-before, cpuOf(r.app)-appBefore, got()-n
	if n == 0 {
		return nil, fmt.Errorf("bench: no command arrived")
	}
	return figures{
		"gateway µs/command": float64(used.Microseconds()) / float64(n),
		"app µs/command":     float64(app.Microseconds()) / float64(n),
		"commands/s":         float64(n) / r.bench.measure.Seconds(),
		"p50 ms":             ms(l.h, 50), "p99 ms": ms(l.h, 99),
	}, nil
}

// cpuOf is p's CPU time; 0 for a dead process, which shows elsewhere.
func cpuOf(p *process) time.Duration {
	d, err := p.cpu()
	if err != nil {
		return 0
	}
	return d
}

// idle measures what a session costs a gateway that has nothing to do for it.
func idle(ctx context.Context, r *running) (figures, error) {
	n := r.bench.idle
	empty, err := r.memory(ctx, false) // so little that its garbage does not matter
	if err != nil {
		return nil, err
	}
	f, err := launch(ctx, n, func(i int) *agent { return r.agent(i, baseline.Mode{Do: "echo"}) })
	if err != nil {
		return nil, err
	}
	defer f.close()
	err = each(f.agents, 16, func(a *agent) error {
		for range 10 {
			want := a.data.Load() + 1
			if err := a.send(make([]byte, 256)); err != nil {
				return err
			}
			if err := a.until(ctx, func() bool { return a.data.Load() >= want }); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	rest(ctx, r.bench.silence)
	full, err := r.memory(ctx, r.bench.collect)
	if err != nil {
		return nil, err
	}
	per := func(name string) float64 { return (full[name] - empty[name]) / float64(n) }
	return figures{"RSS B": per("rss"), "heap+stack B": per("heap") + per("stack"), "of it stack B": per("stack")}, nil
}

// memory reads a gateway's memory; with collect just after its next garbage
// collection, which Go makes every two minutes if nothing else does: between two, a heap is half
// garbage, and what a session costs would drown in it.
func (r *running) memory(ctx context.Context, collect bool) (map[string]float64, error) {
	const collections, heap, stack = "go_gc_duration_seconds_count", "go_memstats_heap_inuse_bytes", "go_memstats_stack_inuse_bytes"
	m, err := scrape(ctx, r.metrics)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(130 * time.Second)
	for since := m[collections]; collect && m[collections] == since && time.Now().Before(deadline) && ctx.Err() == nil; {
		rest(ctx, 250*time.Millisecond)
		if m, err = scrape(ctx, r.metrics); err != nil {
			return nil, err
		}
	}
	if m[heap] == 0 {
		return nil, fmt.Errorf("no %s at %s", heap, r.metrics)
	}
	rss, err := r.gateway.rss()
	return map[string]float64{"rss": rss, "heap": m[heap], "stack": m[stack]}, err
}

// flood compares one session's round trips in calm with those beside a session
// of the same partition that is offered 100 MB/s.
func flood(ctx context.Context, r *running) (figures, error) {
	calm, err := launch(ctx, 1, func(i int) *agent { return r.agent(i, baseline.Mode{Do: "echo"}) })
	if err != nil {
		return nil, err
	}
	defer calm.close()
	before, err := roundTrips(ctx, calm.agents[0], 256, r.bench.warm, r.bench.measure)
	if err != nil {
		return nil, err
	}
	loud, err := launch(ctx, 1, func(int) *agent {
		p := partitionOf(calm.agents[0].name)
		for i := 1; ; i++ {
			if a := r.agent(i, baseline.Mode{Do: "sink"}); partitionOf(a.name) == p {
				return a
			}
		}
	})
	if err != nil {
		return nil, err
	}
	defer loud.close()
	var (
		during *hdrhistogram.Histogram
		fault  error
		mbs    float64
	)
	const size, perSecond = baseline.MaxFrame, 100e6
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() {
		a := loud.agents[0]
		payload := make([]byte, size)
		begin := time.Now()
		for n := 0; ctx.Err() == nil; n++ {
			rest(ctx, time.Until(begin.Add(time.Duration(float64(n)*size/perSecond*1e9))))
			if a.until(ctx, func() bool { return (a.sent-a.delivered.Load())*size < window }) != nil || a.send(payload) != nil {
				return
			}
		}
	})
	from, begin := loud.agents[0].delivered.Load(), time.Now()
	during, fault = roundTrips(ctx, calm.agents[0], 256, r.bench.warm, r.bench.measure)
	mbs = float64(loud.agents[0].delivered.Load()-from) * size / 1e6 / time.Since(begin).Seconds()
	stop()
	wg.Wait()
	if fault != nil {
		return nil, fault
	}
	return figures{
		"calm p50 ms": ms(before, 50), "calm p99 ms": ms(before, 99), "flooded p50 ms": ms(during, 50), "flooded p99 ms": ms(during, 99),
		"flooded/calm p99": ms(during, 99) / ms(before, 99), "flood MB/s": mbs,
	}, nil
}

func partitionOf(name string) int32 {
	return envelope.PartitionOf(envelope.SlotOf(name, envelope.SessionID{}), baseline.Partitions)
}

// cold times the first down frame of agents that each are the first of their
// partition at an empty gateway.
func cold(ctx context.Context, r *running) (figures, error) {
	first, whole := newHistogram(), newHistogram()
	for round := range r.bench.cold {
		if round > 0 {
			r.gateway.stop()
			if err := r.startGateway(ctx); err != nil {
				return nil, err
			}
		}
		probed, err := r.settled(ctx)
		if err != nil {
			return nil, err
		}
		seen := map[int32]bool{probed: true} // followed already
		for i := 0; len(seen) < baseline.Partitions; i++ {
			a := r.agent(round*1000+i, baseline.Mode{Do: "echo"})
			if seen[partitionOf(a.name)] {
				continue
			}
			seen[partitionOf(a.name)] = true
			begin := time.Now()
			if err := a.attach(ctx); err != nil {
				return nil, err
			}
			welcome := time.Now()
			if err := a.until(ctx, func() bool { return a.received.Load() > 0 }); err != nil {
				return nil, err
			}
			record(first, time.Since(welcome))
			record(whole, time.Since(begin))
			a.leave()
		}
	}
	return figures{
		"Welcome to first frame p50 ms": ms(first, 50), "Welcome to first frame p99 ms": ms(first, 99),
		"dial to first frame p50 ms": ms(whole, 50), "dial to first frame p99 ms": ms(whole, 99),
		"n": float64(first.TotalCount()),
	}, nil
}

// storm cuts all sessions at once, lets frames wait for them, and times their
// return; beside it, how fast bare grpc-go opens as many connections, streams
// and first round trips.
func storm(ctx context.Context, r *running) (figures, error) {
	if r.system != &moorage {
		return nil, nil // relay brings nobody back
	}
	n := r.bench.storm
	const waiting, after = 10, 5 * time.Second
	fl, err := launch(ctx, n, func(i int) *agent {
		return r.agent(i, baseline.Mode{Do: "burst", Size: 256, Count: waiting, Wait: after})
	})
	if err != nil {
		return nil, err
	}
	defer fl.close()
	err = each(fl.agents, 64, func(a *agent) error {
		if err := a.send([]byte("burst")); err != nil {
			return err
		}
		return a.until(ctx, func() bool { return a.persisted.Load() == a.sent })
	})
	if err != nil {
		return nil, err
	}
	_ = each(fl.agents, 64, func(a *agent) error { a.cut(); return nil })
	rest(ctx, after+time.Second)
	begin := time.Now()
	err = each(fl.agents, 256, func(a *agent) error {
		if err := a.attach(ctx); err != nil {
			return err
		}
		return a.until(ctx, func() bool { return a.data.Load() >= waiting })
	})
	if err != nil {
		return nil, err
	}
	back := float64(n) / time.Since(begin).Seconds()
	bare, err := openBare(ctx, n)
	return figures{"back/s": back, "bare/s": bare, "back/bare": back / bare}, err
}

// openBare returns how many connections, streams and first round trips per
// second bare grpc-go opens.
func openBare(ctx context.Context, n int) (float64, error) {
	addr, err := freeAddr()
	if err != nil {
		return 0, err
	}
	p, err := startRole(ctx, "bare", "-listen", addr)
	if err != nil {
		return 0, err
	}
	defer p.stop()
	agents := make([]*agent, n)
	for i := range agents {
		agents[i] = newAgent(addr, controllerName, fmt.Sprintf("agent-%d", i), baseline.Mode{})
	}
	begin := time.Now()
	err = each(agents, 256, func(a *agent) error {
		if err := a.attach(ctx); err != nil {
			return err
		}
		return a.until(ctx, func() bool { return a.received.Load() > 0 })
	})
	rate := float64(n) / time.Since(begin).Seconds()
	_ = each(agents, 64, func(a *agent) error { a.cut(); return nil })
	return rate, err
}
