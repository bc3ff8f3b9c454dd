package session

import (
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/seeded"
)

const (
	// tombstoneFor is how long an ended session is remembered with its reason.
	tombstoneFor = 10 * time.Minute
	// maxTombstones bounds what one partition's Registry remembers.
	maxTombstones = 10_000
	// answerEvery throttles what is answered for one ended session.
	answerEvery = time.Second
)

// A Registry is what a controller side remembers, per partition, of sessions
// that are over: tombstones with their reasons, and, once a tombstone is
// forgotten, the horizon: no OPEN that starts at or below it can be new
// (row 14). A session is over, too, that ends before it was ever opened here:
// its agent side was told so, and its OPEN is still on the way (row 21).
type Registry struct {
	incarnation envelope.Incarnation
	tombs       map[envelope.SessionID]*tombstone
	order       []envelope.SessionID // oldest first
	horizon     int64                // highest closeAt of a forgotten tombstone; -1: none
	answered    map[envelope.SessionID]time.Time
}

type tombstone struct {
	ending   Ending
	last     uint64 // seq of the CLOSE; 0: never opened
	closeAt  int64  // down offset of the CLOSE; of the session's start, if never opened; -1: unknown
	buried   time.Time
	answered time.Time
}

// NewRegistry returns the empty memory of one partition.
func NewRegistry(inc envelope.Incarnation) *Registry {
	return &Registry{
		incarnation: inc, horizon: -1,
		tombs:    make(map[envelope.SessionID]*tombstone),
		answered: make(map[envelope.SessionID]time.Time),
	}
}

// Bury remembers a session that is Over.
func (r *Registry) Bury(now time.Time, c *Controller) {
	r.bury(now, c.id, &tombstone{ending: c.ending, last: c.out.Last(), closeAt: c.closeAt})
}

// bury takes a session that has no tombstone yet.
func (r *Registry) bury(now time.Time, id envelope.SessionID, t *tombstone) {
	if seeded.On(seeded.EndedRevived) {
		return
	}
	t.buried = now
	r.tombs[id] = t
	r.order = append(r.order, id)
	r.Tick(now)
}

// Tick forgets what is too old or too much.
func (r *Registry) Tick(now time.Time) {
	for len(r.order) > 0 {
		t := r.tombs[r.order[0]]
		if len(r.order) <= maxTombstones && now.Before(t.buried.Add(tombstoneFor)) {
			break
		}
		r.horizon = max(r.horizon, t.closeAt)
		delete(r.tombs, r.order[0])
		r.order = r.order[1:]
	}
	for id, at := range r.answered {
		if !now.Before(at.Add(answerEvery)) {
			delete(r.answered, id)
		}
	}
}

// Unknown judges an up record of a session that is not held. open means it
// opens one. answer, when not nil, is the ENDED to produce, once: a lost
// answer is asked for again.
func (r *Registry) Unknown(now time.Time, rec *envelope.Record) (open bool, answer *envelope.Record) {
	if rec.Incarnation != r.incarnation && !seeded.On(seeded.OldIncarnation) {
		return false, nil
	}
	if t := r.tombs[rec.Session]; t != nil {
		if rec.Kind == envelope.Detached || now.Before(t.answered.Add(answerEvery)) {
			return false, nil
		}
		t.answered = now
		answer = r.ended(rec.Session, rec.Attempt, t.ending)
		answer.Stable = t.last // whoever has not got all of it is told DATA_LOSS, not that all is well
		return false, answer
	}
	switch {
	case rec.Kind == envelope.Lost:
		t := &tombstone{ending: LossReason, closeAt: -1}
		if start := new(linkv1.Position); len(rec.Payload) > 0 && proto.Unmarshal(rec.Payload, start) == nil {
			t.closeAt = start.GetOffset()
		}
		r.bury(now, rec.Session, t)
		return false, nil // whoever wrote it tells the agent side
	case rec.Kind == envelope.Open && rec.Seq == 1:
		start, ok := startOf(rec)
		if ok && (start > r.horizon || seeded.On(seeded.EndedRevived)) {
			return true, nil
		}
		return false, r.refuse(now, rec, Ending{linkv1.Reason_REASON_REFUSED, "this OPEN is too old to be told from an ended session's; open a new session"})
	case rec.Stable >= 1 && rec.Kind != envelope.Detached && rec.Kind != envelope.End:
		// Another copy of its OPEN may still be on the way: what was answered stays so (row 21).
		t := &tombstone{ending: Ending{linkv1.Reason_REASON_UNKNOWN_SESSION, "the controller side does not know this session"}, closeAt: -1, answered: now}
		r.bury(now, rec.Session, t)
		return false, r.ended(rec.Session, rec.Attempt, t.ending)
	}
	return false, nil // about to open, perhaps (row 15)
}

// UnknownLease judges a lease entry of a session that is not held.
func (r *Registry) UnknownLease(now time.Time, e *envelope.LeaseEntry) (answer *envelope.Record) {
	_, answer = r.Unknown(now, &envelope.Record{
		Kind: envelope.Lease, Session: e.Session, Incarnation: e.Incarnation, Attempt: e.Attempt, Stable: e.Stable,
	})
	return answer
}

func (r *Registry) refuse(now time.Time, rec *envelope.Record, ending Ending) *envelope.Record {
	if at, ok := r.answered[rec.Session]; ok && now.Before(at.Add(answerEvery)) {
		return nil
	}
	if len(r.answered) < maxTombstones {
		r.answered[rec.Session] = now
	}
	return r.ended(rec.Session, rec.Attempt, ending)
}

func (r *Registry) ended(id envelope.SessionID, attempt uint32, ending Ending) *envelope.Record {
	return &envelope.Record{
		Kind: envelope.Ended, Session: id, Incarnation: r.incarnation, Attempt: attempt, Payload: MarshalEnding(ending),
	}
}

// startOf returns the down offset at which the session of an OPEN starts.
func startOf(rec *envelope.Record) (offset int64, ok bool) {
	var open linkv1.Open
	if err := proto.Unmarshal(rec.Payload, &open); err != nil || open.GetStartPosition() == nil {
		return 0, false
	}
	return open.GetStartPosition().GetOffset(), true
}
