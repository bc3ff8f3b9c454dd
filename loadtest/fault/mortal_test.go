package fault

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/loadtest/scenario"
)

func TestWhatEndsSessions(t *testing.T) {
	start := time.Unix(1e9, 0)
	sc := minute("1")
	sc.Local.Grace = seconds(30)
	sc.Groups = []scenario.Group{
		{Name: "native", Kind: scenario.Native},
		{Name: "door", Kind: scenario.Legacy},
		{Name: "shim", Kind: scenario.Legacy, Door: scenario.DoorShim},
	}
	for _, tt := range []struct {
		desc     string
		fault    scenario.Fault
		peerGone bool
		want     map[string]string // by group; others: nothing
	}{
		{"a gateway's death ends nobody who can resume", scenario.Fault{Do: Kill, To: "gateway-1"}, false,
			map[string]string{"door": "GATEWAY_GONE PEER_RESET REPLACED"}},
		{"the application's", scenario.Fault{Do: Kill, To: "app"}, false,
			map[string]string{"native": "CONTROLLER_GONE", "door": "GATEWAY_GONE PEER_RESET REPLACED"}},
		{"the connector's", scenario.Fault{Do: Stop, To: "connector"}, false,
			map[string]string{"door": "CONTROLLER_GONE GATEWAY_GONE PEER_RESET REPLACED", "shim": "CONTROLLER_GONE"}},
		{"the connector's, in a rolling restart", scenario.Fault{Do: Rolling, To: "connector"}, false,
			map[string]string{"door": "CONTROLLER_GONE GATEWAY_GONE PEER_RESET REPLACED", "shim": "CONTROLLER_GONE"}},
		{"an agent's", scenario.Fault{Do: RestartAgents}, true,
			map[string]string{"native": "GRACE", "door": "GRACE PEER_RESET REPLACED", "shim": "GRACE PEER_RESET REPLACED"}},
		{"not that of an agent that lives", scenario.Fault{Do: RestartAgents}, false,
			map[string]string{"door": "GRACE PEER_RESET REPLACED", "shim": "GRACE PEER_RESET REPLACED"}},
		{"that of a process full of them", scenario.Fault{Do: Kill, To: "agents", For: seconds(40)}, true,
			map[string]string{"native": "GRACE", "door": "GRACE PEER_RESET REPLACED", "shim": "GRACE PEER_RESET REPLACED"}},
		{"nor does it excuse another's", scenario.Fault{Do: Rolling, To: "agents", For: seconds(40)}, false,
			map[string]string{"door": "GRACE PEER_RESET REPLACED", "shim": "GRACE PEER_RESET REPLACED"}},
		{"a short absence", scenario.Fault{Do: HalfOpen, For: seconds(29)}, false,
			map[string]string{"door": "GATEWAY_GONE PEER_RESET REPLACED"}},
		{"a long one", scenario.Fault{Do: HalfOpen, For: seconds(30)}, false,
			map[string]string{"native": "GRACE", "door": "GATEWAY_GONE GRACE PEER_RESET REPLACED", "shim": "GRACE"}},
		{"more partitions", scenario.Fault{Do: AddPartitions}, false, nil},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			tt.fault.At = seconds(10)
			sc.Faults = []scenario.Fault{tt.fault}
			plan, err := Plan(sc, Kinds, 1)
			if err != nil {
				t.Fatal(err)
			}
			expect := Expect(plan, sc, start)
			for _, g := range sc.Groups {
				e := check.Ending{Key: g.Name + "/0/1", Side: check.Controller, Over: start.Add(10 * time.Second), PeerGone: tt.peerGone}
				got := expect(e)
				slices.Sort(got)
				got = slices.Compact(got)
				if strings.Join(got, " ") != tt.want[g.Name] {
					t.Errorf("%s: got %v, want %s", g.Name, got, tt.want[g.Name])
				}
				e.Over, e.PeerGone = e.Over.Add(-time.Millisecond), false
				if early := expect(e); early != nil {
					t.Errorf("%s: %v before the fault", g.Name, early)
				}
			}
		})
	}
}

// An agent can die without a fault: it could not open its session, say.
func TestAnAgentsDeathExcusesGrace(t *testing.T) {
	sc := minute("1")
	terms := Terms(nil, sc, time.Now())
	if terms.Within != 5*time.Minute {
		t.Errorf("within %v, want the grace time and a minute", terms.Within)
	}
	e := check.Ending{Key: "a/0/1", Side: check.Controller, PeerGone: true}
	if got := terms.Expect(e); !slices.Equal(got, []string{"GRACE"}) {
		t.Errorf("allowed %v", got)
	}
	e.Side = check.Agent
	if got := terms.Expect(e); got != nil {
		t.Errorf("the agent's side may end with %v", got)
	}
}
