package demo

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"
)

// A FaultKind is a way in which the demonstration breaks things.
type FaultKind string

// The faults, in the order of the report.
const (
	GatewayKilled   FaultKind = "gateway-killed"     // no flush, no close; an empty one takes its place
	GatewayDrained  FaultKind = "gateway-drained"    // as at a rolling upgrade
	LinkCut         FaultKind = "link-cut"           // both ends of an agent's connection see a reset
	LinkHalfOpen    FaultKind = "link-half-open"     // an agent's connection swallows everything, nobody is told
	ProduceDoubtful FaultKind = "produce-unanswered" // produces are written and answered with an error
	ProduceRefused  FaultKind = "produce-refused"    // produces are not written and answered with an error
	FetchFailed     FaultKind = "fetch-failed"       // fetches are answered with an error
	KafkaCut        FaultKind = "kafka-cut"          // a process's connections to Kafka are reset
	AgentRestarted  FaultKind = "agent-restarted"    // the agent side dies without a word and comes again as new
	AgentSlow       FaultKind = "agent-slow"         // the agent's application stops reading for a while
	ControllerDied  FaultKind = "controller-killed"  // the controller-side process dies without a word, and a new one starts

	ProduceUnknown   FaultKind = "produce-unknown"     // a produce is written, and then refused for good
	GatewayFrozen    FaultKind = "gateway-frozen"      // a gateway stands still for a while and goes on, believing what it believed
	ControllerFrozen FaultKind = "controller-frozen"   // so does the controller-side process: its heartbeats are stale
	Superseded       FaultKind = "controller-twin"     // it stands still, another takes over, it goes on
	PartitionsAdded  FaultKind = "partitions-added"    // up and down get twice as many
	RetentionPassed  FaultKind = "retention-passed"    // an agent is away, and what it would read is gone
	TopicCreatedAnew FaultKind = "topic-created-again" // up or down is deleted and created under its old name
)

// The faults of Strange: too seldom for everyday, and each the only way to
// some of the seeded bugs.
const (
	ProduceLost  FaultKind = "produce-lost"  // a produce is refused for good, and what stood behind it is written
	CloseRefused FaultKind = "close-refused" // a produce that ends a session is refused
	KafkaStalled FaultKind = "kafka-stalled" // Kafka takes nothing, until breakers open
	AgentFrozen  FaultKind = "agent-frozen"  // an agent's machine stands still for a while
	RecordLate   FaultKind = "record-late"   // OPENs of sessions that are over are written again, as by a thawed gateway
	TicketForged FaultKind = "ticket-forged" // somebody resumes a session without its ticket
	StreamTwice  FaultKind = "stream-twice"  // a session's older stream lives on while a newer one is attached
	NewsRefused  FaultKind = "news-refused"  // a delivered count does not get into Kafka

	PositionForeign FaultKind = "position-foreign" // a session is resumed at a position in a log that is not there

	AgentServed     FaultKind = "agent-served"     // an agent of a Jenkins connects, is called, and leaves
	AgentPinged     FaultKind = "agent-pinged"     // a Jenkins pings its agent's WebSocket
	PortProbed      FaultKind = "port-probed"      // an agent looks whether the agent port is open, without a word
	JenkinsReplaced FaultKind = "jenkins-replaced" // a Jenkins dies, and one with other keys and jars takes its place
	JenkinsKilled   FaultKind = "jenkins-killed"   // a Jenkins dies while an agent that has no door of ours is connected
	ShimKilled      FaultKind = "shim-killed"      // a shim dies without a word, and its agent has started something
)

// Strange lists the faults that only a demonstration of a seeded bug strikes with.
var Strange = []FaultKind{
	ProduceLost, CloseRefused, KafkaStalled, AgentFrozen, RecordLate, TicketForged, StreamTwice, NewsRefused, PositionForeign,
	AgentServed, AgentPinged, PortProbed, JenkinsReplaced, JenkinsKilled, ShimKilled,
}

// Everyday lists the faults of the demonstration.
var Everyday = []FaultKind{GatewayKilled, LinkCut, LinkHalfOpen, ProduceDoubtful, AgentRestarted, AgentSlow}

// All lists every fault there is.
var All = slices.Concat(Survivable, Mortal, Lossy)

// Survivable lists the faults that no session may notice but by waiting.
var Survivable = []FaultKind{
	GatewayKilled, GatewayDrained, GatewayFrozen, LinkCut, LinkHalfOpen, ProduceDoubtful, ProduceRefused, ProduceUnknown,
	FetchFailed, KafkaCut, AgentRestarted, AgentSlow, ControllerFrozen, PartitionsAdded,
}

// Mortal lists the faults after which CONTROLLER_GONE is the truth.
var Mortal = []FaultKind{ControllerDied, Superseded}

// Lossy lists those after which DATA_LOSS may be, and CONTROLLER_GONE.
var Lossy = []FaultKind{RetentionPassed, TopicCreatedAnew}

// A Fault is one planned event.
type Fault struct {
	At     time.Duration `json:"at"` // after the start
	Kind   FaultKind     `json:"kind"`
	Target int           `json:"target"`       // index of a gateway or agent, or how many requests
	For    time.Duration `json:"for"`          // how long it lasts, where it lasts
	In     State         `json:"in,omitempty"` // the state a session is to be struck in; "": whichever
}

// Schedule plans n faults within d, at least one of each kind while n
// suffices. The same arguments give the same plan.
func Schedule(seed uint64, kinds []FaultKind, n, agents, gateways int, d time.Duration) []Fault {
	rng := rand.New(rand.NewPCG(seed, 0x6d6f6f72616765))
	plan := make([]Fault, n)
	for i := range plan {
		f := Fault{Kind: kinds[i%len(kinds)]}
		// The first tenth is for everyone to attach, the last for faults to strike.
		f.At = d/10 + time.Duration(rng.Int64N(int64(d*8/10)+1))
		f.At = f.At.Truncate(time.Millisecond)
		switch f.Kind {
		case GatewayKilled, GatewayDrained:
			f.Target = rng.IntN(gateways)
			f.For = time.Duration(100+rng.IntN(1400)) * time.Millisecond
		case KafkaCut:
			f.Target = rng.IntN(gateways + 1) // the last is the controller
		case ProduceDoubtful, ProduceRefused, FetchFailed:
			f.Target = 1 + rng.IntN(3)
		case GatewayFrozen:
			f.Target = rng.IntN(gateways)
			f.For = time.Duration(300+rng.IntN(6000)) * time.Millisecond
			if rng.IntN(4) == 0 { // until its agents have given it up
				f.For += 16 * time.Second
			}
		case ControllerFrozen, RetentionPassed:
			f.Target = rng.IntN(agents)
			f.For = time.Duration(300+rng.IntN(3500)) * time.Millisecond
		case ProduceUnknown, TopicCreatedAnew, ProduceLost:
			f.For = time.Duration(100+rng.IntN(300)) * time.Millisecond
			f.Target = rng.IntN(2 * agents) // even: up, odd: down
		case PartitionsAdded:
		case KafkaStalled: // as long as a breaker of these worlds needs to open and to be half-open
			f.For = time.Duration(2500+rng.IntN(2000)) * time.Millisecond
		case Superseded:
			f.For = time.Duration(500+rng.IntN(5000)) * time.Millisecond
		case ControllerDied:
			f.For = time.Duration(100+rng.IntN(2000)) * time.Millisecond
		default:
			f.Target = rng.IntN(agents)
			f.For = time.Duration(500+rng.IntN(2500)) * time.Millisecond
		}
		plan[i] = f
	}
	slices.SortStableFunc(plan, func(a, b Fault) int { return cmp.Compare(a.At, b.At) })
	return plan
}
