package session

import (
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/seeded"
)

// positionEvery is after how many payload bytes the agent side is told the
// position again: what a resume may have to read at most, beside what came
// within a heartbeat's interval.
const positionEvery = 256 << 10

// A Relay is one stream of a session at a gateway. It lives as long as the
// stream; the session is more than it and outlives it.
//
// An error from any method but Frame's and Heartbeat's ErrViolation means
// that the stream ends and nothing else: the agent side comes again.
type Relay struct {
	id          envelope.SessionID
	incarnation envelope.Incarnation
	attempt     uint32
	start       envelope.Position
	maxFrame    int
	welcomed    bool

	// Up: agent side to log.
	next       uint64 // next seq to come from the agent side
	closed     bool   // its CLOSE was taken; nothing follows
	flight     flight // what of it this stream has under way
	acked      uint64 // highest contiguous seq known persisted
	ackTold    uint64 // last acked that was sent to the agent side
	delivered  uint64 // what the agent side's application has: maximum of its news
	carried    uint64 // last delivered put into a record
	carryOwed  bool   // delivered must be produced even if it is no news: a probe's answer
	probeAsked bool   // the agent side asked for the controller's delivered

	// Down: log to agent side.
	expect     uint64 // next down seq to pass on
	position   int64  // offset: everything of this session before it was passed on
	positioned int64  // last position that was sent
	passed     int    // payload bytes passed on since
	far        uint64 // what the controller's application has
	farTold    uint64
	probeTell  bool // the controller asked for the agent side's delivered: pass it on
	probeWait  bool // passed on; the next heartbeat is the answer
	lost       bool // a gap was found; LOST is produced, then the stream ends

	lastHeard time.Time // last message from the agent side
	lastSent  time.Time // last heartbeat; frames don't count, for they tell no position (row 8)
	interval  time.Duration
}

// NewRelay returns the relay for a stream that began with h, bound to the
// given start position and incarnation: h's own at a resume.
func NewRelay(now time.Time, h *Hello, start envelope.Position, inc envelope.Incarnation, interval time.Duration) *Relay {
	r := &Relay{
		id: h.ID(), incarnation: inc, attempt: h.Attempt, start: start, maxFrame: MaxFrame,
		next: h.Persisted + 1, flight: newFlight(h.Persisted + 1), acked: h.Persisted, ackTold: h.Persisted,
		delivered: h.Delivered, carried: h.Delivered,
		expect: h.LastDown + 1, position: start.Offset,
		lastHeard: now, lastSent: now, interval: interval,
	}
	if h.Resume() {
		r.position = h.Position.Offset
		if seeded.On(seeded.ReplayOffByOne) {
			r.expect++
		}
	}
	r.positioned = r.position
	return r
}

// ID returns the session's id in the log.
func (r *Relay) ID() envelope.SessionID { return r.id }

// Attempt returns the attempt of the stream.
func (r *Relay) Attempt() uint32 { return r.attempt }

// Incarnation returns the controller incarnation the session is bound to.
func (r *Relay) Incarnation() envelope.Incarnation { return r.incarnation }

// Position returns the offset in the down log before which everything of
// this session was passed on.
func (r *Relay) Position() int64 { return r.position }

// InFlight returns the number of up frames produced and not acknowledged.
func (r *Relay) InFlight() int { return len(r.flight.open) }

func (r *Relay) record(kind envelope.Kind) envelope.Record {
	r.carried = r.delivered
	return envelope.Record{
		Kind: kind, Attempt: r.attempt, Session: r.id, Incarnation: r.incarnation,
		Stable: r.acked, Delivered: r.delivered,
	}
}

// Attached returns the record that must be persisted before Welcome is sent.
func (r *Relay) Attached(gateway envelope.Gateway) envelope.Record {
	rec := r.record(envelope.Attached)
	rec.Payload = envelope.AppendGateway(nil, gateway)
	return rec
}

// Detached returns the record that hints at the stream's end.
func (r *Relay) Detached() envelope.Record { return r.record(envelope.Detached) }

// Lost returns the record that reports a gap in the down log. When it is
// persisted the agent side is told DATA_LOSS. It tells where the session
// starts, for its OPEN may come after it (row 21).
func (r *Relay) Lost() envelope.Record {
	r.lost = true
	rec := r.record(envelope.Lost)
	rec.Payload, _ = proto.Marshal(PositionMessage(r.start)) // bytes and numbers: cannot fail
	return rec
}

// Lease returns what the gateway's lease says of this session.
func (r *Relay) Lease() envelope.LeaseEntry {
	return envelope.LeaseEntry{
		Session: r.id, Incarnation: r.incarnation, Attempt: r.attempt, Stable: r.acked, Delivered: r.delivered,
	}
}

// Welcome starts the stream, after Attached's record was persisted. The
// caller fills in what is not the session's: ticket, limits, times.
func (r *Relay) Welcome(w *Welcome) {
	r.welcomed = true
	w.Start, w.Incarnation = r.start, r.incarnation
	w.Persisted, w.Delivered = r.acked, r.far
	w.Heartbeat = r.interval
	r.ackTold, r.farTold = r.acked, r.far
}

// Frame takes an up frame and returns the record to produce; ok is false for
// a frame that the controller is known to have. Errors are ErrViolation.
func (r *Relay) Frame(now time.Time, f Frame) (rec envelope.Record, ok bool, err error) {
	r.lastHeard = now
	if err := r.news(f.Delivered); err != nil {
		return rec, false, err
	}
	switch {
	case !r.welcomed:
		return rec, false, violation("frame before Welcome")
	case 0 < f.Seq && f.Seq < r.next && f.Seq <= r.far:
		return rec, false, nil // crossed with the news that it was delivered
	case f.Seq != r.next:
		return rec, false, violation("up frame %d, want %d", f.Seq, r.next)
	case len(f.Payload) > r.maxFrame:
		return rec, false, violation("frame of %d bytes, at most %d", len(f.Payload), r.maxFrame)
	case r.closed:
		return rec, false, violation("frame after CLOSE")
	case (f.Seq == 1) != (f.Kind == envelope.Open):
		return rec, false, violation("up frame %d is of kind %v", f.Seq, f.Kind)
	}
	switch f.Kind {
	case envelope.Open, envelope.Data, envelope.Fin:
	case envelope.Close:
		r.closed = true
	default:
		return rec, false, violation("up frame of kind %v", f.Kind)
	}
	rec = r.record(f.Kind)
	rec.Seq, rec.Payload = f.Seq, f.Payload
	r.next++
	r.flight.add(f.Seq)
	if seeded.On(seeded.AckBeforeKafka) {
		r.acked = f.Seq
	}
	return rec, true, nil
}

// Produced takes the outcome of producing an up frame. An error ends the
// stream; what was not acknowledged will come again on the next.
func (r *Relay) Produced(seq uint64, offset int64, err error) error {
	if !r.flight.has(seq) {
		return nil
	}
	if err != nil {
		if seeded.On(seeded.AckPastFailure) {
			offset = r.flight.at + 1
		} else {
			return ErrProduce
		}
	}
	if !r.flight.done(seq, offset) {
		return ErrSwapped
	}
	r.acked = max(r.acked, r.flight.first-1)
	return nil
}

// news takes the agent side's delivered.
func (r *Relay) news(delivered uint64) error {
	if delivered >= r.expect {
		return violation("delivered %d, sent %d", delivered, r.expect-1)
	}
	r.delivered = max(r.delivered, delivered)
	return nil
}

// Heartbeat takes a heartbeat of the agent side. Errors are ErrViolation.
func (r *Relay) Heartbeat(now time.Time, h Heartbeat) error {
	r.lastHeard = now
	if !r.welcomed {
		return violation("heartbeat before Welcome")
	}
	if r.probeWait {
		r.probeWait, r.carryOwed = false, true
	}
	r.probeAsked = r.probeAsked || h.Probe
	return r.news(h.Delivered)
}

// PendingRecord returns the next record to produce that no frame carries. A
// failed produce of it ends the stream (row 16).
func (r *Relay) PendingRecord() (rec envelope.Record, ok bool) {
	switch {
	case !r.welcomed || r.lost:
		return rec, false
	case r.probeAsked:
		r.probeAsked, r.carryOwed = false, false
		return r.record(envelope.Probe), true
	case r.carryOwed || r.delivered > r.carried:
		r.carryOwed = false
		return r.record(envelope.Delivered), true
	}
	return rec, false
}

// A Down is what one down record means for the agent side: a frame, when
// Frame.Seq is not 0, or a Close, when its reason is set, or nothing.
type Down struct {
	Frame Frame
	Close Close
}

// LossReason is the ending of a session whose down log has a gap.
var LossReason = Ending{linkv1.Reason_REASON_DATA_LOSS, "frames are gone from the log"}

// Record takes a record of this session from the down log. err is
// ErrTakenOver, or *EndedError with DATA_LOSS when something that was
// persisted is missing; then Lost is due.
func (r *Relay) Record(now time.Time, offset int64, rec *envelope.Record) (d Down, err error) {
	if offset < r.position {
		return d, nil
	}
	r.position = offset + 1
	if rec.Session != r.id || rec.Incarnation != r.incarnation && !seeded.On(seeded.OldIncarnation) {
		return d, nil
	}
	if r.TakenOver(rec.Attempt) {
		return d, ErrTakenOver
	}
	if rec.Stable >= r.expect {
		return d, &EndedError{LossReason}
	}
	r.farNews(rec.Delivered)
	switch {
	case rec.Kind == envelope.Probe:
		r.probeTell = true
	case rec.Kind == envelope.Ended:
		d.Close = Close{ParseEnding(rec.Payload), r.incarnation}
	case rec.Kind.IsFrame() && rec.Seq == r.expect, rec.Kind.IsFrame() && rec.Seq > r.expect && seeded.On(seeded.HigherAccepted):
		r.expect = rec.Seq + 1
		r.passed += len(rec.Payload)
		d.Frame = Frame{Seq: rec.Seq, Kind: rec.Kind, Payload: rec.Payload, Delivered: r.far, Persisted: r.acked}
		r.ackTold, r.farTold = r.acked, r.far
	}
	return d, nil
}

// TakenOver reports whether an attempt seen in the down log is a newer
// stream's, so that this one has no business any more (invariant 7).
func (r *Relay) TakenOver(attempt uint32) bool {
	return attempt > r.attempt && !seeded.On(seeded.OldStreamServed)
}

// farNews takes the controller's delivered. What was delivered is persisted,
// whether or not this stream saw it acknowledged or even had it.
func (r *Relay) farNews(delivered uint64) {
	r.far = max(r.far, delivered)
	r.acked = max(r.acked, r.far)
	r.next = max(r.next, r.far+1)
}

// Advanced notes that no record of this session stands before offset next
// that Record was not given.
func (r *Relay) Advanced(next int64) { r.position = max(r.position, next) }

// PendingHeartbeat returns a heartbeat when there is news for the agent side
// that no frame will carry, or the interval has passed. soon is false for a
// heartbeat that only time has made due.
func (r *Relay) PendingHeartbeat(now time.Time) (h Heartbeat, ok bool) {
	beat := !now.Before(r.lastSent.Add(r.interval)) || r.passed >= positionEvery
	if !r.welcomed || !beat && r.acked == r.ackTold && r.far == r.farTold && !r.probeTell {
		return h, false
	}
	h = Heartbeat{Persisted: r.acked, Delivered: r.far, Probe: r.probeTell}
	if r.probeTell {
		r.probeTell, r.probeWait = false, true
	}
	if beat || r.position-r.positioned > 0 {
		h.Position = envelope.Position{Topic: r.start.Topic, Partition: r.start.Partition, Offset: r.position}
		r.positioned, r.passed = r.position, 0
	}
	r.ackTold, r.farTold, r.lastSent = r.acked, r.far, now
	return h, true
}

// HasNews reports whether PendingHeartbeat has more to say than a sign of life.
func (r *Relay) HasNews() bool {
	return r.welcomed && (r.acked != r.ackTold || r.far != r.farTold || r.probeTell)
}

// Dead reports whether the agent side has been silent for three intervals.
// paused: this side was not reading, so that silence proves nothing.
func (r *Relay) Dead(now time.Time, paused bool) bool {
	if paused {
		r.lastHeard = now
	}
	return !now.Before(r.lastHeard.Add(missedHeartbeats * r.interval))
}

// Clone returns a copy that shares nothing that changes.
func (r *Relay) Clone() *Relay {
	c := *r
	c.flight = r.flight.clone()
	return &c
}
