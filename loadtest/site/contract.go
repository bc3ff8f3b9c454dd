// Package site is what a load test is aimed at: a deployment of real processes
// that it starts, breaks and ends, or one that runs already.
package site

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/moorage-dev/moorage/loadtest/access"
	"github.com/moorage-dev/moorage/loadtest/results"
	"github.com/moorage-dev/moorage/loadtest/scenario"
)

// Systems that a site can be.
const (
	Moorage = "moorage"
	Relay   = "relay"
	GRPC    = "grpc" // agents dial the application
	TCP     = "tcp"  // so here
	NATS    = "nats"
)

// RelayCommand is the hidden command of Config.Binary that is relay's gateway:
//
//	moorage loadtest-relay --listen HOST:PORT --admin HOST:PORT --kafka HOST:PORT,... --topic-prefix PREFIX
//
// It serves until SIGTERM; its topics exist, or it makes them.
const RelayCommand = "loadtest-relay"

// NATSCommand is what Config.Helper is started with: nats serve --dir DIR
// --listen HOST:PORT. It keeps its data there when it is killed.
const NATSCommand = "serve"

// ErrDown is what a fault meets that is to strike a process which an earlier one
// has ended, and which is not back yet.
var ErrDown = errors.New("is down already, by an earlier fault")

// A Config says what to start, or what runs. Gateways and Kafka may be given
// apart: what is missing is started.
type Config struct {
	System string
	Run    string         // [a-z0-9-]+, at most 40 bytes, unique: names of controllers and topics begin with it
	Local  scenario.Local // what is started; ignored where Gateways and Kafka are given

	Gateways []string     // of an existing deployment: agents dial these
	Kafka    []string     // of an existing deployment
	Access   access.Kafka // of an existing deployment: how its Kafka is spoken to; zero: in clear, without a login
	Prefix   string       // of its topics; "": "moorage."
	KeyFile  string       // of an existing deployment: the shared key of its agents' tokens; "": it asks for none
	CA       string       // of an existing deployment: certificates of its gateways; "": plaintext

	Binary string // of moorage: gateways and connector
	Old    string // another build of moorage: gateways start with it; see fault "upgrade"
	Helper string // of nats

	Legacy  string // controller HTTP URL of legacy groups, for the connector; set later by Connect
	Doors   bool   // gateways let legacy agents in; without it Doors is empty
	Shims   int    // doors of tier 1 to start, for legacy groups with door: shim
	Proxied bool   // put toxiproxy into every leg that the faults need; false: direct connections
	Holes   bool   // give every gateway and broker a network namespace, for black holes; see Isolate
	Small   bool   // put the last real broker's data on a tmpfs of 512 MiB, for fault disk-full; needs root

	Dir string       // logs of all processes
	Log *slog.Logger // nil discards
}

// A Site is a running target. Addresses stay the same while its processes come
// and go.
type Site interface {
	Gateways() []string   // that agents dial
	Kafka() []string      // that the application dials
	Doors() []string      // of gateways, for legacy agents: http://host:port/
	Shims() []string      // the same of shims: Config.Shims of them
	Token() (file string) // of the shared key; "": gateways ask for no credential
	CAFile() string       // "": plaintext
	Controller() string   // name that native and tunnel agents ask for
	Words() string        // what it is made of, for results.Machine.Kafka

	// Connect starts the connector beside a legacy controller.
	Connect(ctx context.Context, jenkins string) error
	// Track adds a process that somebody else started, such as a worker.
	Track(name string, pid int)
	// Measure samples every process each second until ctx ends.
	Measure(ctx context.Context, start time.Time)
	Processes() []results.Process
	// Extra are counters of the target now, such as kafka_read_bytes,
	// records_fetched, records_delivered, sessions; summed over its gateways.
	Extra(ctx context.Context) map[string]float64

	// Can lists the kinds of faults (package fault has the words) that this
	// target can do.
	Can() []string
	// Do does a fault to whom, and returns when it has struck. undo, which may
	// be nil, ends it; the caller calls it after the fault's For.
	Do(ctx context.Context, f scenario.Fault) (undo func(context.Context) error, err error)

	// SetApp says where an application that agents dial listens: it is
	// Gateways of systems grpc and tcp, which have none.
	SetApp(addr string)
	// Close ends everything that it started, and deletes the topics that it made.
	Close() error
}
