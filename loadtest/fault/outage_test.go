package fault

import (
	"testing"
	"time"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/loadtest/scenario"
)

// What keeps everybody from Kafka stops the clock by which an agent's death is
// found out; overlapping outages do so once.
func TestOutagesDoNotCountForADeath(t *testing.T) {
	for _, tt := range []struct {
		desc     string
		gateways int
		faults   []scenario.Fault
		want     time.Duration // of the minute from 10 s on
	}{
		{"no fault", 3, nil, 0},
		{"a broker that is away, and comes back in 15 s", 3,
			[]scenario.Fault{{At: seconds(20), Do: Freeze, To: "broker-1", For: seconds(5)}}, 20 * time.Second},
		{"two at a time", 3, []scenario.Fault{
			{At: seconds(20), Do: Freeze, To: "broker-1", For: seconds(10)},
			{At: seconds(24), Do: HalfOpen, To: "app-kafka", For: seconds(2)},
			{At: seconds(40), Do: Freeze, To: "app", For: seconds(5)},
		}, 30 * time.Second},
		{"one before the other", 3, []scenario.Fault{
			{At: seconds(12), Do: HalfOpen, To: "gateway-kafka", For: seconds(2)},
			{At: seconds(30), Do: Bandwidth, To: "app-kafka", For: seconds(5)},
		}, 17 * time.Second},
		{"one that began before", 3, []scenario.Fault{
			{At: seconds(2), Do: HalfOpen, To: "gateway-kafka", For: seconds(5)},
			{At: seconds(59), Do: Freeze, To: "app", For: seconds(1)},
		}, 8 * time.Second},
		{"brokers, one after the other", 3,
			[]scenario.Fault{{At: seconds(10), Do: Rolling, To: "brokers", For: seconds(1)}}, 48 * time.Second},
		{"a gateway of three", 3, []scenario.Fault{
			{At: seconds(12), Do: HalfOpen, To: "gateway-kafka-2", For: seconds(10)},
			{At: seconds(12), Do: Kill, To: "gateway-1", For: seconds(10)},
		}, 0},
		{"a lone one's way to Kafka", 1,
			[]scenario.Fault{{At: seconds(12), Do: HalfOpen, To: "gateway-kafka-1", For: seconds(10)}}, 15 * time.Second},
		{"agents that are cut off", 3, []scenario.Fault{{At: seconds(12), Do: HalfOpen, To: "agent-gateway", For: seconds(10)}}, 0},
		{"what is over at once, or only slow", 3, []scenario.Fault{
			{At: seconds(12), Do: Cut, To: "gateway-kafka"},
			{At: seconds(12), Do: ProduceRefused},
			{At: seconds(12), Do: SlowBroker, For: seconds(20)},
			{At: seconds(12), Do: Latency, To: "app-kafka", For: seconds(20)},
		}, 0},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			sc := minute("3", tt.faults...)
			sc.Local.Gateways = tt.gateways
			plan, err := Plan(sc, Kinds, 1)
			if err != nil {
				t.Fatal(err)
			}
			start := time.Unix(1e9, 0)
			terms := Terms(plan, sc, start)
			if got := terms.Stood(start.Add(10*time.Second), start.Add(70*time.Second)); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// However many faults there are, an end that nobody is ever told is found.
func TestOutagesExcuseNoDeathForGood(t *testing.T) {
	for _, name := range []string{"chaos", "chaos-long", "chaos-kafka"} {
		sc, _, err := scenario.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		plan, err := Plan(sc, Kinds, 1)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Unix(1e9, 0)
		over, made := start.Add(time.Duration(sc.Length)/4), start.Add(time.Duration(sc.Length+sc.Drain))
		books := [2]*check.Account{}
		for side := range books {
			books[side] = &check.Account{Side: check.Side(side), Made: made, Sessions: map[string]*check.Entry{"a/0/1": {}}}
		}
		*books[check.Agent].Sessions["a/0/1"] = check.Entry{Gone: true, Over: over}
		r := check.Settle([]check.Account{*books[check.Agent]}, []check.Account{*books[check.Controller]}, Terms(plan, sc, start))
		if r.Untold != 1 {
			t.Errorf("%s: an agent died at %v of %v, and nobody had to be told by the end", name, over.Sub(start), sc.Length)
		}
	}
}
