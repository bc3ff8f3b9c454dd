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
		{"an agent's", scenario.Fault{Do: RestartAgents}, true,
			map[string]string{"native": "GRACE", "door": "GRACE PEER_RESET REPLACED", "shim": "GRACE PEER_RESET REPLACED"}},
		{"not that of an agent that lives", scenario.Fault{Do: RestartAgents}, false,
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
				e := check.Ending{Key: g.Name + "/0/1", Over: start.Add(10 * time.Second), PeerGone: tt.peerGone}
				got := expect(e)
				slices.Sort(got)
				if strings.Join(got, " ") != tt.want[g.Name] {
					t.Errorf("%s: got %v, want %s", g.Name, got, tt.want[g.Name])
				}
				e.Over = e.Over.Add(-time.Millisecond)
				if early := expect(e); early != nil {
					t.Errorf("%s: %v before the fault", g.Name, early)
				}
			}
		})
	}
}

func TestTermsGiveGraceItsTime(t *testing.T) {
	sc := minute("1", scenario.Fault{At: seconds(1), Do: RestartAgents}, scenario.Fault{At: seconds(2), Do: Kill})
	for _, tt := range []struct {
		faults []scenario.Fault
		want   time.Duration
	}{{sc.Faults, 5 * time.Minute}, {sc.Faults[1:], 0}} {
		sc.Faults = tt.faults
		plan, err := Plan(sc, Kinds, 1)
		if err != nil {
			t.Fatal(err)
		}
		if got := Terms(plan, sc, time.Now()).Within; got != tt.want {
			t.Errorf("%d faults: within %v, want %v", len(plan), got, tt.want)
		}
	}
}
