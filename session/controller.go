package session

import (
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/seeded"
)

// LeaseFresh is how long a lease, an attach or any up record proves that the
// session is attached, from when it was read.
const LeaseFresh = 30 * time.Second

// LeaseInterval is how often a gateway writes its leases.
const LeaseInterval = 10 * time.Second

// ControllerState is where a controller side's session stands.
type ControllerState uint8

const (
	// Opening: OPEN was accepted; the application has not answered yet.
	Opening ControllerState = iota
	// Accepted: ACCEPT was written; data flows.
	Accepted
	// Closing: the ending of record stands as the last down frame, which is
	// not yet known persisted.
	Closing
	// Over: the last down frame is persisted; the session may be forgotten
	// into the Registry.
	Over
)

// A Controller is the controller side of one session.
//
// It learns of up records by Record and Lease, of the outcome of its own
// produces by Produced, of time by Tick. What it wants produced is pulled
// with Pending. The clock given to it should stand still while Kafka does: a
// session is not to be given up because nobody could have said it is alive.
type Controller struct {
	End
	id          envelope.SessionID
	incarnation envelope.Incarnation
	state       ControllerState
	open        *linkv1.Open
	verified    *linkv1.Verified
	grace       time.Duration

	// Who holds the session.
	attempt  uint32 // the newest seen
	gateway  envelope.Gateway
	attached bool
	leaseTo  time.Time // attached is proven until then
	leaseAt  time.Time // last proof
	graceTo  time.Time // detached: GRACE then

	// Down: what is being produced.
	cursor   uint64 // next frame to produce
	sent     uint64 // highest seq ever produced; nothing above can be delivered
	round    uint32 // raised whenever frames are produced again; results of older rounds prove nothing
	flight   flight
	closeAt  int64 // offset of the CLOSE or REJECT
	failures int
	retryAt  time.Time

	// Delivered, when it travels alone.
	aloneOwed bool // produce it even if it is no news: an attach or a probe
	aloneFly  bool // one is being produced
	reportAt  time.Time
	probeAt   time.Time
	probeDue  bool
}

// NewController returns the session that an OPEN record opens, which a
// Registry has let pass. down is this side's limits.
func NewController(now time.Time, rec *envelope.Record, upWindow int, grace time.Duration) (*Controller, error) {
	open, verified := new(linkv1.Open), new(linkv1.Verified)
	if err := proto.Unmarshal(rec.Payload, open); err != nil {
		return nil, violation("unreadable OPEN: %v", err)
	}
	if err := proto.Unmarshal(rec.Appendix, verified); err != nil {
		return nil, violation("unreadable appendix of OPEN: %v", err)
	}
	c := &Controller{
		id: rec.Session, incarnation: rec.Incarnation, open: open, verified: verified, grace: grace,
		cursor: 1, flight: newFlight(1), closeAt: -1,
	}
	c.inLimit = upWindow
	c.out.Limit = int(open.GetDownWindow())
	if _, err := c.accept(Frame{Seq: 1, Kind: envelope.Open}); err != nil {
		return nil, err
	}
	c.proven(now, rec.Attempt, envelope.Gateway{Boot: verified.GetBoot(), Name: verified.GetGateway()})
	return c, nil
}

// ID returns the session's id.
func (c *Controller) ID() envelope.SessionID { return c.id }

// State returns where the session stands.
func (c *Controller) State() ControllerState { return c.state }

// Open returns what the agent side asked for.
func (c *Controller) Open() *linkv1.Open { return c.open }

// Verified returns what the gateway vouched for at OPEN.
func (c *Controller) Verified() *linkv1.Verified { return c.verified }

// Attachment returns who holds the session: the gateway, the newest attempt,
// and whether it is attached now.
func (c *Controller) Attachment() (gateway envelope.Gateway, attempt uint32, attached bool) {
	return c.gateway, c.attempt, c.attached
}

// CloseOffset returns the offset of the last down frame once the session is Over.
func (c *Controller) CloseOffset() int64 { return c.closeAt }

// Accept answers the OPEN; data may flow. The answer is nil or valid UTF-8
// where its fields are strings.
func (c *Controller) Accept(answer *linkv1.Accept) {
	if c.state == Opening {
		payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(answer)
		if err != nil {
			panic("session: accept payload: " + err.Error())
		}
		c.state = Accepted
		c.out.Push(uint8(envelope.Accept), payload, 0)
	}
}

// Reject answers the OPEN and ends the session with it.
func (c *Controller) Reject(ending Ending) {
	if c.state == Opening {
		c.finish(envelope.Reject, ending)
	}
}

// Probe asks the agent side for a sign of life: it answers with its delivered.
// An agent side that is known to be away is not asked.
func (c *Controller) Probe() { c.probeDue = c.state < Closing && c.attached }

// LimitGrace makes the grace no longer than most, from the next time on that
// the session is detached: some applications cannot bear what others can.
func (c *Controller) LimitGrace(most time.Duration) { c.grace = min(c.grace, most) }

// CloseSession ends the session: CLOSE follows what was written.
func (c *Controller) CloseSession(ending Ending) {
	switch c.state {
	case Opening:
		c.finish(envelope.Reject, ending)
	case Accepted:
		c.finish(envelope.Close, ending)
	}
}

func (c *Controller) finish(kind envelope.Kind, ending Ending) {
	c.end(ending)
	c.finOut, c.closeOut = true, true
	c.out.Push(uint8(kind), MarshalEnding(ending), 0)
	c.state = Closing
}

// Record takes an up record of this session. It changes the session only;
// what is to be told stands in Pending and Ended.
func (c *Controller) Record(now time.Time, rec *envelope.Record) {
	if rec.Incarnation != c.incarnation && !seeded.On(seeded.OldIncarnation) {
		return
	}
	if rec.Kind == envelope.End {
		c.CloseSession(Ending{linkv1.Reason_REASON_OPERATOR, string(rec.Payload)})
		return
	}
	if c.state >= Closing {
		return
	}
	if rec.Stable > c.accepted && !(rec.Kind.IsFrame() && rec.Seq == c.accepted+1) {
		c.CloseSession(LossReason) // something persisted never came (row 5)
		return
	}
	c.farNews(rec.Delivered)
	switch rec.Kind {
	case envelope.Attached:
		gateway, _, err := envelope.ParseGateway(rec.Payload)
		if err != nil || rec.Attempt < c.attempt {
			return
		}
		if seeded.On(seeded.DedupForgets) && rec.Attempt > c.attempt && c.accepted > 1 {
			c.accepted--
		}
		c.proven(now, rec.Attempt, gateway)
		c.aloneOwed = true // the echo: delivered, and the newest attempt
	case envelope.Detached:
		if rec.Attempt >= c.attempt {
			c.detach(now, now)
		}
	case envelope.Delivered:
		c.prove(now, rec.Attempt)
	case envelope.Probe:
		c.prove(now, rec.Attempt)
		c.aloneOwed = true
	case envelope.Lost:
		if rec.Attempt >= c.attempt {
			c.CloseSession(LossReason)
		}
	default:
		if rec.Kind.IsFrame() {
			c.frame(now, rec)
		}
	}
}

func (c *Controller) frame(now time.Time, rec *envelope.Record) {
	c.prove(now, rec.Attempt)
	fresh, err := c.accept(Frame{Seq: rec.Seq, Kind: rec.Kind, Payload: rec.Payload})
	switch {
	case err == ErrHole || err == nil && !fresh:
		return
	case err != nil:
		c.CloseSession(Ending{linkv1.Reason_REASON_PROTOCOL_ERROR, err.Error()})
	case c.closeIn:
		c.CloseSession(ParseEnding(rec.Payload))
	}
}

// Lease takes a gateway's word that the session is attached to it.
func (c *Controller) Lease(now time.Time, gateway envelope.Gateway, e *envelope.LeaseEntry) {
	if e.Incarnation != c.incarnation || c.state >= Closing {
		return
	}
	if e.Stable > c.accepted {
		c.CloseSession(LossReason)
		return
	}
	if !seeded.On(seeded.DeliveredOnce) {
		c.farNews(e.Delivered)
	}
	if e.Attempt >= c.attempt {
		c.proven(now, e.Attempt, gateway)
	}
}

// GatewayGone notes that a gateway process is dead: its word for the session counts no more.
func (c *Controller) GatewayGone(now time.Time, gateway envelope.Gateway) {
	if !c.attached || c.gateway.Boot != gateway.Boot || c.gateway.Name != gateway.Name {
		return
	}
	if !c.open.GetResumable() {
		c.CloseSession(Ending{linkv1.Reason_REASON_GATEWAY_GONE, "gateway " + gateway.Name + " is gone"})
		return
	}
	c.detach(now, now)
}

// proven notes that a gateway holds the session at now.
func (c *Controller) proven(now time.Time, attempt uint32, gateway envelope.Gateway) {
	c.gateway = gateway
	c.prove(now, attempt)
}

// prove notes that the stream with this attempt is alive. An older stream's
// records prove nothing; its data counts all the same (row 4).
func (c *Controller) prove(now time.Time, attempt uint32) {
	if attempt < c.attempt {
		return
	}
	c.attempt = attempt
	c.attached, c.leaseAt, c.leaseTo, c.graceTo = true, now, now.Add(LeaseFresh), time.Time{}
}

// detach starts grace, counted from since.
func (c *Controller) detach(now, since time.Time) {
	if !c.attached {
		return
	}
	c.attached, c.graceTo = false, since.Add(c.grace)
	if !c.open.GetResumable() {
		c.CloseSession(Ending{linkv1.Reason_REASON_PEER_RESET, "the agent's connection broke"})
	}
}

// farNews takes the agent side's delivered.
func (c *Controller) farNews(delivered uint64) {
	news, err := c.out.Deliver(delivered)
	if err != nil || delivered > c.sent {
		c.CloseSession(Ending{linkv1.Reason_REASON_PROTOCOL_ERROR, "delivered beyond what was sent"})
		return
	}
	if !news {
		return
	}
	c.probeAt = time.Time{}
	c.cursor = max(c.cursor, delivered+1)
}

// A Produce is one record to produce, and what identifies its outcome.
type Produce struct {
	Record envelope.Record
	round  uint32
}

// Pending returns the next record to produce, if there is one now. Each must
// be answered by Produced, in any order.
func (c *Controller) Pending(now time.Time) (p Produce, ok bool) {
	c.arm(now)
	if !c.retryAt.IsZero() && !due(c.retryAt, now) {
		return p, false
	}
	c.retryAt = time.Time{}
	p.round = c.round
	p.Record = envelope.Record{
		Attempt: c.attempt, Session: c.id, Incarnation: c.incarnation,
		Stable: c.out.Persisted(), Delivered: c.consumed,
	}
	switch {
	case c.cursor <= c.out.Last():
		f := c.out.Frame(c.cursor)
		c.cursor++
		c.sent = max(c.sent, f.Seq)
		c.flight.add(f.Seq)
		p.Record.Kind, p.Record.Seq, p.Record.Payload = envelope.Kind(f.Kind), f.Seq, f.Payload
	case c.state >= Closing || c.aloneFly:
		return p, false
	case c.probeDue:
		c.probeDue, c.probeAt = false, time.Time{}
		c.arm(now)
		p.Record.Kind = envelope.Probe
	case c.aloneOwed || c.mustReport() || due(c.reportAt, now):
		p.Record.Kind = envelope.Delivered
	default:
		return p, false
	}
	if !p.Record.Kind.IsFrame() {
		c.aloneFly, c.aloneOwed = true, false
	}
	c.report()
	c.reportAt = time.Time{}
	return p, true
}

// arm starts the timers that what has happened calls for.
func (c *Controller) arm(now time.Time) {
	if c.state >= Closing {
		c.reportAt, c.probeAt = time.Time{}, time.Time{}
		return
	}
	if c.consumed > c.reported && c.reportAt.IsZero() {
		c.reportAt = now.Add(reportAfter)
	}
	if c.out.Last() > c.out.Delivered() && c.probeAt.IsZero() && c.attached {
		c.probeAt = now.Add(probeAfter)
	}
	if due(c.probeAt, now) {
		c.probeDue = c.out.Last() > c.out.Delivered() && c.attached && !seeded.On(seeded.DeliveredOnce)
		c.probeAt = time.Time{}
	}
}

const (
	retryFirst = 100 * time.Millisecond
	retryMost  = 5 * time.Second
)

// Produced takes the outcome of a Produce. After an unknown outcome, or when
// Kafka took a frame before its predecessor, everything from the first
// doubtful frame on is produced again.
func (c *Controller) Produced(now time.Time, p *Produce, offset int64, err error) {
	if !p.Record.Kind.IsFrame() {
		c.aloneFly = false
		if err != nil && !seeded.On(seeded.DeliveredOnce) {
			c.aloneOwed = true // repeated until persisted (row 17)
			c.backoff(now)
			return
		}
		c.failures = 0
		return
	}
	if p.round != c.round || !c.flight.has(p.Record.Seq) {
		return
	}
	if err != nil {
		if seeded.On(seeded.CloseOnce) && c.state == Closing {
			c.state, c.closeAt = Over, c.flight.at
			return
		}
		c.again(now, min(p.Record.Seq, c.flight.first))
		return
	}
	if !c.flight.done(p.Record.Seq, offset) {
		c.again(now, c.flight.first)
		return
	}
	c.failures, c.retryAt = 0, time.Time{}
	_ = c.out.Persist(c.flight.first - 1) // produced, so pushed
	if c.state == Closing && c.out.Persisted() == c.out.Last() {
		c.state, c.closeAt = Over, c.flight.at
	}
}

// again produces everything from seq on once more. What a reader may have
// dropped as a hole must stand behind its predecessor.
func (c *Controller) again(now time.Time, seq uint64) {
	c.round++
	c.cursor = max(seq, c.out.Persisted()+1)
	c.flight.reset(c.cursor)
	c.backoff(now)
}

func (c *Controller) backoff(now time.Time) {
	wait := min(retryFirst<<min(c.failures, 10), retryMost)
	c.failures++
	c.retryAt = now.Add(wait)
}

// Hold notes that at now no gateway could have said that it holds the
// session: neither lease nor grace runs out before LeaseFresh later (row 22).
func (c *Controller) Hold(now time.Time) {
	switch until := now.Add(LeaseFresh); {
	case c.state >= Closing:
	case c.attached && now.After(c.leaseAt):
		c.leaseAt, c.leaseTo = now, until
	case !c.attached && c.graceTo.Before(until):
		c.graceTo = until
	}
}

// Tick lets time pass: a lease lapses, grace ends.
func (c *Controller) Tick(now time.Time) {
	if c.state >= Closing {
		return
	}
	if c.attached && !now.Before(c.leaseTo) {
		c.detach(now, c.leaseAt)
	}
	if due(c.graceTo, now) {
		c.CloseSession(Ending{linkv1.Reason_REASON_GRACE, "detached longer than " + c.grace.String()})
	}
}

// Wake returns when Tick or Pending may next do something without anything
// else happening; zero: never.
func (c *Controller) Wake() time.Time {
	at := earliest(c.reportAt, earliest(c.probeAt, c.retryAt))
	if c.state >= Closing {
		return at
	}
	if c.attached {
		return earliest(at, c.leaseTo)
	}
	return earliest(at, c.graceTo)
}

// Clone returns a copy that shares nothing that changes.
func (c *Controller) Clone() *Controller {
	d := *c
	d.End = c.End.clone()
	d.flight = c.flight.clone()
	return &d
}
