package demo

import (
	"math/rand/v2"
	"slices"
	"time"
)

// aims are the states to strike in, those the more often that are hard to
// meet; attached is what a fault strikes that misses.
var aims = []State{
	Opening, HalfClosed, Detached, Attaching, Attaching, Closing,
	CtlOpening, CtlOpening, CtlDetached, CtlClosing, CtlClosing, CtlClosing,
}

// Aimed has every fault of the plan strike a session in a state of its own
// choice, if one can be brought into it.
func Aimed(seed uint64, plan []Fault) []Fault {
	rng := rand.New(rand.NewPCG(seed, 0x61696d6564))
	for i := range plan {
		plan[i].In = aims[rng.IntN(len(aims))]
		if slices.Contains(Lossy, plan[i].Kind) && rng.IntN(2) == 0 { // seldom planned, so the more on purpose
			plan[i].In = []State{CtlOpening, CtlClosing}[rng.IntN(2)]
		}
	}
	return plan
}

const (
	// bringFor bounds how long a state is waited for.
	bringFor = 700 * time.Millisecond
	// bringEvery is how often agents are looked at meanwhile.
	bringEvery = 10 * time.Millisecond
)

// bring waits until a session is in the state that f is to strike, and aims f
// at it. Some states last no time unless something is in the way; then bring
// puts it there, and the returned function takes it away.
func (w *World) bring(f *Fault) (done func()) {
	a := w.agent(f.Target)
	done = func() {}
	switch f.In {
	case Opening, Attaching:
		stalled := w.broker.TopicStalled(w.topics.Up)
		done = stalled.Remove
		if f.In == Opening {
			a.kill()
			w.struck(AgentRestarted, 1, a)
		} else {
			w.cut(a)
		}
	case Closing, CtlClosing:
		stalled := w.broker.TopicStalled(w.topics.Down)
		done = stalled.Remove
	case Detached, CtlDetached:
		if f.Kind == LinkCut || f.Kind == LinkHalfOpen { // the link is to live on
			w.broker.ProduceUnknown(w.topics.Up, w.partition(a))
			w.struck(ProduceUnknown, 1, a)
		} else {
			w.cut(a)
		}
	}
	for until := time.Now().Add(bringFor); time.Now().Before(until) && w.ctx.Err() == nil; time.Sleep(bringEvery) {
		all := w.sessions()
		for i := range w.agents {
			at := (f.Target + i) % len(w.agents)
			if a := w.agents[at]; a.state() == f.In || a.across(all) == f.In {
				w.aim(f, at)
				return done
			}
		}
	}
	return done
}

// aim directs f at an agent, or at the gateway that holds it.
func (w *World) aim(f *Fault, index int) {
	switch f.Kind {
	case GatewayKilled, GatewayDrained, GatewayFrozen:
		at := w.agents[index].at()
		if i := slices.IndexFunc(w.gateways, func(n *node) bool { return n.addr == at }); i >= 0 {
			f.Target = i
		}
	case LinkCut, LinkHalfOpen, AgentRestarted, AgentSlow, RetentionPassed:
		f.Target = index
	case ProduceUnknown, TopicCreatedAnew:
		f.Target = 2*index + f.Target%2
	}
}
