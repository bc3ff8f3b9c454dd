package demo

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/demo/fabric"
	"github.com/moorage-dev/moorage/proto/envelope"
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

// updown returns one of the two topics of records.
func (w *World) updown(target int) string {
	if target%2 == 0 {
		return w.topics.Up
	}
	return w.topics.Down
}

// partition returns where the agent's sessions stand.
func (w *World) partition(a *agent) int32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return int32(envelope.SlotOf(a.name, envelope.SessionID{})) % w.partitions
}

// heldBy returns the agents whose sessions a gateway holds, or held last.
func (w *World) heldBy(addr string) []*agent {
	return slices.DeleteFunc(slices.Clone(w.agents), func(a *agent) bool { return a.at() != addr })
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

func (w *World) cut(a *agent) {
	links := w.net.Links(linksFrom(a.host()))
	w.struck(LinkCut, len(links), a)
	for _, l := range links {
		l.Reset()
	}
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
	for _, l := range links {
		l.Reset()
	}
}

// holdFor is how long Kafka takes nothing before a gateway is killed.
const holdFor = 50 * time.Millisecond

func (w *World) replaceGateway(f Fault) {
	w.mu.Lock()
	n := w.node(f.Target)
	for i := 1; n.gw == nil && i < len(w.gateways); i++ { // down already: another one
		n = w.node(f.Target + i)
	}
	gw, serving := n.gw, n.serving
	n.gw = nil
	w.mu.Unlock()
	if gw == nil {
		return // all are down
	}
	if f.Kind == GatewayKilled { // while it has something that it can lose
		defer w.broker.TopicStalled(w.topics.Up).Remove()
		w.sleep(holdFor)
	}
	w.struck(f.Kind, 1, w.heldBy(n.addr)...)
	dead := make(chan struct{})
	defer func() { <-dead }()
	w.restart.Go(func() {
		if f.Kind == GatewayDrained {
			close(dead)
			ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
			_ = gw.Drain(ctx) // who has not left in time is dropped
			cancel()
			gw.Close()
		} else {
			for _, l := range w.net.Links(func(l *fabric.Link) bool { return l.From == n.name || l.To == n.addr }) {
				l.Reset()
			}
			close(dead) // not a word more of it gets out
			gw.Kill()
		}
		<-serving
		w.sleep(f.For)
		w.insist(n.name, func() error { return w.startGateway(n) })
	})
}

// grow gives up and down twice as many partitions.
func (w *World) grow() {
	w.mu.Lock()
	n := 2 * w.partitions
	w.mu.Unlock()
	if n > 32 {
		return
	}
	if err := w.broker.AddPartitions(w.ctx, w.net.Dialer("admin"), n, w.topics.Up, w.topics.Down); err != nil {
		w.complain("adding partitions: %v", err)
		return
	}
	w.mu.Lock()
	w.partitions = n
	w.mu.Unlock()
	w.struck(PartitionsAdded, 1, w.agents...)
}

// expire keeps an agent away while what it has not read is deleted.
func (w *World) expire(f Fault) {
	a := w.agent(f.Target)
	p := w.partition(a)
	w.struck(f.Kind, 1, a)
	host := a.host()
	for _, l := range w.net.Links(linksFrom(host)) {
		l.Reset()
	}
	w.net.Freeze(host)
	w.restart.Go(func() {
		defer w.net.Thaw(host)
		w.sleep(f.For)
		if err := w.broker.Cluster.DeleteRecords(w.topics.Down, p, -1); err != nil {
			w.complain("deleting records: %v", err)
		}
	})
}

// recreate deletes a topic and creates it under its old name.
func (w *World) recreate(f Fault) {
	w.struck(f.Kind, 1, w.agents...)
	topic := w.updown(f.Target)
	if err := w.broker.Cluster.DeleteTopic(topic); err != nil {
		w.complain("deleting %s: %v", topic, err)
		return
	}
	if err := w.createTopics(); err != nil {
		w.complain("creating %s again: %v", topic, err)
	}
}

func (w *World) createTopics() error {
	admin, err := bridge.Dial(w.ctx, w.kafka("admin"))
	if err != nil {
		return err
	}
	defer admin.Close()
	if w.topics == (bridge.Topics{}) { // faults that are under way read it
		w.topics = admin.Topics(controllerName)
	}
	w.mu.Lock()
	n := w.partitions
	w.mu.Unlock()
	return admin.CreateTopics(w.ctx, controllerName, bridge.TopicSpec{Partitions: n, SingleBroker: true, AllowSmall: true})
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

// complain notes what went wrong beside the sessions; the run is not clean.
func (w *World) complain(format string, args ...any) {
	if w.ctx.Err() != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrong = append(w.wrong, fmt.Sprintf(format, args...))
}

// Wrong returns what went wrong beside the sessions.
func (w *World) Wrong() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.wrong)
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
