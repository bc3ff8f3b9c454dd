package door

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// A Door lets legacy agents in.
type Door struct {
	cfg   Config
	log   *slog.Logger
	m     *metrics
	https *tls.Config // nil: no HTTPS
	web   *web
	grpc  *handover
	known sync.Map // controller → the last Description with something in it
	pace  pace
	opens *rate.Limiter

	places     chan struct{} // one for each session that is open or about to be
	handshakes chan struct{} // one for each TLS handshake under way

	present atomic.Int64 // connections

	mu       sync.Mutex         // guards the following
	greeting map[netip.Addr]int // connections that have not greeted yet
}

// New returns a door that is still shut.
func New(cfg Config) (*Door, error) {
	cfg, err := cfg.resolve()
	if err != nil {
		return nil, err
	}
	d := &Door{
		cfg: cfg, log: cfg.Log, m: newMetrics(cfg.Registerer),
		https:      httpsConfig(cfg.TLS),
		grpc:       newHandover(),
		pace:       pace{again: cfg.Again, seen: make(map[string]*paced)},
		opens:      rate.NewLimiter(rate.Limit(cfg.OpenRate), max(1, int(cfg.OpenRate))),
		places:     make(chan struct{}, cfg.Sessions),
		handshakes: make(chan struct{}, cfg.Handshakes),
		greeting:   make(map[netip.Addr]int),
	}
	d.web = newWeb(d)
	return d, nil
}

// Serve lets in who comes to l, until ctx ends: then it closes l and every
// connection that came from it, but for those that GRPC has handed out, and
// returns when they are over. Several may run at once.
func (d *Door) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(net.ErrClosed)
	r := &room{Door: d, lines: make(map[*line]struct{}), web: newHandover()}
	stop := context.AfterFunc(ctx, func() {
		_ = l.Close() // closed already at worst
		r.closeAll()
	})
	defer stop()
	srv := d.httpServer()
	var wg sync.WaitGroup
	srv.BaseContext = func(net.Listener) context.Context { return context.WithValue(ctx, joinedKey{}, &wg) }
	wg.Go(func() {
		_ = srv.Serve(r.web) // ends when web is closed, and not before
	})
	wg.Go(func() { r.watch(ctx) })
	err := r.accept(ctx, l)
	cancel(net.ErrClosed)
	_ = l.Close()
	_ = r.web.Close()
	_ = srv.Close() // what it serves was closed under it
	r.Door.web.transport.CloseIdleConnections()
	r.Door.web.ahead.drop()
	r.closeAll()
	r.empty.Wait() // first: what a line still needs is added to wg while it is open
	wg.Wait()
	r.busy.Wait()
	if ctx.Err() != nil && errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// A room is what one Serve has let in.
type room struct {
	*Door
	web   *handover
	busy  sync.WaitGroup // counts the goroutines of its lines, HTTP's apart
	empty sync.WaitGroup // counts its lines

	mu    sync.Mutex // guards the following
	lines map[*line]struct{}
	over  bool // closeAll was called
}

// accept takes connections until the listener ends. Each has a goroutine until
// it is handed on.
func (r *room) accept(ctx context.Context, l net.Listener) error {
	for pause := retryFirst; ; {
		c, err := l.Accept()
		if err == nil {
			pause = retryFirst
			if one := r.enter(c); one != nil {
				r.busy.Go(func() { r.visit(ctx, one) })
			}
			continue
		}
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("door: %w", net.ErrClosed)
		}
		if !temporary(err) {
			return fmt.Errorf("door: accept: %w", err)
		}
		// Out of descriptors or the like: others must leave first.
		d := r.Door
		d.log.Error("door cannot accept", "err", err)
		sleep(ctx, pause)
		pause = min(2*pause, time.Second)
	}
}

// temporary reports whether accepting may work again.
func temporary(err error) bool {
	t, ok := errors.AsType[interface {
		error
		Temporary() bool
	}](err)
	return ok && t.Temporary()
}

// enter gives a connection its place; nil: there is none, and it is closed.
func (r *room) enter(c net.Conn) *line {
	one := newLine(c)
	if !r.add(one) {
		r.m.refused.WithLabelValues(refusedFull).Inc()
		_ = c.Close() // nobody to tell
		return nil
	}
	one.left = func() {
		r.mu.Lock()
		delete(r.lines, one)
		r.mu.Unlock()
		r.m.connections.Set(float64(r.present.Add(-1)))
		r.empty.Done()
	}
	keepAlive(c)
	return one
}

func (r *room) add(one *line) bool {
	n := r.present.Add(1)
	if n > int64(r.cfg.Connections) {
		r.present.Add(-1)
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		r.present.Add(-1)
		return false
	}
	r.m.connections.Set(float64(n))
	r.lines[one] = struct{}{}
	r.empty.Add(1)
	return true
}

// closeAll closes every connection there is or will be.
func (r *room) closeAll() {
	r.mu.Lock()
	r.over = true
	r.mu.Unlock()
	for _, one := range r.all() {
		_ = one.Conn.Close() // whoever has it notices and ends it in order
	}
}
