// Package check decides whether a message system kept its promises, from
// nothing but what the applications at its two ends saw.
//
// Both applications tell one [Checker] what they handed over, what they got
// and how they learned that a session ended. The verdict is a [Report]:
//
//   - lost: a message was sent and did not arrive, although a later one of the
//     same direction did, or although its receiver was told an end without a
//     reason that allows for it.
//   - repeated: a message arrived again.
//   - reordered: a message arrived after a later one of its direction.
//   - stuck: one direction of a session holds messages, its receiver was told
//     no end, and nothing has arrived there for [Config.Settle]; in a final
//     report, for any time at all. It may still come, so it is not lost.
//   - corrupted: a message arrived with other bytes than were sent, or was
//     never sent.
//   - revived: a message arrived where the session's end had been told.
//   - unexplained: an end was told without a reason.
//   - misjudged: an end was told with a reason that [Checker.Expect] does not
//     allow, or told twice at one side.
//   - untold: in a final report, one side's session is over and the other side
//     was never told.
//
// What a session that ended with an allowed reason other than OK did not
// deliver is cut off, not lost; it must be a tail: a hole before something that
// arrived is lost whatever the reason.
//
// Applications in processes of their own each keep a [Book] instead, of
// messages that say in a header where they belong ([AppendMessage]); [Settle]
// puts the Books' [Account]s together, under the same words.
//
// The package knows nothing of the system it judges and imports nothing of it.
package check

import (
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A Session names a session; any string that both applications agree on.
type Session string

// A Side is an end of a session.
type Side uint8

// The two ends. What an agent sends goes up, what a controller sends goes down.
const (
	Agent Side = iota
	Controller
)

func (s Side) other() Side { return 1 - s }

func (s Side) String() string {
	if s == Agent {
		return "agent"
	}
	return "controller"
}

// MarshalText makes a Side a word in JSON.
func (s Side) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads that word.
func (s *Side) UnmarshalText(b []byte) error {
	for _, side := range []Side{Agent, Controller} {
		if string(b) == side.String() {
			*s = side
			return nil
		}
	}
	return fmt.Errorf("check: side %q: want agent or controller", b)
}

// OK is the one reason that is expected of every session without being named.
const OK = "OK"

// Config says how a Checker works. The zero Config is ready to use.
type Config struct {
	Now       func() time.Time // zero: time.Now
	Settle    time.Duration    // quiet time after which a waiting direction is stuck; 0: 30 s
	Events    int              // last events kept per session; 0: 12
	Anomalies int              // anomalies kept in full; more are only counted; 0: 20
}

// filled returns cfg with its defaults.
func (cfg Config) filled() Config {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Settle == 0 {
		cfg.Settle = 30 * time.Second
	}
	if cfg.Events == 0 {
		cfg.Events = 12
	}
	if cfg.Anomalies == 0 {
		cfg.Anomalies = 20
	}
	return cfg
}

// A Checker records what both applications saw. It is safe for concurrent use.
//
// Its memory is bounded by the number of sessions and of messages under way,
// which the windows of the system under test bound in turn.
type Checker struct {
	cfg  Config
	seed maphash.Seed

	mu        sync.Mutex // guards the following
	sessions  map[Session]*session
	totals    Verdict // what is final the moment it happens; the rest is found by Report
	sent      [2]uint64
	received  [2]uint64
	latency   [2]*hdrhistogram.Histogram
	faults    []fault
	recovery  map[string]*hdrhistogram.Histogram
	anomalies []Anomaly
	started   time.Time
}

// A session is what one session's two applications told.
type session struct {
	flows   [2]flow // by sending side
	ends    [2]end  // by the side that was told
	allowed []string
	events  []Event // ring, oldest at next once full
	next    int
	silence time.Duration // longest so far, of both directions
}

// A flow is one direction of a session.
type flow struct {
	sent     uint64 // highest seq handed over
	highest  uint64 // highest seq received
	waiting  map[uint64]message
	lastSeen time.Time // of the last receipt
}

type message struct {
	hash uint64
	at   time.Time
}

// An end is what one side knows of its session's end.
type end struct {
	told   bool
	gone   bool // the application itself is no more; nobody can tell it
	reason string
}

func (e end) over() bool { return e.told || e.gone }

// New returns an empty Checker.
func New(cfg Config) *Checker {
	cfg = cfg.filled()
	return &Checker{
		cfg: cfg, seed: maphash.MakeSeed(),
		sessions: map[Session]*session{},
		latency:  [2]*hdrhistogram.Histogram{newHistogram(), newHistogram()},
		recovery: map[string]*hdrhistogram.Histogram{},
		started:  cfg.Now(),
	}
}

// Expect allows session s to end with any of reasons, beside OK and what
// earlier calls allowed.
func (c *Checker) Expect(s Session, reasons ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ss := c.session(s)
	for _, r := range reasons {
		if !slices.Contains(ss.allowed, r) {
			ss.allowed = append(ss.allowed, r)
		}
	}
}

// Sent records that the application at side from hands over message seq, the
// application's own number: 1, 2, 3 … per direction. Call it before handing
// over, or the far side's Received may come first.
func (c *Checker) Sent(s Session, from Side, seq uint64, payload []byte) {
	h := maphash.Bytes(c.seed, payload)
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.cfg.Now()
	ss := c.session(s)
	f := &ss.flows[from]
	if f.waiting == nil {
		f.waiting = map[uint64]message{}
	}
	f.waiting[seq] = message{h, now}
	f.sent = max(f.sent, seq)
	c.sent[from]++
	c.note(ss, Event{now, from, "sent", seq, ""})
}

// Received records that message seq of the other side's application reached
// the application at side at.
func (c *Checker) Received(s Session, at Side, seq uint64, payload []byte) {
	h := maphash.Bytes(c.seed, payload)
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.cfg.Now()
	ss := c.session(s)
	f := &ss.flows[at.other()]
	c.received[at.other()]++
	c.note(ss, Event{now, at, "received", seq, ""})
	if ss.ends[at].told {
		c.totals.Revived++
		c.blame(s, at, "revived", seq, "arrived after the end was told")
	}

	m, waited := f.waiting[seq]
	switch {
	case waited:
		delete(f.waiting, seq)
		c.arrived(ss, f, at.other(), m, now)
		if m.hash != h {
			c.totals.Corrupted++
			c.blame(s, at, "corrupted", seq, "other bytes than were sent")
		}
		if seq < f.highest {
			c.totals.Reordered++
			c.blame(s, at, "reordered", seq, "arrived after a later message")
		}
	case seq == 0 || seq > f.sent:
		c.totals.Corrupted++
		c.blame(s, at, "corrupted", seq, "was never sent")
		return // its number says nothing of what is missing
	default:
		c.totals.Repeated++
		c.blame(s, at, "repeated", seq, "arrived before")
	}
	f.highest = max(f.highest, seq)
	f.lastSeen = now
}

// Ended records that the application at side at was told the session's end.
// A session's end is told once, at each side that lives.
func (c *Checker) Ended(s Session, at Side, reason, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.cfg.Now()
	ss := c.session(s)
	c.note(ss, Event{now, at, "ended", 0, reason + " " + text})
	e := &ss.ends[at]
	if e.told {
		c.totals.Misjudged++
		c.blame(s, at, "misjudged", 0, "told twice: "+e.reason+", then "+reason)
		return
	}
	e.told, e.reason = true, reason
	switch {
	case reason == "":
		c.totals.Unexplained++
		c.blame(s, at, "unexplained", 0, "ended without a reason: "+text)
	case !ss.allows(reason):
		c.totals.Misjudged++
		c.blame(s, at, "misjudged", 0, "ended with "+reason+": "+text)
	}
}

// Gone records that the application at side side is no more, so that it can
// neither receive nor be told anything. What was under way either way is cut
// off; the other side must still be told, with a reason that Expect allows.
func (c *Checker) Gone(s Session, side Side) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ss := c.session(s)
	ss.ends[side].gone = true
	c.note(ss, Event{c.cfg.Now(), side, "gone", 0, ""})
}

// session returns s's record, new when s is. c.mu is held.
func (c *Checker) session(s Session) *session {
	ss := c.sessions[s]
	if ss == nil {
		ss = &session{}
		c.sessions[s] = ss
	}
	return ss
}

func (ss *session) allows(reason string) bool {
	return reason == OK || slices.Contains(ss.allowed, reason)
}

// cutOff reports whether undelivered tails of the session are excused.
func (ss *session) cutOff() bool {
	for _, e := range ss.ends {
		if e.gone || e.told && e.reason != OK && ss.allows(e.reason) {
			return true
		}
	}
	return false
}

// arrived does the accounting of time for one first arrival. c.mu is held.
func (c *Checker) arrived(ss *session, f *flow, from Side, m message, now time.Time) {
	record(c.latency[from], now.Sub(m.at))
	// With messages in order, the direction was silent since the message was
	// sent or since the one before it arrived, whichever was later.
	ss.silence = max(ss.silence, now.Sub(later(m.at, f.lastSeen)))
	c.feel(m.at, now)
}

// missing sorts the seqs of a flow that have not arrived into holes, before
// something that did arrive, and the tail behind it.
func (f *flow) missing() (holes, tail []uint64) {
	for _, seq := range slices.Sorted(maps.Keys(f.waiting)) {
		if seq < f.highest {
			holes = append(holes, seq)
		} else {
			tail = append(tail, seq)
		}
	}
	return holes, tail
}

// oldest returns when the message that waits longest was sent.
func (f *flow) oldest() (at time.Time) {
	for _, m := range f.waiting {
		if at.IsZero() || m.at.Before(at) {
			at = m.at
		}
	}
	return at
}
