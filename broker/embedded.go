package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

// firstVirtualPort is what the brokers count from when ListenFn is given
// without a port: networks in memory seldom know how to choose one.
const firstVirtualPort = 9092

// segmentBytes is the size of a segment. kfake takes 100 MiB, and removes whole
// segments that are full: a run of an hour would keep nearly all it wrote.
const segmentBytes = 4 << 20

// An EmbeddedConfig says what StartEmbedded starts.
type EmbeddedConfig struct {
	// Brokers is how many brokers share the topics; their ids count from 0.
	// 0 means 3, so that topics may ask for three replicas as in production.
	Brokers int

	// Listen is the address of the first broker, the others take the ports
	// that follow it. Clients are told this address, so it must name one host.
	// "" means the loopback address with free ports, or, with ListenFn, the
	// ports from 9092 on.
	Listen string

	// ListenFn opens the listeners. nil means net.Listen. A network in memory
	// (kfake.VirtualNetwork) lets the broker live in a synctest bubble.
	ListenFn func(network, address string) (net.Listener, error)

	// AutoCreate lets a client's metadata request create a topic, as a broker
	// with auto.create.topics.enable does. false refuses: a missing topic
	// is then seen.
	AutoCreate bool

	// Retain is how often what the topics' retention does not keep is removed.
	// 0: once an hour. Memory comes back by whole segments, see segmentBytes.
	Retain time.Duration

	// Log gets what the broker says. nil discards it.
	Log *slog.Logger
}

// Embedded is a running in-memory broker. Its methods may be called
// concurrently.
type Embedded struct {
	// Cluster is the broker itself, for what has no method here: to move a
	// leader, delete records or a topic, look at a partition.
	Cluster *kfake.Cluster

	stop context.CancelFunc
	wg   sync.WaitGroup
}

// StartEmbedded starts an in-memory broker, which serves until Close.
func StartEmbedded(cfg EmbeddedConfig) (*Embedded, error) {
	brokers := cfg.Brokers
	if brokers == 0 {
		brokers = 3
	}
	opts := []kfake.Opt{kfake.NumBrokers(brokers), kfake.WithLogger(slogLogger{cfg.Log}),
		kfake.BrokerConfigs(map[string]string{"log.segment.bytes": strconv.Itoa(segmentBytes)})}
	if cfg.AutoCreate {
		opts = append(opts, kfake.AllowAutoTopicCreation())
	}
	listen := cfg.ListenFn
	if listen == nil {
		listen = net.Listen
	}
	host, port, err := splitListen(cfg.Listen)
	if err != nil {
		return nil, err
	}
	if port == 0 && cfg.ListenFn != nil {
		port = firstVirtualPort
	}
	if port != 0 {
		ports := make([]int, brokers)
		for i := range ports {
			ports[i] = port + i
		}
		opts = append(opts, kfake.Ports(ports...))
	}
	// The cluster itself only knows loopback; the host is put in here.
	opts = append(opts, kfake.ListenFn(func(network, address string) (net.Listener, error) {
		if host != "" {
			_, p, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			address = net.JoinHostPort(host, p)
		}
		return listen(network, address)
	}))
	cluster, err := kfake.NewCluster(opts...)
	if err != nil {
		return nil, fmt.Errorf("broker: start embedded: %w", err)
	}
	life, stop := context.WithCancel(context.Background())
	e := &Embedded{Cluster: cluster, stop: stop}
	if cfg.Retain > 0 {
		e.wg.Go(func() { e.retain(life, cfg.Retain) })
	}
	return e, nil
}

// retain applies the topics' retention, again and again, until ctx ends.
func (e *Embedded) retain(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			e.Cluster.ApplyRetention()
		case <-ctx.Done():
			return
		}
	}
}

// splitListen takes Listen apart; port 0 means that any will do.
func splitListen(listen string) (host string, port int, err error) {
	if listen == "" {
		return "", 0, nil
	}
	host, p, err := net.SplitHostPort(listen)
	if err != nil {
		return "", 0, fmt.Errorf("broker: listen address: %w", err)
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		return "", 0, errors.New("broker: listen address " + strconv.Quote(listen) +
			" names no host: clients are sent to it, so give one they can reach, such as 127.0.0.1:9092")
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("broker: listen address %q: bad port", listen)
	}
	return host, int(n), nil
}

// Addrs are the brokers' addresses, by broker id.
func (e *Embedded) Addrs() []string { return e.Cluster.ListenAddrs() }

// Close ends the broker and drops every record.
func (e *Embedded) Close() {
	e.stop()
	e.wg.Wait()
	e.Cluster.Close()
}

// slogLogger hands kfake's lines to slog.
type slogLogger struct{ log *slog.Logger }

func (l slogLogger) Logf(level kfake.LogLevel, format string, args ...any) {
	if l.log == nil {
		return
	}
	// The broker's own requests are a client's business to log.
	to := slog.LevelDebug
	switch level {
	case kfake.LogLevelError:
		to = slog.LevelError
	case kfake.LogLevelWarn:
		to = slog.LevelWarn
	}
	if l.log.Enabled(context.Background(), to) {
		l.log.Log(context.Background(), to, fmt.Sprintf(format, args...))
	}
}
