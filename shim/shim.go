// Package shim stands beside an agent. It keeps a legacy door for it on a
// local port, runs the agent as its child if it is told to, and offers services
// of the controller on further ports: each connection becomes a session.
//
// A local connection lives as long as its session, whatever happens to links
// and gateways meanwhile; it only sees a pause. When the session ends for
// another reason than both ends being done, the connection is reset, and the
// reason stands in the log.
//
// An agent that is the shim's child never outlives it: it and all that it has
// started form a process group, and that dies with the shim, however the shim
// dies.
package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/moorage-dev/moorage/tunnel"
)

// A Forward is a local port and the service that its connections reach.
type Forward struct {
	Listener net.Listener // Run closes it
	Service  string
}

// A Config says what Run does.
type Config struct {
	Forwards []Forward

	// Door serves agents on DoorListener, which Run closes; nil: there is none.
	Door         Door
	DoorListener net.Listener
	// Link is the door's; Run watches its sessions. nil: none is watched.
	Link *Link
	// Agent is kept running beside the door; nil: nothing is started.
	Agent *Agent

	// Dial opens a session to a service. When it is refused, either Dial or the
	// connection's Read fails with the reason.
	Dial func(ctx context.Context, service string) (tunnel.Conn, error)

	// DialTimeout bounds Dial: how long a new connection waits while no gateway
	// can be reached. 0: 60 s.
	DialTimeout time.Duration

	// MaxConns bounds the connections at once; when it is reached, further ones
	// wait in the listeners' backlogs. 0: 1024.
	MaxConns int

	Log *slog.Logger // nil discards
}

// A Door is a *door.Door.
type Door interface {
	Serve(ctx context.Context, l net.Listener) error
}

// Run serves until ctx ends, a listener fails or the agent has ended for good,
// and returns when the last connection is closed. The agent is ended first, so
// that it can leave in good order; connections that are open then are reset.
// An agent that ended with another exit code than 0 is an *ExitError.
func Run(ctx context.Context, cfg Config) error {
	if cfg.MaxConns == 0 {
		cfg.MaxConns = 1024
	}
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = time.Minute
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &server{cfg: cfg, slots: make(chan struct{}, cfg.MaxConns)}
	for _, f := range cfg.Forwards {
		stop := context.AfterFunc(ctx, func() { _ = f.Listener.Close() }) // unblocks Accept, which reports what matters
		defer stop()
		s.wg.Go(func() {
			if err := s.accept(ctx, f); err != nil {
				cancel(err)
			}
		})
	}
	// The door stays open until the agent has closed its connections.
	doors, shut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer shut(nil)
	if cfg.Door != nil {
		s.wg.Go(func() {
			if err := cfg.Door.Serve(doors, cfg.DoorListener); err != nil && doors.Err() == nil {
				cancel(&serveError{err})
			}
		})
	}
	if cfg.Link != nil {
		s.wg.Go(func() { cfg.Link.Watch(doors) })
	}
	var ended error
	if cfg.Agent != nil {
		ended = cfg.Agent.run(ctx, cfg.Log)
		cancel(errAgentEnded)
	}
	<-ctx.Done()
	shut(context.Cause(ctx))
	s.wg.Wait()
	if err := context.Cause(ctx); errors.As(err, new(*acceptError)) || errors.As(err, new(*serveError)) {
		return err
	}
	return ended
}

var errAgentEnded = errors.New("the agent has ended")

// A serveError is the end of a door that nobody asked for.
type serveError struct{ err error }

func (e *serveError) Error() string { return fmt.Sprintf("shim: the door: %v", e.err) }
func (e *serveError) Unwrap() error { return e.err }

type server struct {
	cfg   Config
	slots chan struct{} // one element per open connection
	wg    sync.WaitGroup
}

// An acceptError is the end of a listener that nobody asked for.
type acceptError struct {
	address net.Addr
	err     error
}

func (e *acceptError) Error() string { return fmt.Sprintf("shim: accept on %s: %v", e.address, e.err) }
func (e *acceptError) Unwrap() error { return e.err }

func (s *server) accept(ctx context.Context, f Forward) error {
	for {
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		c, err := f.Listener.Accept()
		if err != nil {
			<-s.slots
			switch {
			case ctx.Err() != nil:
				return nil
			case isTemporary(err):
				// Out of file descriptors: those in use must be freed first.
				s.cfg.Log.Warn("shim: cannot accept now", "address", f.Listener.Addr().String(), "err", err)
				pause(ctx, 100*time.Millisecond)
				continue
			}
			return &acceptError{f.Listener.Addr(), err}
		}
		s.wg.Go(func() {
			defer func() { <-s.slots }()
			s.serve(ctx, f.Service, tunnel.TCP{TCPConn: c.(*net.TCPConn)})
		})
	}
}

func isTemporary(err error) bool {
	var e interface{ Temporary() bool }
	return errors.As(err, &e) && e.Temporary()
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// serve carries one connection.
func (s *server) serve(ctx context.Context, service string, local tunnel.TCP) {
	log := s.cfg.Log.With("service", service, "client", local.RemoteAddr().String())
	session, err := s.dial(ctx, service)
	if err != nil {
		log.Warn("shim: connection refused", "err", err)
		local.Abort(err)
		return
	}
	stop := context.AfterFunc(ctx, func() {
		session.Abort(context.Cause(ctx))
		local.Abort(context.Cause(ctx))
	})
	defer stop()
	log.Debug("shim: connection open")
	if err := tunnel.Join(local, session); err != nil {
		log.Warn("shim: connection broken", "err", err)
		return
	}
	log.Debug("shim: connection closed")
}

func (s *server) dial(ctx context.Context, service string) (tunnel.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.DialTimeout)
	defer cancel()
	return s.cfg.Dial(ctx, service)
}
