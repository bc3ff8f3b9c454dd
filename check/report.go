package check

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A Verdict counts what went wrong; the package comment defines each word.
// Stuck counts directions, Untold sessions, the rest messages or ends.
type Verdict struct {
	Lost        uint64 `json:"lost"`
	Repeated    uint64 `json:"repeated"`
	Reordered   uint64 `json:"reordered"`
	Stuck       uint64 `json:"stuck"`
	Corrupted   uint64 `json:"corrupted"`
	Revived     uint64 `json:"revived"`
	Unexplained uint64 `json:"unexplained"`
	Misjudged   uint64 `json:"misjudged"`
	Untold      uint64 `json:"untold"`
}

// A Report is the verdict and the figures, up to the moment it was made.
type Report struct {
	Verdict
	Final    bool           `json:"final"`
	Elapsed  time.Duration  `json:"elapsed_ns"`
	Sessions int            `json:"sessions"`
	Ended    map[string]int `json:"ended"` // sessions by reason; the agent's where the sides were told different ones
	Disagree int            `json:"disagree"`
	CutOff   uint64         `json:"cut_off"` // messages that an allowed end excuses
	Sent     [2]uint64      `json:"sent"`    // up, down
	Received [2]uint64      `json:"received"`

	Up       Times            `json:"up"`       // latency of messages, agent to controller
	Down     Times            `json:"down"`     // latency of messages, controller to agent
	Silence  Times            `json:"silence"`  // per session: the longest time it had something to deliver and nothing arrived
	Recovery map[string]Times `json:"recovery"` // by name of fault

	Anomalies []Anomaly `json:"anomalies,omitempty"`
}

// Times are percentiles of durations.
type Times struct {
	Count int64         `json:"count"`
	P50   time.Duration `json:"p50_ns"`
	P90   time.Duration `json:"p90_ns"`
	P99   time.Duration `json:"p99_ns"`
	Max   time.Duration `json:"max_ns"`
}

// An Anomaly is one thing that went wrong, with the session's last events.
type Anomaly struct {
	What    string  `json:"what"` // a word of the package comment
	Session Session `json:"session"`
	Side    string  `json:"side"`          // where it was seen
	Seq     uint64  `json:"seq,omitempty"` // 0: none
	Detail  string  `json:"detail"`
	Events  []Event `json:"events"`
}

// An Event is one thing an application told the checker.
type Event struct {
	At   time.Time `json:"at"`
	Side Side      `json:"side"`
	What string    `json:"what"` // sent, received, ended, gone
	Seq  uint64    `json:"seq,omitempty"`
	Text string    `json:"text,omitempty"`
}

// Clean reports whether every promise was kept.
func (r Report) Clean() bool { return r.Verdict == Verdict{} }

// Report judges what was recorded so far. A final report assumes that all
// traffic has come to rest: whatever still waits will never come.
func (c *Checker) Report(final bool) Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.cfg.Now()
	r := Report{
		Verdict: c.totals, Final: final, Elapsed: now.Sub(c.started),
		Sessions: len(c.sessions), Ended: map[string]int{},
		Sent: c.sent, Received: c.received,
		Up: times(c.latency[Agent]), Down: times(c.latency[Controller]),
		Recovery:  map[string]Times{},
		Anomalies: slices.Clone(c.anomalies),
	}
	silence := newHistogram()
	for _, id := range slices.Sorted(maps.Keys(c.sessions)) {
		ss := c.sessions[id]
		quiet := ss.silence
		for from := range ss.flows {
			quiet = max(quiet, c.judge(&r, id, ss, Side(from), now, final))
		}
		c.judgeEnd(&r, id, ss, final)
		record(silence, quiet)
	}
	r.Silence = times(silence)

	recovery := map[string]*hdrhistogram.Histogram{}
	for name, h := range c.recovery {
		recovery[name] = hdrhistogram.Import(h.Export())
	}
	for _, f := range c.faults {
		c.recovered(recovery, f)
	}
	for name, h := range recovery {
		r.Recovery[name] = times(h)
	}
	return r
}

// judge adds what is missing in one direction to r and returns for how long
// that direction has been silent. c.mu is held.
func (c *Checker) judge(r *Report, id Session, ss *session, from Side, now time.Time, final bool) time.Duration {
	f := &ss.flows[from]
	if len(f.waiting) == 0 {
		return 0
	}
	at := from.other()
	holes, tail := f.missing()
	lose := func(seqs []uint64, why string) {
		r.Lost += uint64(len(seqs))
		if len(seqs) > 0 {
			c.show(r, id, at, "lost", seqs[0], fmt.Sprintf("%d %s", len(seqs), why))
		}
	}
	// A hole may still be filled, late: that is reordering, and known when it
	// happens. Until then it is lost.
	lose(holes, "missing before a message that arrived")

	quiet := now.Sub(later(f.oldest(), f.lastSeen))
	switch {
	case len(tail) == 0:
	case ss.cutOff():
		r.CutOff += uint64(len(tail))
		return 0
	case ss.ends[at].told:
		lose(tail, "missing at the end of the session")
		return 0
	case final || quiet >= c.cfg.Settle:
		r.Stuck++
		c.show(r, id, at, "stuck", tail[0], fmt.Sprintf("%d waiting for %v", len(tail), quiet))
	}
	return quiet
}

// judgeEnd adds how the session ended to r. c.mu is held.
func (c *Checker) judgeEnd(r *Report, id Session, ss *session, final bool) {
	r.countEnd(ss)
	if !final || ss.ends[Agent].over() == ss.ends[Controller].over() {
		return
	}
	r.Untold++
	side := Agent
	if ss.ends[Agent].over() {
		side = Controller
	}
	c.show(r, id, side, "untold", 0, otherOver)
}

const otherOver = "the other side's session is over"

// countEnd counts the session by its reason.
func (r *Report) countEnd(ss *session) {
	a, b := ss.ends[Agent], ss.ends[Controller]
	switch {
	case a.told:
		r.Ended[a.reason]++
	case b.told:
		r.Ended[b.reason]++
	}
	if a.told && b.told && a.reason != b.reason {
		r.Disagree++
	}
}

// note keeps the session's last events. c.mu is held.
func (c *Checker) note(ss *session, e Event) {
	if len(ss.events) < c.cfg.Events {
		ss.events = append(ss.events, e)
		return
	}
	ss.events[ss.next] = e
	ss.next = (ss.next + 1) % len(ss.events)
}

// blame keeps an anomaly that is final. c.mu is held.
func (c *Checker) blame(s Session, at Side, what string, seq uint64, detail string) {
	if len(c.anomalies) < c.cfg.Anomalies {
		c.anomalies = append(c.anomalies, c.anomaly(s, at, what, seq, detail))
	}
}

// show adds an anomaly that is true of this report only. c.mu is held.
func (c *Checker) show(r *Report, s Session, at Side, what string, seq uint64, detail string) {
	if len(r.Anomalies) < 2*c.cfg.Anomalies {
		r.Anomalies = append(r.Anomalies, c.anomaly(s, at, what, seq, detail))
	}
}

func (c *Checker) anomaly(s Session, at Side, what string, seq uint64, detail string) Anomaly {
	ss := c.sessions[s]
	events := append(slices.Clone(ss.events[ss.next:]), ss.events[:ss.next]...)
	return Anomaly{what, s, at.String(), seq, detail, events}
}

func times(h *hdrhistogram.Histogram) Times {
	at := func(q float64) time.Duration { return time.Duration(h.ValueAtQuantile(q)) * time.Microsecond }
	return Times{h.TotalCount(), at(50), at(90), at(99), time.Duration(h.Max()) * time.Microsecond}
}

func (t Times) String() string {
	if t.Count == 0 {
		return "none"
	}
	return fmt.Sprintf("p50=%v p90=%v p99=%v max=%v n=%d", t.P50, t.P90, t.P99, t.Max, t.Count)
}

// String is the report for a human; its first line is the verdict in short,
// in a form that scripts may rely on.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "lost=%d repeated=%d reordered=%d stuck=%d\n", r.Lost, r.Repeated, r.Reordered, r.Stuck)
	fmt.Fprintf(&b, "corrupted=%d revived=%d unexplained=%d misjudged=%d untold=%d\n",
		r.Corrupted, r.Revived, r.Unexplained, r.Misjudged, r.Untold)
	fmt.Fprintf(&b, "sessions=%d up=%d/%d down=%d/%d cut-off=%d in %v\n", r.Sessions,
		r.Received[Agent], r.Sent[Agent], r.Received[Controller], r.Sent[Controller], r.CutOff, r.Elapsed.Round(time.Millisecond))
	for _, reason := range slices.Sorted(maps.Keys(r.Ended)) {
		fmt.Fprintf(&b, "ended %-18s %d\n", reason, r.Ended[reason])
	}
	fmt.Fprintf(&b, "latency up     %v\nlatency down   %v\nlongest silence per session %v\n", r.Up, r.Down, r.Silence)
	for _, name := range slices.Sorted(maps.Keys(r.Recovery)) {
		fmt.Fprintf(&b, "recovery from %-22s %v\n", name, r.Recovery[name])
	}
	for _, a := range r.Anomalies {
		fmt.Fprintf(&b, "%s: session %s at the %s, message %d: %s\n", a.What, a.Session, a.Side, a.Seq, a.Detail)
		for _, e := range a.Events {
			fmt.Fprintf(&b, "    %s %-10s %-8s %d %s\n", e.At.Format("15:04:05.000000"), e.Side, e.What, e.Seq, e.Text)
		}
	}
	return b.String()
}
