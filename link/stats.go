package link

import "sync/atomic"

// Stats counts what the sessions of a client have been through.
type Stats struct {
	Attached   uint64 // Welcomes
	Lost       uint64 // welcomed streams that ended before their session
	Dead       uint64 // of these, for three missed heartbeats
	Drained    uint64 // of these, because the gateway asked for it
	Refused    uint64 // attaches that got a status instead of a Welcome
	Unanswered uint64 // attaches that got nothing in time
	Violations uint64 // streams on which a gateway broke the rules
}

type counters struct {
	attached, lost, dead, drained, refused, unanswered, violations atomic.Uint64
}

// Stats returns the counts since New.
func (c *Client) Stats() Stats {
	s := &c.stats
	return Stats{
		Attached: s.attached.Load(), Lost: s.lost.Load(), Dead: s.dead.Load(), Drained: s.drained.Load(),
		Refused: s.refused.Load(), Unanswered: s.unanswered.Load(), Violations: s.violations.Load(),
	}
}
