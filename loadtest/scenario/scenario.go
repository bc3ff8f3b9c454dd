// Package scenario says what a load test does: which agents come and how, what
// they and their application send, what breaks when, and which figures are good
// enough. docs/loadtest.md explains it to those who write one; schema.json
// says the same to editors.
package scenario

import "time"

// A Scenario is one load test. Its zero values are stated at each field.
type Scenario struct {
	Name        string `yaml:"name" json:"name"` // [a-z0-9-]+; the file's name without .yaml
	Description string `yaml:"description" json:"description"`

	// Length is how long load is made, from the first agent's arrival to the
	// last scheduled message. Figures are taken from Warmup on.
	Length Duration `yaml:"length" json:"length"`
	Warmup Duration `yaml:"warmup,omitempty" json:"warmup,omitempty"`
	// Drain is how long what is under way at the end may take. 0: 60 s.
	Drain Duration `yaml:"drain,omitempty" json:"drain,omitempty"`
	// Quiet is for how long after the drain no message has arrived and no session
	// has ended, when what is left counts as stuck. 0: 30 s.
	Quiet Duration `yaml:"quiet,omitempty" json:"quiet,omitempty"`
	// Seed makes arrivals, sizes and random faults; --seed overrides it. 0: 1.
	Seed uint64 `yaml:"seed,omitempty" json:"seed,omitempty"`

	Local  Local   `yaml:"local,omitempty" json:"local"` // what --local starts when it does not say otherwise
	Groups []Group `yaml:"groups" json:"groups"`
	Faults []Fault `yaml:"faults,omitempty" json:"faults,omitempty"`
	Chaos  *Chaos  `yaml:"chaos,omitempty" json:"chaos,omitempty"` // random faults beside the planned ones

	// Thresholds are bounds of figures by name, such as "lost: 0" or
	// "down.p99_ms: 250" or "ratio.relay.down.p50: 1.15"; package figure has
	// the names. lost, repeated, reordered, corrupted, stuck, unexplained and
	// misjudged must be 0 anyway. A name that ends in ".min" is a lower bound.
	Thresholds map[string]float64 `yaml:"thresholds,omitempty" json:"thresholds,omitempty"`
}

// Local is a deployment of real processes that the harness starts and ends.
type Local struct {
	Gateways   int               `yaml:"gateways,omitempty" json:"gateways"`     // 0: 1
	Brokers    string            `yaml:"brokers,omitempty" json:"brokers"`       // embedded, 1 or 3; "": embedded
	Partitions int               `yaml:"partitions,omitempty" json:"partitions"` // of the up and down topics; 0: 16
	TLS        bool              `yaml:"tls,omitempty" json:"tls,omitempty"`     // between agents and gateways
	Flags      []string          `yaml:"flags,omitempty" json:"flags,omitempty"` // more flags for every gateway
	Kafka      map[string]string `yaml:"kafka,omitempty" json:"kafka,omitempty"` // server.properties of real brokers
	// Balance is "group" for a balancer before the gateways that keeps the agents
	// of a moorage-group together (package balance); "": agents go to any gateway.
	Balance string   `yaml:"balance,omitempty" json:"balance,omitempty"`
	Grace   Duration `yaml:"grace,omitempty" json:"grace,omitempty"` // of the application side; 0: its default
}

// Kinds of agents.
const (
	Native = "native" // messages, by the session protocol
	Tunnel = "tunnel" // bytes, by the session protocol: rates and sizes are writes
	Legacy = "legacy" // Remoting-shaped traffic of stock agents, through a gateway's door and a real connector
)

// A Group is agents that behave alike.
type Group struct {
	Name   string `yaml:"name" json:"name"` // [a-z0-9-]+
	Kind   string `yaml:"kind,omitempty" json:"kind"`
	Agents int    `yaml:"agents" json:"agents"`
	Arrive Arrive `yaml:"arrive,omitempty" json:"arrive"`
	// Stay is how long a session lasts before its agent ends it in order and
	// opens the next. 0: to the end.
	Stay Duration `yaml:"stay,omitempty" json:"stay,omitempty"`

	Up      *Flow    `yaml:"up,omitempty" json:"up,omitempty"`           // agent → application
	Down    *Flow    `yaml:"down,omitempty" json:"down,omitempty"`       // application → agent
	Request *Request `yaml:"request,omitempty" json:"request,omitempty"` // and an answer to each

	// Of legacy groups.
	Protocol string `yaml:"protocol,omitempty" json:"protocol,omitempty"` // jnlp4 or websocket; "": jnlp4
	Door     string `yaml:"door,omitempty" json:"door,omitempty"`         // gateway (tier 0) or shim (tier 1); "": gateway
}

// Arrive says when a group's agents come: the first After the start, all of
// them within Ramp. Both 0: all at once.
type Arrive struct {
	After Duration `yaml:"after,omitempty" json:"after,omitempty"`
	Ramp  Duration `yaml:"ramp,omitempty" json:"ramp,omitempty"`
}

// Patterns of a Flow.
const (
	Constant = "constant" // at equal distances, each agent with an offset of its own
	Poisson  = "poisson"  // independent of each other
	Burst    = "burst"    // Burst messages at once, at the distance that gives Rate
)

// A Flow is messages one way. It is an open loop: a message has its time, and
// its latency counts from then, whether or not it could be sent then.
type Flow struct {
	Rate    float64  `yaml:"rate" json:"rate"` // messages per second and agent
	Pattern string   `yaml:"pattern,omitempty" json:"pattern"`
	Burst   int      `yaml:"burst,omitempty" json:"burst,omitempty"` // of pattern burst
	Size    Size     `yaml:"size,omitempty" json:"size"`
	After   Duration `yaml:"after,omitempty" json:"after,omitempty"` // after the agent's arrival
	Count   int      `yaml:"count,omitempty" json:"count,omitempty"` // then no more; 0: to the end
	// Closed makes it a closed loop: as fast as the window lets, Rate unused.
	// Its latencies are from handing over and say little; it is for throughput.
	Closed bool `yaml:"closed,omitempty" json:"closed,omitempty"`
}

// A Request is a message and its answer, as a build's commands are. Its
// latency is that of both ways.
type Request struct {
	From   string `yaml:"from,omitempty" json:"from"` // agent or application; "": application
	Flow   `yaml:",inline"`
	Answer Size `yaml:"answer,omitempty" json:"answer"`
	// InFlight is how many requests of an agent may be unanswered; a request
	// that has to wait for it still counts from its time. 0: no bound.
	InFlight int `yaml:"in_flight,omitempty" json:"in_flight,omitempty"`
}

// A Size is a distribution of payload sizes in bytes. In YAML it is a number
// ("256", "64KiB"), a range ("100B-4KiB", evenly), "build" (sizes of a real
// build: many small commands, 8 KiB log chunks, seldom files of 10–100 MB in
// pieces of 64 KiB) or a list of {size, weight}. Nothing is smaller than
// check.Header bytes: smaller ones are rounded up to it.
type Size struct {
	Parts []Part // never empty after parsing: of the zero Size, one of 256 B
	Text  string // as it was written, "" of a list
}

// A Part of a Size is drawn in proportion to Weight, evenly from Min to Max.
type Part struct {
	Min, Max int
	Weight   float64
	Pieces   int // so many messages of it at once; 0: 1
}

// A Fault is one planned event. Faults with Every are repeated.
type Fault struct {
	At    Duration `yaml:"at" json:"at"`                     // after the start
	Do    string   `yaml:"do" json:"do"`                     // one of fault.Kinds
	To    string   `yaml:"to,omitempty" json:"to,omitempty"` // whom: see package fault; "": the kind's default
	For   Duration `yaml:"for,omitempty" json:"for,omitempty"`
	Every Duration `yaml:"every,omitempty" json:"every,omitempty"`
	Times int      `yaml:"times,omitempty" json:"times,omitempty"` // with Every; 0: to the end
	// With are the kind's own settings: latency, jitter, rate, share, count.
	With map[string]string `yaml:"with,omitempty" json:"with,omitempty"`
}

// Chaos is random faults: one every Every on average, of the Kinds, from After
// to Before the end.
type Chaos struct {
	Every  Duration `yaml:"every" json:"every"`
	Kinds  []string `yaml:"kinds,omitempty" json:"kinds,omitempty"` // nil: all that the target can do
	After  Duration `yaml:"after,omitempty" json:"after,omitempty"`
	Before Duration `yaml:"before,omitempty" json:"before,omitempty"`
	Count  int      `yaml:"count,omitempty" json:"count,omitempty"` // then no more; 0: no bound
}

// A Duration is written as Go writes them: 1m30s.
type Duration time.Duration
