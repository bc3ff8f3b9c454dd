// Package results is what a load test measured: the model of results.json and
// of each line of events.ndjson. docs/loadtest.md documents both formats;
// Version changes when a reader of an older one would be misled.
package results

import (
	"time"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/loadtest/scenario"
)

// Version of the format.
const Version = 1

// Results is the content of results.json.
type Results struct {
	Version  int               `json:"version"`
	Scenario scenario.Scenario `json:"scenario"` // as it ran, seed included
	Command  string            `json:"command"`  // to repeat it
	Started  time.Time         `json:"started"`
	Ended    time.Time         `json:"ended"`
	Machine  Machine           `json:"machine"`
	Runs     []Run             `json:"runs"` // moorage first; baselines alternate with it
	Ratios   []Ratio           `json:"ratios,omitempty"`
	Verdict  Verdict           `json:"verdict"`
}

// Machine is where it ran.
type Machine struct {
	CPU     string `json:"cpu"`
	Cores   int    `json:"cores"`
	Memory  uint64 `json:"memory"` // bytes
	Kernel  string `json:"kernel"`
	Go      string `json:"go"`
	Moorage string `json:"moorage"` // version of the binary under test
	Kafka   string `json:"kafka"`   // in words; the embedded broker says that it is one
}

// A Run is one pass of the scenario on one system.
type Run struct {
	System  string        `json:"system"` // moorage, relay, grpc, tcp, nats
	Pair    int           `json:"pair"`   // from 0
	Acks    string        `json:"acks"`   // what an acknowledgement means there, in a sentence
	Started time.Time     `json:"started"`
	Length  time.Duration `json:"length_ns"`

	Figures   map[string]float64 `json:"figures"` // by name, see package figure
	Latency   map[string]Hist    `json:"latency"` // up, down, request, connect; by group after a dot: "down.builders"
	Silence   Hist               `json:"silence"` // per session, its longest
	Recovery  []Recovery         `json:"recovery,omitempty"`
	Ticks     []Tick             `json:"ticks"`
	Processes []Process          `json:"processes"`
	Faults    []FaultMark        `json:"faults,omitempty"`
	Anomalies []check.Anomaly    `json:"anomalies,omitempty"` // the first; Figures counts all
	Ended     map[string]uint64  `json:"ended"`               // sessions by reason
	// Invalid says why this run proves nothing, such as that the generator was
	// the limit; "": it does.
	Invalid string `json:"invalid,omitempty"`
}

// A Hist is percentiles of one distribution in milliseconds.
type Hist struct {
	Count uint64             `json:"count"`
	Mean  float64            `json:"mean"`
	Max   float64            `json:"max"`
	P     map[string]float64 `json:"p"` // "50", "90", "99", "99.9", "99.99"
}

// Recovery is how long sessions were silent because of one fault.
type Recovery struct {
	Fault int    `json:"fault"` // index into Faults
	Name  string `json:"name"`
	Hist  Hist   `json:"hist"` // per session that had something under way
}

// A Tick is one second of a run, all workers together.
type Tick struct {
	At       float64            `json:"at"`     // seconds after the start; the end of the second
	Agents   int                `json:"agents"` // with a session
	Sent     [2]uint64          `json:"sent"`   // messages in this second: up, down
	Received [2]uint64          `json:"received"`
	Bytes    [2]uint64          `json:"bytes"`
	P        map[string]Hist    `json:"p,omitempty"` // latency of this second by direction: up, down, request
	Lag      float64            `json:"lag_ms"`      // the generator's: the latest it was behind its schedule by its own fault
	Anomaly  uint64             `json:"anomalies"`
	Extra    map[string]float64 `json:"extra,omitempty"` // such as kafka_read_bytes, gateway counters
}

// A Process is one that took part, with a sample per second.
type Process struct {
	Name    string   `json:"name"` // gateway-1, broker-1, app, agents-1
	PID     int      `json:"pid"`
	Samples []Sample `json:"samples"`
	CPU     float64  `json:"cpu_s"` // user and system in the measured time
}

// A Sample is what the kernel, and the process's metrics where it has some, say.
type Sample struct {
	At         float64 `json:"at"`
	CPU        float64 `json:"cpu"` // cores, since the sample before
	RSS        uint64  `json:"rss"`
	Files      int     `json:"files"`
	Goroutines int     `json:"goroutines,omitempty"`
	Heap       uint64  `json:"heap,omitempty"`  // in use
	Stack      uint64  `json:"stack,omitempty"` // of goroutines, in use
}

// A FaultMark is a fault that was done.
type FaultMark struct {
	At    float64 `json:"at"`
	For   float64 `json:"for,omitempty"` // seconds
	Name  string  `json:"name"`          // its kind
	To    string  `json:"to,omitempty"`
	Error string  `json:"error,omitempty"` // why it could not be done
}

// A Ratio compares one figure of moorage with a baseline's, pair by pair.
type Ratio struct {
	Figure   string    `json:"figure"`
	Baseline string    `json:"baseline"`
	Pairs    []float64 `json:"pairs"`
	Median   float64   `json:"median"`
	Low      float64   `json:"low"`
	High     float64   `json:"high"`
	// Flawed says which run of the baseline is no measure, and why, so that the
	// ratio is not to be quoted; "": each is one.
	Flawed string `json:"flawed,omitempty"`
}

// A Verdict is the first thing to read.
type Verdict struct {
	Clean   bool     `json:"clean"`
	Invalid bool     `json:"invalid"`
	Lines   []string `json:"lines"` // one each: what was missed, or that nothing was
}

// An Event is one line of events.ndjson.
type Event struct {
	At   float64 `json:"at"`   // seconds after the start
	Run  string  `json:"run"`  // system and pair: moorage/0
	Kind string  `json:"kind"` // start, fault, restored, anomaly, process, lost-session, error, stop, slow, end
	Who  string  `json:"who,omitempty"`
	Text string  `json:"text,omitempty"`
}
