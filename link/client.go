package link

import (
	"context"
	crand "crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/status"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

// ErrClosed reports that the client was closed.
var ErrClosed = errors.New("link: client is closed")

// Config says who the agent is and how it reaches a controller.
type Config struct {
	// Gateways is where to attach, host:port each; at least one.
	Gateways []string
	// Controller is the name of the controller; never empty.
	Controller string
	// Agent is the agent's name; empty: sessions without a name.
	Agent string
	// Credential proves Agent; empty: none. It is sent to gateways and appears nowhere else.
	Credential string
	// Labels are free words for operators, at most 16.
	Labels map[string]string
	// TLS secures the connections, 1.3 unless it says otherwise; nil: plaintext.
	TLS *tls.Config
	// Dial connects to a gateway; nil: TCP.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Window is how many payload bytes may come in that the application has
	// not read; 0: session.DefaultWindow.
	Window int
	// ReadBuffer is how many bytes a connection holds to read into, as long as it
	// lives; 0: 32 KiB. Less suits a process with thousands of clients.
	ReadBuffer int
	// GiveUp is how long a session looks for a gateway before it ends with
	// GRACE on this side; 0: the controller side's grace and 60 s more, so
	// that as a rule the controller side is heard first. It does not concern
	// a session that was never welcomed: Open's context does.
	GiveUp time.Duration
	// Logger hears of attaches, losses and drains; nil discards.
	Logger *slog.Logger
	// Rand is where jitter comes from; nil: a random seed. For tests.
	Rand *rand.Rand
}

func (cfg *Config) check() error {
	if len(cfg.Gateways) == 0 {
		return errors.New("link: no gateway given: Config.Gateways needs at least one host:port")
	}
	for _, g := range cfg.Gateways {
		if _, _, err := net.SplitHostPort(g); err != nil {
			return fmt.Errorf("link: gateway %q: %w; want host:port", g, err)
		}
	}
	if cfg.Controller == "" {
		return errors.New("link: no controller named: set Config.Controller")
	}
	if cfg.Window < 0 || cfg.Window > session.MaxWindow {
		return fmt.Errorf("link: window of %d bytes; want at most %d", cfg.Window, session.MaxWindow)
	}
	if cfg.ReadBuffer < 0 {
		return fmt.Errorf("link: read buffer of %d bytes; want more, or 0 for the default", cfg.ReadBuffer)
	}
	words := []string{cfg.Controller, cfg.Agent, cfg.Credential}
	for k, v := range cfg.Labels {
		words = append(words, k, v)
	}
	for _, w := range words {
		if !utf8.ValidString(w) {
			return errors.New("link: names, labels and the credential must be UTF-8")
		}
	}
	return nil
}

// A Client opens sessions of one agent with one controller. It is safe for
// concurrent use; its sessions share connections.
type Client struct {
	cfg   Config
	pool  *pool
	log   *slog.Logger
	stats counters

	mu       sync.Mutex
	closed   bool
	near     string    // the gateway where sessions start; "": chance decides
	nearAt   time.Time // and since when; for nearFor
	sessions map[*Session]struct{}
	running  sync.WaitGroup // sessions' goroutines
}

// New returns a client. It dials nothing yet.
func New(cfg Config) (*Client, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Client{
		cfg: cfg, pool: newPool(&cfg), log: log.With("agent", cfg.Agent, "controller", cfg.Controller),
		sessions: make(map[*Session]struct{}),
	}, nil
}

// A Target is what a session is for.
type Target struct {
	// Kind is what is wanted; unspecified: native messages.
	Kind linkv1.ServiceKind
	// Service names it, for SERVICE_KIND_TCP.
	Service string
	// Remoting is what a legacy agent showed; nil: none is concerned.
	Remoting *linkv1.Remoting
	// NotResumable: the session ends with its first stream, with GATEWAY_GONE.
	NotResumable bool
}

// Open opens a session. It returns when a gateway has welcomed it: what is
// written from then on arrives if the session does, whether or not the
// controller side has accepted it yet (see Accepted). It keeps trying until
// ctx ends, unless a gateway refuses for good: *RefusedError.
func (c *Client) Open(ctx context.Context, target Target) (*Session, error) {
	if !utf8.ValidString(target.Service) {
		return nil, errors.New("link: the service's name must be UTF-8")
	}
	if target.Kind == linkv1.ServiceKind_SERVICE_KIND_UNSPECIFIED {
		target.Kind = linkv1.ServiceKind_SERVICE_KIND_NATIVE
	}
	cfg := session.AgentConfig{
		Agent: c.cfg.Agent, Controller: c.cfg.Controller, Credential: c.cfg.Credential, Labels: c.cfg.Labels,
		Kind: target.Kind, Service: target.Service, Remoting: target.Remoting, Resumable: !target.NotResumable, DownWindow: c.cfg.Window,
	}
	_, _ = crand.Read(cfg.Secret[:]) // it never fails
	s, err := c.start(cfg)
	if err != nil {
		return nil, err
	}
	select {
	case <-s.welcomed:
		return s, nil
	case <-s.stopped:
	case <-ctx.Done():
		if s.cancelOpen(context.Cause(ctx)) == nil {
			return s, nil
		}
		<-s.stopped
	}
	select {
	case <-s.welcomed: // and ended since
		return s, nil
	default:
		return nil, s.failed
	}
}

// start makes a session and starts its goroutine.
func (c *Client) start(cfg session.AgentConfig) (*Session, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	ctx, stop := context.WithCancelCause(context.Background())
	s := newSession(c, cfg, stop)
	c.sessions[s] = struct{}{}
	c.running.Go(func() {
		defer c.forget(s)
		defer stop(nil)
		s.run(ctx)
	})
	return s, nil
}

func (c *Client) forget(s *Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.sessions, s)
}

// closeWait bounds how long Close waits for the controller side's answers.
const closeWait = 5 * time.Second

// Close closes every session that is still open, waits up to 5 s for the
// controller side to answer, and gives up what is left.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	open := make([]*Session, 0, len(c.sessions))
	for s := range c.sessions {
		open = append(open, s)
	}
	c.mu.Unlock()

	for _, s := range open {
		_ = s.cancelOpen(ErrClosed) // Open returns the error
		s.CloseWithReason(session.Ending{Reason: linkv1.Reason_REASON_OK, Text: "the agent side is leaving"})
	}
	late := time.AfterFunc(closeWait, func() {
		for _, s := range open {
			s.stop(ErrClosed)
		}
	})
	defer late.Stop()
	c.running.Wait()
	c.pool.close()
	return nil
}

// A Description is what a gateway knows of the controller.
type Description struct {
	// Known: a heartbeat of the controller was seen.
	Known bool
	// Age is how long ago the last one was read.
	Age time.Duration
	// Services are the names of the TCP services it offers, sorted.
	Services []string
	// Jenkins is what its connector stands beside; nil: none, or not looked up yet.
	Jenkins *linkv1.Jenkins
}

// describeWait bounds how long one gateway is waited for.
const describeWait = 5 * time.Second

// Describe asks one gateway after the other what it knows of the controller.
// A gateway's final no, such as to a name it does not know: *RefusedError.
func (c *Client) Describe(ctx context.Context) (Description, error) {
	var failed []string
	for _, gateway := range c.nearFirst(c.shuffled(c.cfg.Gateways)) {
		d, err := c.describe(ctx, gateway)
		if err == nil {
			c.answered(gateway)
			return d, nil
		}
		c.failed(gateway)
		if final(err) {
			return Description{}, &RefusedError{gateway, status.Code(err), statusText(err)}
		}
		failed = append(failed, gateway+": "+statusText(err))
		if ctx.Err() != nil {
			break
		}
	}
	return Description{}, fmt.Errorf("link: describe controller %s: %s", c.cfg.Controller, strings.Join(failed, "; "))
}

func (c *Client) describe(ctx context.Context, gateway string) (Description, error) {
	ctx, cancel := context.WithTimeout(ctx, describeWait)
	defer cancel()
	link, err := c.pool.take(gateway)
	if err != nil {
		return Description{}, err
	}
	defer c.pool.give(link)
	r, err := linkv1.NewLinkServiceClient(link.conn).Describe(ctx, &linkv1.DescribeRequest{
		Controller: c.cfg.Controller, Agent: c.cfg.Agent, Credential: c.cfg.Credential,
	})
	if err != nil {
		return Description{}, err
	}
	return Description{
		Known: r.GetIncarnation() != nil, Age: time.Duration(r.GetAgeMs()) * time.Millisecond, Services: r.GetServices(),
		Jenkins: r.GetJenkins(),
	}, nil
}

// nearFor is how long sessions start at the gateway that answered first. An
// agent's start opens several in a few seconds, all of one partition, which
// that gateway then follows already, over a connection that is there. After it
// chance decides anew, or nobody would come back to a gateway that was away.
const nearFor = 10 * time.Second

// answered notes that a gateway serves this agent.
func (c *Client) answered(gateway string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.near != gateway || time.Since(c.nearAt) >= nearFor {
		c.near, c.nearAt = gateway, time.Now()
	}
}

// failed notes that a gateway does not, or will not much longer.
func (c *Client) failed(gateway string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.near == gateway {
		c.near = ""
	}
}

// nearFirst puts the gateway where sessions start now to the front of list, if
// there is one, and in it.
func (c *Client) nearFirst(list []string) []string {
	c.mu.Lock()
	near := c.near
	if time.Since(c.nearAt) >= nearFor {
		near = ""
	}
	c.mu.Unlock()
	w := walk{list: list}
	w.first(near)
	return w.list
}

// fraction returns a random part of d: full jitter.
func (c *Client) fraction(d time.Duration) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Duration(c.cfg.Rand.Float64() * float64(d))
}

// rotated returns a copy of list that starts at a random element.
func (c *Client) rotated(list []string) []string {
	c.mu.Lock()
	n := c.cfg.Rand.IntN(len(list))
	c.mu.Unlock()
	return append(append(make([]string, 0, len(list)), list[n:]...), list[:n]...)
}

// shuffled returns a copy of list in random order.
func (c *Client) shuffled(list []string) []string {
	list = append([]string(nil), list...)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cfg.Rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}
