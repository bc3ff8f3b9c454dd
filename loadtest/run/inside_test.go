package run

import (
	"strings"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/loadtest/scenario"
	"github.com/moorage-dev/moorage/loadtest/worker"
)

func TestWhenTheGeneratorWasTheLimit(t *testing.T) {
	open := scenario.Scenario{Groups: []scenario.Group{{Up: &scenario.Flow{Rate: 1}}}}
	closed := scenario.Scenario{Groups: []scenario.Group{{Up: &scenario.Flow{Rate: 1}}, {Down: &scenario.Flow{Closed: true}}}}
	for _, c := range []struct {
		why   string
		story scenario.Scenario
		tick  worker.Tick
		want  string
	}{
		{"nothing special", open, worker.Tick{CPU: 0.5, Sent: [2]uint64{1000, 0}}, ""},
		{"busy", open, worker.Tick{CPU: 0.95, Sent: [2]uint64{1000, 0}}, "used more than"},
		{"busy in a closed loop", closed, worker.Tick{CPU: 2, Sent: [2]uint64{1000, 0}}, ""},
		{"late", open, worker.Tick{Sent: [2]uint64{500, 500}, Extra: map[string]float64{"overdue": 11}}, "held up"},
		{"seldom late", open, worker.Tick{Sent: [2]uint64{500, 500}, Extra: map[string]float64{"overdue": 9}}, ""},
	} {
		begun := time.Now()
		l := newLimits(begun, begun.Add(time.Minute), 2, 2, &c.story)
		for i := range 10 {
			c.tick.At = begun.Add(time.Duration(i+1) * time.Second)
			l.add("app", c.tick)
		}
		if got := l.verdict(); (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.why, got, c.want)
		}
	}
}

func TestWhoIsFrozenIsNotCalledSlow(t *testing.T) {
	begun := time.Now()
	l := newLimits(begun, begun.Add(time.Minute), 2, 2, &scenario.Scenario{Groups: []scenario.Group{{Up: &scenario.Flow{Rate: 1}}}})
	second := func(n int, overdue float64) {
		l.add("app", worker.Tick{At: begun.Add(time.Duration(n) * time.Second), Sent: [2]uint64{100, 0}, Lag: time.Duration(overdue) * time.Millisecond,
			Extra: map[string]float64{"overdue": overdue}})
	}
	second(1, 0)
	l.excuse("app", begun.Add(2*time.Second)) // frozen
	l.excuse("app", begun.Add(6*time.Second)) // and let go
	second(7, 300)                            // it catches up
	second(9, 0)
	if got := l.verdict(); got != "" {
		t.Errorf("a frozen worker: %q", got)
	}
	second(10, 50)
	if got := l.verdict(); !strings.Contains(got, "50 of 300 messages") {
		t.Errorf("late long after it: %q", got)
	}
}

// A busy worker's ticks come late, two in one second and none in the next.
func TestAgentsAreCountedOnce(t *testing.T) {
	begun := time.Now()
	s := newSeconds(begun)
	for _, at := range []time.Duration{1000, 2000, 3500, 4400, 5000} { // the fourth and the third fall into one second
		for _, name := range []string{"agents-1", "agents-2"} {
			if err := s.add(name, true, worker.Tick{At: begun.Add(at * time.Millisecond), Agents: 50}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tick := range s.take([]string{"agents-1", "agents-2"}, true) {
		if tick.Agents != 100 {
			t.Errorf("second %v: %d agents, want 100", tick.At, tick.Agents)
		}
	}
}
