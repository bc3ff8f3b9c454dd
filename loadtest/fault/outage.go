package fault

import (
	"cmp"
	"slices"
	"time"

	"github.com/moorage-dev/moorage/loadtest/scenario"
)

// An outage is a time in which Kafka could not be written or read by the
// application, or not be written by any gateway. Grace stands still then
// (docs/replay.md), so nobody is told of an agent's death.
type outage struct{ from, to time.Duration }

// outage returns the one that a fault makes, until it has been got over. Short
// ones (a reset, a broker that answers late or wrongly a few times) are left out,
// for the minute that Terms allow covers them: so a plan of many small faults
// excuses nobody.
func (w world) outage(f scenario.Fault) (o outage, ok bool) {
	from := time.Duration(f.At)
	end := from + time.Duration(f.For)
	target, n := split(f.To)
	if target == "broker" || target == "brokers" {
		switch f.Do {
		case Rolling:
			return outage{from, from + time.Duration(max(w.brokers, 1))*(time.Duration(f.For)+afterBroker)}, true
		case Kill, Stop, Freeze, BlackHole, DiskFull:
			return outage{from, end + afterBroker}, true
		case Quota:
			return outage{from, end + afterOutage}, true
		}
		return o, false
	}
	switch f.Do {
	case Freeze:
		ok = target == "app" || target == "connector"
	case Cut, Reset, HalfOpen, Bandwidth:
		all := n == 0 || target == "gateway-kafka" && w.gateways == 1 || target == "app-kafka"
		ok = f.For > 0 && all && target != "agent-gateway"
	}
	return outage{from, end + afterOutage}, ok
}

// outages returns those of a plan, apart from each other and in order: what
// overlaps counts once.
func (w world) outages(plan []Planned) (all []outage) {
	for _, f := range plan {
		if o, ok := w.outage(f.Fault); ok {
			all = append(all, o)
		}
	}
	slices.SortFunc(all, func(a, b outage) int { return cmp.Compare(a.from, b.from) })
	apart := all[:0]
	for _, o := range all {
		if last := len(apart) - 1; last >= 0 && o.from <= apart[last].to {
			apart[last].to = max(apart[last].to, o.to)
			continue
		}
		apart = append(apart, o)
	}
	return apart
}

// stood returns how much of the time between two moments was an outage of a
// plan that began at start, for check.Terms.
func (w world) stood(plan []Planned, start time.Time) func(from, to time.Time) time.Duration {
	all := w.outages(plan)
	return func(from, to time.Time) (sum time.Duration) {
		for _, o := range all {
			sum += max(0, min(to.Sub(start), o.to)-max(from.Sub(start), o.from))
		}
		return sum
	}
}
