package check

import "time"

// Header is the size in bytes of what stands in front of each message's
// payload: enough for the receiver to judge it alone.
const Header = 48

// An Account is what one process saw of many sessions, in a fixed number of
// bytes per session. Two of them, of the two sides, are put together by Settle.
type Account struct {
	Side     Side              `json:"side"`
	Sessions map[string]*Entry `json:"sessions"`
	Seen     []Anomaly         `json:"seen,omitempty"`   // what one side alone could tell; the first
	Counts   map[string]uint64 `json:"counts,omitempty"` // all of it, by word of the package comment
}

// An Entry is one session in an Account.
type Entry struct {
	Sent     uint64        `json:"s"`           // messages handed over
	Received uint64        `json:"r"`           // the last in sequence
	Reason   string        `json:"e,omitempty"` // how it ended here; "": it did not
	Gone     bool          `json:"g,omitempty"` // this side's application died; it could be told nothing
	Silence  time.Duration `json:"q,omitempty"` // its longest
}
