package check

import "time"

// Header is the size in bytes of what stands in front of each message's
// payload: enough for the receiver to judge it alone.
const Header = 48

// An Account is what one process saw of many sessions, in a fixed number of
// bytes per session. Two of them, of the two sides, are put together by Settle.
type Account struct {
	Side     Side              `json:"side"`
	Made     time.Time         `json:"made,omitzero"` // when it was taken
	Sessions map[string]*Entry `json:"sessions"`
	Seen     []Anomaly         `json:"seen,omitempty"`   // what one side alone could tell; the first
	Counts   map[string]uint64 `json:"counts,omitempty"` // all of it, by word of the package comment; and sent, received
	// Events are the last of some sessions that did not end in order, for
	// anomalies that only both sides together show.
	Events map[string][]Event `json:"events,omitempty"`
}

// An Entry is one session in an Account.
type Entry struct {
	Sent     uint64        `json:"s"`           // messages handed over
	Received uint64        `json:"r"`           // the last in sequence
	Reason   string        `json:"e,omitempty"` // how it ended here; "": it did not
	Gone     bool          `json:"g,omitempty"` // this side's application died; it could be told nothing
	Silence  time.Duration `json:"q,omitempty"` // its longest
	Over     time.Time     `json:"o,omitzero"`  // when it ended, or the application died, here
}

// NoReason stands in an Entry for the reason of an end that was told without
// one; Settle counts it as unexplained.
const NoReason = "no reason"
