package controller

import (
	"bytes"
	"maps"
	"sync"
	"time"

	"github.com/moorage-dev/moorage/conn"
	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

// A Session is the application's end of one session: a net.Conn, or messages
// (Send, Receive). It waits for Accept or Reject; until then it can be read,
// and what is written waits.
//
// No goroutine belongs to a session. Whoever brings something (the partition's
// follower, the outcome of a produce, the timer, the application itself) takes
// the lock, tells the role, and hands on what the role wants produced.
type Session struct {
	*conn.Conn
	id     envelope.SessionID
	c      *Controller
	p      *partition
	role   *session.Controller // under the Conn's lock
	opened time.Time           // by the machine's clock

	// Under the Conn's lock.
	seen   attachment
	heard  time.Time // when a record of the agent side's own was last read, by the machine's clock
	waits  string    // what the application says that it waits for
	grace  time.Duration
	buried bool      // the role is Over and lives on in the Registry only
	told   uint64    // bytes, both ways, that its presence said when it was last written
	armed  time.Time // when the timer was asked for last; zero: not in wakes

	// Under presence's lock.
	shown   time.Time // when its presence was last written
	waiting bool      // it stands in presence's list
	past    bool      // it has ended

	// Under wakes' lock.
	due    time.Time
	heapAt int // place in the heap, from 1; 0: not there
}

// An attachment is who holds a session, as far as it has been acted upon.
type attachment struct {
	gateway  envelope.Gateway
	attempt  uint32
	attached bool
	since    time.Time // detached or ended since, by the machine's clock; zero: neither
}

func newSession(p *partition, role *session.Controller) *Session {
	now := time.Now()
	s := &Session{id: role.ID(), c: p.c, p: p, role: role, opened: now, heard: now, grace: p.c.cfg.Grace}
	remote := role.Verified().GetRemoteAddress()
	if remote == "" {
		remote = role.Open().GetAgent()
	}
	s.Conn = conn.New(conn.Config{
		End:          &role.End,
		Kick:         s.kick,
		CloseSession: role.CloseSession,
		Ready:        func() bool { return role.State() != session.Opening },
		Crowded:      p.down.Full,
		Local:        addr("controller " + p.c.cfg.Name),
		Remote:       addr(remote),
	})
	return s
}

// addr is the address of an end of a session.
type addr string

func (addr) Network() string  { return "moorage" }
func (a addr) String() string { return string(a) }

// Accept takes the session on. Only the first answer counts.
func (s *Session) Accept() { s.AcceptWith(nil) }

// AcceptWith is Accept with what the session's kind wants said; nil says nothing.
func (s *Session) AcceptWith(answer *linkv1.Accept) {
	s.Lock()
	defer s.Unlock()
	s.role.Accept(answer)
	s.changed(s.c.clock.now())
}

// Reject turns the session down, with a reason that reaches the human on the
// agent's side. Only the first answer counts.
func (s *Session) Reject(why session.Ending) {
	s.Lock()
	defer s.Unlock()
	s.role.Reject(why)
	s.changed(s.c.clock.now())
}

// Probe asks the agent side for a sign of life, which moves Info's Heard: a
// live one answers within two ways through Kafka. It does nothing for a
// session that is detached.
func (s *Session) Probe() {
	s.Lock()
	defer s.Unlock()
	s.role.Probe()
	s.kick()
}

// Waits tells operators what the session waits for, in one line; empty:
// nothing in particular. A detached session that says nothing else waits for
// its agent, and shows so by itself.
func (s *Session) Waits(text string) {
	s.Lock()
	defer s.Unlock()
	if s.waits == text || s.buried {
		return
	}
	s.waits = text
	s.c.presence.mark(s)
}

// LimitGrace makes the session's grace no longer than most, from the next
// time on that it is detached.
func (s *Session) LimitGrace(most time.Duration) {
	s.Lock()
	defer s.Unlock()
	s.grace = min(s.grace, most)
	s.role.LimitGrace(most)
}

// Info is what is known of a session.
type Info struct {
	ID      envelope.SessionID
	Agent   string             // as the agent side calls itself
	Kind    linkv1.ServiceKind // what it wants
	Service string             // which, for SERVICE_KIND_TCP
	Labels  map[string]string

	Remoting *linkv1.Remoting // what a legacy agent showed; nil: none is concerned; not to be changed

	// What a gateway verified: rely on these, not on Agent. Identity is empty
	// behind an insecure gateway.
	Identity   string
	RemoteAddr string

	Gateway   string // that holds it, or held it last
	Attempt   uint32 // counts its attaches
	Attached  bool
	Resumable bool      // false: it ends with its stream (tier 0)
	Heard     time.Time // a record of the agent side's own was last read; a gateway's leases don't count
	Up, Down  uint64    // payload bytes that reached the applications so far
	State     session.ControllerState
	Opened    time.Time
	Since     time.Time // detached or ended since; zero: neither
}

// Info returns what is known of the session now.
func (s *Session) Info() Info {
	s.Lock()
	defer s.Unlock()
	open, verified := s.role.Open(), s.role.Verified()
	up, down := s.role.Bytes()
	return Info{
		ID: s.id, Agent: open.GetAgent(), Kind: open.GetKind(), Service: open.GetService(),
		Labels: maps.Clone(open.GetLabels()), Remoting: open.GetRemoting(), Identity: verified.GetIdentity(), RemoteAddr: verified.GetRemoteAddress(),
		Gateway: s.seen.gateway.Name, Attempt: s.seen.attempt, Attached: s.seen.attached,
		Resumable: open.GetResumable(), Heard: s.heard, Up: up, Down: down,
		State: s.role.State(), Opened: s.opened, Since: s.seen.since,
	}
}

// begin starts what is done for a session, after it was entered.
func (s *Session) begin(now time.Time) {
	s.Lock()
	defer s.Unlock()
	s.changed(now)
}

// take gives the role a record. It reports false when the session is over, so
// that the record is nobody's.
func (s *Session) take(now time.Time, rec *envelope.Record) bool {
	s.Lock()
	defer s.Unlock()
	if s.buried {
		return false
	}
	if rec.Kind == envelope.Data {
		rec.Payload = bytes.Clone(rec.Payload) // it stands in a whole fetch response
	}
	if ownWord(rec.Kind) {
		s.heard = time.Now()
	}
	s.role.Record(now, rec)
	s.changed(now)
	return true
}

// ownWord reports that only a living agent side causes such a record; others
// are a gateway's or an operator's word about it.
func ownWord(kind envelope.Kind) bool {
	return kind.IsFrame() || kind == envelope.Attached || kind == envelope.Delivered || kind == envelope.Probe
}

// lease is take for a lease's entry.
func (s *Session) lease(now time.Time, gateway envelope.Gateway, e *envelope.LeaseEntry) bool {
	s.Lock()
	defer s.Unlock()
	if s.buried {
		return false
	}
	s.role.Lease(now, gateway, e)
	s.changed(now)
	if up, down := s.role.Bytes(); up+down != s.told {
		s.c.presence.mark(s) // often enough for counts, and costs frames nothing
	}
	return true
}

func (s *Session) gatewayGone(now time.Time, gateway envelope.Gateway) {
	s.Lock()
	defer s.Unlock()
	s.role.GatewayGone(now, gateway)
	s.changed(now)
}

// wake is called when the time has come that the role waited for.
func (s *Session) wake(now time.Time) {
	s.Lock()
	defer s.Unlock()
	s.armed = time.Time{}
	s.changed(now)
}

// changed does what any input to the role may have made due. Lock held.
func (s *Session) changed(now time.Time) {
	if at := s.p.stalled.Load(); at != nil {
		s.role.Hold(*at)
	}
	s.role.Tick(now)
	s.attachment(now)
	s.Conn.Changed()
	s.pump(now)
	s.arm(now)
	if s.role.State() == session.Over && !s.buried {
		s.bury(now)
	}
}

// kick is changed for what the application did, and what the Conn did with it.
func (s *Session) kick() {
	now := s.c.clock.now()
	s.pump(now)
	s.arm(now)
}

// attachment sees who holds the session now, and that it is not a dead gateway.
func (s *Session) attachment(now time.Time) {
	if s.buried {
		return
	}
	gateway, attempt, attached := s.role.Attachment()
	if attached && (!s.seen.attached || gateway != s.seen.gateway) && s.c.gateways.named(gateway) {
		s.role.GatewayGone(now, gateway)
		gateway, attempt, attached = s.role.Attachment()
	}
	if attached == s.seen.attached && attempt == s.seen.attempt && gateway == s.seen.gateway {
		return
	}
	seen := attachment{gateway: gateway, attempt: attempt, attached: attached}
	switch {
	case attached:
		s.c.log.Info("attached", "session", s.id, "agent", s.role.Open().GetAgent(), "gateway", gateway.Name, "attempt", attempt)
	case s.seen.attached:
		seen.since = time.Now()
		s.c.log.Info("detached", "session", s.id, "agent", s.role.Open().GetAgent(), "gateway", gateway.Name, "attempt", attempt)
	default:
		seen.since = s.seen.since
	}
	s.seen = seen
	s.c.presence.mark(s)
}

// pump hands on what the role wants produced. Lock held.
func (s *Session) pump(now time.Time) {
	for !s.c.stopping.Load() {
		p, ok := s.role.Pending(now)
		if !ok {
			return
		}
		f := flights.Get().(*flight)
		if f.landed == nil {
			f.landed = f.land
		}
		f.s, f.p = s, p
		s.p.down.Put(s.id, &f.p.Record, f.landed)
	}
}

// A flight is one record on its way to Kafka.
type flight struct {
	s      *Session
	p      session.Produce
	landed func(offset int64, err error) // land, bound once: a closure per frame would cost
}

var flights = sync.Pool{New: func() any { return new(flight) }}

// land takes the outcome.
func (f *flight) land(offset int64, err error) {
	s, p := f.s, f.p
	f.s, f.p = nil, session.Produce{}
	flights.Put(f)
	s.Lock()
	defer s.Unlock()
	if s.buried {
		return
	}
	now := s.c.clock.now()
	s.role.Produced(now, &p, offset, err)
	s.changed(now)
}

// waitAgain is when a role is looked at again that waits for an outcome and
// cannot say for how long.
const waitAgain = time.Second

// arm sees to it that the role is woken in time. Lock held.
func (s *Session) arm(now time.Time) {
	at := s.role.Wake()
	if at.IsZero() || s.buried {
		return
	}
	if !at.After(now) {
		at = now.Add(waitAgain)
	}
	if !s.armed.IsZero() && !at.Before(s.armed) {
		return
	}
	s.armed = at
	if s.c.wakes.at(at, s) {
		s.c.stir()
	}
}

// bury forgets a session that is Over into the Registry. Lock held.
func (s *Session) bury(now time.Time) {
	s.buried = true
	s.seen.attached, s.seen.since = false, time.Now()
	s.p.mu.Lock()
	delete(s.p.sessions, s.id)
	s.p.registry.Bury(now, s.role)
	s.p.mu.Unlock()
	s.c.wakes.remove(s)
	why, _ := s.role.Ended()
	s.c.log.Info("ended", "session", s.id, "agent", s.role.Open().GetAgent(), "reason", session.ReasonName(why.Reason), "text", why.Text)
	s.c.counts.ended.Add(1)
	s.c.presence.mark(s)
	if s.c.held.Add(-1) == 0 {
		s.c.emptied()
	}
}

// abandon ends the session on this side alone: the process is not its
// controller any more, and nothing is written.
func (s *Session) abandon(why session.Ending) {
	s.Lock()
	defer s.Unlock()
	s.role.CloseSession(why)
	s.Conn.Changed()
}
