// Package connector stands beside a controller and answers sessions of agent
// sides: for each it dials the service that the session asks for, on the
// local network. It never listens.
package connector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/moorage-dev/moorage/controller"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
	"github.com/moorage-dev/moorage/tunnel"
)

// A Config says what Run does.
type Config struct {
	// Services is what may be asked for: names and the host:port of each.
	Services map[string]string

	// Agents are the names, or patterns as of path.Match, of the agents that may
	// ask. None: any that a gateway lets in. What counts is the name that the
	// gateway verified, or, behind an insecure one, the name the agent gives itself.
	Agents []string

	// DialTimeout bounds how long a service may take to answer. 0: 10 s.
	DialTimeout time.Duration

	Log *slog.Logger // nil discards
}

// Check refuses what Run could not work with.
func (cfg *Config) Check() error {
	if len(cfg.Services) == 0 {
		return errors.New("connector: no service: name at least one, with its host:port")
	}
	for name, address := range cfg.Services {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return fmt.Errorf("connector: service %s: want host:port, got %q", name, address)
		}
	}
	for _, pattern := range cfg.Agents {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("connector: pattern %q of agents' names: %w", pattern, err)
		}
	}
	return nil
}

// Run answers the sessions of c until ctx ends or c fails, and returns when
// all are over. Those that are open then are reset.
func Run(ctx context.Context, cfg Config, c *controller.Controller) error {
	if err := cfg.Check(); err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		s, err := c.Accept(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		wg.Go(func() { cfg.handle(ctx, request(s.Info()), side{s}) })
	}
}

// request is what a session asks for.
func request(i controller.Info) asked {
	agent := i.Identity
	if agent == "" {
		agent = i.Agent
	}
	return asked{session: i.ID.String(), agent: agent, kind: i.Kind, service: i.Service}
}

type asked struct {
	session string
	agent   string
	kind    linkv1.ServiceKind
	service string
}

// A peer is the session that asks, as tests can play it too.
type peer interface {
	tunnel.Conn
	Accept()
	Reject(session.Ending)
}

// side is the controller's session as a peer.
type side struct{ *controller.Session }

func (s side) Abort(why error) {
	if why == errStopping {
		s.CloseWithReason(session.Ending{Reason: linkv1.Reason_REASON_CONTROLLER_GONE, Text: why.Error()})
		return
	}
	tunnel.Session{Conn: s.Conn}.Abort(why)
}

// errStopping ends what is open when Run ends.
var errStopping = errors.New("the connector is stopping")

// handle answers one session and returns when it is over.
func (cfg *Config) handle(ctx context.Context, a asked, s peer) {
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	log = log.With("session", a.session, "agent", a.agent, "service", a.service)
	local, why, err := cfg.reach(ctx, a)
	if why != nil {
		log.Warn("connector: session rejected", "reason", session.ReasonName(why.Reason), "text", why.Text, "err", err)
		s.Reject(*why)
		return
	}
	stop := context.AfterFunc(ctx, func() {
		s.Abort(errStopping)
		local.Abort(errStopping)
	})
	defer stop()
	s.Accept()
	log.Info("connector: session open", "address", local.RemoteAddr().String())
	if err := tunnel.Join(local, s); err != nil {
		log.Warn("connector: session broken", "err", err)
		return
	}
	log.Info("connector: session closed")
}

// reach connects to what is asked for, if this agent may and it is there. The
// texts name the service, never its address: that is no business of the
// agent's side. err is what the log may say beyond that.
func (cfg *Config) reach(ctx context.Context, a asked) (local tunnel.TCP, why *session.Ending, err error) {
	refuse := func(reason linkv1.Reason, format string, args ...any) *session.Ending {
		return &session.Ending{Reason: reason, Text: fmt.Sprintf(format, args...)}
	}
	if !cfg.allowed(a.agent) {
		return local, refuse(linkv1.Reason_REASON_REFUSED, "agent name %q is not allowed here", a.agent), nil
	}
	if a.kind != linkv1.ServiceKind_SERVICE_KIND_TCP {
		return local, refuse(linkv1.Reason_REASON_REFUSED, "this is a connector: it has TCP services only"), nil
	}
	address, ok := cfg.Services[a.service]
	if !ok {
		return local, refuse(linkv1.Reason_REASON_REFUSED, "unknown service %q", a.service), nil
	}
	timeout := cfg.DialTimeout
	if timeout == 0 {
		timeout = 10 * time.Second
	}
	d := net.Dialer{Timeout: timeout}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return local, refuse(linkv1.Reason_REASON_DIAL_FAILED, "service %q: %s", a.service, dialWord(err)), err
	}
	return tunnel.TCP{TCPConn: conn.(*net.TCPConn)}, nil, nil
}

func (cfg *Config) allowed(agent string) bool {
	return len(cfg.Agents) == 0 || slices.ContainsFunc(cfg.Agents, func(pattern string) bool {
		ok, _ := path.Match(pattern, agent) // Check has seen the pattern
		return ok
	})
}

// dialWord says what became of a dial without telling addresses.
func dialWord(err error) string {
	var timeout net.Error
	var dns *net.DNSError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.As(err, &dns):
		return "its host is unknown"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "no answer in time"
	case errors.Is(err, context.Canceled):
		return "the connector is stopping"
	}
	return "cannot be reached"
}
