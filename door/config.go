package door

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config says whom a door leads to, what it lets in, and how much of it.
type Config struct {
	Backend     Backend
	Default     string   // the controller of connections that name none; "": those are refused
	Routes      []Route  // the first that matches wins, before Controllers and Default
	Controllers []string // that may be asked for by path prefix /NAME/, or by host NAME or NAME.anything; others are unknown
	Advertise   string   // host:port where agents reach this door, told in look-ups; "": the address to which the look-up came

	TLS            *tls.Config // for HTTPS; agents show no certificate and none is asked for. nil: no HTTPS
	AllowCleartext bool        // JNLP-connect and JNLP2-connect, whose secret travels in clear, not from this host alone
	ProxyProtocol  bool        // every connection begins with a PROXY v1 or v2 header, which is believed; one without is refused
	Tier0          bool        // a gateway's: gRPC is let in too, see GRPC

	// Secret tells the secret of an agent where it is known, so that encrypted
	// .jnlp files can be rewritten. nil: it is known of none.
	Secret func(agent string) (string, bool)

	Hold        time.Duration // an agent is held silently while its controller is away; 0: 10 min. Then it is closed
	Greeting    time.Duration // until a connection has said what it speaks; 0: 5 s. Then it is closed
	ACK         time.Duration // for JNLP4's ACK, a TLS handshake and a JNLP2 login, each; 0: 10 s. Then it is closed
	Connections int           // open at once, gRPC's handed on not counted; 0: 20,000. One above is closed as soon as it comes
	PerAddress  int           // of them from one address that have not greeted yet; 0: 1,024. One above is closed as soon as it comes
	Handshakes  int           // TLS handshakes at once; 0: 256. Others wait, up to ACK
	Sessions    int           // open or waiting to be; 0: 10,000. Others are held
	OpenRate    float64       // sessions opened per second once a burst of as many is used up; 0: 200. Others are held
	JarCache    int64         // bytes of jars kept; 0: 64 MiB; negative: none. Above: those used least go
	Again       time.Duration // a session that ends sooner makes its agent's next one wait, from 1 s up to 10 s; 0: 10 s; negative: none waits

	Registerer prometheus.Registerer // nil: counted for nobody
	Log        *slog.Logger          // nil discards
}

// A Route leads connections to a controller. All fields that are set must
// match; one without any matches everything.
type Route struct {
	Controller string
	Host       string // of an HTTP request, without a port
	Prefix     string // of an HTTP request's path, as /ci/; it is taken off
	Node       string // the agent's name as it was shown in clear; a pattern as in path.Match
	SNI        string // that an agent's TLS asks for, inside JNLP4 too
	Port       int    // of this door, where it listens on several; behind a balancer the one that the PROXY header names
}

// Fixed bounds and times.
const (
	mostProxyHeader = 1 << 10          // of PROXY v1 and v2
	mostGreeting    = 2 + 64           // its length included
	mostProxyBlock  = 1 << 10          // of JNLP4-connect-proxy
	mostName        = 255              // of an agent's name, as in every session
	mostLogin       = 8 << 10          // of JNLP-connect and JNLP2-connect
	mostHello       = 16 << 10         // of a ClientHello; one that is larger is taken as one that says nothing
	helloWait       = 2 * time.Second  // for a ClientHello inside JNLP4, where a route asks for its SNI
	unknownWait     = 3 * time.Second  // for a controller that may just be being made
	lookTimeout     = 2 * time.Second  // for news of a controller of which something is known already
	heldAfter       = time.Second      // an agent that waits so long counts as held
	retryFirst      = time.Second / 10 // between tries of a Backend, doubled up to retryMost
	retryMost       = 2 * time.Second
	handWait        = 10 * time.Second // for gRPC to take a connection
	mostPaced       = 16 << 10         // agents and addresses whose hurry is remembered
)

func (cfg Config) resolve() (Config, error) {
	if cfg.Backend == nil {
		return cfg, errors.New("door: no backend")
	}
	for i, r := range cfg.Routes {
		if r.Controller == "" {
			return cfg, fmt.Errorf("door: route %d leads to no controller", i+1)
		}
		if _, err := path.Match(r.Node, ""); err != nil {
			return cfg, fmt.Errorf("door: route %d: node %q: %w", i+1, r.Node, err)
		}
		if r.Prefix != "" && !strings.HasPrefix(r.Prefix, "/") {
			return cfg, fmt.Errorf("door: route %d: prefix %q does not begin with a slash", i+1, r.Prefix)
		}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	or(&cfg.Hold, 10*time.Minute)
	or(&cfg.Greeting, 5*time.Second)
	or(&cfg.ACK, 10*time.Second)
	or(&cfg.Connections, 20_000)
	or(&cfg.PerAddress, 1024)
	or(&cfg.Handshakes, 256)
	or(&cfg.Sessions, 10_000)
	or(&cfg.OpenRate, 200)
	if cfg.JarCache == 0 {
		cfg.JarCache = 64 << 20
	}
	if cfg.Again == 0 {
		cfg.Again = 10 * time.Second
	}
	return cfg, nil
}

func or[T int | float64 | time.Duration](v *T, otherwise T) {
	if *v <= 0 {
		*v = otherwise
	}
}
