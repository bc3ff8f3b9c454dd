// Package worker makes the load: the agents of a scenario, or the application
// they talk to, in one process of its own. A coordinator starts it and talks
// with it in lines of JSON: a Plan and Orders by its stdin, Words by its stdout.
package worker

import (
	"context"
	"time"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/loadtest/access"
	"github.com/moorage-dev/moorage/loadtest/results"
	"github.com/moorage-dev/moorage/loadtest/scenario"
)

// A Transport carries messages between agents and their application; moorage
// is one, each baseline another. Agents and Application are called in different
// processes.
type Transport interface {
	// Agents connects one process's agents.
	Agents(ctx context.Context, p *Plan) (Agents, error)
	// Application starts the other side. It is ready when it returns.
	Application(ctx context.Context, p *Plan) (Application, error)
}

// Agents opens sessions of agents. Its methods may be called concurrently.
type Agents interface {
	// Open opens a session, known at both ends by its key: GROUP/AGENT/N, the
	// N-th session of that agent. It returns when messages can be sent.
	Open(ctx context.Context, key string, kind string) (Session, error)
	// Cut breaks the connections that keep names (all if nil), without a word;
	// sessions that survive such things go on by themselves.
	Cut(keep func(key string) bool)
	Close() error
}

// Application takes the sessions that agents open.
type Application interface {
	Accept(ctx context.Context) (key string, s Session, err error)
	Close() error
}

// A Session is one end. Send and Receive may be called concurrently with each
// other, neither with itself.
type Session interface {
	// Send hands over a message, and waits while the window is full. payload
	// is the caller's again when it returns.
	Send(ctx context.Context, payload []byte) error
	// Receive returns the next message, valid until the next call. io.EOF: the
	// other end has sent all. *EndedError: the session is over.
	Receive(ctx context.Context) ([]byte, error)
	// CloseSend says that nothing more will be sent.
	CloseSend() error
	// Close ends the session. After both ends have sent and received all, it
	// is over with reason OK.
	Close() error
}

// An EndedError says why a session ended otherwise than in order.
type EndedError struct{ Reason string } // a word of docs/protocol.md, or a baseline's own

func (e *EndedError) Error() string { return "session ended: " + e.Reason }

// Roles of a worker.
const (
	RoleAgents = "agents"
	RoleApp    = "app"    // the application of native and tunnel groups
	RoleLegacy = "legacy" // the controller (package standin) of legacy groups
)

// A Plan is the first line that a worker reads.
type Plan struct {
	Role      string            `json:"role"`
	Index     int               `json:"index"` // of Of: a worker takes the agents whose number in their group modulo Of is Index
	Of        int               `json:"of"`
	Transport string            `json:"transport"` // moorage, relay, grpc, tcp, nats
	Run       string            `json:"run"`       // [a-z0-9-]+; unique; part of controller, topic and agent names
	Scenario  scenario.Scenario `json:"scenario"`

	Gateways   []string      `json:"gateways"`        // addresses that agents dial
	Kafka      []string      `json:"kafka"`           // addresses that the application dials
	Access     access.Kafka  `json:"access,omitzero"` // how it is let in there; in the application's plan alone
	App        string        `json:"app"`             // address at which the application of a direct transport listens
	Controller string        `json:"controller"`
	Token      string        `json:"token"`   // shared key file for agents' credentials; "": none needed
	CAFile     string        `json:"ca_file"` // of the gateways; "": plaintext
	Doors      []string      `json:"doors"`   // addresses for legacy agents: http://host:port/
	Shims      []string      `json:"shims"`   // the same of shims, for groups with door: shim
	Secrets    string        `json:"secrets"` // hex key from which legacy agents' secrets derive
	Jenkins    string        `json:"jenkins"` // address at which the legacy controller's HTTP port listens
	Sources    []string      `json:"sources"` // loopback addresses to dial from, in turn; empty: the kernel's choice
	Prefix     string        `json:"prefix"`  // of topics
	Limit      time.Duration `json:"limit"`   // of opening one session; 0: 60 s
	// First is the number of each agent's first session. A worker that takes the
	// place of one that a fault ended begins at the next multiple of Lives, so that
	// no two sessions have one key. More than 0, all its agents come at once, or when their time has come.
	First int `json:"first,omitempty"`
}

// Lives is more than an agent has sessions in one process.
const Lives = 1_000_000

// Orders that follow, each a line. Do is start, fault, cut, restart, stop or quit.
type Order struct {
	Do string `json:"do"`
	// At is the instant of start: all schedules count from it. Of a fault: when
	// it struck.
	At time.Time `json:"at,omitzero"`
	// Fault is its index and Name its kind, for recovery times.
	Fault int    `json:"fault,omitempty"`
	Name  string `json:"name,omitempty"`
	// To is whom the fault struck: a connector's death ends channels that must
	// live through all else.
	To string `json:"to,omitempty"`
	// Share of this worker's agents that cut (breaks their connections) and
	// restart (the agent dies without a word and comes back as new) concern.
	Share float64 `json:"share,omitempty"`
	// For is how long the agents that cut concerns cannot dial then, as when
	// their network is away. 0: they may at once. Stock agents may anyway.
	For time.Duration `json:"for,omitempty"`
	// Within is how long after stop what is under way may take before the
	// account is given anyway. 0: the scenario's Drain. A later stop sets another
	// limit, from then on.
	Within time.Duration `json:"within,omitempty"`
	// Beyond is how much longer it may take, for somebody who looks on and says
	// stop again when nothing moves any more. What only waits for a grace to be
	// over is not waited for beyond Within.
	Beyond time.Duration `json:"beyond,omitempty"`
	// Leave is for a stop while all others go on: agents end their sessions in
	// order without waiting for the other end to have sent all.
	Leave bool `json:"leave,omitempty"`
}

// A Word is a line that a worker says. One field is set.
type Word struct {
	Ready *Ready         `json:"ready,omitempty"` // the plan is understood; an application can be reached
	Tick  *Tick          `json:"tick,omitempty"`  // each second from the start on
	Event *results.Event `json:"event,omitempty"`
	Final *Final         `json:"final,omitempty"` // after stop, when all is drained or the limit has passed; then it waits for quit
	Fail  string         `json:"fail,omitempty"`  // one line: why it cannot go on; it exits
}

// Ready is a worker's first word.
type Ready struct {
	PID  int    `json:"pid"`
	Addr string `json:"addr,omitempty"` // where an application of a direct transport listens
	// Of RoleLegacy: the URL of its HTTP port, for the connector.
	Jenkins string `json:"jenkins,omitempty"`
}

// A Tick is a worker's second. Histograms are HdrHistogram's V2 encoding, in
// microseconds, of this second alone.
type Tick struct {
	At       time.Time         `json:"at"`
	Agents   int               `json:"agents"`
	Sent     [2]uint64         `json:"sent"`
	Received [2]uint64         `json:"received"`
	Bytes    [2]uint64         `json:"bytes"`
	Latency  map[string][]byte `json:"latency,omitempty"` // up, down, request, connect; and by group after a dot
	Lag      time.Duration     `json:"lag"`               // how far the pacer itself was behind at most
	CPU      float64           `json:"cpu"`               // cores this process used
	Anomaly  uint64            `json:"anomalies"`         // so far
	Opens    uint64            `json:"opens,omitempty"`   // the same as Final's, so far
	Failed   uint64            `json:"failed,omitempty"`
	// Extra are overrun (messages left out so far, because a session's backlog was
	// full), backlog (due and not sent now) and overdue (in this second, messages
	// that the generator itself held up for more than 10 ms).
	Extra map[string]float64 `json:"extra,omitempty"`
	// Over are sessions that ended in order some seconds ago. They are missing in
	// Final's account, so that a worker does not grow with all it ever had.
	Over map[string]*check.Entry `json:"over,omitempty"`
	// Tally is the account without its sessions, when there are more anomalies
	// than in the tick before: a worker that is killed takes none of them along.
	Tally *check.Account `json:"tally,omitempty"`
}

// Final is a worker's account.
type Final struct {
	Account   check.Account     `json:"account"`           // one entry per session it saw, those of Tick.Over left out
	Silence   []byte            `json:"silence"`           // histogram, one entry per session
	Recovery  map[int][]byte    `json:"recovery"`          // by fault: histograms, one entry per session that had something under way
	Latency   map[string][]byte `json:"latency,omitempty"` // whole run, from warm-up on
	Opens     uint64            `json:"opens"`             // sessions opened, or accepted
	Failed    uint64            `json:"failed"`            // that could not be
	LastError string            `json:"last_error,omitempty"`
	// Figures of roles that check by themselves (legacy): calls, failed_calls, corrupt, lost_channels.
	Figures map[string]float64 `json:"figures,omitempty"`
}

// A Killer is a Session that can end without a word, as when its process dies.
// Kill returns at once, and what waits in Send or Receive with an error. A
// Session without it is closed instead.
type Killer interface{ Kill() }

// A Holder is Agents whose sessions that which names, nil: all, can be kept from
// dialing until then. What they dial meanwhile waits, as for an answer that does
// not come.
type Holder interface {
	Hold(which func(key string) bool, until time.Time)
}

// An Addresser is an Application that agents dial.
type Addresser interface{ Addr() string }
