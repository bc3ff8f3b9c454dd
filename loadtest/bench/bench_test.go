package main

import (
	"context"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/loadtest/baseline"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
)

// talkative, in its environment, makes the test binary a process that holds
// eight MiB and a hundred goroutines, and collects its garbage.
const talkative = "MOORAGE_BENCH_TALKATIVE"

func TestMain(m *testing.M) {
	if os.Getenv(talkative) == "" {
		goleak.VerifyTestMain(m)
		return
	}
	held := make([]byte, 8<<20)
	for range 100 {
		go func() { select {} }()
	}
	for tick := time.NewTicker(10 * time.Millisecond); ; <-tick.C {
		runtime.GC()
		runtime.KeepAlive(held)
	}
}

func serveBare(t *testing.T) (addr string) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	linkv1.RegisterLinkServiceServer(server, bare{})
	done := make(chan error)
	go func() { done <- server.Serve(lis) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return lis.Addr().String()
}

func TestAgentTimesRoundTrips(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	addr := serveBare(t)
	f, err := launch(ctx, 3, func(int) *agent { return newAgent(addr, controllerName, "a", baseline.Mode{Do: "echo"}) })
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	h, err := roundTrips(ctx, f.agents[0], 256, 0, 50*time.Millisecond)
	if err != nil || h.TotalCount() == 0 {
		t.Fatalf("%d round trips, %v", h.TotalCount(), err)
	}
	if a := f.agents[0]; a.persisted.Load() != a.sent || a.data.Load() != uint64(h.TotalCount()) {
		t.Errorf("sent %d, persisted %d, back %d of %d", a.sent, a.persisted.Load(), a.data.Load(), h.TotalCount())
	}
}

func TestAgentSendsAgainWhatWasNotPersisted(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	a := newAgent(serveBare(t), controllerName, "a", baseline.Mode{Do: "echo"})
	if err := a.attach(ctx); err != nil {
		t.Fatal(err)
	}
	if err := a.until(ctx, func() bool { return a.received.Load() == 1 }); err != nil {
		t.Fatal(err)
	}
	a.cut()
	a.pushLocked(linkv1.FrameKind_FRAME_KIND_DATA, []byte("written while away"))
	a.received.Store(0) // the bare server forgets streams and counts from 1
	if err := a.attach(ctx); err != nil {
		t.Fatal(err)
	}
	defer a.leave()
	if err := a.until(ctx, func() bool { return a.persisted.Load() == 2 }); err != nil {
		t.Fatal(err)
	}
	if a.attempt != 2 || len(a.unacked) != 1 {
		t.Errorf("attempt %d, %d frames kept; want the second, and the one that was sent again", a.attempt, len(a.unacked))
	}
}

func TestReportPairsWhatStoodNextToEachOther(t *testing.T) {
	rs := &results{Date: time.Unix(0, 0).UTC(), Machine: "m", Commit: "c", Kafka: "k"}
	for pair, f := range []struct{ ours, theirs float64 }{{2, 1}, {30, 10}, {4, 4}} {
		rs.Runs = append(rs.Runs,
			result{"roundtrip", "moorage", pair, figures{"p50 ms": f.ours, "n": 9}},
			result{"roundtrip", "relay", pair, figures{"p50 ms": f.theirs, "n": 9}})
	}
	var b strings.Builder
	rs.write(&b)
	want := "| p50 ms | 4.00 (2.00–30.0) | 4.00 (1.00–10.0) | 2.00 (1.00–3.00) | 3 | ≤ 1.15 × relay | **missed** |\n"
	if !strings.Contains(b.String(), want) {
		t.Errorf("no %q in\n%s", want, b.String())
	}
}

func TestDirectMovesBytes(t *testing.T) {
	b := &bench{measure: 20 * time.Millisecond}
	if rate, err := direct(t.Context(), b, 2); err != nil || rate <= 0 {
		t.Errorf("%v bytes per second, %v", rate, err)
	}
}
