package gateway

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/moorage-dev/moorage/buffer"
	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

// A Gateway serves the agent sides of sessions.
type Gateway struct {
	linkv1.UnimplementedLinkServiceServer

	cfg     Config
	k       kafka
	self    envelope.Gateway
	srv     *grpc.Server
	health  *health.Server
	cache   *buffer.Recent
	metrics *metrics
	wheel   wheel
	epoch   time.Time

	ctx    context.Context // the gateway's life; its end stops what runs in the background
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // what runs in the background

	draining  atomic.Bool
	closing   atomic.Bool
	killed    atomic.Bool
	streams   atomic.Int64 // open, greeted or not
	sessions  atomic.Int64 // places taken; at most MaxSessions
	inFlight  atomic.Int64 // produces without an outcome
	beats     beats
	burst     burst
	peers     peers
	threshold threshold
	conns     conns
	crew      crew
	locals    locals

	mu          sync.Mutex // guards the following
	feeds       map[envelope.SessionID]*feed
	lingering   []lingering // in order of their end
	controllers map[string]*controller
}

// New returns a gateway that knows its Kafka and serves nobody yet. ctx bounds
// the start only.
func New(ctx context.Context, cfg Config) (*Gateway, error) {
	cfg, err := cfg.resolve()
	if err != nil {
		return nil, err
	}
	if cfg.Heartbeat > session.MostHeartbeat {
		return nil, fmt.Errorf("gateway: heartbeats every %v; at most every %v", cfg.Heartbeat, session.MostHeartbeat)
	}
	k, err := dial(ctx, cfg.Bridge)
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	if _, err := k.Topic(ctx, k.GatewaysTopic()); err != nil {
		k.Close()
		return nil, fmt.Errorf("gateway: %w; create it with: moorage topics create", err)
	}
	return start(cfg, k), nil
}

// start returns a running gateway over k, which it will close.
func start(cfg Config, k kafka) *Gateway {
	g := &Gateway{
		cfg: cfg, k: k, epoch: time.Now(),
		cache:       buffer.NewRecent(cfg.CacheBytes),
		feeds:       make(map[envelope.SessionID]*feed),
		controllers: make(map[string]*controller),
		health:      health.NewServer(),
	}
	var boot [8]byte
	rand.Read(boot[:]) // never fails
	g.self = envelope.Gateway{Boot: binary.BigEndian.Uint64(boot[:]), Name: cfg.Name}
	g.ctx, g.cancel = context.WithCancelCause(context.Background())
	g.crew = crew{ctx: g.ctx, wg: &g.wg, next: make(chan *stream)}
	g.metrics = newMetrics(g)
	g.srv = grpc.NewServer(g.serverOptions()...)
	linkv1.RegisterLinkServiceServer(g.srv, g)
	healthv1.RegisterHealthServer(g.srv, g.health)
	g.health.SetServingStatus(linkv1.LinkService_ServiceDesc.ServiceName, healthv1.HealthCheckResponse_SERVING)
	g.wheel.init(cfg.Heartbeat)
	g.wg.Go(g.turnWheel)
	g.wg.Go(g.keepHouse)
	g.wg.Go(g.watchStalls)
	g.wg.Go(g.followPeers)
	return g
}

func (g *Gateway) serverOptions() []grpc.ServerOption {
	creds := insecure.NewCredentials()
	if g.cfg.TLS != nil {
		creds = credentials.NewTLS(g.cfg.TLS)
	}
	return []grpc.ServerOption{
		grpc.Creds(creds),
		grpc.InTapHandle(tapped),
		grpc.WaitForHandlers(true),
		grpc.ConnectionTimeout(g.cfg.HelloTimeout),
		grpc.MaxConcurrentStreams(uint32(g.cfg.MaxStreams)),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxHeaderListSize(16 << 10),
		// Fixed windows, so that what an unread agent may send is known.
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		// A connection's read buffer is there all its life, and most are idle;
		// write buffers are shared.
		grpc.ReadBufferSize(4 << 10),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			// Heartbeats tell of dead streams; a ping is for a connection that has none.
			MaxConnectionIdle: 5 * time.Minute, Time: max(30*time.Second, 2*g.cfg.Heartbeat), Timeout: 20 * time.Second,
		}),
	}
}

// Serve accepts connections on lis until Drain, Close or Kill. It returns nil then.
func (g *Gateway) Serve(lis net.Listener) error {
	err := g.srv.Serve(g.conns.bound(lis, g.cfg.MaxStreams, g.metrics))
	if g.closing.Load() || g.killed.Load() || err == grpc.ErrServerStopped {
		return nil
	}
	return fmt.Errorf("gateway: %w", err)
}

// Close ends every stream with UNAVAILABLE, says DETACHED for each session,
// ends the local ones with GATEWAY_GONE, gives the queues a few seconds, and
// waits for everything it started.
func (g *Gateway) Close() error {
	if g.closing.Swap(true) {
		return nil
	}
	g.health.Shutdown()
	for _, l := range g.locals.end() {
		l.leave()
	}
	g.cutAll(errClosing)
	g.srv.Stop()
	g.locals.wait()
	g.flush(flushWait)
	return g.end()
}

// Kill drops everything at once, as SIGKILL would: no status, no DETACHED, no
// flush. For tests and demonstrations.
func (g *Gateway) Kill() {
	g.killed.Store(true)
	if g.closing.Swap(true) {
		return
	}
	g.conns.closeAll() // first of all, so that nothing can be said any more
	g.cancel(errClosing)
	for _, l := range g.locals.end() {
		l.cancel(errClosing)
	}
	var wg sync.WaitGroup
	wg.Go(func() { g.k.Close() })
	g.srv.Stop()
	g.locals.wait()
	wg.Wait()
	g.end()
}

// end stops what runs in the background. No handler runs any more.
func (g *Gateway) end() error {
	g.cancel(errClosing)
	g.wg.Wait()
	g.mu.Lock()
	feeds, controllers := maps.Clone(g.feeds), g.controllers
	g.lingering, g.controllers = nil, make(map[string]*controller)
	g.mu.Unlock()
	for _, f := range feeds {
		g.drop(f)
	}
	for _, c := range controllers {
		c.stop()
	}
	return g.k.Close()
}

// now is the time since the gateway's start, by the monotonic clock: what a
// session keeps of a time in 8 bytes.
func (g *Gateway) now() time.Duration { return time.Since(g.epoch) }

// put queues a record of a session and counts its outcome.
func (g *Gateway) put(p *partition, flow envelope.SessionID, r *envelope.Record, done func(offset int64, err error)) {
	g.inFlight.Add(1)
	p.queue.Put(flow, r, func(offset int64, err error) {
		g.inFlight.Add(-1)
		if err != nil {
			g.metrics.produceErrors.Inc()
		}
		if done != nil {
			done(offset, err)
		}
	})
}

// cutAll ends every stream there is.
func (g *Gateway) cutAll(err error) {
	for _, s := range g.attached() {
		s.cut(err)
	}
}

// attached returns the streams that hold a session now.
func (g *Gateway) attached() []*stream {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []*stream
	for _, f := range g.feeds {
		f.mu.Lock()
		if f.s != nil {
			all = append(all, f.s)
		}
		f.mu.Unlock()
	}
	return all
}
