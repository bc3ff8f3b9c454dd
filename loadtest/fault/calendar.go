package fault

import (
	"slices"
	"strings"
	"time"

	"github.com/moorage-dev/moorage/loadtest/scenario"
)

// A hold is something that a fault needs for itself, and for how long: until
// it has not only ended but been got over.
type hold struct {
	what     string
	from, to time.Duration
}

func (h hold) overlaps(o hold) bool { return h.from < o.to && o.from < h.to }

// A calendar is the holds of a plan.
type calendar []hold

const gatewayDown = "gateway down: "

// free reports whether a fault with these holds can be added.
func (c calendar) free(holds []hold, gateways int) bool {
	down := map[string]bool{} // gateways, while this fault lasts
	news := 0
	for _, h := range holds {
		for _, o := range c {
			if !o.overlaps(h) {
				continue
			}
			if o.what == h.what {
				return false
			}
			if strings.HasPrefix(h.what, gatewayDown) && strings.HasPrefix(o.what, gatewayDown) {
				down[o.what] = true
			}
		}
		if strings.HasPrefix(h.what, gatewayDown) {
			news++
		}
	}
	return news == 0 || gateways == 1 || len(down)+news < gateways
}

// since drops what is over.
func (c calendar) since(at time.Duration) calendar {
	return slices.DeleteFunc(c, func(h hold) bool { return h.to <= at })
}

// What a target needs to come back, once a fault has ended.
const (
	afterGateway = 2 * time.Second
	afterStart   = 6 * time.Second // before the same gateway is ended again: a busy machine takes seconds to start it
	afterBroker  = 15 * time.Second
	afterOutage  = 5 * time.Second
	afterToxic   = time.Second
	afterAgents  = 15 * time.Second // to leave in order, and to start
	perRolling   = 6 * time.Second  // of each gateway: drained, ended, started
)

// holds returns what a fault, its target decided, needs for itself.
func (w world) holds(f scenario.Fault) []hold {
	from := time.Duration(f.At)
	end := from + time.Duration(f.For)
	target, n := split(f.To)
	of := func(what string, after time.Duration) hold { return hold{what, from, end + after} }
	outage := of("outage", afterOutage)

	switch f.Do {
	case Kill, Stop, Freeze, BlackHole, DiskFull:
		switch target {
		case "gateway":
			holds := []hold{of(gatewayDown+f.To, afterGateway)}
			if f.Do == Kill || f.Do == Stop {
				holds = append(holds, of("start of "+f.To, afterStart))
			}
			if w.gateways == 1 {
				holds = append(holds, outage)
			}
			return holds
		case "broker":
			return []hold{of("broker", afterBroker), of("outage", afterBroker)}
		case "agents":
			if endsAgents(f) { // nobody waits for them but their own sessions
				return []hold{of(target, afterAgents)}
			}
		}
		return []hold{of(target, afterOutage), outage}
	case Rolling, Upgrade:
		if target == "agents" {
			return []hold{of(target, 2*afterAgents)} // of two processes; more wait for each other
		}
		if target == "connector" {
			return []hold{of(target, perRolling), of("outage", perRolling)}
		}
		if target == "brokers" || target == "broker" {
			d := time.Duration(max(w.brokers, 1)) * (time.Duration(f.For) + afterBroker)
			return []hold{{"broker", from, from + d}, {"outage", from, from + d}}
		}
		// It goes to a next one only when the last is back; but one that is
		// down by another fault would make two.
		d := time.Duration(w.gateways) * (time.Duration(f.For) + perRolling)
		holds := []hold{{"outage", from, from + d}, {gatewayDown + "one after the other", from, from + d}}
		for i := range w.gateways {
			holds = append(holds, hold{"start of " + numbered("gateway", i), from, from + d})
		}
		return holds
	case HalfOpen:
		switch {
		case n == 0:
			return []hold{of(HalfOpen+" "+target, afterOutage), outage}
		case w.gateways == 1:
			return []hold{of(gatewayDown+numbered("gateway", n-1), afterGateway), outage}
		}
		return []hold{of(gatewayDown+numbered("gateway", n-1), afterGateway)}
	case Cut, Reset:
		if f.For == 0 {
			return nil
		}
		if n == 0 {
			return []hold{of(HalfOpen+" "+target, afterOutage), outage}
		}
		return []hold{of(gatewayDown+numbered("gateway", n-1), afterGateway)}
	case Latency, Bandwidth, Slice, SlowClose:
		return []hold{of(f.Do+" "+target, afterToxic)}
	case SlowBroker, Quota:
		return []hold{of(f.Do, afterToxic)}
	}
	return nil
}
