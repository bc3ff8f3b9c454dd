// Package fault has the words for what a load test breaks, and the schedule in
// which it does.
//
// A fault's To says whom it strikes: "gateway-2", "broker-1", "connector",
// "app" or "agents", with a number counted from 1; "gateway" alone is one drawn by the seed,
// "gateways" each of them in turn. A leg is "agent-gateway", "gateway-kafka" or
// "app-kafka", and with a number one gateway's or broker's.
package fault

// The kinds.
const (
	Kill          = "kill"           // SIGKILL, and a new process after For (0: at once): gateway, broker, connector, app, agents
	Stop          = "stop"           // SIGTERM, and a new process after For: gateway, broker, connector, agents
	Rolling       = "rolling"        // stop, one gateway (or broker) after the other, For between two; or the connector; or processes of agents
	Freeze        = "freeze"         // SIGSTOP, SIGCONT after For: gateway, broker, connector, app, agents
	Upgrade       = "upgrade"        // rolling, to the other build; again: back
	CutAgents     = "cut-agents"     // connections of With share (1) of the agents, which cannot dial again for For
	RestartAgents = "restart-agents" // With share (0.1) of the agents die without a word and come as new

	Cut       = "cut"        // every connection of a leg is closed at once
	Reset     = "reset"      // the same by RST
	HalfOpen  = "half-open"  // a leg swallows everything, nobody is told
	Latency   = "latency"    // With latency, jitter
	Bandwidth = "bandwidth"  // With rate, in bytes per second
	Slice     = "slice"      // With size: packets of so many bytes
	SlowClose = "slow"       // With latency: closes are late
	BlackHole = "black-hole" // packets of a gateway or broker are dropped, in a network namespace

	ProduceUnanswered = "produce-unanswered" // With count requests: written, then answered with an error; embedded broker
	ProduceRefused    = "produce-refused"    // not written
	FetchFailed       = "fetch-failed"
	NotLeader         = "not-leader"
	SlowBroker        = "slow-broker" // With latency on every answer; embedded: by its hooks; real: on its leg

	AddPartitions = "add-partitions" // With count: so many more, to a power of two; without: twice as many
	Quota         = "quota"          // With rate: bytes per second that brokers let pass; real brokers
	DiskFull      = "disk-full"      // a broker's data is on a small tmpfs, which is filled; real brokers
)

// Kinds by what they need of a target: processes that the harness has started,
// proxies in its legs, or the embedded broker's hooks.
var (
	OnProcesses = []string{Kill, Stop, Rolling, Freeze}
	OnLegs      = []string{Cut, Reset, HalfOpen, Latency, Bandwidth, Slice, SlowClose, SlowBroker}
	OnEmbedded  = []string{ProduceUnanswered, ProduceRefused, FetchFailed, NotLeader}
	OnAgents    = []string{CutAgents, RestartAgents} // and some of OnProcesses, if they say so: every target can
)

// Kinds lists all of them.
var Kinds = []string{
	Kill, Stop, Rolling, Freeze, Upgrade, CutAgents, RestartAgents,
	Cut, Reset, HalfOpen, Latency, Bandwidth, Slice, SlowClose, BlackHole,
	ProduceUnanswered, ProduceRefused, FetchFailed, NotLeader, SlowBroker,
	AddPartitions, Quota, DiskFull,
}
