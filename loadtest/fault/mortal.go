package fault

import (
	"cmp"
	"strings"
	"time"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/loadtest/scenario"
)

// Reasons of docs/protocol.md that faults excuse.
const (
	grace          = "GRACE"
	controllerGone = "CONTROLLER_GONE"
	gatewayGone    = "GATEWAY_GONE"
	peerReset      = "PEER_RESET"
	replaced       = "REPLACED"
)

// Mortal returns the reasons with which sessions of a group may end because of
// a fault, beside OK. Nothing else may end a session:
//
//	fault                                    native, tunnel       legacy
//	kill of the application                  CONTROLLER_GONE      –
//	kill, stop, rolling of the connector     –                    CONTROLLER_GONE
//	restart-agents; kill, stop, rolling of   GRACE, where the     the same, or REPLACED by
//	agents                                   agent died           its next, PEER_RESET
//	anything between agents and the          GRACE                GRACE
//	application, for the grace time or more
//	what breaks a stream, at tier 0          –                    PEER_RESET, GATEWAY_GONE, REPLACED
//
// A legacy agent at a gateway's door (tier 0) has no shim that would resume:
// its session ends with its connection.
func Mortal(f scenario.Fault, g scenario.Group, graceTime time.Duration) (reasons []string) {
	legacy := g.Kind == scenario.Legacy
	target, _ := split(f.To)
	switch {
	case f.Do == Kill && target == "app":
		if !legacy {
			reasons = append(reasons, controllerGone)
		}
	case (f.Do == Kill || f.Do == Stop || f.Do == Rolling) && target == "connector":
		if legacy {
			reasons = append(reasons, controllerGone)
		}
	case endsAgents(f):
		reasons = append(reasons, grace)
		if legacy {
			reasons = append(reasons, replaced, peerReset)
		}
	}
	if separates(f) && !endsAgents(f) && time.Duration(f.For) >= graceTime {
		reasons = append(reasons, grace)
	}
	if legacy && g.Door != scenario.DoorShim && breaksStreams(f) {
		reasons = append(reasons, peerReset, gatewayGone, replaced)
	}
	return reasons
}

// separates reports whether a fault keeps some agents from the application for
// as long as it lasts.
func separates(f scenario.Fault) bool {
	switch f.Do {
	case Kill, Stop, Freeze, Cut, CutAgents, Reset, HalfOpen, BlackHole, DiskFull:
		return true
	}
	return false
}

// breaksStreams reports whether a fault may break an agent's connection, by
// itself or because heartbeats stay away.
func breaksStreams(f scenario.Fault) bool {
	switch f.Do {
	case AddPartitions, Slice:
		return false
	}
	return !endsAgents(f)
}

// Expect returns who may end how under a plan that began at start, for
// check.Terms: a reason is allowed from when a fault that excuses it struck. An
// agent's death excuses GRACE at the other side by itself, whatever killed it,
// and neither restart-agents nor the end of a process of agents excuses another's.
func Expect(plan []Planned, sc scenario.Scenario, start time.Time) func(check.Ending) []string {
	type excuse struct {
		from    time.Time
		reasons []string
	}
	groups := map[string][]excuse{}
	for _, g := range sc.Groups {
		// The first fault that excuses a set of reasons excuses it for good.
		known := map[string]bool{}
		for _, f := range plan {
			reasons := Mortal(f.Fault, g, graceOf(sc))
			if endsAgents(f.Fault) && g.Kind != scenario.Legacy {
				continue // seen by the agent's death
			}
			what := strings.Join(reasons, " ")
			if len(reasons) == 0 || known[what] {
				continue
			}
			known[what] = true
			groups[g.Name] = append(groups[g.Name], excuse{start.Add(time.Duration(f.At)), reasons})
		}
	}
	return func(e check.Ending) (allowed []string) {
		if e.Side == check.Controller && e.PeerGone {
			allowed = append(allowed, grace)
		}
		group, _, _ := strings.Cut(e.Key, "/")
		for _, x := range groups[group] {
			if e.Over.IsZero() || !e.Over.Before(x.from) {
				allowed = append(allowed, x.reasons...)
			}
		}
		return allowed
	}
}

// Terms returns what check.Settle holds a system to under a plan that began at
// start: the reasons of Expect; and of an agent's death the other side may learn
// after the grace time, and a minute for the lease to lapse. Planned outages of
// Kafka don't count, for grace stands still in them.
func Terms(plan []Planned, sc scenario.Scenario, start time.Time) check.Terms {
	return check.Terms{
		Expect: Expect(plan, sc, start),
		Within: graceOf(sc) + time.Minute,
		Stood:  worldOf(sc, nil).stood(plan, start),
	}
}

func graceOf(sc scenario.Scenario) time.Duration {
	return cmp.Or(time.Duration(sc.Local.Grace), defaultGrace)
}
