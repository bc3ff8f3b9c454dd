package baseline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/moorage-dev/moorage/loadtest/worker"
)

// Names of the baselines, as a plan's transport says them.
const (
	Relay = "relay"
	GRPC  = "grpc"
	TCP   = "tcp"
	NATS  = "nats" // package loadtest/nats, a module and a program of its own
)

// Transports returns the baselines that are built in, by name.
func Transports() map[string]worker.Transport {
	return map[string]worker.Transport{Relay: relayTransport{}, GRPC: grpcTransport{}, TCP: tcpTransport{}}
}

// Acks says in a sentence what it means there that a message was taken: what
// a sender may count on when its window has room again.
func Acks(system string) string {
	switch system {
	case "moorage":
		return "Acknowledged when all in-sync replicas of Kafka have the record (acks=all, in the brokers' page cache unless they are told to fsync), " +
			"and the window opens when the far application has taken the message; both survive the loss of a connection, a gateway or a broker."
	case Relay:
		return "Acknowledged when all in-sync replicas of Kafka have the record (acks=all, as for moorage), " +
			"and the window opens when the far application has taken the message; a lost connection or gateway loses what was under way."
	case GRPC:
		return "Nothing is stored and nothing acknowledged: HTTP/2's window opens when the far application has read, and a lost connection loses what was under way."
	case TCP:
		return "Nothing is stored and nothing acknowledged but by TCP, whose window opens when the far application has read; a lost connection loses what was under way."
	case NATS:
		return "Acknowledged when JetStream's only replica has written the message to its file, without fsync (synced every 2 minutes, its default: " +
			"the machine's page cache, as Kafka's acknowledgement with one replica); a lost connection loses nothing that was acknowledged."
	}
	return ""
}

var errClosed = errors.New("baseline: closed")

// A dialer dials addresses in turn, from sources in turn.
type dialer struct {
	to, sources []string
	dialled     atomic.Uint64
	creds       credentials.TransportCredentials // nil: plaintext
}

// newDialer refuses what no baseline does, for a ratio to it would mislead.
func newDialer(p *worker.Plan, to ...string) (*dialer, error) {
	if len(to) == 0 || to[0] == "" {
		return nil, fmt.Errorf("baseline: %s: the plan has no address to dial", p.Transport)
	}
	if p.Transport != Relay && (p.CAFile != "" || p.Scenario.Local.TLS) {
		return nil, fmt.Errorf("baseline: %s speaks plaintext only: leave tls out of the scenario to compare with it", p.Transport)
	}
	return &dialer{to: to, sources: p.Sources}, nil
}

func (d *dialer) dial(ctx context.Context) (net.Conn, error) {
	n := d.dialled.Add(1) - 1
	var from net.Dialer
	if len(d.sources) > 0 {
		source := d.sources[n%uint64(len(d.sources))]
		ip := net.ParseIP(source)
		if ip == nil {
			return nil, fmt.Errorf("baseline: source %q is no IP address", source)
		}
		from.LocalAddr = &net.TCPAddr{IP: ip}
	}
	return from.DialContext(ctx, "tcp", d.to[n%uint64(len(d.to))])
}

// listen opens the application's address; "" is any of the loopback's.
func listen(ctx context.Context, p *worker.Plan) (net.Listener, error) {
	lis, err := new(net.ListenConfig).Listen(ctx, "tcp", cmp.Or(p.App, "127.0.0.1:0"))
	if err != nil {
		return nil, fmt.Errorf("baseline: %s: %w", p.Transport, err)
	}
	return lis, nil
}

// direct is where agents without a gateway dial: the application.
func direct(p *worker.Plan) []string {
	if p.App != "" {
		return []string{p.App}
	}
	return p.Gateways
}

// openLimit bounds the opening of a session.
func openLimit(p *worker.Plan) time.Duration {
	if p.Limit > 0 {
		return p.Limit
	}
	return time.Minute
}
