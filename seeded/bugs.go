package seeded

// A Bug names one deliberate defect.
type Bug string

// The defects, each switched on in one place.
const (
	AckBeforeKafka    Bug = "ack-before-kafka"    // relay: persisted as soon as produced, not when acknowledged
	AckPastFailure    Bug = "ack-past-failure"    // relay: a later success acknowledges an earlier failure
	StartAfterOpen    Bug = "start-after-open"    // gateway: the start position is taken after OPEN was produced
	ReplayLiveGap     Bug = "replay-live-gap"     // bridge: a subscriber goes live one record too late
	ReplayOffByOne    Bug = "replay-off-by-one"   // relay: the next down seq is Hello's last + 2
	ForeignPosition   Bug = "foreign-position"    // gateway: a position of another topic id is believed
	OldStreamServed   Bug = "old-stream-served"   // relay: a newer attempt does not cut the stream
	HigherAccepted    Bug = "higher-accepted"     // receiving end: a hole is skipped
	DedupForgets      Bug = "dedup-forgets"       // controller: an attach makes it accept the last frame again
	DrainDropsTail    Bug = "drain-drops-tail"    // agent: what was sent on a drained stream counts as persisted
	WindowCountsItems Bug = "window-counts-items" // sending end: a frame takes one byte of the window
	FinOvertakes      Bug = "fin-overtakes"       // conn: half-close goes before data that is still waiting
	DeliveredOnce     Bug = "delivered-once"      // a lost Delivered is never repeated
	HalfOpenLoses     Bug = "half-open-loses"     // bridge: the record that finds the breaker half-open is dropped
	EvictedNotReread  Bug = "evicted-not-reread"  // gateway: after an eviction it goes on from the live end
	EndedRevived      Bug = "ended-revived"       // controller: a late OPEN opens an ended session again
	TicketUnchecked   Bug = "ticket-unchecked"    // gateway: a resume needs no valid ticket
	OldIncarnation    Bug = "old-incarnation"     // relay and controller: records of another incarnation count
	CloseOnce         Bug = "close-once"          // controller: CLOSE is produced once and forgotten
	RecutOnResume     Bug = "recut-on-resume"     // agent: a resent frame has other bytes
	ChildOrphaned     Bug = "child-orphaned"      // shim: what an agent has started outlives a shim that is killed
	StaleIdentity     Bug = "stale-identity"      // connector: what was found first is published for ever
	EndNotCarried     Bug = "end-not-carried"     // connector: the end of a legacy socket is taken for a half-close
	PingCrosses       Bug = "ping-crosses"        // connector: a WebSocket's ping goes to the agent instead of being answered
	CloseNotify       Bug = "close-notify"        // stand-in: a JNLP4 channel ends by TLS's close_notify
	EmptyFinalChunk   Bug = "empty-final-chunk"   // stand-in: a command of whole chunks ends with an empty one
	ReplyOvertakes    Bug = "reply-overtakes"     // conn: what is written goes before data that is still waiting
	HalfCommand       Bug = "half-command"        // agent: of a frame sent again after a resume the rest is left out
	ProbeOpensSession Bug = "probe-opens-session" // door: a connection that ends without a byte is an agent
	JarCacheStale     Bug = "jar-cache-stale"     // door: a jar of the controller's earlier run is served for ever
	AckPassedOn       Bug = "ack-passed-on"       // door: JNLP4's ACK is answered here, and crosses Kafka too
)

// All lists every defect.
var All = []Bug{
	AckBeforeKafka, AckPastFailure, StartAfterOpen, ReplayLiveGap, ReplayOffByOne, ForeignPosition,
	OldStreamServed, HigherAccepted, DedupForgets, DrainDropsTail, WindowCountsItems, FinOvertakes,
	DeliveredOnce, HalfOpenLoses, EvictedNotReread, EndedRevived, TicketUnchecked, OldIncarnation,
	CloseOnce, RecutOnResume, ChildOrphaned,
	StaleIdentity, EndNotCarried, PingCrosses,
	CloseNotify, EmptyFinalChunk, ReplyOvertakes, HalfCommand, ProbeOpensSession, JarCacheStale, AckPassedOn,
}
