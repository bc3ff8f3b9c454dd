package run_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/loadtest/fault"
	"github.com/moorage-dev/moorage/loadtest/results"
	"github.com/moorage-dev/moorage/loadtest/run"
	"github.com/moorage-dev/moorage/loadtest/scenario"
	"github.com/moorage-dev/moorage/loadtest/worker"
)

func seconds(n float64) scenario.Duration { return scenario.Duration(n * float64(time.Second)) }

// config is a run of ten seconds with two workers on a stage.
func config(s *stage) run.Config {
	return run.Config{
		Scenario: scenario.Scenario{
			Name: "story", Length: seconds(10), Warmup: seconds(1), Drain: seconds(5), Seed: 7,
			Groups: []scenario.Group{{Name: "g", Kind: scenario.Native, Agents: 2}},
		},
		Workers: 1, Start: s.start, Spawn: s.spawn,
	}
}

func TestRunGoesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{t: t}
		cfg := config(s)
		cfg.Scenario.Groups = append(cfg.Scenario.Groups, scenario.Group{Name: "old", Kind: scenario.Legacy, Agents: 1})
		cfg.Scenario.Faults = []scenario.Fault{
			{At: seconds(3), Do: fault.Kill, To: "gateway-1", For: seconds(1)},
			{At: seconds(5), Do: fault.CutAgents, To: "agents", With: map[string]string{"share": "0.5"}},
		}
		ticks := 0
		cfg.Tick = func(label string, tick results.Tick) {
			if ticks++; label != "moorage/0" || tick.At != float64(ticks) {
				t.Errorf("tick %v of %s, want %d of moorage/0", tick.At, label, ticks)
			}
		}
		began := time.Now()
		r, err := run.Run(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 12*time.Second {
			t.Errorf("took %v, want 10 s of load and hardly more", took)
		}
		s.wantOrder("start moorage", "plan app", "plan legacy", "connect http://jenkins/", "plan agents-1", "start agents-1",
			"do kill", "undo kill", "cut agents-1", "stop agents-1", "quit agents-1", "close moorage")
		s.wantOrder("start agents-1", "fault agents-1", "undo kill", "fault agents-1", "stop agents-1")
		one := r.Runs[0]
		if one.Invalid != "" || len(one.Anomalies) > 0 || one.Figures["lost"] != 0 {
			t.Errorf("not clean: %q %+v", one.Invalid, one.Anomalies)
		}
		if ticks < 9 || one.Ticks[4].Sent != [2]uint64{10, 20} || one.Ticks[4].P["down"].Max < 4.9 || one.Ticks[4].Agents != 1 {
			t.Errorf("%d ticks, the fifth %+v", ticks, one.Ticks[4])
		}
		if len(one.Faults) != 2 || one.Faults[0].At != 3 || one.Faults[0].For != 1 || one.Faults[1].Error != "" {
			t.Errorf("faults: %+v", one.Faults)
		}
		if h := one.Latency["down"]; h.Count != 6 || h.P["99"] < 6.9 {
			t.Errorf("latency down: %+v", h)
		}
		if len(one.Recovery) != 1 || one.Recovery[0].Name != fault.Kill || one.Figures["recovery.kill.p50_ms"] < 299 {
			t.Errorf("recovery: %+v", one.Recovery)
		}
		if one.Figures["opens"] != 1 || one.Ended[check.OK] != 1 || r.Machine.Kafka != "a fake" {
			t.Errorf("opens %v, ended %v, on %q", one.Figures["opens"], one.Ended, r.Machine.Kafka)
		}
	})
}

func TestWhatIsMissingIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{t: t, account: func(p worker.Plan) check.Account {
			e, side := &check.Entry{Sent: 100, Received: 100, Reason: check.OK}, check.Agent
			if p.Role == worker.RoleApp {
				side, e.Received = check.Controller, 97
			}
			return check.Account{Side: side, Sessions: map[string]*check.Entry{"g/1/1": e}}
		}}
		r, err := run.Run(t.Context(), config(s))
		if err != nil {
			t.Fatal(err)
		}
		if one := r.Runs[0]; one.Figures["lost"] != 3 || len(one.Anomalies) != 1 || one.Anomalies[0].What != "lost" {
			t.Errorf("lost %v, anomalies %+v", one.Figures["lost"], one.Anomalies)
		}
	})
}

// TestSessionsAreSettledWhileItRuns: what workers have handed over by the end is
// judged with the rest, and kept only where the two sides do not agree.
func TestSessionsAreSettledWhileItRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // all workers call tick
		n := map[string]int{}
		s := &stage{t: t}
		s.tick = func(name string, tick *worker.Tick) {
			mu.Lock()
			defer mu.Unlock()
			n[name]++
			e := &check.Entry{Sent: 10, Received: 10, Reason: check.OK, Over: tick.At}
			if name == worker.RoleApp && n[name] == 4 {
				e.Received = 8
			}
			tick.Over = map[string]*check.Entry{fmt.Sprintf("g/2/%d", n[name]): e}
		}
		r, err := run.Run(t.Context(), config(s))
		if err != nil {
			t.Fatal(err)
		}
		one := r.Runs[0]
		if one.Figures["lost"] != 2 || one.Figures["untold"] != 0 || len(one.Anomalies) != 1 || one.Anomalies[0].Session != "g/2/4" {
			t.Errorf("figures %v, anomalies %+v", one.Figures, one.Anomalies)
		}
		if want := uint64(n[worker.RoleApp] + 1); one.Ended[check.OK] != want {
			t.Errorf("%d sessions ended in order, want %d", one.Ended[check.OK], want)
		}
	})
}

func TestInterruptedRunStillReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{t: t}
		cfg := config(s)
		cfg.Scenario.Length = seconds(3600)
		cfg.Scenario.Faults = []scenario.Fault{{At: seconds(2), Do: fault.Freeze, To: "gateway-1", For: seconds(900)}}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		time.AfterFunc(5*time.Second, cancel)
		r, err := run.Run(ctx, cfg)
		if !errors.Is(err, run.ErrInterrupted) || r == nil {
			t.Fatalf("got %v, %v", r, err)
		}
		s.wantOrder("do freeze", "undo freeze", "stop agents-1", "close moorage")
		if one := r.Runs[0]; len(one.Ticks) < 3 || one.Invalid == "" || one.Length > 6*time.Second {
			t.Errorf("%d ticks in %v, invalid %q", len(one.Ticks), one.Length, one.Invalid)
		}
	})
}

// What is slow is not stuck: after the drain it is waited for as long as messages
// still arrive, and for the scenario's Quiet more. A second stop then ends it.
func TestWhatStillMovesIsWaitedFor(t *testing.T) {
	for _, tt := range []struct {
		desc  string
		until time.Duration // from the start: the last message
		want  time.Duration // from the start: workers are told to give their accounts
		quiet float64
	}{
		{"nothing moves any more", 2 * time.Second, 10*time.Second + time.Second, 0},
		{"a long queue", 100 * time.Second, 130 * time.Second, 0},
		{"a long queue, and little patience", 100 * time.Second, 105 * time.Second, 5},
		{"an endless one", time.Hour, 10*time.Second + 10*time.Minute, 0},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &stage{t: t, slow: true}
				cfg := config(s)
				cfg.Scenario.Length = seconds(3)
				cfg.Scenario.Drain, cfg.Scenario.Quiet = seconds(40), seconds(tt.quiet)
				began := time.Now()
				s.tick = func(_ string, tick *worker.Tick) {
					if time.Since(began) > tt.until {
						tick.Sent, tick.Received = [2]uint64{}, [2]uint64{}
					}
				}
				if _, err := run.Run(t.Context(), cfg); err != nil {
					t.Fatal(err)
				}
				want := max(tt.want, 43*time.Second)
				if tt.until == time.Hour {
					want = 43*time.Second + 10*time.Minute
				}
				if took := time.Since(began); took < want || took > want+4*time.Second {
					t.Errorf("the run took %v; want %v", took, want)
				}
			})
		})
	}
}

// Ctrl-C while what is under way drains: the rest has eight seconds.
func TestInterruptedDrainIsShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{t: t, slow: true}
		cfg := config(s)
		cfg.Scenario.Length = seconds(3)
		cfg.Scenario.Drain = seconds(300)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		began := time.Now()
		time.AfterFunc(20*time.Second, cancel)
		r, err := run.Run(ctx, cfg)
		if took := time.Since(began); took < 28*time.Second || took > 30*time.Second {
			t.Errorf("took %v, want 20 s and eight more", took)
		}
		if !errors.Is(err, run.ErrInterrupted) || r == nil || r.Runs[0].Invalid == "" {
			t.Errorf("got %v and %v; want results of a run that was interrupted", r, err)
		}
	})
}

// Somebody who interrupts twice waits for nothing: neither for what is under
// way, nor for what cannot be mended.
func TestSecondInterruptEndsTheRunAtOnce(t *testing.T) {
	for _, when := range []string{"agents-1 gives no account", "a fault is not undone"} {
		t.Run(when, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &stage{t: t}
				cfg := config(s)
				cfg.Scenario.Length = seconds(3600)
				if when == "agents-1 gives no account" {
					s.deaf = "agents-1"
				} else {
					s.stubborn = true
					cfg.Scenario.Faults = []scenario.Fault{{At: seconds(2), Do: fault.Freeze, To: "gateway-1", For: seconds(900)}}
				}
				hurry := make(chan struct{})
				cfg.Hurry = hurry
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				began := time.Now()
				time.AfterFunc(5*time.Second, cancel)
				time.AfterFunc(6*time.Second, func() { close(hurry) })
				r, err := run.Run(ctx, cfg)
				if !errors.Is(err, run.ErrHurried) || r != nil {
					t.Errorf("got %v and %v, want no results", r, err)
				}
				if took := time.Since(began); took > 7*time.Second {
					t.Errorf("took %v, want an end at once after 6 s", took)
				}
				s.wantOrder("start moorage", "end agents-1", "close moorage")
				time.Sleep(2 * time.Minute) // what is left of the fault
			})
		})
	}
}

func TestLostWorkerEndsTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{t: t, dies: "agents-1"}
		r, err := run.Run(t.Context(), config(s))
		if err == nil || !strings.Contains(err.Error(), "worker agents-1: no strength left") {
			t.Fatalf("got %v", err)
		}
		s.wantOrder("end agents-1", "stop app", "close moorage")
		if len(r.Runs) != 1 || r.Runs[0].Invalid == "" {
			t.Errorf("a run that lost a worker is not invalid: %+v", r.Runs)
		}
	})
}

func TestWorkerThatKnowsNoEndIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{t: t, deaf: "app"}
		began := time.Now()
		_, err := run.Run(t.Context(), config(s))
		if err == nil || !strings.Contains(err.Error(), "worker app: gave no account in time") {
			t.Fatalf("got %v", err)
		}
		// Half a minute in which nothing moves, and one for the account.
		if took := time.Since(began); took > 75*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// TestNobodyGetsIn: a gateway that refuses credentials is known within seconds,
// and said in one line.
func TestNobodyGetsIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{t: t, refused: "could not be opened: UNAUTHENTICATED"}
		cfg := config(s)
		cfg.Scenario.Length = seconds(3600)
		began := time.Now()
		_, err := run.Run(t.Context(), cfg)
		if err == nil || err.Error() != "run: no agent gets in: could not be opened: UNAUTHENTICATED" {
			t.Fatalf("got %v", err)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestSilentWorkerIsTakenForDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{t: t, mute: "agents-1"}
		cfg := config(s)
		cfg.Scenario.Length = seconds(3600)
		_, err := run.Run(t.Context(), cfg)
		if err == nil || !strings.Contains(err.Error(), "worker agents-1: has said nothing for 30s") {
			t.Fatalf("got %v", err)
		}
	})
}

// Nor is it silence to be away, and to have spoken until one went.
func TestStoppedWorkerIsNotSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{t: t, slow: true, account: func(p worker.Plan) check.Account { return check.Account{} }}
		cfg := config(s)
		cfg.Scenario.Length = seconds(90)
		cfg.Scenario.Faults = []scenario.Fault{{At: seconds(3), Do: fault.Stop, To: "agents", For: seconds(75.5)}}
		r, err := run.Run(t.Context(), cfg)
		if err != nil || r.Runs[0].Faults[0].Error != "" {
			t.Fatalf("got %v", err)
		}
	})
}

func TestSlowGeneratorMakesItInvalid(t *testing.T) {
	for what, slow := range map[string]func(*worker.Tick){
		"held up": func(t *worker.Tick) { t.Extra, t.Lag = map[string]float64{"overdue": 1}, 40*time.Millisecond },
		"of its":  func(t *worker.Tick) { t.CPU = 1000 },
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &stage{t: t, tick: func(name string, tick *worker.Tick) {
				if name == "agents-1" {
					slow(tick)
				}
			}}
			r, err := run.Run(t.Context(), config(s))
			if err != nil {
				t.Fatal(err)
			}
			if got := r.Runs[0].Invalid; !strings.Contains(got, what) || !strings.Contains(got, "agents-1") {
				t.Errorf("invalid: %q, want %q", got, what)
			}
		})
	}
}

// TestKilledApplicationComesBack: what only agents know then is held to what
// they were told.
// TestAFaultWaitsForItsVictim: a gateway may take longer to come back than the
// plan expects, but not for ever.
func TestAFaultWaitsForItsVictim(t *testing.T) {
	for _, tt := range []struct {
		desc   string
		back   float64 // after the start
		struck float64 // 0: it fails
	}{
		{"up in time", 0, 3},
		{"back after four seconds", 7, 7},
		{"back too late", 25, 0},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now().Add(time.Second)
				s := &stage{t: t, down: func() bool { return time.Since(begun).Seconds() < tt.back }}
				cfg := config(s)
				cfg.Scenario.Length = seconds(30)
				cfg.Scenario.Faults = []scenario.Fault{{At: seconds(3), Do: fault.Kill, To: "gateway-1", For: seconds(1)}}
				r, err := run.Run(t.Context(), cfg)
				if err != nil {
					t.Fatal(err)
				}
				mark := r.Runs[0].Faults[0]
				if tt.struck == 0 {
					if !strings.Contains(mark.Error, "not back within 15s") || slices.Contains(s.noted(), "do kill") {
						t.Errorf("%+v, %q", mark, s.noted())
					}
					return
				}
				if mark.Error != "" || mark.At < tt.struck || mark.At > tt.struck+0.2 {
					t.Errorf("%+v, want it to strike at %v s", mark, tt.struck)
				}
				s.wantOrder("do kill", "undo kill")
			})
		})
	}
}

func TestKilledApplicationComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{t: t, account: func(p worker.Plan) check.Account {
			second := &check.Entry{Sent: 100, Received: 100, Reason: check.OK, Over: time.Now()}
			if p.Role == worker.RoleApp {
				return check.Account{Side: check.Controller, Sessions: map[string]*check.Entry{"g/1/2": second}}
			}
			return check.Account{Side: check.Agent, Sessions: map[string]*check.Entry{
				"g/0/1": {Sent: 9, Received: 4, Reason: check.OK, Over: time.Now().Add(-8 * time.Second)},
				"g/1/1": {Sent: 50, Received: 40, Reason: "CONTROLLER_GONE", Over: time.Now().Add(-5 * time.Second)},
				"g/1/2": second,
			}}
		}}
		cfg := config(s)
		cfg.Scenario.Faults = []scenario.Fault{{At: seconds(3), Do: fault.Kill, To: "app", For: seconds(1)}}
		r, err := run.Run(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		s.wantOrder("start app", "end app", "plan app", "start app", "stop app")
		if one := r.Runs[0]; len(one.Anomalies) > 0 || one.Faults[0].Error != "" {
			t.Errorf("anomalies %+v, faults %+v", one.Anomalies, one.Faults)
		}
	})
}

// What a killed process of agents saw is gone; what it had told is not, and
// nobody else is excused.
func TestKilledAgentsAreBuried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		s := &stage{t: t, account: func(p worker.Plan) check.Account {
			if p.Role == worker.RoleAgents {
				return check.Account{Side: check.Agent, Sessions: map[string]*check.Entry{
					fmt.Sprintf("g/%d/%d", p.Index, p.First): {Sent: 9, Received: 9, Reason: check.OK, Over: time.Now()},
				}}
			}
			return check.Account{Side: check.Controller, Made: time.Now(), Sessions: map[string]*check.Entry{
				"g/0/0":       {Sent: 80, Received: 70},                  // still in its grace
				"g/2/1":       {Sent: 80, Received: 70, Reason: "GRACE"}, // that is over
				"g/0/1000000": {Sent: 9, Received: 9, Reason: check.OK, Over: time.Now()},
				"g/1/0":       {Sent: 80, Received: 70},
				"g/1/1000000": {Sent: 9, Received: 9, Reason: check.OK, Over: time.Now()},
				"g/0/1000001": {Sent: 7, Received: 3}, // of a process that lives, which does not know it
			}}
		}}
		s.tick = func(name string, tick *worker.Tick) {
			if name == "agents-2" && tick.At.Sub(began) < 3500*time.Millisecond {
				tick.Anomaly, tick.Tally = 2, &check.Account{Counts: map[string]uint64{"lost": 2}}
			}
		}
		cfg := config(s)
		cfg.Workers = 2
		cfg.Scenario.Faults = []scenario.Fault{{At: seconds(3), Do: fault.Kill, To: "agents", For: seconds(1)}}
		last := results.Tick{}
		cfg.Tick = func(_ string, tick results.Tick) { last = tick }
		r, err := run.Run(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		s.wantOrder("start agents-1", "fault agents-1", "end agents-1", "plan agents-1", "start agents-1", "stop agents-1")
		one := r.Runs[0]
		if one.Faults[0].Error != "" || one.Figures["lost"] != 2 || one.Figures["misjudged"] != 0 || one.Figures["stuck"] != 1 || one.Figures["untold"] != 0 {
			t.Errorf("faults %+v, figures %v, anomalies %+v", one.Faults, one.Figures, one.Anomalies)
		}
		if last.Anomaly != 2 {
			t.Errorf("%d anomalies in the last second, want the dead one's 2", last.Anomaly)
		}
	})
}

func TestStoppedAgentsKeepTheirAccounts(t *testing.T) {
	for _, do := range []string{fault.Stop, fault.Rolling} {
		t.Run(do, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &stage{t: t, account: func(p worker.Plan) check.Account {
					ok := func() *check.Entry { return &check.Entry{Sent: 9, Received: 9, Reason: check.OK, Over: time.Now()} }
					if p.Role == worker.RoleAgents {
						a := check.Account{Side: check.Agent, Sessions: map[string]*check.Entry{fmt.Sprintf("g/%d/%d", p.Index, p.First): ok()}}
						if p.First == 0 {
							a.Sessions[fmt.Sprintf("g/%d/1", p.Index)] = &check.Entry{Sent: 9, Received: 5} // could not end in time
						}
						return a
					}
					return check.Account{Side: check.Controller, Made: time.Now(), Sessions: map[string]*check.Entry{
						"g/0/0": ok(), "g/1/0": {Sent: 10, Received: 9, Reason: check.OK}, "g/0/1000000": ok(), "g/1/1000000": ok(),
						"g/0/1": {Sent: 5, Received: 9, Reason: "GRACE"}, "g/1/1": {Sent: 5, Received: 8},
					}}
				}}
				cfg := config(s)
				cfg.Workers = 2
				cfg.Scenario.Faults = []scenario.Fault{{At: seconds(3), Do: do, To: "agents", For: seconds(1)}}
				r, err := run.Run(t.Context(), cfg)
				if err != nil {
					t.Fatal(err)
				}
				s.wantOrder("stop agents-1", "quit agents-1", "plan agents-1", "start agents-1", "stop agents-1")
				if do == fault.Rolling {
					s.wantOrder("quit agents-1", "plan agents-1", "stop agents-2", "quit agents-2", "plan agents-2")
				}
				one := r.Runs[0]
				if one.Faults[0].Error != "" || one.Figures["lost"] != 1 || one.Figures["opens"] != 4 ||
					one.Figures["misjudged"] != 1 || one.Figures["stuck"] != 1 {
					t.Errorf("faults %+v, figures %v, anomalies %+v", one.Faults, one.Figures, one.Anomalies)
				}
			})
		})
	}
}

func TestFrozenAgentsGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{t: t}
		cfg := config(s)
		cfg.Scenario.Faults = []scenario.Fault{{At: seconds(3), Do: fault.Freeze, To: "agents", For: seconds(2)}}
		if _, err := run.Run(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		s.wantOrder("freeze agents-1 true", "freeze agents-1 false", "stop agents-1")
	})
}

func TestBaselinesAlternate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{t: t}
		cfg := config(s)
		cfg.Baselines, cfg.Pairs = []string{"relay", "tcp"}, 2
		cfg.Scenario.Faults = []scenario.Fault{{At: seconds(3), Do: fault.Kill, To: "gateway-1"}}
		r, err := run.Run(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		s.wantOrder("start moorage", "close moorage", "start relay", "close relay", "start tcp", "dial [app:1]", "close tcp",
			"start moorage", "start relay", "start tcp")
		if len(r.Runs) != 6 || r.Runs[5].System != "tcp" || r.Runs[5].Pair != 1 {
			t.Fatalf("%d runs", len(r.Runs))
		}
		for _, one := range r.Runs {
			if want := one.System == "moorage"; (len(one.Faults) == 1) != want {
				t.Errorf("%s had faults: %v", one.System, one.Faults)
			}
		}
	})
}

func TestTooManyAgentsForTheFiles(t *testing.T) {
	s := &stage{t: t}
	cfg := config(s)
	cfg.Scenario.Groups[0].Agents = 50_000_000
	_, err := run.Run(t.Context(), cfg)
	if err == nil || !strings.Contains(err.Error(), "--workers") || !strings.Contains(err.Error(), "ulimit -n") {
		t.Fatalf("got %v", err)
	}
	if len(s.noted()) > 0 {
		t.Errorf("something started: %q", s.noted())
	}
}
