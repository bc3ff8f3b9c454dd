package fault

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/moorage-dev/moorage/loadtest/scenario"
)

func seconds(s float64) scenario.Duration {
	return scenario.Duration(s * float64(time.Second))
}

// minute is a scenario of a minute on three gateways.
func minute(brokers string, faults ...scenario.Fault) scenario.Scenario {
	return scenario.Scenario{
		Name: "test", Length: seconds(60), Faults: faults,
		Local:  scenario.Local{Gateways: 3, Brokers: brokers},
		Groups: []scenario.Group{{Name: "a", Kind: scenario.Native, Agents: 10}},
	}
}

func lines(plan []Planned) string {
	var b strings.Builder
	for i, f := range plan {
		if f.Index != i {
			fmt.Fprintf(&b, "index %d at place %d\n", f.Index, i)
		}
		fmt.Fprintf(&b, "%v %s %s for %v %v\n", time.Duration(f.At), f.Do, f.To, time.Duration(f.For), f.With)
	}
	return b.String()
}

func TestPlanExpands(t *testing.T) {
	for _, tt := range []struct {
		desc   string
		faults []scenario.Fault
		want   string
	}{
		{"in the order of time, with what a kind defaults to", []scenario.Fault{
			{At: seconds(20), Do: Latency},
			{At: seconds(10), Do: Kill, To: "gateway-2"},
			{At: seconds(15), Do: CutAgents, With: map[string]string{"share": "0.5"}},
		}, `
10s kill gateway-2 for 0s map[]
15s cut-agents agents for 0s map[share:0.5]
20s latency agent-gateway for 10s map[jitter:20ms latency:50ms]
`},
		{"a setting that is given leaves the other as it is", []scenario.Fault{
			{At: seconds(1), Do: Latency, To: "app-kafka", For: seconds(3), With: map[string]string{"latency": "1s"}},
		}, `
1s latency app-kafka for 3s map[jitter:20ms latency:1s]
`},
		{"again and again, so many times", []scenario.Fault{
			{At: seconds(5), Do: Freeze, To: "app", For: seconds(1), Every: seconds(10), Times: 3},
		}, `
5s freeze app for 1s map[]
15s freeze app for 1s map[]
25s freeze app for 1s map[]
`},
		{"or until the last one just ends with the scenario", []scenario.Fault{
			{At: seconds(5), Do: Freeze, To: "app", For: seconds(15), Every: seconds(20)},
		}, `
5s freeze app for 15s map[]
25s freeze app for 15s map[]
45s freeze app for 15s map[]
`},
		{"all gateways in turn, each back before the next", []scenario.Fault{
			{At: seconds(5), Do: Kill, To: "gateways", For: seconds(1)},
		}, `
5s kill gateway-1 for 1s map[]
8s kill gateway-2 for 1s map[]
11s kill gateway-3 for 1s map[]
`},
		{"but rolling does that itself", []scenario.Fault{{At: seconds(5), Do: Rolling}}, `
5s rolling gateways for 2s map[]
`},
		{"the broker's answers are those of all", []scenario.Fault{{At: seconds(5), Do: ProduceRefused}}, `
5s produce-refused broker for 0s map[count:3]
`},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			plan, err := Plan(minute("1", tt.faults...), Kinds, 1)
			if got := "\n" + lines(plan); err != nil || got != tt.want {
				t.Errorf("got %v%s\nwant%s", err, got, tt.want)
			}
		})
	}
}

func TestPlanDrawsOne(t *testing.T) {
	drawn := map[string]int{}
	for seed := range uint64(60) {
		plan, err := Plan(minute("3",
			scenario.Fault{At: seconds(5), Do: Kill, To: "gateway", Every: seconds(5)},
			scenario.Fault{At: seconds(6), Do: Kill, To: "broker"}), Kinds, seed)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range plan {
			drawn[f.To]++
		}
	}
	if len(drawn) != 6 {
		t.Errorf("drawn were %v, want three gateways and three brokers", drawn)
	}
}

// One more fault in a scenario leaves what the others drew.
func TestAFaultDrawsByItself(t *testing.T) {
	first := scenario.Fault{At: seconds(5), Do: Kill, To: "gateway", Every: seconds(1)}
	alone, err := Plan(minute("1", first), Kinds, 7)
	if err != nil {
		t.Fatal(err)
	}
	both, err := Plan(minute("1", first, scenario.Fault{At: seconds(50.5), Do: Freeze, To: "gateway"}), Kinds, 7)
	if err != nil {
		t.Fatal(err)
	}
	both = slices.DeleteFunc(both, func(f Planned) bool { return f.Do == Freeze })
	for i, f := range both {
		if !reflect.DeepEqual(f.Fault, alone[i].Fault) {
			t.Errorf("%d: %v alone, %v beside another", i, alone[i].Fault, f.Fault)
		}
	}
}

func TestImpossibleFaultsAreTold(t *testing.T) {
	some := []string{CutAgents, RestartAgents, Kill, Rolling, Freeze, ProduceRefused}
	for _, tt := range []struct {
		sc   scenario.Scenario
		want string
	}{
		{minute("embedded", scenario.Fault{Do: "kil"}),
			`scenario: faults[0]: "kil" is no kind of fault; want one of kill, stop,`},
		{minute("1", scenario.Fault{Do: Kill}, scenario.Fault{Do: Quota}),
			"scenario: faults[1]: this target cannot do quota; a real Kafka that the harness starts does: use --local brokers=1 or brokers=3"},
		{minute("embedded", scenario.Fault{Do: Freeze, To: "broker-1"}),
			"scenario: faults[0]: freeze to broker-1: the embedded broker is no process"},
		{minute("1", scenario.Fault{Do: Kill, To: "broker-2"}),
			"scenario: faults[0]: kill to broker-2: there are 1 brokers; use --local brokers=3"},
		{minute("1", scenario.Fault{Do: Kill, To: "gateway-4"}),
			"scenario: faults[0]: kill to gateway-4: there are 3 gateways; use --local gateways=4"},
		{minute("1", scenario.Fault{Do: Kill, To: "connector"}),
			"scenario: faults[0]: kill to connector: the scenario has no legacy group, so there is no connector; add a group with kind: legacy"},
		{minute("1", scenario.Fault{Do: Kill, To: "gateway", Every: 1}),
			"scenario: faults[0]: more than 100000 faults; make every longer"},
		{minute("1", scenario.Fault{At: seconds(55), Do: Kill, To: "gateways", For: seconds(1)}),
			"scenario: faults[0]: kill to gateways: the last of 3 is over at 1m2s, behind the end; length is 1m0s: let it begin"},
		{minute("3", scenario.Fault{At: seconds(50), Do: Rolling, To: "brokers", For: seconds(5)}),
			"scenario: faults[0]: rolling to brokers: the last of 3 is over at 1m0s, behind the end"},
		{scenario.Scenario{Length: seconds(60), Chaos: &scenario.Chaos{Every: seconds(1), Kinds: []string{Upgrade}}},
			"scenario: chaos.kinds[0]: this target cannot do upgrade; gateways of --local that started as another build do: use --old-binary"},
		{scenario.Scenario{Length: seconds(60), Chaos: &scenario.Chaos{}}, "scenario: chaos.every: 0s: want a distance above 0"},
	} {
		_, err := Plan(tt.sc, some, 1)
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got  %v\nwant %s", err, tt.want)
		}
	}
	// Agents are the harness's own, whatever else the target is.
	for _, do := range []string{Kill, Stop, Rolling, Freeze} {
		if _, err := Plan(minute("1", scenario.Fault{At: seconds(1), Do: do, To: "agents"}), nil, 1); err != nil {
			t.Errorf("%s of agents: %v", do, err)
		}
	}
	if _, err := Plan(scenario.Scenario{Length: seconds(60), Chaos: &scenario.Chaos{Every: seconds(1)}}, nil, 1); err == nil {
		t.Error("chaos of a target that can do nothing")
	}
}

// Every kind that there is has a default and a word for what could do it.
func TestEveryKindIsKnown(t *testing.T) {
	for _, k := range Kinds {
		if d := defaults[k]; d.to == "" || d.needs == "" {
			t.Errorf("%s: %+v", k, d)
		}
	}
	if len(defaults) != len(Kinds) {
		t.Errorf("%d kinds, %d defaults", len(Kinds), len(defaults))
	}
}

// drawChaos is a scenario with chaos on a target of some kind.
var drawChaos = rapid.Custom(func(t *rapid.T) scenario.Scenario {
	sc := minute(rapid.SampledFrom([]string{"embedded", "1", "3"}).Draw(t, "brokers"))
	sc.Local.Gateways = rapid.IntRange(1, 5).Draw(t, "gateways")
	sc.Length = seconds(float64(rapid.IntRange(30, 200).Draw(t, "length")))
	sc.Local.Grace = scenario.Duration(rapid.SampledFrom([]time.Duration{0, 20 * time.Second, time.Minute}).Draw(t, "grace"))
	sc.Chaos = &scenario.Chaos{
		Every:  scenario.Duration(rapid.SampledFrom([]time.Duration{200 * time.Millisecond, time.Second, 3 * time.Second}).Draw(t, "every")),
		After:  seconds(float64(rapid.IntRange(0, 10).Draw(t, "after"))),
		Before: seconds(float64(rapid.IntRange(0, 10).Draw(t, "before"))),
		Kinds:  rapid.SliceOfDistinct(rapid.SampledFrom(Kinds), rapid.ID).Draw(t, "kinds"),
		Count:  rapid.SampledFrom([]int{0, 10}).Draw(t, "count"),
	}
	if rapid.Bool().Draw(t, "planned beside") {
		sc.Faults = []scenario.Fault{{At: seconds(12), Do: Freeze, To: "gateway-1", For: seconds(4)}}
	}
	return sc
})

func TestChaosIsTheSameAgain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sc, seed := drawChaos.Draw(t, "scenario"), rapid.Uint64().Draw(t, "seed")
		one, err := Plan(sc, Kinds, seed)
		two, _ := Plan(sc, Kinds, seed)
		if !reflect.DeepEqual(one, two) {
			t.Fatalf("%v\n%sand then\n%s", err, lines(one), lines(two))
		}
	})
}

// Whatever is drawn, the rules of chaos hold; they are judged here from what the
// faults are, not from the calendar that kept them apart.
func TestChaosIsSurvivable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sc := drawChaos.Draw(t, "scenario")
		plan, err := Plan(sc, Kinds, rapid.Uint64().Draw(t, "seed"))
		if err != nil {
			if sc.Local.Brokers == "embedded" && slices.Equal(sc.Chaos.Kinds, []string{DiskFull}) {
				return // an embedded broker has no disk
			}
			t.Fatal(err)
		}
		w := worldOf(sc, Kinds)
		grown, chaotic := 0, 0
		for i, f := range plan {
			from, to := time.Duration(f.At), time.Duration(f.At+f.For)
			if f.For != seconds(4) || f.Do != Freeze || f.At != seconds(12) { // not the planned one
				chaotic++
				if f.At < sc.Chaos.After || f.At+f.For > sc.Length-sc.Chaos.Before {
					t.Fatalf("from %v to %v, outside", from, to)
				}
				if d := time.Duration(f.For); d > w.grace/4 && f.Do != Rolling && f.Do != Upgrade {
					t.Fatalf("%s for %v, grace is %v", f.Do, d, w.grace)
				}
			}
			if reasons := Mortal(f.Fault, sc.Groups[0], w.grace); len(reasons) > 0 && !endsAgents(f.Fault) {
				t.Fatalf("%s to %s may end sessions: %v", f.Do, f.To, reasons)
			}
			if f.Do == AddPartitions {
				if f.With["count"] != "" {
					t.Fatalf("%s partitions more: with a power of two before, only twice as many are one", f.With["count"])
				}
				grown++
			}
			down, brokers, cutOff := map[string]bool{}, 0, 0
			for _, g := range plan[:i+1] { // those that last when f strikes
				if g.At+g.For < f.At || g.At == f.At && g.Index != f.Index || g.For == 0 && g.Index != f.Index {
					continue
				}
				target, n := split(g.To)
				stops := slices.Contains([]string{Kill, Stop, Freeze, BlackHole, HalfOpen}, g.Do)
				switch {
				case stops && n != 0 && target != "broker":
					down[fmt.Sprint(n)] = true
				case stops && n == 0 && !endsAgents(g.Fault):
					cutOff++
				}
				if target == "broker" && (stops || g.Do == DiskFull) {
					brokers++
				}
			}
			if sc.Local.Gateways > 1 && len(down) >= sc.Local.Gateways {
				t.Fatalf("at %v all %d gateways are down:\n%s", from, sc.Local.Gateways, lines(plan[:i+1]))
			}
			if brokers > 1 || cutOff > 1 || brokers > 0 && sc.Local.Brokers == "embedded" {
				t.Fatalf("at %v %d brokers are down, and everybody is cut off by %d:\n%s", from, brokers, cutOff, lines(plan[:i+1]))
			}
		}
		if grown > maxGrown {
			t.Fatalf("partitions were added %d times", grown)
		}
		if sc.Chaos.Count > 0 && chaotic > sc.Chaos.Count {
			t.Fatalf("%d faults, at most %d were asked for", chaotic, sc.Chaos.Count)
		}
	})
}

// On the embedded broker almost every draw is possible: as many faults as the
// distance promises, and every kind among them.
func TestChaosLeavesLittleOut(t *testing.T) {
	sc := minute("embedded")
	sc.Length = seconds(180)
	sc.Chaos = &scenario.Chaos{
		Every: scenario.Duration(650 * time.Millisecond), After: seconds(5), Before: seconds(15),
		Kinds: []string{
			Kill, Stop, Freeze, CutAgents, RestartAgents, Cut, Reset, HalfOpen, Latency, Bandwidth, Slice, SlowClose,
			ProduceUnanswered, ProduceRefused, FetchFailed, NotLeader, SlowBroker,
		},
	}
	for seed := range uint64(20) {
		plan, err := Plan(sc, Kinds, seed)
		if err != nil {
			t.Fatal(err)
		}
		kinds := map[string]int{}
		for _, f := range plan {
			kinds[f.Do]++
		}
		if len(plan) < 230 || len(kinds) != len(sc.Chaos.Kinds) {
			t.Errorf("seed %d: %d faults, %v", seed, len(plan), kinds)
		}
	}
}

// A kind that has had its share leaves the others theirs.
func TestChaosGoesOnWithoutAKind(t *testing.T) {
	sc := minute("embedded")
	sc.Chaos = &scenario.Chaos{Every: scenario.Duration(100 * time.Millisecond), Kinds: []string{AddPartitions, Cut}}
	plan, err := Plan(sc, Kinds, 1)
	if err != nil || len(plan) < 550 {
		t.Errorf("%d faults in a minute at 10 a second: %v", len(plan), err)
	}
}
