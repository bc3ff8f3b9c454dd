package session

import (
	"encoding/binary"
	"maps"
	"time"

	"github.com/moorage-dev/moorage/proto/envelope"
)

// This file lets an explorer tell states apart. Two roles with equal
// AppendState behave alike for ever, as long as their timers do.
//
// What only grows is taken relative to a [Ref], and how far a timer has run is
// left out: Settle sets every running timer back to its full length, and an
// explorer lets it fire whenever it likes.

// A Ref is what the numbers of a fingerprint are relative to: only their
// order among each other matters.
type Ref struct {
	Attempt uint32 // the agent side's
	Up      int64  // lowest up offset whose outcome is still to be told
	Down    int64  // the same for down
	Base    int64  // lowest down offset that anybody may still read
	Start   int64  // where the session's down log starts
}

type fingerprint []byte

func (b fingerprint) num(v uint64) fingerprint { return binary.AppendUvarint(b, v) }
func (b fingerprint) off(v int64) fingerprint  { return binary.AppendVarint(b, v) }

func (b fingerprint) flags(flags ...bool) fingerprint {
	var v uint64
	for i, f := range flags {
		if f {
			v |= 1 << i
		}
	}
	return b.num(v)
}

func (r Ref) attempt(a uint32) uint64 { return uint64(r.Attempt - a) }

func (b fingerprint) end(e *End) fingerprint {
	b = b.num(e.out.Last()).num(e.out.Persisted()).num(e.out.Delivered()).num(uint64(e.out.Limit))
	for seq := e.out.Persisted() + 1; seq <= e.out.Last(); seq++ {
		b = append(b, e.out.Frame(seq).Kind)
	}
	b = b.num(e.accepted).num(e.consumed).num(uint64(e.inBytes)).num(e.reported).num(uint64(e.unreported))
	for _, f := range e.in {
		b = append(b, byte(f.Kind))
	}
	return b.num(uint64(e.ending.Reason)).flags(e.finIn, e.finOut, e.closeOut, e.closeIn, e.ended)
}

func (b fingerprint) flight(f *flight, ref int64) fingerprint {
	b = b.num(f.first).num(uint64(len(f.open)))
	if len(f.open) == 0 {
		return b // what follows will stand higher
	}
	for _, p := range f.open {
		at := int64(-3)
		if p.done {
			at = p.offset - ref
		}
		b = b.off(at)
	}
	return b.off(max(f.at, ref-1) - ref)
}

// AppendState appends what decides a's future.
func (a *Agent) AppendState(b []byte, ref Ref) []byte {
	f := fingerprint(b).end(&a.End).num(uint64(a.state)).num(ref.attempt(a.attempt)).num(a.cursor)
	f = f.off(a.incarnation.Offset).flags(!a.reportAt.IsZero(), !a.probeAt.IsZero(), a.probeOwed, a.probeDue, a.bound())
	if a.bound() {
		f = append(f, a.start.Topic[1], byte(a.start.Partition))
		f = f.off(a.position.Offset - ref.Base)
	}
	return f
}

// AppendState appends what decides r's future.
func (r *Relay) AppendState(b []byte, ref Ref) []byte {
	f := fingerprint(b).num(ref.attempt(r.attempt)).off(r.incarnation.Offset)
	f = append(f, r.start.Topic[1], byte(r.start.Partition))
	f = f.num(r.next).flight(&r.flight, ref.Up).num(r.acked).num(r.ackTold).num(r.delivered).num(r.carried)
	f = f.num(r.expect).off(r.position - ref.Base).off(r.positioned - ref.Base).num(r.far).num(r.farTold)
	return f.flags(r.welcomed, r.closed, r.carryOwed, r.probeAsked, r.probeTell, r.probeWait, r.lost)
}

// AppendState appends what decides c's future.
func (c *Controller) AppendState(b []byte, ref Ref) []byte {
	f := fingerprint(b).end(&c.End).num(uint64(c.state)).off(c.incarnation.Offset)
	f = f.num(ref.attempt(c.attempt)).num(c.gateway.Boot).num(c.cursor).num(c.sent).flight(&c.flight, ref.Down)
	return f.flags(c.attached, !c.graceTo.IsZero(), c.aloneOwed, c.aloneFly, !c.reportAt.IsZero(), !c.probeAt.IsZero(), c.probeDue)
}

// AppendState appends what decides r's future for one session.
func (r *Registry) AppendState(b []byte, id envelope.SessionID, ref Ref) []byte {
	t := r.tombs[id]
	f := fingerprint(b).off(r.incarnation.Offset).flags(r.horizon >= ref.Start, t != nil)
	if t != nil {
		f = f.num(uint64(t.ending.Reason)).num(t.last).flags(t.closeAt >= ref.Start)
	}
	return f
}

func settle(at *time.Time, now time.Time, d time.Duration) {
	if !at.IsZero() {
		*at = now.Add(d)
	}
}

// Settle sets running timers back to their full length.
func (a *Agent) Settle(now time.Time) {
	a.lastHeard, a.lastSent = now, now
	settle(&a.reportAt, now, reportAfter)
	settle(&a.probeAt, now, probeAfter)
	settle(&a.detachedAt, now, 0)
}

// Settle sets running timers back to their full length.
func (r *Relay) Settle(now time.Time) { r.lastHeard, r.lastSent = now, now }

// Settle sets running timers back to their full length; a back-off is over at once.
func (c *Controller) Settle(now time.Time) {
	c.failures, c.retryAt = 0, time.Time{}
	c.leaseAt = now
	settle(&c.leaseTo, now, LeaseFresh)
	settle(&c.graceTo, now, c.grace)
	settle(&c.reportAt, now, reportAfter)
	settle(&c.probeAt, now, probeAfter)
}

// Settle forgets how long ago anything was answered or buried.
func (r *Registry) Settle(now time.Time) {
	clear(r.answered)
	for _, t := range r.tombs {
		t.buried, t.answered = now, time.Time{}
	}
}

// Remembers reports whether r has a tombstone of the session.
func (r *Registry) Remembers(id envelope.SessionID) bool { return r.tombs[id] != nil }

// Forget lets the time pass after which no tombstone is kept.
func (r *Registry) Forget(now time.Time) { r.Tick(now.Add(tombstoneFor)) }

// Clone returns a copy that shares nothing that changes.
func (r *Registry) Clone() *Registry {
	c := NewRegistry(r.incarnation)
	c.horizon = r.horizon
	c.order = append(c.order, r.order...)
	for id, t := range r.tombs {
		c.tombs[id] = new(*t)
	}
	maps.Copy(c.answered, r.answered)
	return c
}

// Awaits reports whether the outcome of p can still change anything.
func (c *Controller) Awaits(p *Produce) bool {
	return !p.Record.Kind.IsFrame() || p.round == c.round && c.flight.has(p.Record.Seq)
}

// Timers tells which of the agent side's timers run.
func (a *Agent) Timers() (report, probe bool) { return !a.reportAt.IsZero(), !a.probeAt.IsZero() }

// Timers tells which of the controller side's timers run.
func (c *Controller) Timers() (report, probe, lease, grace bool) {
	return !c.reportAt.IsZero(), !c.probeAt.IsZero(), c.attached, !c.graceTo.IsZero()
}

// Followed returns the offset a resume would start from.
func (a *Agent) Followed() int64 { return a.position.Offset }

// Start returns where the session's down log starts; zero before the first Welcome.
func (a *Agent) Start() envelope.Position { return a.start }

// Accepted returns the last seq that came in.
func (e *End) Accepted() uint64 { return e.accepted }

// Consumed returns the last seq that the application has.
func (e *End) Consumed() uint64 { return e.consumed }

// HalfClosed reports whether the other side has ended its data.
func (e *End) HalfClosed() bool { return e.finIn }

// Heard returns what the relay knows of either direction: the last up seq
// persisted, the last down seq delivered.
func (r *Relay) Heard() (persisted, delivered uint64) { return r.acked, r.delivered }

// Welcomed reports whether the stream's frames may flow.
func (r *Relay) Welcomed() bool { return r.welcomed }
