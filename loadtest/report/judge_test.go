package report_test

import (
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/loadtest/figure"
	"github.com/moorage-dev/moorage/loadtest/report"
	"github.com/moorage-dev/moorage/loadtest/report/made"
	"github.com/moorage-dev/moorage/loadtest/results"
	"github.com/moorage-dev/moorage/loadtest/scenario"
)

func TestACleanRunIsClean(t *testing.T) {
	r := made.Kind{Faults: 4}.Results()
	report.Judge(r)
	if got := report.Outcome(r); got != report.Clean {
		t.Fatalf("outcome %s: %q", got, r.Verdict.Lines)
	}
}

func TestWhatSpoilsAVerdict(t *testing.T) {
	for _, c := range []struct {
		why     string
		spoil   func(*results.Results)
		outcome string
		line    string
	}{
		{"a lost message", func(r *results.Results) { r.Runs[0].Figures["lost"] = 3 }, report.Anomalies, "moorage/0: 3 lost (messages: sent, and did not arrive"},
		{"a legacy call without an answer", func(r *results.Results) { r.Runs[0].Figures["stuck_calls"] = 1 }, report.Anomalies, "1 stuck_calls"},
		{"an end that was not told", func(r *results.Results) { r.Runs[0].Figures["untold"] = 1 }, report.Anomalies, "1 untold"},
		{"an anomaly that no figure counts", func(r *results.Results) {
			r.Runs[0].Anomalies = []check.Anomaly{{What: "lost", Session: "a/1/1"}}
		}, report.Anomalies, "first: lost in session a/1/1"},
		{"a promise that nobody counted", func(r *results.Results) { delete(r.Runs[0].Figures, "stuck") }, report.Missed, "stuck was not counted"},
		{"a threshold", func(r *results.Results) { r.Scenario.Thresholds = map[string]float64{"down.p99_ms": 1} }, report.Missed, "more than 1 ms"},
		{"a lower threshold", func(r *results.Results) {
			r.Scenario.Thresholds = map[string]float64{"messages_per_s.down.min": 1e6}
		}, report.Missed, "less than 1\u202f000\u202f000 1/s"},
		{"a figure that was not measured", func(r *results.Results) { r.Scenario.Thresholds = map[string]float64{"request.p50_ms": 1} }, report.Missed, "was not measured"},
		{"a figure that does not exist", func(r *results.Results) { r.Scenario.Thresholds = map[string]float64{"losst": 1} }, report.Missed, "there is no figure losst"},
		{"a fault that could not be done", func(r *results.Results) {
			r.Runs[0].Faults = append(r.Runs[0].Faults, results.FaultMark{At: 3, Name: "cut", Error: "no such leg"})
		}, report.Missed, "1 of 1 faults could not be done, first: cut of its default at 3 s: no such leg"},
		{"silence", func(r *results.Results) {
			for i := range r.Runs[0].Ticks {
				r.Runs[0].Ticks[i].Received = [2]uint64{}
			}
		}, report.Missed, "no message was received"},
		{"a generator that was the limit", func(r *results.Results) { r.Runs[0].Invalid = "too slow" }, report.Invalid, "moorage/0 is invalid: too slow"},
		{"an invalid run with losses", func(r *results.Results) { r.Runs[0].Invalid, r.Runs[0].Figures["lost"] = "too slow", 1 }, report.Invalid, "1 lost"},
		{"no run", func(r *results.Results) { r.Runs = nil }, report.Invalid, "no run of moorage was measured"},
	} {
		t.Run(c.why, func(t *testing.T) {
			r := made.Kind{}.Results()
			c.spoil(r)
			report.Judge(r)
			if got := report.Outcome(r); got != c.outcome {
				t.Errorf("outcome %s, want %s", got, c.outcome)
			}
			if r.Verdict.Clean || !strings.Contains(strings.Join(r.Verdict.Lines, "\n"), c.line) {
				t.Errorf("clean %v; want a line with %q in %q", r.Verdict.Clean, c.line, r.Verdict.Lines)
			}
		})
	}
}

// A baseline that carried less than it was asked to is faster for it.
func TestABaselineThatFellShortIsNoMeasure(t *testing.T) {
	for _, c := range []struct {
		why   string
		spoil func(*results.Run)
		line  string
	}{
		{"agents that never came", func(r *results.Run) { r.Figures["opens"] = 1990 }, "relay/1 is no measure: it opened 1\u202f990 of 2\u202f000 sessions"},
		{"agents that were refused", func(r *results.Run) { r.Figures["failed_opens"] = 3 }, "relay/1 is no measure: 3 sessions could not be opened"},
		{"sessions that broke off", func(r *results.Run) { r.Figures["reset"] = 7 }, "relay/1 is no measure: 7 sessions broke off"},
		{"lost messages", func(r *results.Run) { r.Figures["lost"] = 5 }, "relay/1 is no measure: 5 lost (messages"},
		{"a run that was ended early", func(r *results.Run) { r.Invalid = "interrupted" }, "relay/1 is invalid: interrupted"},
	} {
		t.Run(c.why, func(t *testing.T) {
			r := made.Kind{Baselines: []string{"relay", "grpc"}, Pairs: 3}.Results()
			i := slices.IndexFunc(r.Runs, func(run results.Run) bool { return run.System == "relay" && run.Pair == 1 })
			c.spoil(&r.Runs[i])
			report.Judge(r)
			if got := report.Outcome(r); got != report.Invalid {
				t.Errorf("outcome %s, want %s", got, report.Invalid)
			}
			if said := strings.Join(r.Verdict.Lines, "\n"); !strings.Contains(said, c.line) {
				t.Errorf("want a line with %q in %q", c.line, said)
			}
			for _, ratio := range r.Ratios {
				if flagged := strings.Contains(ratio.Flawed, "relay/1"); flagged != (ratio.Baseline == "relay") {
					t.Fatalf("%s ÷ %s is flawed: %q", ratio.Figure, ratio.Baseline, ratio.Flawed)
				}
			}
		})
	}
}

func TestRatiosAreOfPairs(t *testing.T) {
	one := func(system string, pair int, v float64) results.Run {
		return results.Run{System: system, Pair: pair, Figures: map[string]float64{"messages_per_s.up": v, "lost": 0}}
	}
	r := &results.Results{Runs: []results.Run{
		one("moorage", 0, 80), one("relay", 0, 100), one("moorage", 1, 90), one("relay", 1, 90), one("moorage", 2, 30), one("relay", 2, 60),
	}}
	report.Judge(r)
	i := slices.IndexFunc(r.Ratios, func(x results.Ratio) bool { return x.Figure == "messages_per_s.up" })
	if i < 0 {
		t.Fatalf("no ratio of messages_per_s.up in %v", r.Ratios)
	}
	got := r.Ratios[i]
	if !slices.Equal(got.Pairs, []float64{0.8, 1, 0.5}) || got.Median != 0.8 || got.Low != 0.5 || got.High != 1 || got.Baseline != "relay" {
		t.Errorf("got %+v", got)
	}
}

func TestThresholdsOfRatios(t *testing.T) {
	for _, c := range []struct {
		name  string
		bound float64
		clean bool
		line  string
	}{
		{"ratio.relay.down.p50", 1.3, true, "all thresholds met (1)"},
		{"ratio.relay.down.p50_ms", 1.3, true, ""},
		{"ratio.relay.down.p50", 0.2, false, "more than 0.2"},
		{"ratio.relay.messages_per_s.down.min", 0.8, true, ""},
		{"ratio.relay.messages_per_s.down.min", 8, false, "less than 8"},
		{"ratio.relay.request.p50", 1, false, "was not measured"},
		{"ratio.relay.quickness", 1, false, "there is no figure"},
		{"ratio.nats.down.p50", 1, true, "was not judged: nats was not run (--baseline nats)"},
		{"difference.relay.rss.gateway", 1e9, true, "all thresholds met (1)"},
		{"difference.relay.rss.gateway", -1e9, false, "difference.relay.rss.gateway is "},
		{"difference.relay.rss.gateway.min", 1e9, false, "less than 954 MiB"},
		{"difference.relay.request.p50_ms", 1, false, "was not measured"},
		{"difference.relay.quickness", 1, false, "there is no figure"},
		{"difference.nats.rss.gateway", 1, true, "was not judged: nats was not run (--baseline nats)"},
	} {
		r := made.Kind{Baselines: []string{"relay"}, Pairs: 3}.Results()
		r.Scenario.Thresholds = map[string]float64{c.name: c.bound}
		report.Judge(r)
		if r.Verdict.Clean != c.clean || !strings.Contains(strings.Join(r.Verdict.Lines, "\n"), c.line) {
			t.Errorf("%s: %g: clean %v, lines %q; want clean %v, %q", c.name, c.bound, r.Verdict.Clean, r.Verdict.Lines, c.clean, c.line)
		}
	}
}

func TestOnlyALeakMissesTheThresholdOfSlopes(t *testing.T) {
	for _, leak := range []bool{false, true} {
		r := made.Kind{Length: 10 * time.Minute, Gateways: 2, Leak: leak}.Results()
		r.Scenario.Warmup = scenario.Duration(time.Minute)
		r.Scenario.Thresholds = map[string]float64{"slope.rss": 0, "slope.goroutines": 0, "slope.files.gateway-1": 0}
		report.Judge(r)
		if r.Verdict.Clean == leak {
			t.Errorf("leak %v: %q", leak, r.Verdict.Lines)
		}
		if leak && (len(r.Verdict.Lines) != 1 || !strings.Contains(r.Verdict.Lines[0], "slope.rss.gateway-1 is ")) {
			t.Errorf("want one line about gateway-1, got %q", r.Verdict.Lines)
		}
	}
}

// What an agent costs is the slope between two rests, so that what a process
// needs anyway, what coming takes, and garbage are not in it.
func TestWhatAFurtherAgentCosts(t *testing.T) {
	run := results.Run{System: "moorage", Figures: map[string]float64{}}
	gateway, broker := results.Process{Name: "gateway-1"}, results.Process{Name: "broker-1"}
	agents, base := 0, 0
	for second := range 400 {
		garbage := second % 60 * 1000
		switch {
		case second < 10: // a ramp, then a rest of 100
			agents, base = second*10, 5_000_000
		case second < 150:
			agents, base = 100, 5_000_000
		case second < 200: // who comes takes more than who is there
			agents, base = 100+(second-150)*18, 90_000_000
		case second < 212: // too fresh to count
			agents, base = 1000, 3_000_000
		case second < 399:
			agents, base = 1000, 5_000_000
		default: // they leave
			agents, base = 1000, 0
		}
		run.Ticks = append(run.Ticks, results.Tick{At: float64(second + 1), Agents: agents})
		gateway.Samples = append(gateway.Samples, results.Sample{
			At: float64(second + 1), RSS: uint64(base + agents*9000 + garbage), Goroutines: 20 + 2*agents,
			Heap: uint64(base + agents*5000 + garbage), Stack: uint64(agents * 2000),
		})
		broker.Samples = append(broker.Samples, results.Sample{At: float64(second + 1), RSS: 1 << 30})
	}
	run.Processes = []results.Process{gateway, broker}
	r := &results.Results{Scenario: scenario.Scenario{Length: scenario.Duration(399 * time.Second)}, Runs: []results.Run{run}}
	report.Judge(r)
	for name, want := range map[string]float64{
		"per_agent.rss.gateway": 9000, "per_agent.heap_stack.gateway": 7000, "per_agent.goroutines.gateway": 2, "per_agent.rss.broker": 0,
	} {
		if got, ok := r.Runs[0].Figures[name]; !ok || got != want {
			t.Errorf("%s is %v, measured %v; want %v", name, got, ok, want)
		}
	}
	r.Runs[0].Figures, r.Runs[0].Ticks = map[string]float64{}, r.Runs[0].Ticks[:140]
	report.Judge(r)
	if got, ok := r.Runs[0].Figures["per_agent.rss.gateway"]; ok {
		t.Errorf("of one rest there is no slope; got %v", got)
	}
}

// A storm's figure is without the time in which nobody could come back.
func TestHowFastACrowdIsBack(t *testing.T) {
	storm := func(max float64) results.Recovery {
		return results.Recovery{Fault: 1, Name: "cut-agents", Hist: results.Hist{Count: 2000, Max: max}}
	}
	for _, c := range []struct {
		why  string
		run  results.Run
		want float64 // 0: it is not measured
	}{
		{"away for 4 s, back within one more", results.Run{
			System: "moorage", Faults: []results.FaultMark{{Name: "kill"}, {Name: "cut-agents", For: 4}}, Recovery: []results.Recovery{storm(5000)},
		}, 2000},
		{"the slower of two counts", results.Run{
			System: "moorage", Faults: []results.FaultMark{{Name: "cut-agents", For: 4}, {Name: "cut-agents", For: 4}},
			Recovery: []results.Recovery{{Name: "cut-agents", Hist: results.Hist{Count: 2000, Max: 8000}}, storm(5000)},
		}, 500},
		{"some had nothing waiting for them", results.Run{
			System: "moorage", Ticks: []results.Tick{{At: 1, Agents: 2001}}, Faults: []results.FaultMark{{}, {Name: "cut-agents", For: 4}}, Recovery: []results.Recovery{storm(5000)},
		}, 0},
		{"a cut that holds nobody", results.Run{
			System: "moorage", Faults: []results.FaultMark{{}, {Name: "cut-agents"}}, Recovery: []results.Recovery{storm(5000)},
		}, 0},
		{"a baseline's openings", results.Run{System: "grpc", Latency: map[string]results.Hist{"connect": {Count: 2000, Max: 500}}}, 4000},
		{"moorage's openings are none", results.Run{System: "moorage", Latency: map[string]results.Hist{"connect": {Count: 2000, Max: 500}}}, 0},
	} {
		r := &results.Results{Runs: []results.Run{c.run}}
		report.Judge(r)
		if got := r.Runs[0].Figures["back_per_s"]; got != c.want {
			t.Errorf("%s: %v, want %v", c.why, got, c.want)
		}
	}
}

func TestJudgingAgainChangesNothing(t *testing.T) {
	r := made.Kind{Faults: 3, Baselines: []string{"relay"}, Pairs: 2, Lost: 1}.Results()
	report.Judge(r)
	figures, lines, ratios := maps.Clone(r.Runs[0].Figures), slices.Clone(r.Verdict.Lines), len(r.Ratios)
	report.Judge(r)
	if !maps.Equal(figures, r.Runs[0].Figures) || !slices.Equal(lines, r.Verdict.Lines) || ratios != len(r.Ratios) {
		t.Error("it did")
	}
}

func TestEveryFigureThatIsMeasuredHasItsPlaceInTheTable(t *testing.T) {
	r := made.Kind{Faults: 3, Baselines: []string{"relay"}}.Results()
	report.Judge(r)
	for name := range r.Runs[0].Figures {
		if figure.Of(name) == nil {
			t.Errorf("%s is not in package figure", name)
		}
	}
}

func TestFiguresFollowFromWhatWasSeen(t *testing.T) {
	r := &results.Results{
		Scenario: scenario.Scenario{Warmup: scenario.Duration(time.Second), Length: scenario.Duration(3 * time.Second)},
		Runs: []results.Run{{
			System: "moorage", Figures: map[string]float64{"reset": 7},
			Ticks: []results.Tick{
				{At: 1, Agents: 1, Received: [2]uint64{100, 0}, Lag: 9, Extra: map[string]float64{"records_fetched": 10, "records_delivered": 10, "kafka_read_bytes": 0}},
				{At: 2.01, Agents: 4, Received: [2]uint64{6, 2}, Bytes: [2]uint64{60, 20}, Lag: 2, Extra: map[string]float64{"records_fetched": 30, "records_delivered": 20, "kafka_read_bytes": 100}},
				{At: 3.01, Agents: 4, Received: [2]uint64{8, 4}, Bytes: [2]uint64{80, 40}, Lag: 1, Extra: map[string]float64{"records_fetched": 4, "records_delivered": 2, "kafka_read_bytes": 20}},
				{At: 4.02, Received: [2]uint64{100, 0}},
			},
			Processes: []results.Process{
				{Name: "gateway-1", Samples: []results.Sample{{At: 1, CPU: 1, RSS: 1000}, {At: 2, CPU: 0.5, RSS: 2000}, {At: 3, CPU: 0.5, RSS: 2000}}},
				{Name: "gateway-2", Samples: []results.Sample{{At: 1, CPU: 1, RSS: 1000}, {At: 2, CPU: 0.1, RSS: 1000}, {At: 3, CPU: 0.1, RSS: 2200}}},
				{Name: "agents-1", Samples: []results.Sample{{At: 2, CPU: 0.7}}},
			},
			Recovery: []results.Recovery{
				{Name: "kill", Hist: results.Hist{Count: 1, Mean: 10, Max: 10, P: map[string]float64{"50": 10, "99": 10}}},
				{Name: "kill", Hist: results.Hist{Count: 3, Mean: 20, Max: 40, P: map[string]float64{"50": 20, "99": 40}}},
				{Name: "cut", Hist: results.Hist{Count: 1, Mean: 50, Max: 50, P: map[string]float64{"50": 50, "99": 50}}},
			},
			Ended: map[string]uint64{"OK": 3, "EXPIRED": 1},
		}},
	}
	report.Judge(r)
	for name, want := range map[string]float64{
		"messages_per_s.up": 7, "messages_per_s.down": 3, "bytes_per_s.up": 70, "bytes_per_s.down": 30, "agents": 4, "lag_ms": 2,
		"kafka_read_ratio": (20. + 4) / (10 + 2), "kafka_read_bytes_ratio": 2,
		"cpu_s.gateway": 1.2, "cpu_us_per_message.gateway": 1.2e6 / 20, "rss.gateway": 4200, "gateway_rss_per_agent": 550, "generator_cores": 0.7,
		"recovery.kill.p99_ms": 40, "recovery.kill.mean_ms": 17.5, "recovery.max_ms": 50, "recovery.p50_ms": 50,
		"reset": 7, // what was there stays
	} {
		if got, ok := r.Runs[0].Figures[name]; !ok || math.Abs(got-want) > 1e-9*want {
			t.Errorf("%s is %v (measured: %v), want %v", name, got, ok, want)
		}
	}
}

func TestAProcessThatWasEndedHasNoTrend(t *testing.T) {
	for to, gateway := range map[string]bool{"gateway-2": false, "gateways": false, "": false, "broker-1": true} {
		r := made.Kind{Faults: 1}.Results()
		r.Runs[0].Faults[0] = results.FaultMark{Name: "kill", To: to}
		report.Judge(r)
		if _, ok := r.Runs[0].Figures["slope.rss.gateway-1"]; ok != gateway {
			t.Errorf("kill of %q: the gateway's trend is there: %v, want %v", to, ok, gateway)
		}
		if _, ok := r.Runs[0].Figures["slope.rss.app"]; !ok {
			t.Errorf("kill of %q: the application's trend is gone", to)
		}
	}
}
