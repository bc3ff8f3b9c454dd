package standin

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/moorage-dev/moorage/remoting"
)

// How long agents wait.
const (
	retrySleep  = 10 * time.Second
	probeWait   = 5 * time.Second
	readyWait   = 5 * time.Second
	lookupWait  = 60 * time.Second
	hudsonTries = 10
)

// An Agent is a stand-in for an agent.jar; its fields are that one's options.
// Idle and online it costs one goroutine, Run's.
type Agent struct {
	Name, Secret string

	// One of these says how it finds its controller.
	URL    string // -url: look-up by HTTP, then TCP, or a WebSocket
	Direct string // -direct: host:port of the agent port; needs Identity

	// JNLPURL is -jnlpUrl: a file that tells URL, Name, WebSocket and Tunnel.
	// Secret alone is needed, to decrypt it; without one it is asked for in
	// clear, and tells the secret too.
	JNLPURL string

	// WebSocket is -webSocket, with URL.
	WebSocket bool

	// Headers are -webSocketHeader, on the upgrade request alone.
	Headers map[string]string

	// Hudson makes it one of Hudson's age, with URL: JNLP2-connect, then
	// JNLP-connect, and a process that ends where a modern one tries again.
	Hudson bool

	// Identity is -instanceIdentity.
	Identity string

	// Tunnel is -tunnel, with URL: host:port, host: or :port.
	Tunnel string

	// Protocols is -protocols, with Direct or Hudson. Nil: JNLP4-connect-proxy,
	// then JNLP4-connect; or JNLP2-connect, then JNLP-connect.
	Protocols []string

	// NoReconnect is -noReconnect: Run returns after the first lost channel.
	NoReconnect bool

	// FreshJVM forgets the cookie with each channel, as an agent does that
	// executes itself anew after each: stock controllers have permanent agents
	// do so.
	FreshJVM bool

	// MaxTLS is the highest version of TLS in JNLP4. Zero: 1.3.
	MaxTLS uint16

	// TLS is for https and wss. Nil: the system's trust.
	TLS *tls.Config

	// Pings are the pings from the agent's end of the channel.
	Pings Pings

	// Dial makes all connections. Nil: a net.Dialer does.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// Observe is told of every change, in order; nil: nobody is. It must not
	// block.
	Observe func(Event)

	// Log is told the same; nil: nobody is.
	Log *slog.Logger
}

// A State is what an agent has come to.
type State int

// The states.
const (
	Online  State = iota // the channel is up
	Offline              // the channel is gone: Err says why
	Failed               // a look-up or handshake was for nothing: Err says why
)

func (s State) String() string { return [...]string{"online", "offline", "failed"}[s] }

// An Event is a change of an agent's state.
type Event struct {
	State    State
	Protocol string
	Err      error // nil when Online
	Pings    int64 // WebSocket pings received on the channel, when Offline
}

// An ExitError reports that the agent's process would have ended, and how.
type ExitError struct {
	Code int
	Err  error
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("standin: agent exits with %d: %v", e.Code, e.Err)
}
func (e *ExitError) Unwrap() error { return e.Err }

// ErrReset, as the cause that ends Run's context, has the agent reset its
// connection instead of closing it.
var ErrReset = errors.New("standin: the agent is to reset its connection")

// run is one Run of an Agent.
type run struct {
	*Agent
	cookie   string
	endpoint endpoint
}

// An endpoint is where an agent port is, and who answers there.
type endpoint struct {
	host      string // as it was named: for SNI
	addr      string
	spki      []byte
	protocols []string
}

// Run is the life of the agent's process. It returns when ctx ends, with its
// cause, or with an ExitError where the real process ends.
func (a *Agent) Run(ctx context.Context) error {
	r := &run{Agent: a}
	if a.JNLPURL != "" {
		if err := r.start(ctx); err != nil {
			return err
		}
	}
	switch {
	case r.Hudson:
		return r.hudson(ctx)
	case r.WebSocket:
		return r.webSocket(ctx)
	case r.Direct != "":
		return r.direct(ctx)
	}
	return r.lookups(ctx)
}

// lookups is the loop of -url.
func (r *run) lookups(ctx context.Context) error {
	for {
		err := r.lookup(ctx)
		lost := false
		if exit, ok := errors.AsType[*ExitError](err); ok {
			if exit.Code == 0 && sleep(ctx, retrySleep) != nil {
				return context.Cause(ctx)
			}
			return err
		}
		if err == nil {
			err = r.connected(ctx)
			lost = err == nil
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && r.NoReconnect:
			return &ExitError{1, err}
		case err != nil:
			r.tell(Event{State: Failed, Err: err})
		case r.NoReconnect:
			return &ExitError{0, errors.New("no reconnect")}
		}
		if err := sleep(ctx, retrySleep); err != nil {
			return err
		}
		if lost {
			if err := r.ready(ctx); err != nil {
				return err
			}
		}
	}
}

// direct is the loop of -direct: a lost channel is followed by a new one
// without any delay.
func (r *run) direct(ctx context.Context) error {
	spki, err := remoting.ParseIdentity(r.Identity)
	if err != nil {
		return &ExitError{1, err}
	}
	host, _, err := net.SplitHostPort(r.Direct)
	if err != nil {
		return &ExitError{1, err}
	}
	protocols := r.Protocols
	if len(protocols) == 0 {
		protocols = []string{remoting.JNLP4Proxy, remoting.JNLP4}
	}
	r.endpoint = endpoint{host, r.Direct, spki, protocols}
	for {
		err := r.connected(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && r.NoReconnect:
			return &ExitError{1, err}
		case err != nil:
			r.tell(Event{State: Failed, Err: err})
			if err := sleep(ctx, retrySleep); err != nil {
				return err
			}
		case r.NoReconnect:
			return &ExitError{0, errors.New("no reconnect")}
		}
	}
}

// connected tries the protocols in order and lives with the first that works
// until its channel ends. The error says why none did.
func (r *run) connected(ctx context.Context) error {
	var all error
	for _, protocol := range r.endpoint.protocols {
		l, cookie, remote, err := r.handshake(ctx, protocol)
		if err != nil {
			all = errors.Join(all, fmt.Errorf("%s: %w", protocol, err))
			continue
		}
		r.cookie = cookie
		r.live(ctx, newChannel(l, protocol, cookie, remote, r.Pings))
		return nil
	}
	return all
}

// live runs a channel to its end.
func (r *run) live(ctx context.Context, ch *channel) {
	stop := context.AfterFunc(ctx, func() {
		how := EndFIN
		if errors.Is(context.Cause(ctx), ErrReset) {
			how = EndReset
		}
		ch.end(context.Cause(ctx), how)
	})
	defer stop()
	r.tell(Event{State: Online, Protocol: ch.protocol})
	err := ch.run()
	var pings int64
	if l, ok := ch.line.(*socketLine); ok {
		pings = l.pings.Load()
	}
	r.tell(Event{State: Offline, Protocol: ch.protocol, Err: err, Pings: pings})
	if r.FreshJVM {
		r.cookie = ""
	}
}

// handshake connects and logs in by one protocol of the agent port.
func (r *run) handshake(ctx context.Context, protocol string) (l line, cookie, remote string, err error) {
	conn, err := r.dial(ctx, "tcp", r.endpoint.addr)
	if err != nil {
		return nil, "", "", err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	raw := &socket{Conn: conn}
	switch protocol {
	case remoting.JNLP1, remoting.JNLP2:
		l = raw
		cookie, err = agentOld(raw, protocol, r.Name, r.Secret, r.cookie)
	default:
		var first []byte
		if protocol == remoting.JNLP4Proxy {
			first = remoting.AppendProxyBlock(remoting.AppendGreeting(nil, protocol), r.Name)
		}
		headers := remoting.Headers{remoting.KeyNodeName: &r.Name, remoting.KeySecret: &r.Secret}
		if r.cookie != "" {
			headers[remoting.KeyCookie] = new(r.cookie)
		}
		l, cookie, err = agentJNLP4(ctx, raw, first, clientTLS(r.endpoint.spki, r.endpoint.host, r.MaxTLS), headers)
	}
	if err != nil {
		raw.Close()
		return nil, "", "", err
	}
	return l, cookie, conn.RemoteAddr().String(), nil
}

func (r *run) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if r.Dial != nil {
		return r.Dial(ctx, network, addr)
	}
	return new(net.Dialer).DialContext(ctx, network, addr)
}

func (r *run) tell(e Event) {
	if r.Observe != nil {
		r.Observe(e)
	}
	if r.Log != nil {
		r.Log.Info(e.State.String(), "agent", r.Name, "protocol", e.Protocol, "err", e.Err)
	}
}

// tunnelled is an address with the parts that -tunnel replaces.
func (a *Agent) tunnelled(host, port string) (string, error) {
	if a.Tunnel == "" {
		return net.JoinHostPort(host, port), nil
	}
	tunnelHost, tunnelPort, err := net.SplitHostPort(a.Tunnel)
	if err != nil {
		return "", &ExitError{1, err}
	}
	return net.JoinHostPort(cmp.Or(tunnelHost, host), cmp.Or(tunnelPort, port)), nil
}

// root is URL with a slash at its end.
func (a *Agent) root() string { return strings.TrimSuffix(a.URL, "/") + "/" }

// sleep waits; the error says that ctx ended.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
