package explore

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

// A move is one thing that may happen next. What a and b mean depends on the kind.
type move struct {
	kind kind
	a, b int8
}

type kind uint8

// What happens by itself, sooner or later.
const (
	attach   kind = iota // a: gateway
	apply                // a: fly; a: and its producer learns of it at once, unless the Config is Fine
	answer               // a: fly
	deliver              // the next message reaches the agent side
	readDown             // a: stream
	gapDown              // a: stream; what it should read next isn't there
	start                // a: process; its next step to being in charge
	readUp               // a: process, b: partition
	gapUp                // a: process, b: partition
	fence                // a: process
	refresh              // a: gateway
	silent               // the agent side finds its stream dead
	reportAgent
	probeAgent
	reportControl // a: process
	probeControl  // a: process
	lease         // a: stream
	beat          // a: stream
	unheard       // a: stream; the gateway finds it dead
	lapse         // a: process; no lease came for too long
	graceEnds     // a: process
	finish        // the agent's application is done
	heal          // the up log can be written again

	// What may happen or not.
	late // a: fly; a zombie reaches the log
	thaw // a: gateway
	firstFault
)

// Faults, each spending one of the budget.
const (
	FailProduce     = firstFault + iota // a: fly; it is not written
	Unanswered                          // a: fly; it is written, its producer is told that it failed
	LateProduce                         // a: fly; its producer is told that it failed, and it may be written later
	Swap                                // a: fly; it is written before its predecessor
	Cut                                 // both ends of the stream learn at once
	HalfOpen                            // only the agent side knows that its stream is gone
	KillGateway                         // a: gateway
	FreezeGateway                       // a: gateway
	KillController                      // a: process; another is started
	StaleController                     // a: process; it goes on and another is started
	AgentGone
	Away            // from now on the agent side may stay away for longer than grace
	LoseRecord      // a: direction; the newest record is gone from the log
	Retention       // a: direction; everything is gone from the log
	Recreate        // a: direction; the topic is created again
	Truncate        // a: direction; the log loses its newest record and uses its offset again
	Grow            // the number of partitions is doubled
	RetentionIdle   // everything that was passed on is gone from the down log
	ForgetTombstone // a: process
	Stall           // the up log can't be written for as long as it likes
	lastFault
)

var kindNames = [...]string{
	"attach", "written", "answered", "agent side gets", "gateway reads", "gateway finds a gap", "controller starts", "controller reads",
	"controller finds a gap", "controller finds itself superseded", "gateway learns of the newest incarnation", "agent side finds its stream dead",
	"agent side reports alone", "agent side probes", "controller reports alone", "controller probes", "lease", "heartbeat",
	"gateway finds its stream dead", "lease lapses", "grace is over", "agent's application is done", "up log can be written again", "written late", "gateway thaws",
	"NOT written", "written, told that it failed", "told that it failed, may be written later", "written before its predecessor", "stream cut",
	"stream half-open", "gateway killed", "gateway frozen", "controller killed", "controller superseded without knowing", "agent side gone",
	"agent side may stay away", "newest record lost", "retention takes all", "topic created again", "log truncated by one", "partitions doubled",
	"idle retention", "tombstone forgotten", "up log can't be written",
}

// logFault reports kinds after which DATA_LOSS is the truth.
func (k kind) logFault() bool { return k >= LoseRecord && k <= Truncate }

// fair reports whether the move happens in the end when nothing else does.
func (k kind) fair() bool { return k < late }

// moves lists what may happen next.
func (w *world) moves(ms []move) []move {
	ms = w.progress(ms)
	if len(ms) == 0 {
		ms = w.idle(ms)
	}
	for i, f := range w.flies {
		if f.zombie && w.logs[f.dir][f.part].gen == f.gen && !w.stuck(f) {
			ms = append(ms, move{kind: late, a: int8(i)})
		}
	}
	for g, gt := range w.gates {
		if gt.frozen {
			ms = append(ms, move{kind: thaw, a: int8(g)})
		}
	}
	if w.faults > 0 {
		ms = w.misfortunes(ms)
	}
	return ms
}

// progress lists what happens at once or soon.
func (w *world) progress(ms []move) []move {
	if !w.gone && !w.ended() && w.cur == nil {
		for g, gt := range w.gates {
			other := &w.gates[1-g]
			if gt.frozen || !w.cfg.AnyGateway && !other.frozen && g != int(w.agent.Attempt()%2) {
				continue
			}
			ms = append(ms, move{kind: attach, a: int8(g)})
		}
	}
	if s := w.cur; s != nil && len(s.queue) > 0 {
		ms = append(ms, move{kind: deliver})
	}
	if w.cur != nil && len(w.cur.queue) == 0 && (w.dead(w.cur) || w.gates[w.cur.gate].frozen) {
		ms = append(ms, move{kind: silent})
	}
	for i, f := range w.flies {
		if f.zombie || w.frozen(f) || w.stuck(f) {
			continue
		}
		first := !slices.ContainsFunc(w.flies[:i], func(g *fly) bool { return g.owner == f.owner && g.dir == f.dir && !g.zombie && g.applied == f.applied })
		switch {
		case !first:
		case f.applied:
			ms = append(ms, move{kind: answer, a: int8(i)})
		default:
			ms = append(ms, move{kind: apply, a: int8(i)})
		}
	}
	for i, s := range w.streams {
		if k := w.readable(s); k != nothing {
			ms = append(ms, move{kind: k, a: int8(i)})
		}
	}
	for j, p := range w.procs {
		if !p.taken || p.inc == 0 {
			ms = append(ms, move{kind: start, a: int8(j)})
			continue
		}
		if p.stale && p.inc < w.meta {
			ms = append(ms, move{kind: fence, a: int8(j)})
		}
		for part := range w.parts {
			if k := w.unread(p, part); k != nothing {
				ms = append(ms, move{kind: k, a: int8(j), b: int8(part)})
			}
		}
	}
	for g, gt := range w.gates {
		if gt.view < w.meta && !gt.frozen {
			ms = append(ms, move{kind: refresh, a: int8(g)})
		}
	}
	return ms
}

// stuck reports whether f can't be written now.
func (w *world) stuck(f *fly) bool { return w.stalled && f.dir == up && !f.applied }

// stallTold reports whether a gateway's heartbeats tell that it can't write up
// records: one that stands still tells nothing, nor does one that has none.
func (w *world) stallTold() bool {
	return w.stalled && w.cfg.Variant != StallUntold && slices.ContainsFunc(w.streams, func(s *stream) bool {
		return !w.gates[s.gate].frozen && (s.relay.Welcomed() && !s.closing ||
			slices.ContainsFunc(w.flies, func(f *fly) bool { return f.owner == int(s.attempt) && w.stuck(f) }))
	})
}

// frozen reports whether f's producer stands still.
func (w *world) frozen(f *fly) bool {
	for _, s := range w.streams {
		if int(s.attempt) == f.owner {
			return w.gates[s.gate].frozen
		}
	}
	return false
}

// idle lists what only time brings about.
func (w *world) idle(ms []move) []move {
	if s := w.cur; s != nil && !w.gone && !w.ended() {
		report, probe := w.agent.Timers()
		if report {
			ms = append(ms, move{kind: reportAgent})
		}
		if probe && w.agent.State() == session.AgentAttached && w.probes() {
			ms = append(ms, move{kind: probeAgent})
		}
	}
	for j, p := range w.procs {
		if p.ctl == nil {
			continue
		}
		report, probe, attached, detached := p.ctl.Timers()
		if report {
			ms = append(ms, move{kind: reportControl, a: int8(j)})
		}
		if probe && !w.probed() && w.probes() {
			ms = append(ms, move{kind: probeControl, a: int8(j)})
		}
		if w.stallTold() {
			continue
		}
		if w.gone || w.ended() || w.away && !w.attached() || w.stalled {
			if attached && w.cfg.Variant != NeverLapse {
				ms = append(ms, move{kind: lapse, a: int8(j)})
			}
		}
		if w.gone || w.ended() || w.away && !w.attached() || w.stalled || w.attached() && !slices.ContainsFunc(w.streams, w.leaseMatters) {
			if detached {
				ms = append(ms, move{kind: graceEnds, a: int8(j)})
			}
		}
	}
	if w.stalled {
		ms = append(ms, move{kind: heal})
	}
	if w.cfg.Linger && !w.finish && w.attached() {
		ms = append(ms, move{kind: finish})
	}
	for i, s := range w.streams {
		if w.gates[s.gate].frozen || !s.relay.Welcomed() || s.lost || s.closing {
			continue
		}
		if w.leaseMatters(s) && !w.stalled {
			ms = append(ms, move{kind: lease, a: int8(i)})
		}
		if s == w.cur && s.relay.Position() > w.agent.Followed() {
			ms = append(ms, move{kind: beat, a: int8(i)})
		}
		if s != w.cur {
			ms = append(ms, move{kind: unheard, a: int8(i)})
		}
	}
	return ms
}

// probes reports whether anybody asks for delivered. While the up log stands
// no answer comes, and asking once more changes nothing.
func (w *world) probes() bool {
	v := w.cfg.Variant
	return !w.stalled && v != LoneOnce && v != NoStable && v != ResetOldest
}

// probed reports whether a probe stands last in the down log: one more would
// change nothing for whoever reads it.
func (w *world) probed() bool {
	part := 0
	if w.bound() {
		part = int(w.agent.Start().Partition)
	}
	recs := w.logs[down][part].recs
	return len(recs) > 0 && recs[len(recs)-1].rec != nil && recs[len(recs)-1].rec.Kind == envelope.Probe && (w.cur == nil || w.dead(w.cur))
}

// attached reports whether the agent side has a stream that works.
func (w *world) attached() bool {
	return w.cur != nil && !w.dead(w.cur) && !w.gates[w.cur.gate].frozen && w.cur.relay.Welcomed()
}

func (w *world) leaseMatters(s *stream) bool {
	switch w.cfg.Variant {
	case Events, LoneOnce, NoStable, ResetOldest:
		return false
	}
	persisted, delivered := s.relay.Heard()
	for _, p := range w.procs {
		if p.inc == 0 || incarnation(p.inc) != s.relay.Incarnation() {
			continue
		}
		if p.ctl == nil {
			return persisted > 0 && w.openedBy == 0 || w.openedBy == p.inc && s == w.cur
		}
		gw, newest, attached := p.ctl.Attachment()
		if s.attempt < newest {
			return persisted > p.ctl.Accepted() && p.ctl.State() < session.Closing
		}
		known := p.ctl.Written() - uint64(p.ctl.Undelivered())
		if p.ctl.State() < session.Closing && (!attached || s.attempt > newest || gw != w.gateway(s.gate) || persisted > p.ctl.Accepted() || delivered > known) {
			return true
		}
	}
	return false
}

// misfortunes lists the faults that may strike now.
func (w *world) misfortunes(ms []move) []move {
	kinds := w.cfg.Kinds
	if w.cfg.Once {
		kinds &^= w.struck
	}
	has := func(k kind) bool { return kinds&Faults(k) != 0 }
	add := func(k kind, a int8) {
		if has(k) {
			ms = append(ms, move{kind: k, a: a})
		}
	}
	for i, f := range w.flies {
		if f.zombie || f.applied || f.use == controlUse && !w.awaited(f) {
			continue
		}
		earlier := slices.IndexFunc(w.flies[:i], func(g *fly) bool { return g.owner == f.owner && g.dir == f.dir && !g.zombie && !g.applied })
		if earlier >= 0 {
			if f.use != quietUse && f.entry.rec.Kind.IsFrame() && f.part == w.flies[earlier].part {
				if !w.stuck(f) {
					add(Swap, int8(i))
				}
			}
			continue
		}
		add(FailProduce, int8(i))
		if f.use != quietUse {
			if !w.stuck(f) {
				add(Unanswered, int8(i))
			}
			add(LateProduce, int8(i))
		}
	}
	if s := w.cur; s != nil && !w.dead(s) {
		add(Cut, 0)
		add(HalfOpen, 0)
	}
	for g := range w.gates {
		if slices.ContainsFunc(w.streams, func(s *stream) bool { return s.gate == g }) {
			add(KillGateway, int8(g))
			if !w.gates[g].frozen && !w.gates[1-g].frozen {
				add(FreezeGateway, int8(g))
			}
		}
	}
	for j, p := range w.procs {
		if !p.stale && p.inc > 0 && len(w.procs) == 1 {
			add(KillController, int8(j))
			add(StaleController, int8(j))
		}
		if p.reg.Remembers(w.agent.ID()) {
			add(ForgetTombstone, int8(j))
		}
	}
	if !w.gone && !w.ended() {
		add(AgentGone, 0)
	}
	if !w.away {
		add(Away, 0)
	}
	// Before OPEN is written there is nothing to lose but the place in the down
	// log, which matters if OPEN is written late.
	written, early := w.openedBy != 0 || w.truth[up] > 0, w.cfg.Late && w.bound()
	if written || early {
		part := int8(0)
		if w.bound() {
			part = int8(w.agent.Start().Partition)
		}
		for dir := range w.logs {
			l := &w.logs[dir][part]
			if dir == up && !written {
				continue
			}
			if len(l.recs) > 0 {
				add(LoseRecord, int8(dir))
				add(Truncate, int8(dir))
			}
			if len(l.recs) > 0 || dir == down && early {
				add(Retention, int8(dir))
			}
			add(Recreate, int8(dir))
		}
	}
	if w.parts == 1 {
		add(Grow, 0)
	}
	if !w.stalled {
		add(Stall, 0)
	}
	if s := w.cur; s != nil && w.attached() && !s.lost && !s.closing && w.readable(s) != gapDown && s.relay.Position() > w.logs[down][s.part].base {
		add(RetentionIdle, 0)
	}
	return ms
}

var errProduce = errors.New("produce failed")

// do carries one move out.
func (w *world) do(m move) {
	if m.kind >= firstFault {
		w.faults--
		w.struck |= Faults(m.kind)
	}
	a := int(m.a)
	switch m.kind {
	case attach:
		w.attach(a)
	case apply, late:
		f := w.flies[a]
		w.write(f)
		switch {
		case m.kind == late:
			w.bury(f)
		case f.use == quietUse || !w.cfg.Fine:
			w.outcome(f, nil)
		}
	case answer:
		w.outcome(w.flies[a], nil)
	case deliver:
		w.deliver(w.cur)
	case readDown:
		w.readDown(w.streams[a])
	case gapDown:
		w.gap(w.streams[a])
	case start:
		w.start(w.procs[a])
	case readUp:
		w.readUp(w.procs[a], int(m.b))
	case gapUp:
		w.gapUp(w.procs[a], int(m.b))
	case fence, KillController, StaleController:
		w.replace(a, m.kind)
	case refresh:
		w.refresh(a)
	case silent:
		s := w.cur
		if w.dead(s) {
			w.endStream(s, false)
		} else { // its gateway is frozen and goes on believing in it
			s.half, s.queue = true, nil
			w.cur = nil
			w.agent.Detach(origin)
		}
	case reportAgent:
		w.pull(1)
	case probeAgent:
		w.pull(15)
	case reportControl:
		w.pullControl(w.procs[a], 1)
	case probeControl:
		w.pullControl(w.procs[a], 15)
	case lease:
		w.lease(w.streams[a])
	case beat:
		s := w.streams[a]
		if h, ok := s.relay.PendingHeartbeat(origin.Add(interval)); ok {
			w.push(s, message{heartbeat: &h})
		}
	case unheard:
		w.endStream(w.streams[a], true)
	case lapse:
		w.procs[a].ctl.Tick(origin.Add(session.LeaseFresh))
	case graceEnds:
		w.procs[a].ctl.Tick(origin.Add(grace))
	case finish:
		w.finish = true
	case heal:
		w.stalled = false
	case thaw:
		w.thaw(a)
	case FailProduce:
		w.outcome(w.flies[a], errProduce)
	case Unanswered:
		f := w.flies[a]
		w.write(f)
		w.outcome(f, errProduce)
	case LateProduce:
		f := *w.flies[a]
		f.zombie = true
		w.outcome(w.flies[a], errProduce)
		w.flies = append([]*fly{&f}, w.flies...)
	case Swap:
		f := w.flies[a]
		w.write(f)
		if !w.cfg.Fine {
			w.outcome(f, nil)
		}
	case Cut:
		w.endStream(w.cur, true)
	case HalfOpen:
		w.cur.half, w.cur.queue = true, nil
		w.cur = nil
		w.agent.Detach(origin)
	case KillGateway:
		for _, s := range slices.Clone(w.streams) {
			if s.gate == a {
				w.endStream(s, false)
			}
		}
		w.gates[a] = gate{view: w.meta}
	case FreezeGateway:
		w.gates[a].frozen = true
	case AgentGone:
		if w.cur != nil {
			w.endStream(w.cur, true)
		}
		w.gone = true
	case Away:
		w.away = true
	case LoseRecord, Retention, Recreate, Truncate:
		w.harm(m.kind, a)
	case Grow:
		w.parts = 2
	case Stall:
		w.stalled = true
	case RetentionIdle:
		w.retainIdle()
	case ForgetTombstone:
		p := w.procs[a]
		p.reg = p.reg.Clone()
		p.reg.Forget(origin)
		p.reg.Settle(origin)
		if w.cfg.Variant == NoHorizon {
			p.reg = session.NewRegistry(incarnation(p.inc))
			w.openedBy = -p.inc // a later OPEN revives it
		}
	}
	w.run()
}

// write puts a record into its log.
func (w *world) write(f *fly) {
	f.applied = true
	l := &w.logs[f.dir][f.part]
	if l.gen != f.gen {
		f.gen = l.gen // producers write to a topic by its name
	}
	f.offset = l.append(f.entry)
	rec := f.entry.rec
	if rec.Kind.IsFrame() && rec.Seq == w.truth[f.dir]+1 && rec.Incarnation == w.agent.Incarnation() {
		w.truth[f.dir]++
	}
}

// bury drops a zombie that has reached the log, and those that stood before it.
func (w *world) bury(f *fly) {
	passed := false
	w.flies = slices.DeleteFunc(slices.Clone(w.flies), func(g *fly) bool {
		gone := !passed && g.zombie && g.owner == f.owner
		passed = passed || g == f
		return gone
	})
}

// start brings a new process one step further: it takes the end offsets, then
// publishes (row 13).
func (w *world) start(p *proc) {
	if p.inc == 0 && (p.taken || w.cfg.Variant == PublishFirst) {
		w.meta++
		p.inc = w.meta
		p.reg = session.NewRegistry(incarnation(p.inc))
		return
	}
	p.taken = true
	p.gen = w.logs[up][0].gen
	for i := range w.logs[up] {
		p.pos[i] = w.logs[up][i].end()
		if w.cfg.Variant == ReadOldest {
			p.pos[i] = w.logs[up][i].base
		}
	}
}

// replace ends a process or lets it go on as a stale one; a new one starts.
func (w *world) replace(j int, k kind) {
	p := w.procs[j]
	if k == StaleController {
		p.stale = true
	} else {
		w.procs = slices.Delete(slices.Clone(w.procs), j, j+1)
		w.orphan(-p.inc)
		if p.ctl != nil && w.record == 0 && w.openedBy == p.inc {
			w.record = linkv1.Reason_REASON_CONTROLLER_GONE
		}
	}
	if k != fence {
		w.procs = append(w.procs, &proc{reg: session.NewRegistry(incarnation(w.meta + 1))})
	}
}

// refresh lets a gateway learn of the newest incarnation; what is bound to an
// older one is over.
func (w *world) refresh(g int) {
	w.gates[g].view = w.meta
	if w.cfg.Variant == NeverCompare {
		return
	}
	inc := incarnation(w.meta)
	for _, s := range slices.Clone(w.streams) {
		if s.gate != g || !inc.NewerThan(s.relay.Incarnation()) || s.closing {
			continue
		}
		if s != w.cur {
			w.endStream(s, false)
			continue
		}
		s.closing = true
		w.push(s, message{close: &session.Close{
			Ending: session.Ending{Reason: linkv1.Reason_REASON_CONTROLLER_GONE}, Incarnation: inc,
		}})
	}
}

func (w *world) pull(seconds int) {
	for {
		u, ok := w.agent.Pending(origin.Add(time.Duration(seconds) * time.Second))
		if !ok {
			return
		}
		w.send(u)
		w.agent.Settle(origin)
		if u.Frame.Seq == 0 {
			return
		}
	}
}

func (w *world) pullControl(p *proc, seconds int) {
	pr, ok := p.ctl.Pending(origin.Add(time.Duration(seconds) * time.Second))
	if !ok {
		return
	}
	part := int(p.ctl.Open().GetStartPosition().GetPartition())
	w.flies = append(w.flies, &fly{
		owner: -p.inc, use: controlUse, dir: down, part: part, gen: w.logs[down][part].gen, entry: entryOf(pr.Record), produce: pr,
	})
}

func (w *world) lease(s *stream) {
	e := s.relay.Lease()
	payload := envelope.AppendLeaseEntry(envelope.AppendGateway(nil, w.gateway(s.gate)), e)
	rec := envelope.Record{
		Kind: envelope.Lease, Attempt: e.Attempt, Session: e.Session, Incarnation: e.Incarnation,
		Stable: e.Stable, Delivered: e.Delivered, Payload: payload,
	}
	w.logs[up][s.part].append(entry{rec: &rec})
}

func (w *world) thaw(g int) {
	w.gates[g].frozen = false
	for _, s := range w.streams {
		if s.gate != g {
			continue
		}
		for _, u := range s.stuck {
			if w.bad == "" && !w.dead(s) {
				w.arrive(s, u)
			}
		}
		s.stuck = nil
	}
}

// gapUp: the controller side finds that the up log isn't what it was.
func (w *world) gapUp(p *proc, part int) {
	l := &w.logs[up][part]
	if p.ctl != nil && w.cfg.Variant != AnyTopic {
		p.ctl.CloseSession(session.LossReason)
	}
	p.gen = l.gen
	p.pos[part] = min(max(p.pos[part], l.base), l.end())
	if p.ctl == nil && w.openedBy == 0 {
		p.pos[part] = l.base
	}
}

// harm does something to a log that Kafka promised not to do.
func (w *world) harm(k kind, dir int) {
	part := 0
	if w.bound() {
		part = int(w.agent.Start().Partition)
	}
	l := &w.logs[dir][part]
	n := len(l.recs)
	switch k {
	case LoseRecord:
		l.recs = slices.Clone(l.recs)
		l.recs[n-1] = entry{}
	case Retention:
		if n == 0 {
			l.append(entry{}) // others' records stood there
		}
		l.base, l.recs = l.end(), nil
	case Recreate:
		*l = log{gen: l.gen + 1}
	case Truncate:
		l.recs = l.recs[:n-1]
	}
}

// retainIdle: others' records follow, heartbeats tell the agent side where it
// stands, and retention takes what stood before.
func (w *world) retainIdle() {
	s := w.cur
	l := &w.logs[down][s.part]
	if s.relay.Position() == l.end() {
		l.append(entry{})
		s.relay.Advanced(l.end())
	}
	if h, ok := s.relay.PendingHeartbeat(origin.Add(interval)); ok {
		w.push(s, message{heartbeat: &h})
	}
	for w.cur == s && len(s.queue) > 0 && w.bad == "" {
		w.deliver(s)
	}
	cut := s.relay.Position() - l.base
	l.base, l.recs = s.relay.Position(), slices.Clone(l.recs[cut:])
}

// done reports whether both ends know that it is over.
func (w *world) done() bool {
	if !w.gone && !w.ended() {
		return false
	}
	for _, p := range w.procs {
		if p.ctl != nil || !p.taken || p.inc == 0 {
			return false
		}
	}
	return true
}

// check compares a state with what must hold.
func (w *world) check() {
	a := w.agent
	if got := a.Persisted(); got > w.truth[up] {
		w.fail("the agent side believes %d up frames persisted, %d are", got, w.truth[up])
	}
	if got := a.Written() - uint64(a.Undelivered()); got > w.taken {
		w.fail("the agent side believes %d up frames delivered, %d are", got, w.taken)
	}
	for _, p := range w.procs {
		if p.ctl == nil || incarnation(p.inc) != a.Incarnation() {
			continue
		}
		if got := p.ctl.Persisted(); got > w.truth[down] {
			w.fail("the controller side believes %d down frames persisted, %d are", got, w.truth[down])
		}
		if got := p.ctl.Written() - uint64(p.ctl.Undelivered()); got > a.Consumed() {
			w.fail("the controller side believes %d down frames delivered, %d are", got, a.Consumed())
		}
	}
	if w.record != 0 && !w.expected(w.record) {
		w.fail("the controller side ended with %s, for which there was no cause", session.ReasonName(w.record))
	}
	e, ended := a.Ended()
	if !ended {
		return
	}
	if w.lastEnd != 0 && (w.lastEnd != e.Reason || a.Accepted() != w.acceptAt) {
		w.fail("the agent side's end changed after it was told")
	}
	w.lastEnd, w.acceptAt = e.Reason, a.Accepted()
	if !w.expected(e.Reason) {
		w.fail("the agent side was told %s, for which there was no cause", session.ReasonName(e.Reason))
	}
	if w.record != 0 && e.Reason != w.record && !w.harmed() && e.Reason != linkv1.Reason_REASON_CONTROLLER_GONE {
		w.fail("the agent side was told %s, the reason of record is %s", session.ReasonName(e.Reason), session.ReasonName(w.record))
	}
	if e.Reason == linkv1.Reason_REASON_OK && w.record == linkv1.Reason_REASON_OK && !w.cfg.AgentCloses &&
		(w.read != w.cfg.Down || w.got != w.cfg.Up) {
		w.fail("all is said to be well, and %d of %d came down, %d of %d up", w.read, w.cfg.Down, w.got, w.cfg.Up)
	}
}

func (w *world) harmed() bool {
	for k := firstFault; k < lastFault; k++ {
		if k.logFault() && w.struck&Faults(k) != 0 {
			return true
		}
	}
	return false
}

// expected reports whether a session may end with r after what has happened.
func (w *world) expected(r linkv1.Reason) bool {
	switch r {
	case linkv1.Reason_REASON_OK:
		return true
	case linkv1.Reason_REASON_REFUSED:
		return w.cfg.Reject || w.struck&Faults(ForgetTombstone) != 0
	case linkv1.Reason_REASON_GRACE:
		return w.away || w.gone
	case linkv1.Reason_REASON_CONTROLLER_GONE:
		return w.struck&Faults(KillController, StaleController) != 0
	case linkv1.Reason_REASON_DATA_LOSS:
		return w.harmed()
	case linkv1.Reason_REASON_UNKNOWN_SESSION:
		return w.harmed() || w.struck&Faults(ForgetTombstone) != 0
	}
	return false
}

// tell describes a move that is about to be carried out.
func (w *world) tell(m move) string {
	name := kindNames[m.kind]
	a := int(m.a)
	switch m.kind {
	case apply, answer, late, FailProduce, Unanswered, LateProduce, Swap:
		return fmt.Sprintf("%s: %s", w.describe(w.flies[a]), name)
	case attach, refresh, thaw, KillGateway, FreezeGateway:
		return fmt.Sprintf("gateway %c: %s", 'a'+a, name)
	case readDown:
		s := w.streams[a]
		l := &w.logs[down][s.part]
		if s.relay.Position() < l.base {
			return fmt.Sprintf("gateway %c, stream %d: goes on from the oldest", 'a'+s.gate, s.attempt)
		}
		return fmt.Sprintf("gateway %c, stream %d: reads %s", 'a'+s.gate, s.attempt, brief(l.recs[s.relay.Position()-l.base]))
	case gapDown, lease, beat, unheard:
		s := w.streams[a]
		return fmt.Sprintf("gateway %c, stream %d: %s", 'a'+s.gate, s.attempt, name)
	case readUp:
		p := w.procs[a]
		l := &w.logs[up][m.b]
		return fmt.Sprintf("controller %d: reads %s", p.inc, brief(l.recs[p.pos[m.b]-l.base]))
	case start, gapUp, fence, reportControl, probeControl, lapse, graceEnds, KillController, StaleController, ForgetTombstone:
		return fmt.Sprintf("controller %d: %s", w.procs[a].inc, name)
	case LoseRecord, Retention, Recreate, Truncate:
		return fmt.Sprintf("%s: %s", [2]string{"up", "down"}[a], name)
	case deliver:
		return "agent side gets " + w.cur.queue[0].String()
	}
	return name
}

func (w *world) describe(f *fly) string {
	if f.owner < 0 {
		return fmt.Sprintf("controller %d's %s", -f.owner, brief(f.entry))
	}
	return fmt.Sprintf("stream %d's %s", f.owner, brief(f.entry))
}

func brief(e entry) string {
	r := e.rec
	if r == nil {
		return "a record of nobody"
	}
	s := r.Kind.String()
	if r.Seq > 0 {
		s += fmt.Sprintf(" %d", r.Seq)
	}
	if e.reason != 0 {
		s += "(" + session.ReasonName(e.reason) + ")"
	}
	return s + fmt.Sprintf(" {attempt %d, stable %d, delivered %d}", r.Attempt, r.Stable, r.Delivered)
}

func (m message) String() string {
	switch {
	case m.welcome != nil:
		return fmt.Sprintf("Welcome {persisted %d, delivered %d}", m.welcome.Persisted, m.welcome.Delivered)
	case m.frame != nil:
		return fmt.Sprintf("%v %d", m.frame.Kind, m.frame.Seq)
	case m.heartbeat != nil:
		return fmt.Sprintf("Heartbeat {persisted %d, delivered %d}", m.heartbeat.Persisted, m.heartbeat.Delivered)
	}
	return "Close(" + session.ReasonName(m.close.Reason) + ")"
}
