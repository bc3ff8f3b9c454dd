package site

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/loadtest/port"
	"github.com/moorage-dev/moorage/loadtest/spool"
)

const (
	// readyWithin bounds the start of a gateway; Kafka may be failing meanwhile.
	readyWithin = 60 * time.Second
	// reachWithin bounds the look at what should run already.
	reachWithin = 5 * time.Second
	// endWithin bounds the orderly end of a gateway (its --drain-timeout is
	// 30 s), and closeWithin that of all at Close, when nobody is left to move.
	endWithin   = 45 * time.Second
	closeWithin = 3 * time.Second

	// defaultPrefix is the product's own.
	defaultPrefix = "moorage."
	// defaultPartitions is the product's own.
	defaultPartitions = 16
)

// A site implements Site. Faults may be done concurrently; those on one
// process wait for each other.
type site struct {
	cfg  Config
	log  *slog.Logger
	http *http.Client

	kafka    *kafka    // nil: the system has none
	gateways []*gate   // that were started here
	server   *child    // of nats
	legs     *legs     // nil: direct connections
	balancer *balancer // nil: agents dial the gateways
	net      *network  // nil: everybody is on the loopback address

	mu        sync.Mutex // guards the following
	app       string
	connector *child
	shims     []*shim
	tracked   map[string]int // pids by name
	meters    []*meter
	samples   *spool.List[numberedSample] // of all meters; nil before Measure
	counts    map[string]*count
	reserved  []func() // give the processes' addresses free
	old       bool     // gateways run Config.Old

	tokenFile, caFile string // written once, by Start

	closing sync.Once
	closed  error
}

var runName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)

// Start starts what the config does not say runs already, and returns when it
// can be used. What was started dies with this process, even when that is killed.
func Start(ctx context.Context, cfg Config) (_ Site, err error) {
	s := &site{cfg: cfg, log: cfg.Log, tracked: map[string]int{}, counts: map[string]*count{}, old: cfg.Old != "",
		http: &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.cfg.Holes {
		if s.net, err = newNetwork(); err != nil {
			return nil, err
		}
	}
	if s.cfg.Proxied {
		s.legs = newLegs(s.log)
	}
	switch s.cfg.System {
	case GRPC, TCP:
		return s, nil
	case NATS:
		return s, s.startNATS(ctx)
	}
	if err := s.startKafka(ctx); err != nil {
		return nil, err
	}
	if len(s.cfg.Gateways) > 0 {
		return s, s.reach(ctx)
	}
	if err := s.startGateways(ctx); err != nil || s.cfg.Local.Balance == "" {
		return s, err
	}
	s.balancer, err = startBalancer(s.ownHost(), s.Gateways())
	return s, err
}

// check refuses what cannot be, and puts the defaults in.
func (s *site) check() error {
	c := &s.cfg
	c.Prefix = cmp.Or(c.Prefix, defaultPrefix)
	c.Local.Gateways = cmp.Or(c.Local.Gateways, 1)
	c.Local.Partitions = cmp.Or(c.Local.Partitions, defaultPartitions)
	c.Local.Brokers = cmp.Or(c.Local.Brokers, "embedded")
	if c.Binary == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("site: %w", err)
		}
		c.Binary = self
	}
	switch {
	case !slices.Contains([]string{Moorage, Relay, GRPC, TCP, NATS}, c.System):
		return fmt.Errorf("site: system %q: want moorage, relay, grpc, tcp or nats", c.System)
	case !runName.MatchString(c.Run):
		return fmt.Errorf("site: run %q: want 1 to 40 of a-z, 0-9 and -, not beginning with -", c.Run)
	case !slices.Contains([]string{"embedded", "1", "3"}, c.Local.Brokers):
		return fmt.Errorf("site: %q brokers: want embedded, 1 or 3", c.Local.Brokers)
	case c.Local.Gateways < 1 || c.Local.Gateways > 64:
		return fmt.Errorf("site: %d gateways: want 1 to 64", c.Local.Gateways)
	case c.Dir == "":
		return errors.New("site: no folder for the processes' logs")
	case len(c.Gateways) > 0 && len(c.Kafka) == 0 && (c.System == Moorage || c.System == Relay):
		return errors.New("site: gateways that run already need their Kafka: name its brokers with --kafka")
	case c.Holes && len(c.Gateways)+len(c.Kafka) > 0:
		return errors.New("site: black holes need gateways and brokers that the harness starts itself, in networks of their own: use --local")
	case c.Proxied && c.System != Moorage && c.System != Relay:
		return fmt.Errorf("site: faults of system %s on its legs cannot be done", c.System)
	case c.Small && c.Local.Brokers == "embedded":
		return errors.New("site: fault disk-full needs a real broker: use --local brokers=1 or 3")
	}
	binaries := map[string]string{"the moorage binary": c.Binary}
	if c.Old != "" {
		binaries["--old-binary"] = c.Old
	}
	if c.System == NATS {
		if c.Helper == "" {
			return errors.New("site: baseline nats needs the helper moorage-nats: build it with make baselines, or name it with --nats-helper")
		}
		binaries["--nats-helper"] = c.Helper
	}
	for what, path := range binaries {
		info, err := os.Stat(path)
		switch {
		case err != nil:
			return fmt.Errorf("site: %s: %w", what, err)
		case info.IsDir() || info.Mode()&0o111 == 0:
			return fmt.Errorf("site: %s: %s is not a program: chmod +x it, or name another", what, path)
		}
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return fmt.Errorf("site: %w", err)
	}
	c.Dir = dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("site: folder for logs: %w", err)
	}
	return nil
}

// reach looks whether gateways that should run already do, and puts shims
// beside them: a shim asks for the controller it likes, as agents do.
func (s *site) reach(ctx context.Context) error {
	s.tokenFile, s.caFile = s.cfg.KeyFile, s.cfg.CA
	for _, addr := range s.cfg.Gateways {
		d := net.Dialer{Timeout: reachWithin}
		conn, err := d.DialContext(ctx, "tcp", addr)
		if err != nil {
			return fmt.Errorf("site: gateway %s: %w: is it running, and is the address right?", addr, err)
		}
		conn.Close()
	}
	return s.startShims(ctx)
}

// Gateways are what agents dial.
func (s *site) Gateways() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case len(s.cfg.Gateways) > 0:
		return slices.Clone(s.cfg.Gateways)
	case s.server != nil:
		return []string{s.app}
	case s.balancer != nil:
		return []string{s.balancer.address}
	case s.cfg.System == GRPC || s.cfg.System == TCP:
		if s.app == "" {
			return nil
		}
		return []string{s.app}
	}
	var all []string
	for _, g := range s.gateways {
		all = append(all, g.public)
	}
	return all
}

// Kafka is what the application dials.
func (s *site) Kafka() []string {
	if s.kafka == nil {
		return nil
	}
	return slices.Clone(s.kafka.public)
}

// Doors are where legacy agents come in.
func (s *site) Doors() []string {
	var all []string
	if s.doors() {
		for _, g := range s.gateways {
			all = append(all, "http://"+g.public+"/")
		}
	}
	return all
}

func (s *site) doors() bool { return s.cfg.Doors && s.cfg.System == Moorage }

// Token is the file of the shared key.
func (s *site) Token() string { return s.tokenFile }

// CAFile has the certificates that agents check gateways' against.
func (s *site) CAFile() string { return s.caFile }

// Controller is the name that native and tunnel agents ask for.
func (s *site) Controller() string { return s.cfg.Run }

// legacyController is the connector's.
func (s *site) legacyController() string { return s.cfg.Run + "-legacy" }

// SetApp says where the application listens.
func (s *site) SetApp(addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.app = addr
}

// Words says what the target is made of.
func (s *site) Words() string {
	var parts []string
	switch s.cfg.System {
	case GRPC, TCP:
		return "none: agents dial the application"
	case NATS:
		return "none: one nats-server with JetStream, file store"
	}
	parts = append(parts, s.kafka.words)
	switch {
	case len(s.cfg.Gateways) > 0:
		parts = append(parts, fmt.Sprintf("%d gateways that ran already", len(s.cfg.Gateways)))
	case s.cfg.System == Relay:
		parts = append(parts, fmt.Sprintf("%d relay processes", len(s.gateways)))
	default:
		parts = append(parts, fmt.Sprintf("%d gateway processes", len(s.gateways)))
	}
	if s.legs != nil {
		parts = append(parts, "every connection through a proxy in the coordinator, whose time it costs")
	}
	if s.net != nil {
		parts = append(parts, "each gateway in a network namespace")
	}
	return strings.Join(parts, "; ")
}

// ownedTopics are the names of what Moorage or relay keep for this run.
func (s *site) ownedTopics() []string {
	var all []string
	for _, controller := range []string{s.cfg.Run, s.legacyController()} {
		for _, kind := range []string{"up", "down", "sessions", "meta"} {
			all = append(all, s.cfg.Prefix+controller+"."+kind)
		}
	}
	return all
}

// reserve returns an address with that IP address, on a host, that is this
// site's alone until it is closed, also while the process that listens there
// is down.
func (s *site) reserve(h *host, ip string) (address string, err error) {
	err = h.do(func() error {
		var release func()
		if address, release, err = port.Reserve(ip); err != nil {
			return fmt.Errorf("site: %w", err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.reserved = append(s.reserved, release)
		return nil
	})
	return address, err
}

// Close ends all. Closing again is harmless.
func (s *site) Close() error {
	s.closing.Do(func() { s.closed = s.close() })
	return s.closed
}

func (s *site) close() error {
	s.mu.Lock()
	connector, shims := s.connector, s.shims
	s.mu.Unlock()
	var ends sync.WaitGroup
	end := func(c *child) {
		if c != nil {
			ends.Go(func() { c.close(closeWithin) })
		}
	}
	end(connector)
	end(s.server)
	for _, sh := range shims {
		end(sh.child)
	}
	for _, g := range s.gateways {
		end(g.child)
	}
	ends.Wait()
	s.mu.Lock()
	for _, release := range s.reserved {
		release()
	}
	s.mu.Unlock()
	var err error
	if s.balancer != nil {
		err = s.balancer.close()
	}
	if s.legs != nil {
		s.legs.close()
	}
	if s.kafka != nil {
		err = errors.Join(err, s.kafka.close())
	}
	if s.net != nil {
		err = errors.Join(err, s.net.close())
	}
	if s.server != nil {
		err = errors.Join(err, os.RemoveAll(s.natsStore())) // it may be gigabytes
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.samples != nil {
		err = errors.Join(err, s.samples.Close())
		s.samples = nil
	}
	s.http.CloseIdleConnections()
	return err
}

// client asks Kafka as an operator does.
func (s *site) client(ctx context.Context) (*bridge.Client, error) {
	cfg := bridge.Config{Brokers: s.kafka.direct, Prefix: s.cfg.Prefix, ClientID: "moorage-loadtest", Logger: s.log}
	if len(s.cfg.Kafka) > 0 {
		var err error
		if cfg, err = s.cfg.Access.Bridge(cfg); err != nil {
			return nil, err
		}
	}
	return bridge.Dial(ctx, cfg)
}
