package bridge

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"time"
)

// Config says where Kafka is and how much of it may be under way at once.
type Config struct {
	Brokers  []string    // host:port of at least one broker
	ClientID string      // shown in the brokers' logs; "" means "moorage"
	Prefix   string      // of topic names; "" means "moorage."
	TLS      *tls.Config // nil: plaintext
	SASL     SASL        // zero: none

	// Dial opens connections to brokers. Nil: a net.Dialer. Tests put
	// in-memory and faulty networks here.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	Logger *slog.Logger // nil discards

	QueueBytes   int           // bytes that wait per partition queue before Wait blocks and Full says so; 0: 8 MiB
	UnackedBytes int           // bytes handed over and not acknowledged, per partition; 0: 512 KiB
	FetchWait    time.Duration // the broker's long poll; 0: 250 ms
	Scans        int           // backlogs that are read at once, per broker; 0: 4
	StallAfter   time.Duration // age of the oldest unacknowledged record that opens the breaker; 0: 5 s
	Linger       time.Duration // how long a Tail is followed after its last subscription; 0: 30 s, negative: not at all
}

// SASL is how the client proves who it is.
type SASL struct {
	Mechanism string // PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; "": no SASL
	User      string
	Password  string
}

// Defaults of Config.
const (
	defaultPrefix       = "moorage."
	defaultQueueBytes   = 8 << 20
	defaultUnackedBytes = 512 << 10
	defaultFetchWait    = 250 * time.Millisecond
	defaultScans        = 4
	defaultStallAfter   = 5 * time.Second
	defaultLinger       = 30 * time.Second
)

// resolve checks cfg and puts its defaults in.
func (cfg Config) resolve() (Config, error) {
	if len(cfg.Brokers) == 0 {
		return cfg, fmt.Errorf("bridge: no Kafka broker given: name at least one as host:port")
	}
	for _, addr := range cfg.Brokers {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return cfg, fmt.Errorf("bridge: Kafka broker %q: want host:port", addr)
		}
	}
	switch cfg.SASL.Mechanism {
	case "", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512":
	default:
		return cfg, fmt.Errorf("bridge: SASL mechanism %q: want PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", cfg.SASL.Mechanism)
	}
	if cfg.SASL.Mechanism != "" && cfg.SASL.User == "" {
		return cfg, fmt.Errorf("bridge: SASL %s needs a user", cfg.SASL.Mechanism)
	}
	if cfg.ClientID == "" {
		cfg.ClientID = "moorage"
	}
	if cfg.Prefix == "" {
		cfg.Prefix = defaultPrefix
	}
	if err := ValidPrefix(cfg.Prefix); err != nil {
		return cfg, err
	}
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.QueueBytes <= 0 {
		cfg.QueueBytes = defaultQueueBytes
	}
	if cfg.UnackedBytes <= 0 {
		cfg.UnackedBytes = defaultUnackedBytes
	}
	if cfg.FetchWait <= 0 {
		cfg.FetchWait = defaultFetchWait
	}
	if cfg.Scans <= 0 {
		cfg.Scans = defaultScans
	}
	if cfg.StallAfter <= 0 {
		cfg.StallAfter = defaultStallAfter
	}
	if cfg.Linger == 0 {
		cfg.Linger = defaultLinger
	}
	return cfg, nil
}
