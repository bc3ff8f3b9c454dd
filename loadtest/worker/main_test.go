package worker

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"go.uber.org/goleak"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/loadtest/results"
	"github.com/moorage-dev/moorage/loadtest/scenario"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEveryMessageIsSentAtItsTimeAndArrives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &memory{}, scenario.Scenario{
			Length: seconds(10),
			Groups: []scenario.Group{{Name: "a", Agents: 20, Arrive: scenario.Arrive{Ramp: seconds(2)}, Up: rate(4), Down: rate(2)}},
		})
		r.run(10 * time.Second)
		up, down := r.agents.final.Account.Counts["sent"], r.app.final.Account.Counts["sent"]
		// Agents come within 2 s, so each sends for 8 s to 10 s.
		if up < 20*8*4 || up > 20*10*4 || down < 20*8*2 || down > 20*10*2 {
			t.Errorf("%d messages up and %d down; want 4 and 2 a second of 20 agents in 8 to 10 s", up, down)
		}
		r.wantClean()
		for _, tick := range r.agents.ticks {
			if tick.Lag > minNap {
				t.Errorf("the pacer was %v behind; want at most a nap, for time stands still while it works", tick.Lag)
			}
		}
		// At most a nap of the pacer passes between a message's time and its arrival.
		for _, h := range []*hdrhistogram.Histogram{r.app.latency("up"), r.app.latency("up.a"), r.agents.latency("down"), r.agents.latency("connect")} {
			if most := h.Max(); most > 2*minNap.Microseconds() {
				t.Errorf("a latency of %d µs", most)
			}
		}
		var sent, received uint64
		for _, tick := range r.agents.ticks {
			sent += tick.Sent[0]
		}
		for _, tick := range r.app.ticks {
			received += tick.Received[0]
		}
		if most := r.agents.ticks[4].Agents; sent > up || sent < up*9/10 || received > up || received < up*9/10 || most != 20 {
			t.Errorf("ticks tell of %d sent and %d received of %d, and of %d agents of 20", sent, received, up, most)
		}
	})
}

// Latency counts from the schedule: a system that stands still for 3 s is that
// late with all that was due meanwhile, not with one message per agent.
func TestStallIsLatencyOfEverythingThatWasDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{window: 1}
		r := newRig(t, m, scenario.Scenario{
			Length: seconds(10),
			Groups: []scenario.Group{{Name: "a", Agents: 1, Up: rate(10)}},
		})
		r.start()
		time.Sleep(4 * time.Second)
		m.stall(true)
		time.Sleep(3 * time.Second)
		m.stall(false)
		r.finish(10 * time.Second)
		r.wantClean()
		up := r.app.latency("up")
		if up.TotalCount() != 100 {
			t.Fatalf("%d messages; want 100", up.TotalCount())
		}
		late := 0
		for _, b := range up.Distribution() {
			if b.From > 1000 {
				late += int(b.Count)
			}
		}
		if most := time.Duration(up.Max()) * time.Microsecond; late < 29 || late > 31 || most < 2900*time.Millisecond || most > 3010*time.Millisecond {
			t.Errorf("%d late messages, the worst by %v; want the 30 that were due, up to 3 s", late, most)
		}
		for _, tick := range r.agents.ticks {
			if tick.Lag > minNap {
				t.Errorf("the generator says that it was %v late; the system was", tick.Lag)
			}
		}
	})
}

// One session that takes nothing holds up no other.
func TestFullWindowHoldsUpNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &memory{window: 1, deaf: "a/0/0"}, scenario.Scenario{
			Length: seconds(5), Drain: seconds(5), Groups: []scenario.Group{{Name: "a", Agents: 10, Up: rate(100)}},
		})
		r.run(5 * time.Second)
		up := r.app.latency("up")
		if up.TotalCount() != 9*500 || up.Max() > 2*minNap.Microseconds() {
			t.Errorf("%d messages arrived, the latest after %d µs; want all of nine agents at once", up.TotalCount(), up.Max())
		}
		if report := r.settle(); report.Stuck == 0 || report.Lost+report.Repeated+report.Corrupted > 0 {
			t.Errorf("%+v; want the tenth agent's messages stuck", report)
		}
	})
}

func TestBacklogIsBoundedAndSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{window: 1}
		r := newRig(t, m, scenario.Scenario{Length: seconds(100), Groups: []scenario.Group{{Name: "a", Agents: 1, Up: rate(1000)}}})
		r.start()
		m.stall(true)
		time.Sleep(50 * time.Second)
		m.stall(false)
		r.finish(100 * time.Second)
		r.wantClean()
		sent, overrun := r.agents.final.Account.Counts["sent"], r.agents.final.Figures["overrun"]
		if float64(sent)+overrun != 100_000 || overrun < 40_000 {
			t.Errorf("%d sent and %.0f left out; want 100,000 together, some 42,000 of them left out", sent, overrun)
		}
	})
}

func TestRequestsAreMeasuredThereAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, from := range []string{scenario.FromApplication, scenario.FromAgent} {
			r := newRig(t, &memory{}, scenario.Scenario{
				Length: seconds(10),
				Groups: []scenario.Group{{Name: "a", Agents: 3, Request: &scenario.Request{From: from, Flow: *rate(5), Answer: bytes(500), InFlight: 1}}},
			})
			r.run(10 * time.Second)
			r.wantClean()
			asker := r.app
			if from == scenario.FromAgent {
				asker = r.agents
			}
			if n := asker.latency("request").TotalCount(); n < 3*49 || n > 3*50 {
				t.Errorf("from %s: %d answers; want 5 a second to each of 3", from, n)
			}
		}
	})
}

// Requests that may not be sent yet still count from their time.
func TestRequestsWaitForAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		r := newRig(t, m, scenario.Scenario{
			Length: seconds(10),
			Groups: []scenario.Group{{Name: "a", Agents: 1, Request: &scenario.Request{From: scenario.FromAgent, Flow: *rate(10), InFlight: 2}}},
		})
		r.start()
		time.Sleep(3 * time.Second)
		m.stall(true)
		time.Sleep(2 * time.Second)
		if n := m.underWay("a/0/0"); n != 2 {
			t.Errorf("%d requests are under way; want 2", n)
		}
		m.stall(false)
		r.finish(10 * time.Second)
		r.wantClean()
		if h := r.agents.latency("request"); h.TotalCount() != 100 || h.Max() < 1_900_000 {
			t.Errorf("%d answers, the latest after %d µs; want 100, up to 2 s", h.TotalCount(), h.Max())
		}
	})
}

func TestClosedLoopTakesWhatTheWindowLets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{window: 4, slow: 10 * time.Millisecond}
		r := newRig(t, m, scenario.Scenario{
			Length: seconds(10),
			Groups: []scenario.Group{{Name: "a", Agents: 1, Down: &scenario.Flow{Closed: true, Size: bytes(100), After: seconds(2)}}},
		})
		r.run(10 * time.Second)
		r.wantClean()
		if n := r.app.final.Account.Counts["sent"]; n < 795 || n > 805 {
			t.Errorf("%d messages; want one every 10 ms from the second second on", n)
		}
	})
}

// What a bad transport does is named with the checker's word.
func TestWhatIsSpoiledIsNamed(t *testing.T) {
	for _, c := range []struct {
		word  string
		spoil func(n int, payload []byte) [][]byte
	}{
		{"lost", func(n int, p []byte) [][]byte {
			if n == 7 {
				return nil
			}
			return [][]byte{p}
		}},
		{"repeated", func(n int, p []byte) [][]byte {
			if n == 7 {
				return [][]byte{p, p}
			}
			return [][]byte{p}
		}},
		{"corrupted", func(n int, p []byte) [][]byte {
			if n == 7 {
				p[len(p)-1] ^= 1
			}
			return [][]byte{p}
		}},
		{"reordered", swapped()},
	} {
		t.Run(c.word, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := 0
				m := &memory{spoil: func(key string, up bool, p []byte) [][]byte {
					if key != "a/1/0" || up {
						return [][]byte{p}
					}
					n++
					return c.spoil(n, p)
				}}
				r := newRig(t, m, scenario.Scenario{Length: seconds(10), Groups: []scenario.Group{{Name: "a", Agents: 3, Up: rate(5), Down: rate(5)}}})
				r.run(10 * time.Second)
				report := r.settle()
				words := map[string]uint64{
					"lost": report.Lost, "repeated": report.Repeated, "corrupted": report.Corrupted, "reordered": report.Reordered, "stuck": report.Stuck,
				}
				maps.DeleteFunc(words, func(_ string, n uint64) bool { return n == 0 })
				if !maps.Equal(words, map[string]uint64{c.word: 1}) {
					t.Errorf("found %v; want 1 %s", words, c.word)
				}
				if last := r.agents.ticks[len(r.agents.ticks)-1]; last.Anomaly != 1 {
					t.Errorf("the last tick tells of %d anomalies; want 1", last.Anomaly)
				}
			})
		})
	}
}

// swapped lets message 8 overtake message 7.
func swapped() func(int, []byte) [][]byte {
	var held []byte
	return func(n int, p []byte) [][]byte {
		switch n {
		case 7:
			held = p
			return nil
		case 8:
			return [][]byte{p, held}
		}
		return [][]byte{p}
	}
}

func TestStuckSessionEndsTheDrainAtItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		r := newRig(t, m, scenario.Scenario{Length: seconds(5), Drain: seconds(20), Groups: []scenario.Group{{Name: "a", Agents: 2, Up: rate(5)}}})
		r.start()
		time.Sleep(4 * time.Second)
		m.stall(true)
		r.finish(5 * time.Second)
		if took := r.agents.doneAt.Sub(r.at); took != 25*time.Second {
			t.Errorf("the account came after %v; want the schedule's 5 s and the drain's 20 s", took)
		}
		if report := r.settle(); report.Stuck == 0 || report.Lost > 0 {
			t.Errorf("%+v; want messages that are stuck", report)
		}
	})
}

// Ctrl-C while it drains: whoever interrupts does not wait for the whole drain.
func TestALaterStopShortensTheDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		r := newRig(t, m, scenario.Scenario{Length: seconds(5), Drain: seconds(300), Groups: []scenario.Group{{Name: "a", Agents: 2, Up: rate(5)}}})
		r.start()
		time.Sleep(4 * time.Second)
		m.stall(true)
		time.AfterFunc(11*time.Second, func() {
			r.each(func(p *process) { p.order(Order{Do: "stop", Within: 8 * time.Second}) })
		})
		r.finish(5 * time.Second)
		if took := r.agents.doneAt.Sub(r.at); took != 23*time.Second {
			t.Errorf("the account came after %v; want 15 s until the interruption, and 8 s", took)
		}
		if report := r.settle(); report.Stuck == 0 || report.Lost > 0 {
			t.Errorf("%+v; want messages that are stuck", report)
		}
	})
}

// What is allowed beyond the drain is for what still moves; whose end takes a
// grace is not waited for any longer.
func TestTheDrainGoesOnAsLongAsItIsToldTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		r := newRig(t, m, scenario.Scenario{Length: seconds(5), Drain: seconds(20), Groups: []scenario.Group{{Name: "a", Agents: 2, Up: rate(5)}}})
		r.beyond = 10 * time.Minute
		r.start()
		time.Sleep(4 * time.Second)
		m.stall(true)
		time.AfterFunc(60*time.Second, func() { m.stall(false) })
		r.finish(5 * time.Second)
		if took := r.agents.doneAt.Sub(r.at); took < 64*time.Second || took > 65*time.Second {
			t.Errorf("the account came after %v; want that of the last message", took)
		}
		r.wantClean()
	})
}

func TestSessionsThatEndAreNamedAndOpenedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		r := newRig(t, m, scenario.Scenario{Length: seconds(10), Groups: []scenario.Group{{Name: "a", Agents: 4, Up: rate(5), Down: rate(5)}}})
		r.start()
		time.Sleep(5 * time.Second)
		m.end("CONTROLLER_GONE")
		r.finish(10 * time.Second)
		if f := r.agents.final; f.Opens != 8 || f.Failed != 0 {
			t.Errorf("%d sessions opened, %d failed; want 4 and then 4 again", f.Opens, f.Failed)
		}
		report := r.settle("CONTROLLER_GONE")
		r.wantReport(report)
		if report.Ended["CONTROLLER_GONE"] == 0 || report.Ended[check.OK] == 0 {
			t.Errorf("ended: %v", report.Ended)
		}
		if lost := r.agents.said("lost-session"); len(lost) != 4 || !strings.Contains(lost[0].Text, "CONTROLLER_GONE") {
			t.Errorf("events of lost sessions: %v", lost)
		}
		if report := r.settle(); report.Misjudged == 0 {
			t.Error("nobody allowed that end, and it is not misjudged")
		}
	})
}

func TestRestartedAgentsDieWithoutAWordAndComeAsNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &memory{}, scenario.Scenario{Length: seconds(10), Groups: []scenario.Group{{Name: "a", Agents: 10, Up: rate(5), Down: rate(5)}}})
		r.start()
		time.Sleep(5 * time.Second)
		r.agents.order(Order{Do: "restart", Share: 0.3})
		r.finish(10 * time.Second)
		gone := 0
		for _, e := range r.agents.final.Account.Sessions {
			if e.Gone {
				gone++
			}
		}
		if f := r.agents.final; gone != 3 || f.Opens != 13 {
			t.Errorf("%d agents died and %d sessions were opened; want 3 and 13", gone, f.Opens)
		}
		r.wantReport(r.settle("GRACE"))
	})
}

// Agents that are told to leave end their sessions in order, though their
// application would go on asking, and the next process takes their place.
func TestAgentsLeaveAndTheNextTakeTheirPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &memory{}, scenario.Scenario{Length: seconds(20), Groups: []scenario.Group{
			{Name: "a", Agents: 4, Arrive: scenario.Arrive{Ramp: seconds(2)}, Up: rate(5), Down: rate(5)},
			{Name: "b", Agents: 4, Request: &scenario.Request{Flow: *rate(5)}},
			{Name: "c", Agents: 2, Request: &scenario.Request{Flow: *rate(5), From: scenario.FromAgent}},
		}})
		r.start()
		time.Sleep(5 * time.Second)
		first := r.agents
		first.order(Order{Do: "stop", Within: 10 * time.Second, Leave: true})
		<-first.done
		if took := first.doneAt.Sub(r.at); took > 6*time.Second {
			t.Errorf("they left after %v", took)
		}
		first.order(Order{Do: "quit"})
		if err := <-first.ended; err != nil {
			t.Error(err)
		}

		next := *first
		next.plan.First = Lives
		next.ended, next.ready, next.done = make(chan error, 1), make(chan struct{}), make(chan struct{})
		next.ticks, next.final = nil, nil
		r.agents = &next
		next.begin()
		next.order(Order{Do: "start", At: r.at})
		r.finish(20 * time.Second)
		if next.final.Opens != 10 || next.latency("connect").Max() > time.Second.Microseconds() {
			t.Errorf("%d sessions, the last after %d µs; want 10 at once", next.final.Opens, next.latency("connect").Max())
		}
		r.wantReport(check.Settle([]check.Account{first.final.Account, next.final.Account}, []check.Account{r.app.final.Account}, check.Terms{}))
		for key, e := range first.final.Account.Sessions {
			if e.Reason != check.OK || e.Sent+e.Received == 0 {
				t.Errorf("session %s: %+v", key, e)
			}
		}
	})
}

// The grace of a dead agent's session may be far longer than a drain. Where it
// is not, its end is waited for: it may be late, for grace stands still while
// Kafka is away.
func TestAccountWaitsForTheDeadWhoseGraceIsShort(t *testing.T) {
	for _, tt := range []struct {
		desc                 string
		grace, drain, notice time.Duration
		want                 time.Duration // after the load's end
		untold               uint64
	}{
		{"the grace that a scenario does not say", 0, time.Minute, -1, acceptQuiet, 0},
		{"a longer grace than the drain", 2 * time.Minute, time.Minute, -1, acceptQuiet, 0},
		{"the same", time.Minute, time.Minute, -1, acceptQuiet, 0},
		{"a shorter one that ended in time", 30 * time.Second, time.Minute, 4 * time.Second, acceptQuiet, 0},
		{"a late end", 30 * time.Second, time.Minute, 55 * time.Second, 50 * time.Second, 0},
		{"an end that never comes", 30 * time.Second, time.Minute, -1, time.Minute, 10},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, &memory{notice: tt.notice}, scenario.Scenario{
					Length: seconds(10), Drain: scenario.Duration(tt.drain), Local: scenario.Local{Grace: scenario.Duration(tt.grace)},
					Groups: []scenario.Group{{Name: "a", Agents: 10, Up: rate(5), Down: rate(5)}},
				})
				r.start()
				time.Sleep(5 * time.Second)
				r.agents.order(Order{Do: "restart", Share: 1})
				r.finish(10 * time.Second)
				if took := r.app.doneAt.Sub(r.at) - 10*time.Second; took < tt.want || took > tt.want+100*time.Millisecond {
					t.Errorf("the application's account came %v after the load's end; want %v", took, tt.want)
				}
				// Each agent died 5 s before the load's end, and whoever has the time
				// must have been told within a minute.
				report := check.Settle([]check.Account{r.agents.final.Account}, []check.Account{r.app.final.Account}, check.Terms{
					Expect: func(check.Ending) []string { return []string{"GRACE"} }, Within: time.Minute,
				})
				if report.Untold != tt.untold || report.Lost+report.Stuck+report.Repeated > 0 || report.Sessions != 20 {
					t.Errorf("%+v; want 20 sessions, %d ends untold, and nothing but tails cut off", report, tt.untold)
				}
			})
		})
	}
}

// A worker that is started in another's place joins in the present second.
func TestLateWorkerTicksFromThePresentOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		time.Sleep(5500 * time.Millisecond)
		var s ticking
		s.begin(start)
		for second := 6; second < 9; second++ {
			<-s.timer.C
			if tick := s.next(); tick.At.Sub(start) != time.Duration(second)*time.Second || !tick.At.Equal(time.Now()) {
				t.Errorf("a tick of second %v at %v; want %d", tick.At.Sub(start), time.Since(start), second)
			}
		}
		time.Sleep(4500 * time.Millisecond) // it was stopped
		s.next()
		<-s.timer.C
		if tick := s.next(); tick.At.Sub(start) != 13*time.Second {
			t.Errorf("after a stop the tick is of second %v; want 13", tick.At.Sub(start))
		}
	})
}

func TestCutConcernsAShareOfTheAgents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		r := newRig(t, m, scenario.Scenario{Length: seconds(5), Groups: []scenario.Group{{Name: "a", Agents: 8, Up: rate(1)}}})
		r.start()
		time.Sleep(time.Second)
		r.agents.order(Order{Do: "cut", Share: 0.5})
		r.agents.order(Order{Do: "cut", Share: 1})
		r.finish(5 * time.Second)
		r.wantClean()
		if len(m.cuts) != 2 || len(m.cuts[0]) != 4 || len(m.cuts[1]) != 8 {
			t.Errorf("cut %v; want 4 and then all 8", m.cuts)
		}
	})
}

func TestFaultsHaveRecoveryTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		r := newRig(t, m, scenario.Scenario{Length: seconds(10), Groups: []scenario.Group{{Name: "a", Agents: 5, Up: rate(5)}}})
		r.start()
		time.Sleep(5 * time.Second)
		m.stall(true)
		for _, p := range []*process{r.agents, r.app} {
			p.order(Order{Do: "fault", Fault: 3, Name: "kill", At: time.Now()})
		}
		time.Sleep(2 * time.Second)
		m.stall(false)
		r.finish(10 * time.Second)
		h := decoded(t, r.app.final.Recovery[3])
		if h.TotalCount() != 5 || h.Min() < 1_700_000 || h.Max() > 2_010_000 {
			t.Errorf("%d sessions recovered after %d to %d µs; want 5, about 2 s", h.TotalCount(), h.Min(), h.Max())
		}
		if s := decoded(t, r.app.final.Silence); s.TotalCount() != 5 || s.Max() < 1_700_000 {
			t.Errorf("silences %d, at most %d µs; want 5, about 2 s", s.TotalCount(), s.Max())
		}
	})
}

func TestSessionsStayTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, request := range []*scenario.Request{nil, {From: scenario.FromApplication, Flow: *rate(3)}, {From: scenario.FromAgent, Flow: *rate(3)}} {
			r := newRig(t, &memory{}, scenario.Scenario{
				Length: seconds(10),
				Groups: []scenario.Group{{Name: "a", Agents: 2, Stay: seconds(3), Up: rate(5), Down: rate(5), Request: request}},
			})
			r.run(10 * time.Second)
			r.wantClean()
			if f := r.agents.final; f.Opens != 8 || len(f.Account.Sessions) != 8 {
				t.Errorf("request %+v: %d sessions; want four of each agent", request, f.Opens)
			}
		}
	})
}

// TestSessionsThatAreOverAreHandedOver: an account has the sessions of the last
// seconds, and those before are in the ticks.
func TestSessionsThatAreOverAreHandedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &memory{}, scenario.Scenario{Length: seconds(120), Groups: []scenario.Group{{Name: "a", Agents: 10, Stay: seconds(2), Up: rate(2), Down: rate(2)}}})
		r.run(120 * time.Second)
		r.wantClean()
		for _, p := range []*process{r.agents, r.app} {
			// Ten agents have six sessions in ten seconds, and one more.
			if all := len(p.final.Account.Sessions); all < 550 || p.kept > 80 {
				t.Errorf("%s: %d of %d sessions are in the account", p.plan.Role, p.kept, all)
			}
		}
	})
}

func TestAgentsThatAreRefusedTryAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{refuse: func(key string) error {
			if strings.HasSuffix(key, "/0") {
				return errors.New("no gateway answers")
			}
			return nil
		}}
		r := newRig(t, m, scenario.Scenario{Length: seconds(10), Groups: []scenario.Group{{Name: "a", Agents: 3, Up: rate(5)}}})
		r.run(10 * time.Second)
		r.wantClean()
		if f := r.agents.final; f.Failed != 3 || f.Opens != 3 || f.LastError != "no gateway answers" {
			t.Errorf("%d opened, %d failed, last: %q; want 3, 3 and why", f.Opens, f.Failed, f.LastError)
		}
	})
}

func TestWarmUpIsLeftOutOfTheWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &memory{}, scenario.Scenario{Length: seconds(10), Warmup: seconds(4), Groups: []scenario.Group{{Name: "a", Agents: 1, Up: rate(10)}}})
		r.run(10 * time.Second)
		r.wantClean()
		if n := r.app.latency("up").TotalCount(); n < 59 || n > 61 {
			t.Errorf("%d latencies; want the 60 after warm-up", n)
		}
	})
}

// Ctrl-C: a stop long before the schedule's end ends everything in order.
func TestStopEndsTheScheduleAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &memory{}, scenario.Scenario{
			Length: seconds(1000),
			Groups: []scenario.Group{{Name: "a", Agents: 5, Arrive: scenario.Arrive{Ramp: seconds(500)}, Up: rate(5), Request: &scenario.Request{Flow: *rate(5)}}},
		})
		r.run(20 * time.Second)
		r.wantClean()
		if took := r.app.doneAt.Sub(r.at); took > 21*time.Second+100*time.Millisecond {
			t.Errorf("it took %v; want 20 s, and one in which nobody comes", took)
		}
	})
}

// A worker never outlives its coordinator.
func TestClosedInputEndsAWorkerAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &memory{}, scenario.Scenario{Length: seconds(1000), Groups: []scenario.Group{{Name: "a", Agents: 5, Up: rate(5)}}})
		r.start()
		time.Sleep(3 * time.Second)
		for _, p := range []*process{r.agents, r.app} {
			p.in.Close()
			if err := <-p.ended; !errors.Is(err, ErrOrphan) {
				t.Errorf("it ended with %v; want %v", err, ErrOrphan)
			}
		}
		if took := time.Since(r.at); took > 3*time.Second+partingTime {
			t.Errorf("it took until %v", took)
		}
	})
}

func TestBadPlansAreOneLine(t *testing.T) {
	for plan, want := range map[string]string{
		`{"role":"agents","transport":"pigeon"}`: `no transport "pigeon"`,
		`{"role":"king","transport":"memory"}`:   `no role "king"`,
		`{"role":`:                               "the coordinator is gone",
		`[]`:                                     "read the plan",
		`{"role":"app","transport":"memory"}` + "\n" + `{"do":"cut"}`: `order "cut" before the start`,
	} {
		var out strings.Builder
		err := Main(t.Context(), strings.NewReader(plan), &out, map[string]Transport{"memory": &memory{}})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v; want a line with %q", plan, err, want)
		}
	}
}

// A rig is the two sides of a run, and its coordinator.
type rig struct {
	t           *testing.T
	at          time.Time     // the start
	beyond      time.Duration // the drain
	agents, app *process
}

// A process is a worker and what it said.
type process struct {
	t         *testing.T
	transport Transport
	plan      Plan
	in        *io.PipeWriter
	ended     chan error
	ready     chan struct{}
	done      chan struct{} // final has come
	doneAt    time.Time
	events    []results.Event
	ticks     []*Tick
	final     *Final
	kept      int // sessions in its account, those of ticks left out
}

func newRig(t *testing.T, m *memory, s scenario.Scenario) *rig {
	for i := range s.Groups {
		g := &s.Groups[i]
		for _, f := range []*scenario.Flow{g.Up, g.Down} {
			if f != nil && len(f.Size.Parts) == 0 {
				f.Size = bytes(200)
			}
		}
		if g.Request != nil && len(g.Request.Size.Parts) == 0 {
			g.Request.Size = bytes(200)
		}
		if g.Request != nil && len(g.Request.Answer.Parts) == 0 {
			g.Request.Answer = bytes(200)
		}
	}
	plan := Plan{Of: 1, Transport: "memory", Scenario: s}
	r := &rig{t: t}
	for _, side := range []struct {
		role string
		p    **process
	}{{RoleApp, &r.app}, {RoleAgents, &r.agents}} {
		plan.Role = side.role
		*side.p = &process{t: t, transport: m, plan: plan, ended: make(chan error, 1), ready: make(chan struct{}), done: make(chan struct{})}
	}
	return r
}

// begin starts the process and waits until it is ready.
func (p *process) begin() {
	in, orders := io.Pipe()
	words, out := io.Pipe()
	p.in = orders
	go func() {
		err := serve(context.Background(), in, out, map[string]Transport{"memory": p.transport}, func() alarm { return newTimerAlarm() })
		out.Close()
		in.Close()
		p.ended <- err
	}()
	go func() {
		lines := json.NewDecoder(words)
		for {
			var w Word
			if lines.Decode(&w) != nil {
				return
			}
			p.hear(w)
		}
	}()
	p.say(p.plan)
	<-p.ready
}

func (p *process) hear(w Word) {
	switch {
	case w.Ready != nil:
		close(p.ready)
	case w.Tick != nil:
		p.ticks = append(p.ticks, w.Tick)
	case w.Event != nil:
		p.events = append(p.events, *w.Event)
	case w.Final != nil:
		p.final, p.doneAt = w.Final, time.Now()
		p.kept = len(p.final.Account.Sessions)
		for _, tick := range p.ticks {
			maps.Copy(p.final.Account.Sessions, tick.Over)
		}
		close(p.done)
	default:
		p.t.Errorf("it said %+v", w)
	}
}

func (p *process) say(v any) {
	if err := json.NewEncoder(p.in).Encode(v); err != nil {
		p.t.Errorf("it does not listen: %v", err)
	}
}

func (p *process) order(o Order) { p.say(o) }

func (p *process) said(kind string) (some []results.Event) {
	for _, e := range p.events {
		if e.Kind == kind {
			some = append(some, e)
		}
	}
	return some
}

func (p *process) latency(what string) *hdrhistogram.Histogram {
	return decoded(p.t, p.final.Latency[what])
}

func decoded(t *testing.T, encoded []byte) *hdrhistogram.Histogram {
	t.Helper()
	if encoded == nil {
		return newHistogram()
	}
	h, err := hdrhistogram.Decode(encoded)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (r *rig) each(do func(p *process)) {
	var wg sync.WaitGroup
	for _, p := range []*process{r.agents, r.app} {
		wg.Go(func() { do(p) })
	}
	wg.Wait()
}

func (r *rig) start() {
	r.each((*process).begin)
	r.at = time.Now().Add(time.Second)
	r.each(func(p *process) { p.order(Order{Do: "start", At: r.at}) })
	time.Sleep(time.Second)
}

// finish stops both sides so long after the start, and waits for their end.
func (r *rig) finish(after time.Duration) {
	time.Sleep(time.Until(r.at.Add(after)))
	r.each(func(p *process) {
		p.order(Order{Do: "stop", Beyond: r.beyond})
		<-p.done
	})
	r.each(func(p *process) {
		p.order(Order{Do: "quit"})
		if err := <-p.ended; err != nil {
			p.t.Errorf("%s: %v", p.plan.Role, err)
		}
	})
	time.Sleep(2 * time.Second) // what the transport still does
}

func (r *rig) run(length time.Duration) {
	r.start()
	r.finish(length)
}

// settle judges both accounts.
func (r *rig) settle(allowed ...string) check.Report {
	return check.Settle([]check.Account{r.agents.final.Account}, []check.Account{r.app.final.Account}, check.Terms{
		Expect: func(check.Ending) []string { return allowed },
	})
}

// wantClean wants every session ended in order, and every message arrived.
func (r *rig) wantClean() {
	r.t.Helper()
	report := r.settle()
	r.wantReport(report)
	for _, p := range []*process{r.agents, r.app} {
		for key, e := range p.final.Account.Sessions {
			if e.Reason != check.OK && !e.Gone {
				r.t.Errorf("%s: session %s ended with %q", p.plan.Role, key, e.Reason)
			}
		}
	}
}

// wantReport wants no anomaly.
func (r *rig) wantReport(report check.Report) {
	r.t.Helper()
	for _, a := range report.Anomalies[:min(len(report.Anomalies), 3)] {
		r.t.Errorf("%s: session %s, %s: %d %s\n%v", a.What, a.Session, a.Side, a.Seq, a.Detail, a.Events)
	}
}

func seconds(n int) scenario.Duration { return scenario.Duration(time.Duration(n) * time.Second) }

func bytes(n int) scenario.Size {
	return scenario.Size{Parts: []scenario.Part{{Min: n, Max: n, Weight: 1}}}
}

func rate(perSecond float64) *scenario.Flow {
	return &scenario.Flow{Rate: perSecond, Pattern: scenario.Constant, Size: bytes(200)}
}
