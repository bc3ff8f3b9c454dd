package session

import (
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/seeded"
)

// AgentConfig is what an agent side knows of its session from the start.
type AgentConfig struct {
	Secret     [16]byte // random; names the session together with Agent
	Agent      string
	Controller string
	Credential string
	Labels     map[string]string
	Kind       linkv1.ServiceKind
	Service    string
	Remoting   *linkv1.Remoting // of legacy agents; nil: none
	Resumable  bool
	DownWindow int // 0: DefaultWindow
}

// AgentState is where an agent side stands.
type AgentState uint8

const (
	// Fresh: no Welcome was ever received, so nothing may have been sent and
	// nothing is bound; every attach is a first one (row 1).
	Fresh AgentState = iota
	// Attaching: a Hello was sent on the current stream; Welcome is awaited.
	Attaching
	// AgentAttached: welcomed on the current stream; frames flow.
	AgentAttached
	// AgentDetached: welcomed before, no stream now; a resume is due.
	AgentDetached
	// AgentEnded: the ending of record is known. Final.
	AgentEnded
)

const (
	// reportAfter is how long delivered waits for a frame to carry it.
	reportAfter = time.Second
	// probeAfter is how long frames may stay undelivered before the far side is asked.
	probeAfter = 15 * time.Second
	// missedHeartbeats without any message make a stream dead.
	missedHeartbeats = 3
)

// An Agent is the agent side of one session.
//
// It learns of streams by Attach, Welcome and Detach, of messages by Frame,
// Heartbeat and Close, of time by Tick. An error from any of these means: the
// stream is of no use, call Detach and come again.
type Agent struct {
	End
	cfg     AgentConfig
	state   AgentState
	attempt uint32
	cursor  uint64 // next seq to send on the current stream

	// Bound by the first Welcome.
	start       envelope.Position
	incarnation envelope.Incarnation
	position    envelope.Position
	ticket      []byte
	grace       time.Duration
	interval    time.Duration
	maxFrame    int
	answer      *linkv1.Accept // of the controller side; nil: none yet, or an empty one

	lastHeard  time.Time // last message on the current stream
	lastSent   time.Time
	reportAt   time.Time // when unreported consumption is told alone; zero: nothing to tell
	probeAt    time.Time // when the far side is asked for delivered; zero: nothing undelivered
	probeOwed  bool      // the far side asked; answer with the next heartbeat
	probeDue   bool
	detachedAt time.Time
}

// NewAgent returns the agent side of a session that nobody knows of yet.
func NewAgent(cfg AgentConfig) *Agent {
	if cfg.DownWindow == 0 {
		cfg.DownWindow = DefaultWindow
	}
	return &Agent{cfg: cfg, End: End{inLimit: cfg.DownWindow}}
}

// ID returns the session's id in the log.
func (a *Agent) ID() envelope.SessionID { return NewID(a.cfg.Agent, a.cfg.Secret) }

// State returns where the agent side stands.
func (a *Agent) State() AgentState { return a.state }

// Attempt returns the number of the last attach.
func (a *Agent) Attempt() uint32 { return a.attempt }

// Grace returns how long the controller side keeps the session while it is detached; 0 before the first Welcome.
func (a *Agent) Grace() time.Duration { return a.grace }

// MaxFrame returns the largest payload of one frame; 0 before the first Welcome.
func (a *Agent) MaxFrame() int { return a.maxFrame }

// DetachedSince returns since when the session has no stream; zero while it has one.
func (a *Agent) DetachedSince() time.Time { return a.detachedAt }

// Answer returns what came with the controller side's ACCEPT; never nil.
func (a *Agent) Answer() *linkv1.Accept {
	if a.answer == nil {
		return new(linkv1.Accept)
	}
	return a.answer
}

// Incarnation returns the controller incarnation the session is bound to; zero before the first Welcome.
func (a *Agent) Incarnation() envelope.Incarnation { return a.incarnation }

// Attach begins a new stream and returns its first message. Any older stream
// is to be dropped before: nothing of it may be passed on any more.
func (a *Agent) Attach(now time.Time) Hello {
	a.attempt++
	h := Hello{
		Secret: a.cfg.Secret, Agent: a.cfg.Agent, Controller: a.cfg.Controller, Attempt: a.attempt,
		Credential: a.cfg.Credential, Labels: a.cfg.Labels,
	}
	if a.bound() {
		h.Ticket, h.Incarnation, h.Start, h.Position = a.ticket, a.incarnation, a.start, a.position
		h.LastDown, h.Delivered, h.Persisted = a.accepted, a.report(), a.out.Persisted()
		a.reportAt = time.Time{}
	}
	a.state = Attaching
	a.lastHeard, a.lastSent = now, now
	return h
}

func (a *Agent) bound() bool { return !a.incarnation.IsZero() }

// Welcome binds the session at the first attach and starts the frames to flow.
func (a *Agent) Welcome(now time.Time, w Welcome) error {
	if a.state != Attaching {
		return violation("Welcome out of turn")
	}
	if !a.bound() {
		a.start, a.position, a.incarnation = w.Start, w.Start, w.Incarnation
		a.out.Limit = w.UpWindow
		a.out.Push(uint8(envelope.Open), a.openPayload(), 0) // seq 1
	} else if w.Incarnation != a.incarnation || w.Start != a.start {
		return violation("Welcome to another incarnation or start position")
	}
	a.ticket, a.grace, a.interval, a.maxFrame = w.Ticket, w.Grace, w.Heartbeat, w.MaxFrame
	if err := a.acknowledged(now, w.Persisted, w.Delivered); err != nil {
		return err
	}
	if seeded.On(seeded.RecutOnResume) {
		a.recut()
	}
	a.state, a.cursor = AgentAttached, a.out.Persisted()+1
	a.detachedAt, a.lastHeard = time.Time{}, now
	return nil
}

func (a *Agent) openPayload() []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&linkv1.Open{
		Kind: a.cfg.Kind, Service: a.cfg.Service, Agent: a.cfg.Agent, Labels: a.cfg.Labels,
		StartPosition: PositionMessage(a.start), Resumable: a.cfg.Resumable, DownWindow: uint32(a.cfg.DownWindow),
		Remoting: a.cfg.Remoting,
	})
	if err != nil {
		panic("session: open payload: " + err.Error()) // names are checked where they are configured
	}
	return b
}

// recut is what a seeded bug does: data frames that will be sent again change.
func (a *Agent) recut() {
	for seq := a.out.Persisted() + 1; seq < a.cursor; seq++ {
		if f := a.out.Frame(seq); envelope.Kind(f.Kind) == envelope.Data && len(f.Payload) > 0 {
			f.Payload[len(f.Payload)-1]++
		}
	}
}

// Frame takes a down frame.
func (a *Agent) Frame(now time.Time, f Frame) error {
	if a.state != AgentAttached {
		return violation("frame before Welcome")
	}
	a.lastHeard = now
	if err := a.acknowledged(now, f.Persisted, f.Delivered); err != nil {
		return err
	}
	if (f.Seq == 1) != (f.Kind == envelope.Accept || f.Kind == envelope.Reject) {
		return violation("down frame %d is of kind %v", f.Seq, f.Kind)
	}
	fresh, err := a.accept(f)
	if err != nil || !fresh {
		return err
	}
	if f.Kind == envelope.Accept && len(f.Payload) > 0 {
		answer := new(linkv1.Accept)
		if err := proto.Unmarshal(f.Payload, answer); err != nil {
			return violation("unreadable ACCEPT: %v", err)
		}
		a.answer = answer
	}
	if a.closeIn {
		a.finish(ParseEnding(f.Payload))
	}
	return nil
}

// Heartbeat takes a heartbeat of the gateway.
func (a *Agent) Heartbeat(now time.Time, h Heartbeat) error {
	if a.state != AgentAttached {
		return violation("heartbeat before Welcome")
	}
	a.lastHeard = now
	if h.Position.Topic == a.position.Topic && h.Position.Partition == a.position.Partition {
		a.position.Offset = max(a.position.Offset, h.Position.Offset)
	}
	if h.Ticket != nil {
		a.ticket = h.Ticket
	}
	a.probeOwed = a.probeOwed || h.Probe
	return a.acknowledged(now, h.Persisted, h.Delivered)
}

// acknowledged takes cumulative news about this side's frames.
func (a *Agent) acknowledged(now time.Time, persisted, delivered uint64) error {
	if err := a.out.Persist(persisted); err != nil {
		return violation("persisted %d of %d", persisted, a.out.Last())
	}
	news, err := a.out.Deliver(delivered)
	if err != nil {
		return violation("delivered %d of %d", delivered, a.out.Last())
	}
	if news {
		a.probeAt = time.Time{}
	}
	a.cursor = max(a.cursor, a.out.Persisted()+1)
	return nil
}

// Close takes the gateway's word that the session is over. It reports whether
// that is final; otherwise the stream ends and the agent side comes again.
func (a *Agent) Close(c Close) (final bool) {
	if a.bound() && c.Incarnation != a.incarnation && !c.Incarnation.NewerThan(a.incarnation) {
		return false
	}
	a.finish(c.Ending)
	return true
}

// Abandon ends the session on this side alone, when it is given up for lost.
// The controller side ends it by itself when its grace is over.
func (a *Agent) Abandon(ending Ending) { a.finish(ending) }

func (a *Agent) finish(ending Ending) {
	a.end(ending)
	a.state = AgentEnded
}

// CloseSession ends the session from this side: a CLOSE follows what was
// written. The controller side's own CLOSE, or its absence's reason, is the
// one of record.
func (a *Agent) CloseSession(ending Ending) {
	if a.closeOut || a.state == AgentEnded {
		return
	}
	if !a.bound() {
		a.finish(ending) // nobody knows of it
		return
	}
	a.closeOut, a.finOut = true, true
	a.out.Push(uint8(envelope.Close), MarshalEnding(ending), 0)
}

// Detach notes that the current stream is gone.
func (a *Agent) Detach(now time.Time) {
	if a.state == AgentEnded {
		return
	}
	if seeded.On(seeded.DrainDropsTail) && a.state == AgentAttached {
		_ = a.out.Persist(a.cursor - 1)
	}
	a.state = Fresh
	if a.bound() {
		a.state = AgentDetached
	}
	if a.detachedAt.IsZero() {
		a.detachedAt = now
	}
}

// An Up is one message for the current stream: a frame, or, when Frame.Seq is
// 0, a heartbeat.
type Up struct {
	Frame     Frame
	Heartbeat Heartbeat
}

// Pending returns the next message to send on the current stream, if there is one now.
func (a *Agent) Pending(now time.Time) (u Up, ok bool) {
	if a.state != AgentAttached {
		return u, false
	}
	a.arm(now)
	switch {
	case a.probeOwed || a.probeDue: // only a heartbeat can ask and answer
	case a.cursor <= a.out.Last():
		f := a.out.Frame(a.cursor)
		a.cursor++
		a.lastSent, a.reportAt = now, time.Time{}
		u.Frame = Frame{Seq: f.Seq, Kind: envelope.Kind(f.Kind), Payload: f.Payload, Delivered: a.report()}
		if seeded.On(seeded.HalfCommand) && a.attempt > 1 && u.Frame.Kind == envelope.Data && f.Seq == a.out.Persisted()+1 {
			u.Frame.Payload = f.Payload[:len(f.Payload)/2]
		}
		return u, true
	case a.mustReport() || due(a.reportAt, now) || !now.Before(a.lastSent.Add(a.interval)):
	default:
		return u, false
	}
	u.Heartbeat = Heartbeat{Delivered: a.report(), Probe: a.probeDue}
	a.lastSent, a.reportAt, a.probeOwed = now, time.Time{}, false
	if a.probeDue {
		a.probeDue, a.probeAt = false, time.Time{}
		a.arm(now)
	}
	return u, true
}

// arm starts the timers that what has happened calls for.
func (a *Agent) arm(now time.Time) {
	if a.consumed > a.reported && a.reportAt.IsZero() {
		a.reportAt = now.Add(reportAfter)
	}
	if a.out.Last() > a.out.Delivered() && a.probeAt.IsZero() {
		a.probeAt = now.Add(probeAfter)
	}
	if due(a.probeAt, now) && a.out.Last() > a.out.Delivered() {
		a.probeDue = true
	}
}

func due(at, now time.Time) bool { return !at.IsZero() && !now.Before(at) }

// Dead reports whether the current stream has been silent for three
// heartbeat intervals, whatever a balancer in between still answers.
func (a *Agent) Dead(now time.Time) bool {
	return a.state == AgentAttached && !now.Before(a.lastHeard.Add(missedHeartbeats*a.interval))
}

// Wake returns when Pending or Dead may next answer otherwise without
// anything else happening; zero: never.
func (a *Agent) Wake() time.Time {
	if a.state != AgentAttached {
		return time.Time{}
	}
	at := earliest(a.lastHeard.Add(missedHeartbeats*a.interval), a.lastSent.Add(a.interval))
	return earliest(at, earliest(a.reportAt, a.probeAt))
}

// earliest returns the earlier of two times; zero means never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Clone returns a copy that shares nothing that changes.
func (a *Agent) Clone() *Agent {
	c := *a
	c.End = a.End.clone()
	return &c
}
