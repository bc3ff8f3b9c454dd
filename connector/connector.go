// Package connector stands beside a controller and answers sessions of agent
// sides: for each it dials, on the local network, what the session asks for. It
// never listens.
//
// Beside TCP services that are named one by one, it serves legacy agents of one
// Jenkins or Hudson. It finds that controller's agent port by the look-up that
// an agent makes, publishes what it learned, and carries Remoting connections,
// HTTP and WebSockets to it. An end of either side becomes the same end of the
// other: a FIN a FIN, a reset a reset, and never a TLS close_notify.
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

	// Jenkins is the controller whose legacy agents are served; nil: none is, and
	// their sessions are refused.
	Jenkins *Jenkins

	// Agents are the names, or patterns as of path.Match, of the agents that may
	// ask. None: any that a gateway lets in. What counts is the name that the
	// gateway verified; where it verified none, the name that the legacy agent
	// shows, or else the one the agent side gives itself. HTTP sessions that come
	// straight from a gateway are nobody's and always pass.
	Agents []string

	// DialTimeout bounds how long a service may take to answer. 0: 10 s.
	DialTimeout time.Duration

	// Hold is how long a legacy agent's session waits for a Jenkins that cannot
	// be reached, before it is rejected. 0: 5 min.
	Hold time.Duration

	Log *slog.Logger // nil discards
}

// Defaults of Config.
const (
	DefaultDialTimeout = 10 * time.Second
	DefaultHold        = 5 * time.Minute
)

// Check refuses what Run could not work with.
func (cfg *Config) Check() error {
	if len(cfg.Services) == 0 && cfg.Jenkins == nil {
		return errors.New("connector: nothing to connect to: name a Jenkins, or at least one service with its host:port")
	}
	for name, address := range cfg.Services {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return fmt.Errorf("connector: service %s: want host:port, got %q", name, address)
		}
	}
	if cfg.Jenkins != nil {
		if err := cfg.Jenkins.check(); err != nil {
			return err
		}
	}
	if cfg.Hold < 0 || cfg.DialTimeout < 0 {
		return errors.New("connector: a time below 0")
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
	cn, err := newConnector(cfg, c.Publish)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if cn.jenkins != nil {
		wg.Go(func() { cn.jenkins.watch(ctx) })
	}
	for {
		s, err := c.Accept(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		wg.Go(func() { cn.handle(ctx, side{s}) })
	}
}

// A connector is one Run.
type connector struct {
	cfg     Config
	log     *slog.Logger
	jenkins *neighbour // nil: none
	same    same
	dials   map[linkv1.ServiceKind]chan struct{} // one token per dial of a legacy kind under way; who finds it full waits
}

// maxDials bounds the dials of one kind under way: a thousand agents that come
// back at once are brought to their controller one after the other, and an
// agent port that hangs does not keep look-ups from the HTTP port.
const maxDials = 64

func newConnector(cfg Config, publish func(*linkv1.Jenkins)) (*connector, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = DefaultDialTimeout
	}
	if cfg.Hold == 0 {
		cfg.Hold = DefaultHold
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &connector{cfg: cfg, log: cfg.Log, dials: make(map[linkv1.ServiceKind]chan struct{})}
	if cfg.Jenkins != nil {
		for _, kind := range legacyKinds {
			c.dials[kind] = make(chan struct{}, maxDials)
		}
		c.jenkins = newNeighbour(*cfg.Jenkins, cfg.DialTimeout, cfg.Log, publish)
	}
	return c, nil
}

// A peer is the session that asks, as tests can play it too.
type peer interface {
	tunnel.Conn
	Info() controller.Info
	AcceptWith(*linkv1.Accept)
	Reject(session.Ending)
	CloseWithReason(session.Ending)
	Done() <-chan struct{}
	Err() error
	Waits(string)
	Probe()
	LimitGrace(time.Duration)
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

// pingsBear is the longest outage that Remoting's own pings may survive: they
// come every 300 s and wait for 240 s. What is detached longer is lost, whatever
// the controller's grace is.
const pingsBear = 540 * time.Second

// errStopping ends what is open when Run ends.
var errStopping = errors.New("the connector is stopping")

// errOver ends what is done for a session that has ended meanwhile.
var errOver = errors.New("the session has ended")

// handle answers one session and returns when it is over.
func (c *connector) handle(ctx context.Context, s peer) {
	i := s.Info()
	log := c.log.With("session", i.ID.String(), "agent", nameOf(i))
	if i.Kind == linkv1.ServiceKind_SERVICE_KIND_TCP {
		log = log.With("service", i.Service)
	} else {
		log = log.With("protocol", protocolOf(i))
	}
	place := c.same.arrive(i, s)
	defer place.leave()
	local, why, err := c.open(ctx, i, s, place)
	if why != nil {
		log = log.With("reason", session.ReasonName(why.Reason), "text", why.Text)
		if err != nil {
			log = log.With("err", err) // without one, the text says it all
		}
		log.Warn("connector: session rejected")
		s.Reject(*why)
		return
	}
	place.dialled = true
	stop := context.AfterFunc(ctx, func() {
		s.Abort(errStopping)
		local.abort(errStopping)
	})
	defer stop()
	if i.Kind != linkv1.ServiceKind_SERVICE_KIND_TCP {
		s.LimitGrace(pingsBear)
	}
	s.AcceptWith(local.answer)
	log.Info("connector: session open", "address", local.address)
	err = local.join(s)
	if ended, ok := errors.AsType[*session.EndedError](s.Err()); ok {
		log = log.With("reason", session.ReasonName(ended.Reason), "text", ended.Text)
	}
	if keyOf(i) != "" {
		c.jenkins.look() // it may have ended because its controller did, and that may be another one when it is back
	}
	i = s.Info()
	log = log.With("up", i.Up, "down", i.Down)
	if err != nil {
		log.Warn("connector: session broken", "err", err)
		return
	}
	log.Info("connector: session closed")
}

// A local is the connection that a session was given.
type local struct {
	abort   func(why error)
	address string
	answer  *linkv1.Accept            // nil: nothing is said beside yes
	join    func(s tunnel.Conn) error // carries both ways until both are over
}

// open connects to what is asked for, if this agent may and it is there. The
// texts name the service, never its address: that is no business of the
// agent's side. err is what the log may say beyond that.
func (c *connector) open(ctx context.Context, i controller.Info, s peer, place *place) (*local, *session.Ending, error) {
	if who, ok := c.allowed(i); !ok {
		return nil, refusal("agent name %q is not allowed here", who), nil
	}
	if i.Kind == linkv1.ServiceKind_SERVICE_KIND_TCP {
		return c.service(ctx, i.Service)
	}
	try, what, why := c.legacy(i)
	if why != nil {
		return nil, why, nil
	}
	// Whoever waits learns here that the session has ended, and only here:
	// afterwards its bytes tell.
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	wg.Go(func() {
		select {
		case <-s.Done():
			cancel(errOver)
		case <-ctx.Done():
		}
	})
	if err := place.wait(ctx); err != nil {
		return nil, gone(err), err
	}
	return c.keepTrying(ctx, s, i.Kind, what, try)
}

// service dials a TCP service, once.
func (c *connector) service(ctx context.Context, name string) (*local, *session.Ending, error) {
	address, ok := c.cfg.Services[name]
	if !ok {
		return nil, refusal("unknown service %q", name), nil
	}
	d := net.Dialer{Timeout: c.cfg.DialTimeout}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, dialFailed("service %q: %s", name, dialWord(err)), err
	}
	tcp := tunnel.TCP{TCPConn: conn.(*net.TCPConn)}
	return &local{abort: tcp.Abort, address: address, join: func(s tunnel.Conn) error { return tunnel.Join(tcp, s) }}, nil, nil
}

func refusal(format string, args ...any) *session.Ending {
	return &session.Ending{Reason: linkv1.Reason_REASON_REFUSED, Text: fmt.Sprintf(format, args...)}
}

func dialFailed(format string, args ...any) *session.Ending {
	return &session.Ending{Reason: linkv1.Reason_REASON_DIAL_FAILED, Text: fmt.Sprintf(format, args...)}
}

// gone is the ending of a session that nobody waits for any more. One that
// has ended keeps its own.
func gone(err error) *session.Ending {
	if errors.Is(err, errOver) {
		return dialFailed("%v", errOver)
	}
	return &session.Ending{Reason: linkv1.Reason_REASON_CONTROLLER_GONE, Text: errStopping.Error()}
}

// allowed says who asks, and whether they may.
func (c *connector) allowed(i controller.Info) (who string, ok bool) {
	who = i.Identity
	if who == "" {
		who = nameOf(i)
	}
	if len(c.cfg.Agents) == 0 || i.Kind == linkv1.ServiceKind_SERVICE_KIND_HTTP && who == "" {
		return who, true
	}
	return who, slices.ContainsFunc(c.cfg.Agents, func(pattern string) bool {
		ok, _ := path.Match(pattern, who) // Check has seen the pattern
		return ok
	})
}

// nameOf is the name by which people know the agent of a session.
func nameOf(i controller.Info) string {
	if name := i.Remoting.GetAgent(); name != "" {
		return name
	}
	if i.Identity != "" {
		return i.Identity
	}
	return i.Agent
}

func protocolOf(i controller.Info) string {
	switch i.Kind {
	case linkv1.ServiceKind_SERVICE_KIND_HTTP:
		return "HTTP"
	case linkv1.ServiceKind_SERVICE_KIND_WEBSOCKET:
		return "WebSocket"
	}
	return i.Remoting.GetProtocol()
}
