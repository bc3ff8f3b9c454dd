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
	"syscall"
	"time"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/tunnel"
)

// A Session is what an agent side opened, as the connector needs it.
type Session interface {
	tunnel.Conn

	// Accept lets the session's bytes flow.
	Accept() error

	// Reject ends the session instead; text reaches the human on the agent's side.
	Reject(reason linkv1.Reason, text string) error
}

// A Config says what Handle does.
type Config struct {
	// Services is what may be asked for: names and the host:port of each.
	Services map[string]string

	// Agents are the names, or patterns as of path.Match, of the agents that may
	// ask. None: any that a gateway lets in.
	Agents []string

	// DialTimeout bounds how long a service may take to answer. 0: 10 s.
	DialTimeout time.Duration

	Log *slog.Logger // nil discards
}

// Check refuses what Handle could not work with.
func (c *Config) Check() error {
	if len(c.Services) == 0 {
		return errors.New("connector: no service: name at least one, with its host:port")
	}
	for name, address := range c.Services {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return fmt.Errorf("connector: service %s: want host:port, got %q", name, address)
		}
	}
	for _, pattern := range c.Agents {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("connector: pattern %q of agents' names: %w", pattern, err)
		}
	}
	return nil
}

// Handle answers one session and returns when it is over. It may be called
// concurrently, once per session. When ctx ends, both sides are reset.
func (c *Config) Handle(ctx context.Context, agent, service string, s Session) {
	log := c.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	log = log.With("agent", agent, "service", service)
	local, refusal := c.reach(ctx, agent, service)
	if refusal != nil {
		log.Warn("connector: session rejected", "reason", reasonName(refusal.reason), "text", refusal.text)
		if err := s.Reject(refusal.reason, refusal.text); err != nil {
			log.Warn("connector: cannot tell the agent side", "err", err)
		}
		return
	}
	stop := context.AfterFunc(ctx, func() {
		s.Abort(context.Cause(ctx))
		local.Abort(context.Cause(ctx))
	})
	defer stop()
	if err := s.Accept(); err != nil {
		log.Warn("connector: session ended before it began", "err", err)
		local.Abort(err)
		return
	}
	log.Debug("connector: session open", "address", local.RemoteAddr().String())
	if err := tunnel.Join(local, s); err != nil {
		log.Warn("connector: session broken", "err", err)
		return
	}
	log.Debug("connector: session closed")
}

// A refusal is why a session is rejected.
type refusal struct {
	reason linkv1.Reason
	text   string
}

// reach connects to the service, if this agent may and it is there. The texts
// name the service, never its address: that is no business of the agent's side.
func (c *Config) reach(ctx context.Context, agent, service string) (tunnel.TCP, *refusal) {
	if !c.allowed(agent) {
		return tunnel.TCP{}, &refusal{linkv1.Reason_REASON_REFUSED, fmt.Sprintf("agent name %q is not allowed here", agent)}
	}
	address, ok := c.Services[service]
	if !ok {
		return tunnel.TCP{}, &refusal{linkv1.Reason_REASON_REFUSED, fmt.Sprintf("unknown service %q", service)}
	}
	timeout := c.DialTimeout
	if timeout == 0 {
		timeout = 10 * time.Second
	}
	d := net.Dialer{Timeout: timeout}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		c.logDial(service, address, err)
		return tunnel.TCP{}, &refusal{linkv1.Reason_REASON_DIAL_FAILED, fmt.Sprintf("service %q: %s", service, dialWord(err))}
	}
	return tunnel.TCP{TCPConn: conn.(*net.TCPConn)}, nil
}

func (c *Config) logDial(service, address string, err error) {
	if c.Log != nil {
		c.Log.Warn("connector: cannot reach service", "service", service, "address", address, "err", err)
	}
}

func (c *Config) allowed(agent string) bool {
	return len(c.Agents) == 0 || slices.ContainsFunc(c.Agents, func(pattern string) bool {
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

func reasonName(r linkv1.Reason) string { return r.String()[len("REASON_"):] }
