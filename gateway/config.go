package gateway

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/moorage-dev/moorage/bridge"
)

// Config says who a gateway is, where its Kafka is, and how much it may hold.
type Config struct {
	Name      string // unique in the fleet; "": random
	Advertise string // host:port where agents reach it; shown to operators and to agents of draining gateways
	Version   string // of the software, for operators

	Bridge bridge.Config // QueueBytes, Scans and Logger follow the fields below where those are set

	TLS      *tls.Config // nil: plaintext. With verified client certificates an agent may be named by a DNS SAN
	Keys     Ring        // of tokens and tickets, the same in the whole fleet
	Insecure bool        // agents need prove nothing; for trying things out

	MaxSessions int // sessions attached at once; 0: 20,000. Above: RESOURCE_EXHAUSTED
	MaxStreams  int // streams and connections at once, greeted or not; 0: MaxSessions + 4,096. Above: RESOURCE_EXHAUSTED, or the connection is closed
	MaxGreeting int // streams of one address that have not proved who they are; 0: 1,024. Above: RESOURCE_EXHAUSTED
	QueueBytes  int // that wait per up partition; 0: the bridge's. At the bound its agents are not read
	CacheBytes  int // of recent down records over all sessions; 0: 64 MiB. Above: the tails used least go and are read again from Kafka when wanted
	ReplayScans int // backlogs read from Kafka at once; 0: the bridge's. Others wait
	Controllers int // controllers followed at once; 0: 256. Above: RESOURCE_EXHAUSTED

	Heartbeat    time.Duration // of streams; 0: 5 s. New refuses more than session.MostHeartbeat
	HelloTimeout time.Duration // from a stream's begin to its Hello; 0: 10 s
	Linger       time.Duration // a session's down log is read on after its stream broke; 0: 30 s
	DrainTimeout time.Duration // for Drain without a deadline of its own; 0: 30 s

	Logger *slog.Logger // nil discards
}

// Fixed times.
const (
	ticketFor      = time.Hour
	ticketRenew    = 10 * time.Minute
	beatEvery      = time.Second // in the gateways topic
	stallCheck     = 200 * time.Millisecond
	stallTold      = 5 * time.Second // how long a partition takes nothing before controllers are told
	endFor         = time.Second     // a partition's end is this fresh for new sessions
	controllerWait = 5 * time.Second // for a controller's first heartbeat to be read
	controllerIdle = 5 * time.Minute // a controller without streams is followed this long
	silentBeats    = 5               // own beats without the controller's: no new sessions
	flushWait      = 3 * time.Second // for queues on Close
	unknownFor     = time.Second     // a controller without topics is not looked up again so soon
	leaseEntries   = 900             // per LEASE record: 54 KB
	maxMessage     = 64<<10 + 16<<10 // a frame and what surrounds it
	streamWindow   = 256 << 10       // of HTTP/2, per stream: what an agent that is not read may have sent
	connWindow     = 1 << 20         // of HTTP/2, per connection
	maxLag         = 2 << 20         // bytes of one session that wait for its agent, at most
	directly       = 8               // records handed over past the cache after it lost some
	freshWait      = 6 * time.Second // for the attach of a new session to be persisted
	mostGrace      = 30 * 24 * time.Hour
)

func (cfg Config) resolve() (Config, error) {
	if !cfg.Insecure && len(cfg.Keys.Current) == 0 {
		return cfg, errors.New("gateway: no key to check agents by: give one, or ask for an insecure gateway by name")
	}
	if n := len(cfg.Keys.Current); n > 0 && n < 16 {
		return cfg, errors.New("gateway: the key is shorter than 16 bytes")
	}
	if cfg.Name == "" {
		cfg.Name = "gateway-" + randomName()
	}
	if err := ValidName(cfg.Name); err != nil {
		return cfg, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	or(&cfg.MaxSessions, 20_000)
	or(&cfg.MaxStreams, cfg.MaxSessions+4096)
	or(&cfg.MaxGreeting, 1024)
	or(&cfg.CacheBytes, 64<<20)
	or(&cfg.Controllers, 256)
	or(&cfg.Heartbeat, 5*time.Second)
	or(&cfg.HelloTimeout, 10*time.Second)
	or(&cfg.Linger, 30*time.Second)
	or(&cfg.DrainTimeout, 30*time.Second)
	if cfg.QueueBytes > 0 {
		cfg.Bridge.QueueBytes = cfg.QueueBytes
	}
	if cfg.ReplayScans > 0 {
		cfg.Bridge.Scans = cfg.ReplayScans
	}
	if cfg.Bridge.Logger == nil {
		cfg.Bridge.Logger = cfg.Logger
	}
	return cfg, nil
}

func or[T int | time.Duration](v *T, otherwise T) {
	if *v <= 0 {
		*v = otherwise
	}
}

// ValidName refuses a gateway's name that operators could not read, for it
// stands in lists, logs and what agents are told.
func ValidName(name string) error {
	if len(name) < 1 || len(name) > 255 || !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		shown := name
		if len(shown) > 32 {
			shown = shown[:32] + "..."
		}
		return fmt.Errorf("gateway: name %q of %d bytes: want 1 to 255 bytes of printable UTF-8", shown, len(name))
	}
	return nil
}

func randomName() string {
	var b [4]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
