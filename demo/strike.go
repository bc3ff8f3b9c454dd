package demo

import (
	"fmt"
	"slices"
	"time"

	"github.com/moorage-dev/moorage/demo/fabric"
)

// Strike carries one fault out, and returns when it struck; what it lasts, it
// lasts in the background.
func (w *World) Strike(f Fault) {
	if f.In != "" {
		defer w.bring(&f)()
	}
	w.check.Fault(string(f.Kind))
	switch f.Kind {
	case GatewayKilled, GatewayDrained:
		w.replaceGateway(f)
	case GatewayFrozen:
		n := w.node(f.Target)
		w.struck(f.Kind, 1, w.heldBy(n.addr)...)
		w.freeze(n.name, f.For)
	case LinkCut, LinkHalfOpen:
		a, links := w.linked(f.Target)
		if at := a.at(); f.Kind == LinkHalfOpen && at != "" { // one link, and not the spare ones
			links = slices.DeleteFunc(links, func(l *fabric.Link) bool { return l.To != at })
		}
		w.struck(f.Kind, len(links), a)
		for _, l := range links {
			if f.Kind == LinkCut {
				l.Reset()
			} else {
				l.BlackHole()
			}
		}
	case ProduceDoubtful:
		w.broker.ProduceWrittenButFailed(f.Target)
		w.struck(f.Kind, 1, w.agents...)
	case ProduceRefused:
		w.broker.ProduceRefused(f.Target)
		w.struck(f.Kind, 1, w.agents...)
	case ProduceUnknown:
		a := w.agent(f.Target / 2)
		w.broker.ProduceUnknown(w.updown(f.Target), w.partition(a))
		w.struck(f.Kind, 1, a)
	case FetchFailed:
		w.broker.FetchFailed(f.Target)
		w.struck(f.Kind, 1, w.agents...)
	case KafkaCut:
		w.cutKafka(f)
	case ControllerDied:
		w.replaceController(f)
	case ControllerFrozen:
		if b := w.brain(); b != nil {
			w.struck(f.Kind, 1, w.agents...)
			w.freeze(b.host, f.For)
		}
	case Superseded:
		w.supersede(f)
	case AgentRestarted:
		a := w.agent(f.Target)
		w.struck(f.Kind, 1, a)
		a.kill()
	case AgentSlow:
		a := w.agent(f.Target)
		w.struck(f.Kind, 1, a)
		a.slow(f.For)
	case PartitionsAdded:
		w.grow()
	case RetentionPassed:
		w.expire(f)
	case TopicCreatedAnew:
		w.recreate(f)
	default:
		w.strange(f)
	}
}

// describe tells whom a fault strikes.
func (w *World) describe(f Fault) string {
	switch f.Kind {
	case GatewayKilled, GatewayDrained, GatewayFrozen:
		return w.node(f.Target).name
	case KafkaCut:
		if f.Target < len(w.gateways) {
			return w.gateways[f.Target].name
		}
		return "controller"
	case ProduceDoubtful, ProduceRefused, FetchFailed:
		return fmt.Sprintf("%d requests", f.Target)
	case ControllerDied:
		return controllerName
	case ProduceLost:
		return w.agent(f.Target / 2).name
	case CloseRefused, KafkaStalled:
		return fmt.Sprintf("for %v", f.For)
	case TicketForged, StreamTwice, NewsRefused, PositionForeign:
		return "a session by hand"
	case AgentSlow:
		return fmt.Sprintf("%s for %v", w.agent(f.Target).name, f.For)
	}
	return w.agent(f.Target).name
}

func (w *World) agent(target int) *agent { return w.agents[target%len(w.agents)] }
func (w *World) node(target int) *node   { return w.gateways[target%len(w.gateways)] }

// linked returns an agent that has links, the target if it has.
func (w *World) linked(target int) (a *agent, links []*fabric.Link) {
	for i := range w.agents {
		a = w.agent(target + i)
		if links = w.net.Links(linksFrom(a.host())); len(links) > 0 {
			break
		}
	}
	return a, links
}

func linksFrom(host string) func(*fabric.Link) bool {
	return func(l *fabric.Link) bool { return l.From == host }
}

// reset breaks links: both ends see it.
func reset(links []*fabric.Link) {
	for _, l := range links {
		l.Reset()
	}
}

// heldBy returns the agents whose sessions a gateway holds, or held last.
func (w *World) heldBy(addr string) []*agent {
	return slices.DeleteFunc(slices.Clone(w.agents), func(a *agent) bool { return a.at() != addr })
}

func (w *World) cut(a *agent) {
	links := w.net.Links(linksFrom(a.host()))
	w.struck(LinkCut, len(links), a)
	reset(links)
}

// freeze makes a host stand still for a while.
func (w *World) freeze(host string, d time.Duration) {
	w.net.Freeze(host)
	w.restart.Go(func() {
		w.sleep(d)
		w.net.Thaw(host)
	})
}

// sleep waits, unless the world ends.
func (w *World) sleep(d time.Duration) {
	select {
	case <-time.After(d):
	case <-w.ctx.Done():
	}
}

func (w *World) cutKafka(f Fault) {
	host := ""
	var hit []*agent
	if f.Target < len(w.gateways) {
		n := w.gateways[f.Target]
		host, hit = n.name, w.heldBy(n.addr)
	} else if b := w.brain(); b != nil {
		host, hit = b.host, w.agents
	}
	links := w.net.Links(linksFrom(host))
	w.struck(f.Kind, len(links), hit...)
	reset(links)
}

// expire keeps an agent away while what it has not read is deleted.
func (w *World) expire(f Fault) {
	a := w.agent(f.Target)
	p := w.partition(a)
	w.struck(f.Kind, 1, a)
	host := a.host()
	reset(w.net.Links(linksFrom(host)))
	w.net.Freeze(host)
	w.restart.Go(func() {
		defer w.net.Thaw(host)
		w.sleep(f.For)
		if err := w.broker.Cluster.DeleteRecords(w.topics.Down, p, -1); err != nil {
			w.complain("deleting records: %v", err)
		}
	})
}

// struck counts a fault that met n things, and in which states it met agents' sessions.
func (w *World) struck(kind FaultKind, n int, agents ...*agent) {
	if n == 0 {
		return
	}
	all := w.sessions()
	w.mu.Lock()
	w.met[kind]++
	row := w.states[kind]
	if row == nil {
		row = make(map[State]int)
		w.states[kind] = row
	}
	w.mu.Unlock()
	for _, a := range agents {
		for _, s := range []State{a.state(), a.across(all)} {
			if s != "" {
				w.mu.Lock()
				row[s]++
				w.mu.Unlock()
			}
		}
	}
}

// mostWrong bounds the complaints that are kept; further ones are counted.
const mostWrong = 10

// complain notes what went wrong beside the sessions; the run is not clean.
func (w *World) complain(format string, args ...any) {
	if w.ctx.Err() != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.wrong) == mostWrong {
		w.moreWrong++
		return
	}
	w.wrong = append(w.wrong, fmt.Sprintf(format, args...))
}

// Wrong returns what went wrong beside the sessions.
func (w *World) Wrong() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := slices.Clone(w.wrong)
	if w.moreWrong > 0 {
		all = append(all, fmt.Sprintf("%d more such things", w.moreWrong))
	}
	return all
}

// insist starts a process until it runs.
func (w *World) insist(name string, start func() error) {
	for w.ctx.Err() == nil {
		err := start()
		if err == nil {
			return
		}
		w.cfg.Log.Warn("does not start", "process", name, "err", err)
		w.sleep(time.Second)
	}
}
