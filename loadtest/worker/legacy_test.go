package worker

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/loadtest/scenario"
	"github.com/moorage-dev/moorage/standin"
)

// Both protocols carry all flows; what is measured and counted is what happened.
func TestLegacyCallsAreMade(t *testing.T) {
	l := newLegacyTest(t,
		scenario.Group{
			Name: "tcp", Agents: 3, Up: legacyFlow(200, 8<<10), Down: legacyFlow(200, 300),
			Request: &scenario.Request{Flow: *legacyFlow(200, 100), Answer: legacyBytes(2000), InFlight: 2},
		},
		scenario.Group{Name: "ws", Agents: 2, Protocol: legacyWebSocket, Request: &scenario.Request{From: "agent", Flow: *legacyFlow(200, 20_000), Answer: legacyBytes(500)}},
	)
	l.start()
	l.until("calls to everybody", func() bool { return l.controller.calls.Load() >= 500 })
	l.controller.drain(t.Context(), time.Minute)

	var tick Tick
	l.agents.tick(&tick)
	l.controller.tick(&tick)
	calls := l.controller.calls.Load()
	if tick.Agents != 5 || tick.Sent[0] != calls || tick.Received[1] != calls || tick.Bytes[0] == 0 || tick.Bytes[1] == 0 || tick.Anomaly != 0 {
		t.Errorf("tick %+v; want 5 agents and %d calls", tick, calls)
	}
	l.wantFigures(map[string]float64{"failed_calls": 0, "corrupt": 0, "stuck_calls": 0, "lost_channels": 0, "legacy_opens": 5, "calls": float64(calls)})
	l.wantAnomalies()
	for _, group := range []string{"tcp", "ws"} {
		if l.recorded("request", group) == 0 || l.recorded("connect", group) == 0 {
			t.Errorf("no latencies of group %s", group)
		}
	}
	if n := l.recorded("request", "tcp") + l.recorded("request", "ws"); uint64(n) != calls {
		t.Errorf("%d latencies of %d calls", n, calls)
	}
}

// Calls of a closed loop follow each other without a schedule.
func TestLegacyClosedLoop(t *testing.T) {
	closed := legacyFlow(0, 300)
	closed.Closed = true
	l := newLegacyTest(t, scenario.Group{Name: "ws", Agents: 1, Protocol: legacyWebSocket, Down: closed})
	l.start()
	l.until("calls", func() bool { return l.controller.calls.Load() >= 20 })
	l.controller.drain(t.Context(), time.Minute)
	l.wantAnomalies()
}

// On tier 0 a cut ends the channel: it is counted, and the agent comes back.
func TestLegacyCutAtTheGateway(t *testing.T) {
	l := newLegacyTest(t, scenario.Group{Name: "ws", Agents: 2, Protocol: legacyWebSocket, Down: legacyFlow(50, 300)})
	l.start()
	l.until("both are online", func() bool { return l.agents.online.Load() == 2 })
	l.agents.order(Order{Do: "cut", Share: 1})
	l.until("both are back", func() bool { return l.agents.opens.Load() == 4 && l.agents.online.Load() == 2 })
	l.wantFigures(map[string]float64{"lost_channels": 2})
	l.wantAnomalies()
}

// On tier 1 a channel outlives everything: one that ends is an anomaly, unless
// its connector died.
func TestLegacyChannelLostBehindAShim(t *testing.T) {
	l := newLegacyTest(t, scenario.Group{Name: "ws", Agents: 1, Protocol: legacyWebSocket, Door: doorShim, Down: legacyFlow(50, 300)})
	l.start()
	name := legacyName(l.plan, &l.plan.Scenario.Groups[0], 0)
	lose := func(opens uint64) {
		t.Helper()
		if err := l.controller.jenkins.WaitOnline(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		if err := l.controller.jenkins.Disconnect(name, standin.EndFIN); err != nil {
			t.Fatal(err)
		}
		l.until("it is back", func() bool { return l.agents.opens.Load() == opens })
	}
	l.agents.order(Order{Do: "fault", Name: "kill", To: "connector"})
	lose(2)
	l.wantFigures(map[string]float64{"lost_channels": 1, "expected_lost_channels": 1})
	l.wantAnomalies()
	l.agents.mu.Lock()
	l.agents.connector = time.Time{}
	l.agents.mu.Unlock()
	lose(3)
	l.wantAnomalies("unexplained")
}

// A restarted agent comes as new; its end is its own doing.
func TestLegacyRestart(t *testing.T) {
	l := newLegacyTest(t, scenario.Group{Name: "ws", Agents: 1, Protocol: legacyWebSocket, Door: doorShim})
	l.start()
	l.until("it is online", func() bool { return l.agents.online.Load() == 1 })
	l.agents.order(Order{Do: "cut", Share: 1}) // no cut: its shim is on its machine
	l.agents.order(Order{Do: "restart", Share: 1})
	l.until("it is back", func() bool { return l.agents.opens.Load() == 2 && l.agents.online.Load() == 1 })
	l.wantFigures(map[string]float64{"lost_channels": 0})
	l.wantAnomalies()
}

// Agents that are told to leave go in order, are waited for, and stay away.
func TestLegacyAgentsLeave(t *testing.T) {
	l := newLegacyTest(t,
		scenario.Group{Name: "ws", Agents: 2, Protocol: legacyWebSocket, Door: doorShim, Down: legacyFlow(50, 200)},
		scenario.Group{Name: "tcp", Agents: 1, Down: legacyFlow(50, 200)})
	l.start()
	l.until("they are online and at work", func() bool { return l.agents.online.Load() == 3 && l.controller.calls.Load() > 10 })
	l.agents.order(Order{Do: "stop", Leave: true})
	l.agents.drain(t.Context(), time.Minute)
	if n := l.agents.online.Load(); n != 0 {
		t.Errorf("%d are still online", n)
	}
	l.wantFigures(map[string]float64{"lost_channels": 0, "legacy_opens": 3})
	l.wantAnomalies()
}

// Other bytes than were sent are found, at whichever end they come in.
func TestLegacyCorruptionIsFound(t *testing.T) {
	l := newLegacyTest(t, scenario.Group{Name: "ws", Agents: 1, Protocol: legacyWebSocket, Down: legacyFlow(50, 6<<10)})
	l.through(func(p []byte) []byte {
		if len(p) > 5<<10 {
			p[len(p)/2] ^= 1 // of a frame's head, seldom: that ends the channel, and the agent comes back
		}
		return p
	})
	l.start()
	l.until("it is found", func() bool { return l.controller.anomalies.all() > 0 })
	l.wantAnomalies("corrupted")
}

// A call that nobody answers is stuck when the time to wait is over.
func TestLegacyCallWithoutAnAnswer(t *testing.T) {
	l := newLegacyTest(t, scenario.Group{Name: "ws", Agents: 1, Protocol: legacyWebSocket, Down: legacyFlow(50, 6<<10)})
	var swallowed atomic.Bool
	l.through(func(p []byte) []byte {
		if len(p) > 5<<10 {
			swallowed.Store(true)
		}
		if swallowed.Load() {
			return nil
		}
		return p
	})
	l.start()
	l.until("a call has vanished", swallowed.Load)
	ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, errStopped)
	defer cancel()
	l.controller.drain(ctx, 10*time.Millisecond)
	l.wantAnomalies("stuck")
}

func TestLegacyPlanWithoutAKey(t *testing.T) {
	p := &Plan{Secrets: "no hex"}
	if _, err := newLegacyAgents(p, legacyHost{}); err == nil {
		t.Error("agents take a key that is none")
	}
	if _, err := newLegacyController(p, legacyHost{}); err == nil {
		t.Error("a controller takes a key that is none")
	}
	p = &Plan{Secrets: "00", Of: 1, Scenario: scenario.Scenario{Groups: []scenario.Group{{Name: "far", Kind: scenario.Legacy, Agents: 1, Door: doorShim}}}}
	if _, err := newLegacyAgents(p, legacyHost{}); err == nil || !strings.Contains(err.Error(), "far") {
		t.Errorf("a group without a door: %v", err)
	}
}

// A legacyTest is both sides of legacy groups, with nothing between them.
type legacyTest struct {
	t          *testing.T
	plan       *Plan
	controller *legacyController
	agents     *legacyAgents

	mu      sync.Mutex
	records map[string]int
}

func newLegacyTest(t *testing.T, groups ...scenario.Group) *legacyTest {
	t.Helper()
	for i := range groups {
		groups[i].Kind = scenario.Legacy
	}
	l := &legacyTest{t: t, records: map[string]int{}, plan: &Plan{
		Of: 1, Run: "r1", Secrets: "0011", Scenario: scenario.Scenario{Length: scenario.Duration(time.Hour), Groups: groups},
	}}
	var err error
	if l.controller, err = newLegacyController(l.plan, l.host()); err != nil {
		t.Fatal(err)
	}
	l.plan.Doors, l.plan.Shims = []string{l.controller.jenkins.URL}, []string{l.controller.jenkins.URL}
	return l
}

// start has both sides run until the test ends.
func (l *legacyTest) start() {
	l.t.Helper()
	var err error
	if l.agents, err = newLegacyAgents(l.plan, l.host()); err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, part := range []legacyPart{l.controller, l.agents} {
		wg.Go(func() { _ = part.run(ctx, time.Now()) }) // it ends with ctx
	}
	l.t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

func (l *legacyTest) host() legacyHost {
	return legacyHost{
		record: func(what, group string, _ time.Time, _ time.Duration) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.records[what+"."+group]++
		},
		event: func(kind, who, text string) { l.t.Log(kind, who, text) },
	}
}

func (l *legacyTest) recorded(what, group string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.records[what+"."+group]
}

// through leads the agents through a proxy that does something to what the
// controller says.
func (l *legacyTest) through(do func(p []byte) []byte) {
	l.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		l.t.Fatal(err)
	}
	to := l.controller.jenkins.URL
	from, _, _ := strings.Cut(strings.TrimPrefix(to, "http://"), "/")
	l.plan.Doors = []string{fmt.Sprintf("http://%s/", listener.Addr())}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", from)
			if err != nil {
				near.Close()
				continue
			}
			wg.Go(func() { legacyCopy(far, near, func(p []byte) []byte { return p }) })
			wg.Go(func() { legacyCopy(near, far, do) })
		}
	})
	l.t.Cleanup(func() {
		listener.Close()
		wg.Wait()
	})
}

func legacyCopy(dst, src net.Conn, do func([]byte) []byte) {
	defer dst.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		if err != nil {
			return
		}
		if _, err := dst.Write(do(buf[:n])); err != nil {
			return
		}
	}
}

// until waits for something that another goroutine brings about.
func (l *legacyTest) until(what string, holds func() bool) {
	l.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(60 * time.Second)
	for !holds() {
		select {
		case <-tick.C:
		case <-limit:
			l.t.Fatalf("after a minute, still not: %s", what)
		}
	}
}

func (l *legacyTest) final() *Final {
	var f Final
	l.controller.final(&f)
	l.agents.final(&f)
	return &f
}

func (l *legacyTest) wantFigures(want map[string]float64) {
	l.t.Helper()
	got := l.final().Figures
	for name, n := range want {
		if got[name] != n {
			l.t.Errorf("%s is %v, want %v", name, got[name], n)
		}
	}
}

// wantAnomalies wants anomalies of these words, any number of each, and no others.
func (l *legacyTest) wantAnomalies(words ...string) {
	l.t.Helper()
	f := l.final()
	for _, word := range words {
		if f.Account.Counts[word] == 0 {
			l.t.Errorf("nothing is %s: %+v", word, f.Account)
		}
		delete(f.Account.Counts, word)
	}
	if len(f.Account.Counts) > 0 {
		l.t.Errorf("anomalies: %+v", f.Account.Seen)
	}
}

func legacyFlow(rate float64, size int) *scenario.Flow {
	return &scenario.Flow{Rate: rate, Size: legacyBytes(size)}
}

func legacyBytes(n int) scenario.Size {
	return scenario.Size{Parts: []scenario.Part{{Min: n, Max: n, Weight: 1}}}
}
