package link

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// streamsPerConn is how many sessions share one connection: as many streams
// as HTTP/2 recommends every peer and balancer to allow.
const streamsPerConn = 100

// defaultReadBuffer is gRPC's own default.
const defaultReadBuffer = 32 << 10

// connectWait bounds one attempt to connect.
const connectWait = 5 * time.Second

// A pool holds the connections to gateways.
//
// A connection that fell silent is retired: the streams on it may stay, but
// new ones get a new connection, since the old one may be half-open.
type pool struct {
	keep    []string // gateways whose last connection is kept though nobody uses it
	options []grpc.DialOption

	mu     sync.Mutex
	closed bool
	conns  map[string][]*shared
}

type shared struct {
	gateway string
	conn    *grpc.ClientConn
	streams int
	retired bool
}

func newPool(cfg *Config) *pool {
	dial := cfg.Dial
	if dial == nil {
		dial = func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}
	}
	readBuffer := cfg.ReadBuffer
	if readBuffer == 0 {
		readBuffer = defaultReadBuffer
	}
	creds := insecure.NewCredentials()
	if cfg.TLS != nil {
		config := cfg.TLS.Clone()
		if config.MinVersion == 0 {
			config.MinVersion = tls.VersionTLS13
		}
		creds = credentials.NewTLS(config)
	}
	return &pool{
		keep: cfg.Gateways,
		options: []grpc.DialOption{
			grpc.WithTransportCredentials(creds),
			grpc.WithContextDialer(dial),
			grpc.WithReadBufferSize(readBuffer),
			grpc.WithConnectParams(grpc.ConnectParams{
				// The sessions wait as they see fit; this only keeps a crowd
				// of them from dialing a dead gateway all the time.
				Backoff:           backoff.Config{BaseDelay: backoffFirst, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
				MinConnectTimeout: connectWait,
			}),
			grpc.WithDisableServiceConfig(),
			grpc.WithDisableRetry(),
		},
		conns: make(map[string][]*shared),
	}
}

// take returns a connection with room for one more stream; give returns it.
func (p *pool) take(gateway string) (*shared, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrClosed
	}
	for _, s := range p.conns[gateway] {
		if s.streams < streamsPerConn {
			s.streams++
			return s, nil
		}
	}
	conn, err := grpc.NewClient("passthrough:///"+gateway, p.options...)
	if err != nil {
		return nil, fmt.Errorf("link: gateway %s: %w", gateway, err)
	}
	s := &shared{gateway: gateway, conn: conn, streams: 1}
	p.conns[gateway] = append(p.conns[gateway], s)
	return s, nil
}

func (p *pool) give(s *shared) {
	p.mu.Lock()
	s.streams--
	unused := s.streams == 0
	if unused && !s.retired {
		unused = len(p.conns[s.gateway]) > 1 || !slices.Contains(p.keep, s.gateway)
		if unused {
			p.drop(s)
		}
	}
	p.mu.Unlock()
	if unused {
		_ = s.conn.Close() // it fails only when closed before
	}
}

// retire keeps new streams off a connection.
func (p *pool) retire(s *shared) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !s.retired {
		s.retired = true
		p.drop(s)
	}
}

// doubt closes the connections that nobody uses. When one connection fell
// silent, the network between this host and the gateways is what broke, and
// a connection that carries no heartbeats may be half-open unnoticed.
func (p *pool) doubt() {
	p.mu.Lock()
	var unused []*shared
	for _, list := range p.conns {
		for _, s := range list {
			if s.streams == 0 {
				unused = append(unused, s)
			}
		}
	}
	for _, s := range unused {
		p.drop(s)
	}
	p.mu.Unlock()
	for _, s := range unused {
		_ = s.conn.Close() // it fails only when closed before
	}
}

func (p *pool) drop(s *shared) {
	rest := slices.DeleteFunc(p.conns[s.gateway], func(o *shared) bool { return o == s })
	if len(rest) == 0 {
		delete(p.conns, s.gateway)
		return
	}
	p.conns[s.gateway] = rest
}

// close closes the connections that were kept; nobody uses them any more.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	conns := p.conns
	p.conns = make(map[string][]*shared)
	p.mu.Unlock()
	for _, list := range conns {
		for _, s := range list {
			_ = s.conn.Close() // it fails only when closed before
		}
	}
}
