package fault

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/moorage-dev/moorage/loadtest/scenario"
)

// chaos draws faults that the system must survive without a session's noticing
// but by waiting; agents that are restarted or whose process ends excepted.
//
// The distance of two is uniform between half and one and a half of Every. Kinds
// come out of a bag that holds each of them once and is filled again when none in
// it fits, so that a seldom one is not left out. These rules keep it survivable;
// where they forbid every kind, the fault is left out:
//
//   - Nothing lasts longer than a quarter of the grace time.
//   - One gateway at least is neither down nor cut off, if there are several.
//   - What cuts everyone off from Kafka or the application (a lone gateway, a
//     leg as a whole, a broker, the application standing still) is an outage:
//     one at a time, and some seconds lie between two.
//   - A gateway that was ended is not ended again before it had time to start.
//   - Brokers break one at a time, and have 15 s to come back.
//   - Neither the application nor the connector is killed, for their sessions
//     end with them; and an embedded broker stays, for it has no disk.
//   - Partitions are added three times at most, to MaxPartitions at most, and not
//     beside faults that name how many are added, for they count on what is there.
//   - Two of a kind do not overlap on one target, nor with a fault that the
//     scenario planned.
//   - All is over before Before.
//
// partitions is how many there are once all planned ones have been added.
func (w world) chaos(c scenario.Chaos, planned []scenario.Fault, partitions int, rng *rand.Rand) ([]scenario.Fault, error) {
	kinds, err := w.chaosKinds(c)
	if err != nil {
		return nil, err
	}
	if c.Every <= 0 {
		return nil, wrong("chaos.every", "%v: want a distance above 0", time.Duration(c.Every))
	}
	var calendar calendar
	grown := 0
	for _, f := range planned {
		calendar = append(calendar, w.holds(f)...)
		if f.Do == AddPartitions {
			grown++
			if f.With["count"] != "" {
				grown = maxGrown
			}
		}
	}
	var faults []scenario.Fault
	var bag []string
	every := time.Duration(c.Every)
	end := w.length - time.Duration(c.Before)
	for at := time.Duration(c.After); ; {
		at += every/2 + time.Duration(rng.Int64N(int64(every)+1))
		if at >= end || c.Count > 0 && len(faults) == c.Count {
			return faults, nil
		}
		if len(faults)+len(planned) >= maxPlan {
			return nil, wrong("chaos.every", "%v: more than %d faults; make it longer", every, maxPlan)
		}
		calendar = calendar.since(at)
		fits := func(kind string) bool {
			f, ok := w.draw(kind, rng)
			f.At = scenario.Duration(at.Truncate(time.Millisecond))
			holds := w.holds(f)
			switch {
			case !ok, f.At+f.For > scenario.Duration(end), !calendar.free(holds, w.gateways):
				return false
			case kind == AddPartitions && (grown >= maxGrown || 2*partitions > MaxPartitions):
				return false
			case kind == AddPartitions:
				grown++
				partitions *= 2
			}
			calendar = append(calendar, holds...)
			faults = append(faults, f)
			return true
		}
		if i := slices.IndexFunc(bag, fits); i >= 0 {
			bag = slices.Delete(bag, i, i+1)
			continue
		}
		// Nothing that is left fits now. It waits, and has its turn first next time.
		var more []string
		for _, i := range rng.Perm(len(kinds)) {
			if count(bag, kinds[i]) < maxWaiting {
				more = append(more, kinds[i])
			}
		}
		if i := slices.IndexFunc(more, fits); i >= 0 {
			more = slices.Delete(more, i, i+1)
		}
		bag = append(bag, more...)
	}
}

func count(in []string, word string) (n int) {
	for _, s := range in {
		if s == word {
			n++
		}
	}
	return n
}

const (
	maxWaiting = 3 // of a kind, until it fits
	maxGrown   = 3
)

// chaosKinds returns the kinds to draw from.
func (w world) chaosKinds(c scenario.Chaos) (kinds []string, err error) {
	if len(c.Kinds) == 0 {
		for _, k := range Kinds {
			if slices.Contains(w.can, k) {
				kinds = append(kinds, k)
			}
		}
	}
	for i, k := range c.Kinds {
		if err := w.does(fmt.Sprintf("chaos.kinds[%d]", i), k); err != nil {
			return nil, err
		}
		if !slices.Contains(kinds, k) {
			kinds = append(kinds, k)
		}
	}
	if w.brokers == 0 { // a disk that is full is a real broker's
		kinds = slices.DeleteFunc(kinds, func(k string) bool { return k == DiskFull })
	}
	if len(kinds) == 0 {
		return nil, wrong("chaos.kinds", "this target can do none of them; use --local")
	}
	return kinds, nil
}

// draw decides whom a fault of a kind strikes, for how long and how hard.
func (w world) draw(kind string, rng *rand.Rand) (f scenario.Fault, ok bool) {
	f = Defaults(scenario.Fault{Do: kind})
	lasts := func(least, most time.Duration) {
		most = min(most, w.grace/4)
		least = min(least, most)
		d := least + time.Duration(rng.Int64N(int64(most-least)+1))
		f.For = scenario.Duration(d.Truncate(time.Millisecond))
	}
	with := func(key string, least, most int, unit string) {
		f.With[key] = strconv.Itoa(least+rng.IntN(most-least+1)) + unit
	}
	gateway := numbered("gateway", rng.IntN(w.gateways))
	broker := ""
	if w.brokers > 0 && rng.IntN(4) == 0 {
		broker = numbered("broker", rng.IntN(w.brokers))
	}
	switch kind {
	case Kill, Stop:
		f.To = gateway
		lasts(100*time.Millisecond, 1500*time.Millisecond)
		if broker != "" {
			f.To = broker
			lasts(500*time.Millisecond, 5*time.Second)
		} else if rng.IntN(8) == 0 {
			f.To = "agents"
		}
	case Rolling, Upgrade:
		lasts(500*time.Millisecond, 1500*time.Millisecond)
	case Freeze:
		f.To = gateway
		lasts(300*time.Millisecond, 6*time.Second)
		switch who := rng.IntN(8); {
		case broker != "":
			f.To = broker
		case who == 0: // until its agents have given it up
			lasts(16*time.Second, 22*time.Second)
		case who == 1 && w.app:
			f.To = "app"
			lasts(300*time.Millisecond, 4*time.Second)
		case who == 2:
			f.To = "agents"
			lasts(300*time.Millisecond, 4*time.Second)
		}
	case BlackHole:
		f.To = gateway
		if broker != "" {
			f.To = broker
		}
		lasts(2*time.Second, 20*time.Second)
	case CutAgents:
		f.With["share"] = []string{"0.05", "0.2", "0.5", "1"}[rng.IntN(4)]
	case RestartAgents:
		f.With["share"] = []string{"0.02", "0.05", "0.1"}[rng.IntN(3)]
	case Cut, Reset, HalfOpen, Latency, Bandwidth, Slice, SlowClose:
		switch rng.IntN(8) {
		case 0, 1, 2:
			f.To = numbered("agent-gateway", rng.IntN(w.gateways))
		case 3:
			f.To = "agent-gateway"
		case 4, 5:
			f.To = numbered("gateway-kafka", rng.IntN(w.gateways))
		case 6:
			f.To = "gateway-kafka"
		case 7:
			f.To = "app-kafka"
			if !w.app {
				f.To = "agent-gateway"
			}
		}
		switch kind {
		case HalfOpen:
			lasts(time.Second, 5*time.Second)
			if _, n := split(f.To); n != 0 {
				lasts(2*time.Second, 20*time.Second)
			}
		case Latency:
			lasts(2*time.Second, 8*time.Second)
			with("latency", 5, 300, "ms")
			with("jitter", 1, 50, "ms")
		case Bandwidth:
			lasts(2*time.Second, 8*time.Second)
			with("rate", 16, 256, "KiB")
		case Slice:
			lasts(2*time.Second, 8*time.Second)
			with("size", 16, 256, "")
		case SlowClose:
			lasts(2*time.Second, 8*time.Second)
			with("latency", 100, 2000, "ms")
		}
	case ProduceUnanswered, ProduceRefused, FetchFailed, NotLeader:
		with("count", 1, 5, "")
	case SlowBroker:
		lasts(2*time.Second, 8*time.Second)
		with("latency", 20, 500, "ms")
	case Quota:
		lasts(2*time.Second, 8*time.Second)
		with("rate", 64, 512, "KiB")
	case DiskFull:
		if w.brokers == 0 {
			return f, false
		}
		f.To = numbered("broker", rng.IntN(w.brokers))
		lasts(2*time.Second, 6*time.Second)
	}
	return f, true
}
