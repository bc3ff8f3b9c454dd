package controller

import (
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/session"
)

// Config says who this controller is, where its Kafka is and what it bears.
type Config struct {
	Bridge bridge.Config // Kafka
	Name   string        // [a-z0-9][a-z0-9-]{0,62}; part of the topics' names

	// Grace is how long a detached session is kept. 0: 240 s. Start refuses
	// one that is not well below the topics' retention.
	Grace time.Duration

	Window       int      // payload bytes that an agent may have undelivered, per session; 0: session.DefaultWindow
	SessionLimit int      // sessions held at once; more are rejected; with the windows, and for what waits for Kafka with Bridge.QueueBytes, it bounds memory; 0: 10,000
	AcceptQueue  int      // sessions that wait for Accept; more are rejected; 0: 1,024
	Services     []string // names of the TCP services offered, for agents that ask; may be empty

	SingleBroker bool // bear topics on one broker, which keeps nothing when it dies
	AllowSmall   bool // bear fewer than 16 partitions, for tests

	Version string       // of the software, shown to operators; may be empty
	Logger  *slog.Logger // nil discards
}

// Defaults of Config.
const (
	DefaultGrace        = 240 * time.Second
	DefaultSessionLimit = 10_000
	DefaultAcceptQueue  = 1024
)

// maxOpen bounds the payload of an OPEN: names and labels, which stay as long
// as the session does.
const maxOpen = 16 << 10

// resolve checks cfg and puts its defaults in.
func (cfg Config) resolve() (Config, error) {
	if err := bridge.ValidController(cfg.Name); err != nil {
		return cfg, err
	}
	if cfg.Grace == 0 {
		cfg.Grace = DefaultGrace
	}
	if cfg.Grace < 0 {
		return cfg, fmt.Errorf("controller: grace of %v: want a time to wait, or 0 for %v", cfg.Grace, DefaultGrace)
	}
	if cfg.Window == 0 {
		cfg.Window = session.DefaultWindow
	}
	if cfg.Window < 0 || cfg.Window > session.MaxWindow {
		return cfg, fmt.Errorf("controller: window of %d bytes: want 1 to %d", cfg.Window, session.MaxWindow)
	}
	if cfg.SessionLimit <= 0 {
		cfg.SessionLimit = DefaultSessionLimit
	}
	if cfg.AcceptQueue <= 0 {
		cfg.AcceptQueue = DefaultAcceptQueue
	}
	cfg.Services = slices.Clone(cfg.Services)
	slices.Sort(cfg.Services)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Logger = cfg.Logger.With("controller", cfg.Name)
	if cfg.Bridge.Logger == nil {
		cfg.Bridge.Logger = cfg.Logger
	}
	return cfg, nil
}
