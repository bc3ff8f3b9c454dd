package standin

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moorage-dev/moorage/remoting"
)

// A Config says what a controller is like.
type Config struct {
	// ListenHTTP and ListenTCP are the addresses of the two ports. Empty: any
	// free port of 127.0.0.1. HTTP and TCP, if set, are used instead of them.
	ListenHTTP, ListenTCP string
	HTTP, TCP             net.Listener

	// TLS makes the HTTP port speak HTTPS; nil: it does not.
	TLS *tls.Config

	// Prefix is the path under which the HTTP port answers. Empty: the root.
	Prefix string

	// Identity is the instance identity's key; nil: a new one.
	Identity *rsa.PrivateKey

	// MaxTLS is the highest version of TLS in JNLP4. Zero: 1.3.
	MaxTLS uint16

	// Key derives the agents' secrets; empty: 32 random bytes.
	Key []byte

	// Nodes are the names that are known; nil: every name is.
	Nodes []string

	// Hudson makes it an old one: JNLP2-connect and JNLP-connect in clear, and
	// no WebSocket.
	Hudson bool

	// Protocols are the names that the agent port knows. Nil: JNLP4-connect and
	// Ping; with Hudson JNLP-connect, JNLP2-connect and Ping.
	Protocols []string

	// LoginCalls is how many calls the controller makes, one after the other,
	// before it counts an agent as online. Zero: 6, as many as a stock one makes
	// at least. Negative: none.
	LoginCalls int

	// Pings are the pings on channels from the controller's end.
	Pings Pings

	// SocketPing is the time between two pings of a WebSocket; the first comes
	// after half of it. Zero: 30 s.
	SocketPing time.Duration

	// Options are what agent files tell beside secret, name and URL.
	Options []string

	// Jar is what /jnlpJars/ serves. Nil: 1 MiB of something.
	Jar []byte

	// Log is told of agents that come and go; nil: nobody is.
	Log *slog.Logger
}

// A Controller is a stand-in for a Jenkins or Hudson controller. Its methods
// may be called concurrently.
type Controller struct {
	URL       string // of the HTTP port, with a slash at the end
	AgentAddr string // host:port of the agent port
	Identity  string // base64, for an agent's -instanceIdentity

	cfg       Config
	identity  identity
	http, tcp net.Listener
	port      string // of AgentAddr

	mu      sync.Mutex
	changed chan struct{} // closed and renewed whenever agents does
	agents  map[string]*connected
	open    map[net.Conn]bool // connections of the agent port
	stats   Stats
	stopped bool
	wg      sync.WaitGroup
}

// A connected agent has a channel; it is online once the log-in's calls are
// done.
type connected struct {
	ch     *channel
	since  time.Time
	online bool
}

// A Connected is what a controller knows of an agent that is online.
type Connected struct {
	Name     string
	Protocol string
	Remote   string // the address it came from
	Since    time.Time
}

// Stats count what has happened at a controller since it was made.
type Stats struct {
	Probes       int            // connections of the agent port that ended without a byte
	Connections  int            // the others
	Online       int            // times an agent came online
	Lost         int            // channels that ended
	Refused      map[string]int // refusals by their text, names left out
	CloseNotify  int            // channels left deaf by a TLS close_notify
	Corrupt      int            // channels ended by ErrCorrupt
	Commands     map[string]int // commands that agents sent, by class
	Bytes        int64          // of these commands
	Requests     map[string]int // HTTP requests by path, with the agent's name replaced by NAME
	NoACK        int            // handshakes given up for want of an ACK
	PingsMissing int            // channels ended because a ping had no answer
	Pongs        int            // answers to pings of WebSockets
}

// NewController opens the two ports. Run makes them answer.
func NewController(cfg Config) (*Controller, error) {
	id, err := newIdentity(cfg.Identity)
	if err != nil {
		return nil, fmt.Errorf("standin: identity: %w", err)
	}
	if len(cfg.Key) == 0 {
		cfg.Key = make([]byte, 32)
		rand.Read(cfg.Key) // never fails
	}
	if cfg.LoginCalls == 0 {
		cfg.LoginCalls = 6
	}
	if cfg.Jar == nil {
		cfg.Jar = make([]byte, 1<<20)
		contents(1).Read(cfg.Jar) // never fails
	}
	cfg.SocketPing = cmp.Or(cfg.SocketPing, wsPing)
	cfg.Log = cmp.Or(cfg.Log, slog.New(slog.DiscardHandler))
	cfg.Prefix = strings.TrimSuffix("/"+strings.Trim(cfg.Prefix, "/"), "/")
	c := &Controller{
		Identity: id.text, cfg: cfg, identity: id, http: cfg.HTTP, tcp: cfg.TCP,
		changed: make(chan struct{}), agents: map[string]*connected{}, open: map[net.Conn]bool{},
		stats: Stats{Refused: map[string]int{}, Commands: map[string]int{}, Requests: map[string]int{}},
	}
	if c.http == nil {
		if c.http, err = net.Listen("tcp", cmp.Or(cfg.ListenHTTP, "127.0.0.1:0")); err != nil {
			return nil, fmt.Errorf("standin: %w", err)
		}
	}
	if c.tcp == nil {
		if c.tcp, err = net.Listen("tcp", cmp.Or(cfg.ListenTCP, "127.0.0.1:0")); err != nil {
			c.http.Close()
			return nil, fmt.Errorf("standin: %w", err)
		}
	}
	scheme := "http"
	if cfg.TLS != nil {
		scheme = "https"
	}
	c.URL = scheme + "://" + c.http.Addr().String() + cfg.Prefix + "/"
	c.AgentAddr = c.tcp.Addr().String()
	if _, c.port, err = net.SplitHostPort(c.AgentAddr); err != nil {
		return nil, fmt.Errorf("standin: %w", err)
	}
	return c, nil
}

// Run answers until ctx ends. Then it closes every connection, as the kernel
// does for a process that was killed.
func (c *Controller) Run(ctx context.Context) error {
	server := &http.Server{Handler: c.handler(), ReadHeaderTimeout: 30 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0), TLSConfig: c.cfg.TLS}
	// WebSockets need HTTP/1.1.
	server.Protocols = new(http.Protocols)
	server.Protocols.SetHTTP1(true)
	c.wg.Go(func() {
		if c.cfg.TLS != nil {
			_ = server.ServeTLS(c.http, "", "") // ends with Close
			return
		}
		_ = server.Serve(c.http)
	})
	c.wg.Go(c.accept)
	<-ctx.Done()

	c.tcp.Close()
	c.mu.Lock()
	c.stopped = true
	live := slices.Collect(maps.Values(c.agents))
	for conn := range c.open {
		conn.Close()
	}
	c.mu.Unlock()
	for _, a := range live {
		a.ch.disconnect(errHere, EndFIN)
	}
	server.Close()
	c.wg.Wait()
	return context.Cause(ctx)
}

// Secret is the secret of an agent of that name.
func (c *Controller) Secret(name string) string { return Secret(c.cfg.Key, name) }

// Secret is what a controller with that Key has an agent of that name say.
func Secret(key []byte, name string) string { return remoting.Secret(key, name) }

// Stats returns what has been counted so far.
func (c *Controller) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Refused, s.Commands, s.Requests = maps.Clone(s.Refused), maps.Clone(s.Commands), maps.Clone(s.Requests)
	return s
}

func (c *Controller) count(add func(*Stats)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	add(&c.stats)
}

// Agents are those online, by name.
func (c *Controller) Agents() []Connected {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []Connected
	for name, a := range c.agents {
		if a.online {
			all = append(all, Connected{name, a.ch.protocol, a.ch.remote, a.since})
		}
	}
	slices.SortFunc(all, func(a, b Connected) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// WaitAgents waits until as many agents are online.
func (c *Controller) WaitAgents(ctx context.Context, n int) error {
	return c.wait(ctx, func() bool {
		online := 0
		for _, a := range c.agents {
			if a.online {
				online++
			}
		}
		return online == n
	})
}

// WaitOnline waits until the agent is online.
func (c *Controller) WaitOnline(ctx context.Context, name string) error {
	return c.wait(ctx, func() bool { return c.agents[name] != nil && c.agents[name].online })
}

// WaitOffline waits until the agent has no channel.
func (c *Controller) WaitOffline(ctx context.Context, name string) error {
	return c.wait(ctx, func() bool { return c.agents[name] == nil })
}

// wait waits until a condition holds, which is looked at under mu.
func (c *Controller) wait(ctx context.Context, holds func() bool) error {
	for {
		c.mu.Lock()
		ok, changed := holds(), c.changed
		c.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Call sends an agent a request of down bytes, which it checks, and has it
// respond with up bytes, which are checked here. The error is ErrCorrupt when
// anything is other than it was sent, ErrOffline when there is nobody to call.
func (c *Controller) Call(ctx context.Context, agent string, up, down int) error {
	ch := c.channelOf(agent)
	if ch == nil {
		return ErrOffline
	}
	return ch.call(ctx, "", up, down)
}

// Disconnect ends an agent's channel.
func (c *Controller) Disconnect(agent string, how Ending) error {
	ch := c.channelOf(agent)
	if ch == nil {
		return ErrOffline
	}
	ch.disconnect(errHere, how)
	return nil
}

func (c *Controller) channelOf(agent string) *channel {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.agents[agent]; a != nil {
		return a.ch
	}
	return nil
}

// admit is what a stock controller asks of a newcomer before it accepts it:
// the name, the secret in constant time, and that no other channel of the name
// is alive, unless the newcomer knows that one's cookie.
func (c *Controller) admit(name, secret, cookie string) error {
	switch {
	case !c.knows(name):
		return c.refuse("Unknown client name: " + name)
	case subtle.ConstantTimeCompare([]byte(secret), []byte(c.Secret(name))) != 1:
		return c.refuse("Authorization failure")
	}
	return c.vacate(name, cookie)
}

func (c *Controller) knows(name string) bool {
	return name != "" && (c.cfg.Nodes == nil || slices.Contains(c.cfg.Nodes, name))
}

// vacate applies the rule of the live channel.
func (c *Controller) vacate(name, cookie string) error {
	old := c.channelOf(name)
	switch {
	case old == nil:
		return nil
	case cookie == "" || cookie != old.cookie:
		return c.refuse(name + " is already connected to this controller. Rejecting this connection.")
	}
	old.disconnect(errReplaced, EndCommand)
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	if c.wait(ctx, func() bool { return c.agents[name] == nil || c.agents[name].ch != old }) != nil {
		return c.refuse("Failed to disconnect the current client")
	}
	return nil
}

// refuse counts a refusal.
func (c *Controller) refuse(text string) error {
	sort := text
	switch {
	case strings.HasPrefix(text, "Unknown client name"):
		sort = "Unknown client name"
	case strings.Contains(text, "is already connected"):
		sort = "already connected"
	}
	c.count(func(s *Stats) { s.Refused[sort]++ })
	return &Refusal{text}
}

// serve is an admitted agent's life: its channel is set, the log-in's calls are
// made, and the agent is online until the channel ends.
func (c *Controller) serve(name string, ch *channel) {
	a := &connected{ch: ch, since: time.Now()}
	ch.observe = func(class string, size int) {
		c.count(func(s *Stats) { s.Commands[class]++; s.Bytes += int64(size) })
	}
	ch.notified = func() { c.count(func(s *Stats) { s.CloseNotify++ }) }
	if !c.set(name, a) {
		ch.line.hangUp(EndFIN)
		return
	}
	c.wg.Go(func() { c.login(name, a) })
	err := ch.run()

	c.mu.Lock()
	delete(c.agents, name)
	c.stats.Lost++
	if errors.Is(err, ErrCorrupt) {
		c.stats.Corrupt++
	}
	if errors.Is(err, errPing) {
		c.stats.PingsMissing++
	}
	c.announceLocked()
	c.mu.Unlock()
	c.cfg.Log.Info("offline", "agent", name, "err", err)
}

// set gives a name its channel; false: another was faster, or it is too late.
func (c *Controller) set(name string, a *connected) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped || c.agents[name] != nil {
		return false
	}
	c.agents[name] = a
	c.announceLocked()
	return true
}

func (c *Controller) announceLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// login makes the calls of a log-in, of sizes as they were seen, and then has
// the agent online.
func (c *Controller) login(name string, a *connected) {
	for range c.cfg.LoginCalls {
		if err := a.ch.call(context.Background(), "", 1650, 2000); err != nil {
			a.ch.end(err, EndFIN)
			return
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.agents[name] != a {
		return
	}
	a.online = true
	c.stats.Online++
	c.announceLocked()
	c.cfg.Log.Info("online", "agent", name, "protocol", a.ch.protocol)
}
