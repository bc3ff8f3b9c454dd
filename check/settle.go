package check

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Terms are what Settle holds a system to. The zero Terms allow no end but OK,
// and the other side must know of an application's death.
type Terms struct {
	// Expect returns the reasons that a session may end with, beside OK. nil:
	// none.
	Expect func(Ending) []string
	// Within is how long after the death of one side's application the other
	// may not know yet: what a system needs to find out. Of an end that one side
	// was told, the other must know.
	Within time.Duration
	// Stood returns how much of the time between two moments does not count for
	// Within, because the system could find out nothing then. nil: none.
	Stood func(from, to time.Time) time.Duration
	// Anomalies bounds those that are kept in full. 0: 100.
	Anomalies int
}

// An Ending is the end of one session as one side was told.
type Ending struct {
	Key      string
	Side     Side
	Reason   string
	Over     time.Time // when; zero: unknown
	PeerGone bool      // the other side's application had died
}

// Settle puts the two sides' Accounts together, after all traffic has come to
// rest. It keeps to the words of the package comment:
//
//   - What one side alone could tell is counted as its Book did.
//   - What was sent and is behind the last that arrived is cut off if an
//     application died or a side was told an end that Terms allow; lost if its
//     receiver was told another end; stuck if it was told none.
//   - A message that arrived without having been sent is corrupted.
//   - Of a session that only one side knows, the other has sent and got nothing.
//     The account of an application that was killed is lost with it: the reason
//     that the other side was told must excuse it. If that is allowed, or the one
//     side that knew of the session is the one that died, nobody else had to be told.
//   - A session that two processes of one side had is misjudged.
//
// The Report is final. Its Silence has each session's longest, of both
// directions; its other times are empty, for Books leave latencies to their
// owners. Received counts what arrived in whatever way.
func Settle(agents, controllers []Account, t Terms) Report {
	s := settlement{
		terms: t, room: cmp.Or(t.Anomalies, 100),
		r: Report{Final: true, Ended: map[string]int{}, Recovery: map[string]Times{}},
	}
	s.add(Agent, agents)
	s.add(Controller, controllers)

	keys := map[string]bool{}
	for _, side := range s.entries {
		for key := range side {
			keys[key] = true
		}
	}
	s.r.Sessions = len(keys)
	silence := newHistogram()
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		record(silence, s.judge(key))
	}
	s.r.Silence = times(silence)
	return s.r
}

type settlement struct {
	terms   Terms
	room    int
	r       Report
	entries [2]map[string]pageOf
}

// A pageOf is a session's entry and the account that it stands in.
type pageOf struct {
	*Entry
	account *Account
}

// add takes one side's accounts in.
func (s *settlement) add(side Side, accounts []Account) {
	s.entries[side] = map[string]pageOf{}
	for i := range accounts {
		a := &accounts[i]
		c := a.Counts
		s.r.Lost += c[names[lost]]
		s.r.Repeated += c[names[repeated]]
		s.r.Reordered += c[names[reordered]]
		s.r.Corrupted += c[names[corrupted]]
		s.r.Revived += c[names[revived]]
		s.r.Misjudged += c[names[misjudged]]
		// Words that only a process that judges by itself has.
		s.r.Stuck += c["stuck"]
		s.r.Unexplained += c["unexplained"]
		s.r.Untold += c["untold"]
		s.r.Sent[side] += c[names[sent]]
		s.r.Received[side.other()] += c[names[received]]
		for _, anomaly := range a.Seen {
			s.show(anomaly)
		}
		for key, e := range a.Sessions {
			if had, twice := s.entries[side][key]; twice {
				s.r.Misjudged++
				s.blame(key, side, "misjudged", 0, "two processes of this side had the session")
				sum := *had.Entry
				sum.Sent, sum.Received = max(sum.Sent, e.Sent), max(sum.Received, e.Received)
				sum.Reason, sum.Gone = cmp.Or(sum.Reason, e.Reason), sum.Gone || e.Gone
				e = &sum
			}
			s.entries[side][key] = pageOf{e, a}
		}
	}
}

// judge adds one session to the report and returns its longest silence.
func (s *settlement) judge(key string) (silence time.Duration) {
	pages := [2]pageOf{s.entries[Agent][key], s.entries[Controller][key]}
	var ss session
	for side, p := range pages {
		if p.Entry == nil {
			pages[side].Entry = &Entry{}
			continue
		}
		silence = max(silence, p.Silence)
		e := end{told: p.Reason != "", gone: p.Gone, reason: p.Reason}
		if e.reason == NoReason {
			e.reason = ""
		}
		ss.ends[side] = e
	}
	for side, e := range ss.ends {
		s.judgeReason(key, Side(side), e, &ss, pages)
	}
	s.r.countEnd(&ss)
	for from := range pages {
		s.judgeTail(key, Side(from), &ss, pages)
	}
	s.judgeTold(key, &ss, pages)
	return silence
}

// judgeReason says whether a side was told an end that it may be told, and
// notes it in ss as allowed.
func (s *settlement) judgeReason(key string, side Side, e end, ss *session, pages [2]pageOf) {
	switch {
	case !e.told || e.reason == OK:
		return
	case e.reason == "":
		s.r.Unexplained++
		s.blame(key, side, "unexplained", 0, "ended without a reason")
		return
	}
	var allowed []string
	if s.terms.Expect != nil {
		allowed = s.terms.Expect(Ending{key, side, e.reason, pages[side].Over, pages[side.other()].Gone})
	}
	if slices.Contains(allowed, e.reason) {
		ss.allowed = append(ss.allowed, e.reason)
		return
	}
	s.r.Misjudged++
	s.blame(key, side, "misjudged", 0, "ended with "+e.reason)
}

// judgeTail says what became of what from sent and the other side did not get.
func (s *settlement) judgeTail(key string, from Side, ss *session, pages [2]pageOf) {
	to := from.other()
	sent, got := pages[from].Sent, pages[to].Received
	tail := sent - min(sent, got)
	switch {
	case got > sent && pages[from].account != nil:
		s.r.Corrupted += got - sent
		s.blame(key, to, "corrupted", got, fmt.Sprintf("the other side sent %d", sent))
	case tail == 0:
	case ss.cutOff():
		s.r.CutOff += tail
	case ss.ends[to].told:
		s.r.Lost += tail
		s.blame(key, to, "lost", got+1, fmt.Sprintf("%d missing at the end of the session", tail))
	default:
		s.r.Stuck++
		s.blame(key, to, "stuck", got+1, fmt.Sprintf("%d still under way", tail))
	}
}

// judgeTold says whether one side's session is over and the other side should
// have been told by now.
func (s *settlement) judgeTold(key string, ss *session, pages [2]pageOf) {
	if ss.ends[Agent].over() == ss.ends[Controller].over() {
		return
	}
	over, waits := Agent, Controller
	if ss.ends[Controller].over() {
		over, waits = waits, over
	}
	p, other := pages[over], pages[waits]
	if other.account == nil && ss.cutOff() {
		return // it died and took its account along, or never knew of the session
	}
	if p.Gone && p.Reason == "" && other.account != nil && s.early(p.Over, other.account.Made) {
		return
	}
	s.r.Untold++
	s.blame(key, waits, "untold", 0, otherOver)
}

// early reports whether at made nobody needed to know of a death at over.
func (s *settlement) early(over, made time.Time) bool {
	passed := made.Sub(over)
	if s.terms.Stood != nil {
		passed -= s.terms.Stood(over, made)
	}
	return passed < s.terms.Within
}

// blame keeps an anomaly, if there is room, with both sides' last events as far
// as their accounts have them.
func (s *settlement) blame(key string, at Side, what string, seq uint64, detail string) {
	if len(s.r.Anomalies) >= s.room {
		return
	}
	var events []Event
	for _, side := range s.entries {
		if p := side[key]; p.account != nil {
			events = append(events, p.account.Events[key]...)
		}
	}
	slices.SortStableFunc(events, func(a, b Event) int { return a.At.Compare(b.At) })
	s.show(Anomaly{what, Session(key), at.String(), seq, detail, events})
}

func (s *settlement) show(a Anomaly) {
	if len(s.r.Anomalies) < s.room {
		s.r.Anomalies = append(s.r.Anomalies, a)
	}
}
