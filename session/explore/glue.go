package explore

import (
	"errors"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

// What a gateway and a controller side do around the pure roles, and what the
// applications do with them.

var okEnding = session.Ending{Reason: linkv1.Reason_REASON_OK}

func (w *world) gateway(g int) envelope.Gateway {
	return envelope.Gateway{Boot: uint64(g + 1), Name: string(rune('a' + g))}
}

// run lets everything happen that takes no time: applications write and read,
// roles send what they have to send, links that aren't slow deliver.
func (w *world) run() {
	for moved := true; moved && w.bad == ""; {
		moved = w.runAgent()
		for _, s := range w.streams {
			moved = w.runRelay(s) || moved
		}
		for _, p := range w.procs {
			moved = w.runProc(p) || moved
		}
		if !w.cfg.Lag && !moved {
			moved = w.readAll()
		}
		if s := w.cur; s != nil && !w.cfg.Queue && len(s.queue) > 0 {
			w.deliver(s)
			moved = true
		}
	}
	w.check()
	w.agent.Settle(origin)
	for _, s := range w.streams {
		s.relay.Settle(origin)
	}
	for _, p := range w.procs {
		if p.ctl != nil {
			p.ctl.Settle(origin)
		}
	}
}

// readAll lets one reader that has something to read do so.
func (w *world) readAll() bool {
	for i, s := range w.streams {
		if w.readable(s) == readDown {
			w.readDown(w.streams[i])
			return true
		}
	}
	for _, p := range w.procs {
		for part := range w.parts {
			if w.unread(p, part) == readUp {
				w.readUp(p, part)
				return true
			}
		}
	}
	return false
}

// nothing is what a reader does that has nothing to read.
const nothing = firstFault

// readable returns what s does next about its down log.
func (w *world) readable(s *stream) kind {
	l := &w.logs[down][s.part]
	at := s.relay.Position()
	switch {
	case w.gates[s.gate].frozen || s.lost || s.closing || !s.relay.Welcomed():
	case s.gen != l.gen && w.cfg.Variant != AnyTopic, at < l.base && w.cfg.Variant != ResetOldest, at > l.end() && w.cfg.Variant != AnyTopic:
		return gapDown
	case at < l.end():
		return readDown
	}
	return nothing
}

// unread returns what p does next about an up partition.
func (w *world) unread(p *proc, part int) kind {
	l := &w.logs[up][part]
	switch {
	case !p.taken || p.inc == 0:
	case p.gen != l.gen, p.pos[part] < l.base, p.pos[part] > l.end():
		return gapUp
	case p.pos[part] < l.end():
		return readUp
	}
	return nothing
}

func (w *world) runAgent() (moved bool) {
	a := w.agent
	if w.gone || w.ended() {
		return false
	}
	if w.bound() && a.WriteErr() == nil {
		for w.wrote < w.cfg.Up && a.CanWrite(1) {
			w.wrote++
			a.Write([]byte{byte(w.wrote)})
			moved = true
		}
		if w.wrote == w.cfg.Up && (w.finish || !w.cfg.Linger) {
			if w.cfg.AgentCloses {
				a.CloseSession(okEnding)
			} else {
				a.CloseWrite()
			}
			moved = true
		}
	}
	moved = w.readAgent() || moved
	for {
		u, ok := a.Pending(origin)
		if !ok {
			return moved
		}
		moved = true
		w.send(u)
	}
}

func (w *world) readAgent() (moved bool) {
	for {
		p, ok := w.agent.Next()
		if !ok {
			return moved
		}
		w.read++
		if int(p[0]) != w.read {
			w.fail("the agent's application got data %d, want %d", p[0], w.read)
		}
		w.agent.Consume()
		moved = true
	}
}

// send carries one message of the agent side to its gateway.
func (w *world) send(u session.Up) {
	s := w.cur
	switch {
	case s == nil || w.dead(s):
	case w.gates[s.gate].frozen:
		s.stuck = append(s.stuck, u)
	default:
		w.arrive(s, u)
	}
}

// dead reports whether the gateway has ended s, whatever the agent side knows.
func (w *world) dead(s *stream) bool {
	return !slices.Contains(w.streams, s)
}

func (w *world) arrive(s *stream, u session.Up) {
	if u.Frame.Seq == 0 {
		if err := s.relay.Heartbeat(origin, u.Heartbeat); err != nil {
			w.fail("gateway: heartbeat: %v", err)
		}
		return
	}
	rec, ok, err := s.relay.Frame(origin, u.Frame)
	if err != nil {
		w.fail("gateway: frame: %v", err)
		return
	}
	if !ok {
		return
	}
	if rec.Kind == envelope.Open {
		rec.Appendix = verified(w.gateway(s.gate))
	}
	w.launch(s, frameUse, rec)
}

var appendix [2][]byte

func init() {
	for i := range appendix {
		appendix[i], _ = proto.Marshal(&linkv1.Verified{Gateway: string(rune('a' + i)), Boot: uint64(i + 1)})
	}
}

func verified(g envelope.Gateway) []byte { return appendix[g.Boot-1] }

func (w *world) launch(s *stream, u use, rec envelope.Record) {
	w.flies = append(w.flies, &fly{
		owner: int(s.attempt), use: u, dir: up, part: s.part, gen: w.logs[up][s.part].gen, entry: entryOf(rec),
	})
}

func entryOf(rec envelope.Record) entry {
	e := entry{rec: &rec}
	switch rec.Kind {
	case envelope.Close, envelope.Reject, envelope.Ended:
		e.reason = session.ParseEnding(rec.Payload).Reason
	}
	return e
}

func (w *world) runRelay(s *stream) (moved bool) {
	if w.gates[s.gate].frozen || s.closing {
		return false
	}
	for {
		rec, ok := s.relay.PendingRecord()
		if !ok {
			break
		}
		w.launch(s, loneUse, rec)
		moved = true
	}
	for {
		h, ok := s.relay.PendingHeartbeat(origin)
		if !ok {
			return moved
		}
		w.push(s, message{heartbeat: &h})
		moved = true
	}
}

// push sends one message to the agent side, if it still listens.
func (w *world) push(s *stream, m message) {
	if s == w.cur {
		s.queue = append(s.queue, m)
	}
}

// deliver lets the agent side have the next message of its stream.
func (w *world) deliver(s *stream) {
	m := s.queue[0]
	s.queue = s.queue[1:]
	var err error
	switch {
	case m.welcome != nil:
		if err = w.agent.Welcome(origin, *m.welcome); err != nil {
			w.fail("agent side: Welcome: %v", err)
		}
	case m.frame != nil:
		err = w.agent.Frame(origin, *m.frame)
	case m.heartbeat != nil:
		h := *m.heartbeat
		if w.cfg.Variant == NoPosition {
			h.Position = envelope.Position{}
		}
		err = w.agent.Heartbeat(origin, h)
	case m.close != nil:
		if !w.agent.Close(*m.close) {
			w.leave(s)
		}
	}
	if err != nil {
		if errors.Is(err, session.ErrViolation) {
			w.fail("agent side: %v", err)
		}
		w.leave(s)
	}
	if w.ended() && w.cur != nil {
		w.endStream(w.cur, false)
	}
}

// leave: the agent side gives its stream up; the gateway learns at once.
func (w *world) leave(s *stream) { w.endStream(s, true) }

// endStream ends s at both sides. detached: the gateway says so in the log.
func (w *world) endStream(s *stream, detached bool) {
	alive := !w.dead(s)
	if alive {
		for i, t := range w.streams {
			if s == t {
				w.streams = append(w.streams[:i:i], w.streams[i+1:]...)
				break
			}
		}
		w.orphan(int(s.attempt))
		if detached && s.relay.Welcomed() && !w.cfg.NoDetached {
			rec := s.relay.Detached()
			w.flies = append(w.flies, &fly{owner: int(s.attempt), use: quietUse, dir: up, part: s.part, gen: w.logs[up][s.part].gen, entry: entryOf(rec)})
		}
	}
	if s == w.cur {
		w.cur = nil
		w.agent.Detach(origin)
	}
}

// orphan makes zombies of what an owner had under way: each may still reach
// the log, in order, or never.
func (w *world) orphan(owner int) {
	kept := w.flies[:0:0]
	zombies := 0
	for _, f := range w.flies {
		if f.owner == owner && !f.zombie {
			if f.applied || !w.cfg.Late || zombies == 2 {
				continue
			}
			f.zombie = true
			zombies++
		}
		kept = append(kept, f)
	}
	w.flies = kept
}

// attach lets the agent side come to gateway g with a new stream.
func (w *world) attach(g int) {
	h := w.agent.Attach(origin)
	view := w.gates[g].view
	inc := incarnation(view)
	s := &stream{attempt: h.Attempt, gate: g}
	var start envelope.Position
	lost := false
	if h.Resume() {
		if inc.NewerThan(h.Incarnation) && w.cfg.Variant != NeverCompare {
			w.cur = s
			s.relay = session.NewRelay(origin, &h, h.Start, h.Incarnation, interval)
			s.queue = append(s.queue, message{close: &session.Close{
				Ending: session.Ending{Reason: linkv1.Reason_REASON_CONTROLLER_GONE}, Incarnation: inc,
			}})
			return
		}
		inc, start = h.Incarnation, h.Start
		s.part = int(start.Partition)
		if w.cfg.Variant == Rehash && w.parts == 2 {
			s.part = 1
		}
		l := &w.logs[down][s.part]
		s.gen = l.gen
		if w.lostPos {
			h.Position.Offset = l.end() // row 1: what it was welcomed with it never learned
		}
		lost = start.Topic != topicID(down, l.gen) || h.Position.Offset < l.base || h.Position.Offset > l.end()
		switch w.cfg.Variant {
		case ResetOldest:
			lost = false
			h.Position.Offset = max(h.Position.Offset, l.base)
		case AnyTopic:
			lost = false
		}
	} else {
		s.part = w.parts - 1
		l := &w.logs[down][s.part]
		s.gen = l.gen
		start = envelope.Position{Topic: topicID(down, l.gen), Partition: int32(s.part), Offset: l.end()}
	}
	s.relay = session.NewRelay(origin, &h, start, inc, interval)
	w.streams = append(w.streams, s)
	w.cur = s
	if lost {
		w.gap(s)
		return
	}
	w.launch(s, attachedUse, s.relay.Attached(w.gateway(g)))
	if w.cfg.Variant == FramesFirst {
		w.lostPos = !h.Resume()
		s.early = true
		w.welcome(s)
	}
}

func (w *world) welcome(s *stream) {
	var m session.Welcome
	s.relay.Welcome(&m)
	m.UpWindow, m.MaxFrame, m.Grace = w.window(), session.MaxFrame, grace
	w.push(s, message{welcome: &m})
}

func (w *world) window() int {
	if w.cfg.Window > 0 {
		return w.cfg.Window
	}
	return 64
}

// gap: the gateway found that records of this session are gone.
func (w *world) gap(s *stream) {
	s.lost = true
	w.launch(s, lostUse, s.relay.Lost())
}

// outcome tells a fly's producer what became of it.
func (w *world) outcome(f *fly, err error) {
	for i, g := range w.flies {
		if f == g {
			w.flies = append(w.flies[:i:i], w.flies[i+1:]...)
			break
		}
	}
	if f.use == controlUse {
		w.outcomeControl(f, err)
		return
	}
	for _, s := range w.streams {
		if int(s.attempt) == f.owner && !f.zombie {
			w.outcomeStream(s, f, err)
			return
		}
	}
}

func (w *world) outcomeStream(s *stream, f *fly, err error) {
	switch f.use {
	case frameUse:
		offset := f.offset
		if w.cfg.Variant == AckPastFailure && err != nil {
			err, offset = nil, w.logs[up][f.part].end()
		}
		if w.cfg.Variant == AnyOrder && err == nil {
			offset = 1000 * int64(f.entry.rec.Seq)
		}
		err = s.relay.Produced(f.entry.rec.Seq, offset, err)
	case attachedUse:
		if err == nil && s.early {
			s.early, w.lostPos = false, false
		} else if err == nil {
			w.welcome(s)
		}
	case lostUse:
		if err == nil {
			s.closing = true
			w.push(s, message{close: &session.Close{Ending: session.LossReason, Incarnation: s.relay.Incarnation()}})
			if s != w.cur {
				w.endStream(s, false)
			}
			return
		}
	case loneUse:
		if w.cfg.Variant == LoneOnce {
			err = nil
		}
	}
	if err != nil {
		w.endStream(s, true)
	}
}

func (w *world) outcomeControl(f *fly, err error) {
	for _, p := range w.procs {
		if -p.inc != f.owner || p.ctl == nil {
			continue
		}
		kind := f.entry.rec.Kind
		if w.cfg.Variant == LoneOnce && !kind.IsFrame() || w.cfg.Variant == CloseOnce && kind == envelope.Close {
			if err != nil {
				f.offset = w.logs[down][f.part].end()
			}
			err = nil
		}
		p.ctl.Produced(origin, &f.produce, f.offset, err)
		return
	}
}

// readDown gives s the next record of its down log.
func (w *world) readDown(s *stream) {
	l := &w.logs[down][s.part]
	at := s.relay.Position()
	if at < l.base {
		s.relay.Advanced(l.base) // variant: from the oldest there is
		return
	}
	e := l.recs[at-l.base]
	if e.rec == nil || e.rec.Session != s.relay.ID() {
		s.relay.Advanced(at + 1)
		return
	}
	rec := e.rec
	if w.cfg.Variant == DropRepeatsOnly && rec.Kind.IsFrame() && rec.Seq == w.agent.Accepted()+2 {
		c := *rec
		c.Seq--
		rec = &c
	}
	if w.cfg.Variant == NoStable || w.cfg.Variant == ResetOldest {
		c := *rec
		c.Stable = 0
		rec = &c
	}
	d, err := s.relay.Record(origin, at, rec)
	switch {
	case err == nil:
	case errors.Is(err, session.ErrTakenOver):
		w.endStream(s, false)
		return
	default:
		w.gap(s)
		return
	}
	switch {
	case d.Frame.Seq != 0:
		w.push(s, message{frame: &d.Frame})
	case d.Close.Reason != 0:
		s.closing = true
		w.push(s, message{close: &d.Close})
		if s != w.cur {
			w.endStream(s, false)
		}
	}
}

// readUp gives p the next record of an up partition.
func (w *world) readUp(p *proc, part int) {
	l := &w.logs[up][part]
	rec := l.recs[p.pos[part]-l.base].rec
	p.pos[part]++
	if rec == nil {
		return
	}
	inc := rec.Incarnation
	switch w.cfg.Variant {
	case ReadOldest, NeverCompare:
		if p.ctl != nil || rec.Kind == envelope.Open {
			inc = incarnation(p.inc) // any incarnation's records count
		}
	}
	if inc != rec.Incarnation {
		c := *rec
		c.Incarnation = inc
		rec = &c
	}
	if w.cfg.Variant == NoStable || w.cfg.Variant == ResetOldest {
		c := *rec
		c.Stable = 0
		rec = &c
	}
	if w.cfg.Variant == Events && p.ctl != nil && rec.Kind != envelope.Attached && rec.Kind != envelope.Detached {
		c := *rec
		c.Attempt = 0 // proves nothing
		rec = &c
	}
	if rec.Kind == envelope.Lease {
		gw, entries, _ := envelope.ParseLease(rec.Payload)
		if p.ctl != nil {
			p.ctl.Lease(origin, gw, &entries[0])
		} else {
			p.reg = p.reg.Clone()
			w.answer(p, part, p.reg.UnknownLease(origin, &entries[0]))
			if w.cfg.Variant != AnyTopic { // answers without end would fill the new topic up to the old offset
				p.reg.Settle(origin)
			}
		}
		return
	}
	if p.ctl != nil {
		if _, newest, _ := p.ctl.Attachment(); w.cfg.Variant == FenceData && rec.Kind.IsFrame() && rec.Attempt < newest {
			return
		}
		p.ctl.Record(origin, rec)
		return
	}
	if w.cfg.Variant == LostUnheeded && rec.Kind == envelope.Lost {
		return
	}
	p.reg = p.reg.Clone()
	open, answer := p.reg.Unknown(origin, rec)
	p.reg.Settle(origin)
	if w.cfg.Variant == CloseUnknown && !open && answer == nil && rec.Kind.IsFrame() && rec.Incarnation == incarnation(p.inc) {
		answer = &envelope.Record{
			Kind: envelope.Ended, Session: rec.Session, Incarnation: rec.Incarnation, Attempt: rec.Attempt,
			Payload: session.MarshalEnding(session.Ending{Reason: linkv1.Reason_REASON_UNKNOWN_SESSION}),
		}
	}
	w.answer(p, part, answer)
	if !open {
		return
	}
	if w.openedBy != 0 {
		w.fail("incarnation %d opens a session that incarnation %d had opened", p.inc, w.openedBy)
		return
	}
	ctl, err := session.NewController(origin, rec, w.window(), grace)
	if err != nil {
		w.fail("OPEN: %v", err)
		return
	}
	p.ctl, w.openedBy = ctl, p.inc
	if w.cfg.Reject {
		ctl.Reject(session.Ending{Reason: linkv1.Reason_REASON_REFUSED})
	} else {
		ctl.Accept(nil)
	}
}

func (w *world) answer(p *proc, part int, rec *envelope.Record) {
	if rec == nil {
		return
	}
	w.flies = append(w.flies, &fly{owner: -p.inc, use: quietUse, dir: down, part: part, gen: w.logs[down][part].gen, entry: entryOf(*rec)})
}

// runProc plays the controller's application and pulls what is to be produced.
func (w *world) runProc(p *proc) (moved bool) {
	c := p.ctl
	if c == nil {
		return false
	}
	c.Settle(origin) // a back-off is over
	part := int(c.Open().GetStartPosition().GetPartition())
	for {
		b, ok := c.Next()
		if !ok {
			break
		}
		w.got++
		if int(b[0]) != w.got {
			w.fail("the controller's application got data %d, want %d", b[0], w.got)
		}
		c.Consume()
		moved = true
	}
	w.taken = c.Consumed()
	if c.State() == session.Accepted {
		for p.wrote < w.cfg.Down && c.CanWrite(1) {
			p.wrote++
			c.Write([]byte{byte(p.wrote)})
			moved = true
		}
		if p.wrote == w.cfg.Down && c.HalfClosed() {
			c.CloseSession(okEnding)
			moved = true
		}
	}
	for {
		pr, ok := c.Pending(origin)
		if !ok {
			break
		}
		moved = true
		w.flies = append(w.flies, &fly{
			owner: -p.inc, use: controlUse, dir: down, part: part, gen: w.logs[down][part].gen,
			entry: entryOf(pr.Record), produce: pr,
		})
	}
	if e, ok := c.Ended(); ok {
		w.record = e.Reason
	}
	if c.State() == session.Over {
		p.reg = p.reg.Clone()
		p.reg.Bury(origin, c)
		p.reg.Settle(origin)
		p.ctl = nil
		moved = true
	}
	return moved
}
