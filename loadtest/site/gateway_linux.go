package site

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
)

// A gate is a gateway, or relay's, that was started here.
type gate struct {
	*child
	number int    // from 1
	listen string // its own
	public string // what agents dial: listen, or its proxy
	admin  string
}

// startGateways starts all at once.
func (s *site) startGateways(ctx context.Context) error {
	if s.cfg.Local.TLS && (s.cfg.System == Moorage || s.cfg.System == Relay) {
		if err := s.makeSecrets(); err != nil {
			return err
		}
	}
	for i := range s.cfg.Local.Gateways {
		g, err := s.newGate(i + 1)
		if err != nil {
			return err
		}
		s.mu.Lock() // proxies before brokers look them up already
		s.gateways = append(s.gateways, g)
		s.mu.Unlock()
	}
	var all errgroup.Group
	for _, g := range s.gateways {
		all.Go(func() error { return g.start(ctx) })
	}
	if err := all.Wait(); err != nil {
		return err
	}
	return s.startShims(ctx)
}

func (s *site) newGate(number int) (*gate, error) {
	name := "gateway-" + strconv.Itoa(number)
	g := &gate{number: number, child: &child{name: name, log: s.logFile(name), env: s.cfg.Access.Environment(), readyWithin: readyWithin}}
	ip := s.ownHost()
	if s.net != nil {
		h, err := s.net.newHost(name)
		if err != nil {
			return nil, err
		}
		g.host, ip = h, h.address
	}
	var err error
	if g.listen, err = s.reserve(g.host, ip); err != nil {
		return nil, err
	}
	if g.admin, err = s.reserve(g.host, ip); err != nil {
		return nil, err
	}
	g.public = g.listen
	if s.legs != nil {
		l, err := net.Listen("tcp", net.JoinHostPort(s.ownHost(), "0"))
		if err != nil {
			return nil, fmt.Errorf("site: %w", err)
		}
		g.public = l.Addr().String()
		s.legs.open(l, g.listen, func(net.Conn) origin { return origin{leg: legAgents, gateway: number} })
	}
	g.argv = func() []string { return s.gateArgs(g) }
	g.ready = func(ctx context.Context) error { return s.gateReady(ctx, g) }
	return g, nil
}

// gateArgs is the command line of the build that is current.
func (s *site) gateArgs(g *gate) []string {
	kafka := strings.Join(s.kafka.public, ",")
	if s.cfg.System == Relay {
		args := []string{s.cfg.Binary, RelayCommand, "--listen", g.listen, "--admin", g.admin, "--kafka", kafka, "--topic-prefix", s.cfg.Prefix + s.cfg.Run + "."}
		if s.caFile != "" {
			args = append(args, "--tls-cert", s.secret("gateway.pem"), "--tls-key", s.secret("gateway.key"))
		}
		return args
	}
	s.mu.Lock()
	binary := s.cfg.Binary
	if s.old {
		binary = s.cfg.Old
	}
	s.mu.Unlock()
	args := []string{binary, "gateway", "--kafka", kafka, "--topic-prefix", s.cfg.Prefix,
		"--listen", g.listen, "--advertise", g.public, "--admin", g.admin,
		// Others in the fleet of a Kafka that ran already have names too.
		"--name", s.cfg.Run + "-" + g.name, "--log-level", "info"}
	if s.tokenFile != "" {
		args = append(args, "--tls-cert", s.secret("gateway.pem"), "--tls-key", s.secret("gateway.key"), "--token-key-file", s.tokenFile)
	} else {
		args = append(args, "--insecure")
	}
	if s.doors() {
		args = append(args, "--door", s.legacyController(), "--door-advertise", g.public)
	}
	args = append(args, s.cfg.Access.Flags()...)
	return append(args, s.cfg.Local.Flags...)
}

// gateReady asks a gateway whether agents may come; relay cannot say, so that
// it is ready when it listens.
func (s *site) gateReady(ctx context.Context, g *gate) error {
	if s.cfg.System == Relay {
		return dialable(ctx, g.listen)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+g.admin+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	why, err := io.ReadAll(io.LimitReader(resp.Body, 1000))
	if err != nil {
		return err
	}
	return errors.New(strings.TrimSpace(string(why)))
}

// dialable tells whether somebody listens.
func dialable(ctx context.Context, addr string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return conn.Close()
}

// startNATS starts the helper with a store of its own.
func (s *site) startNATS(ctx context.Context) error {
	addr, err := s.reserve(nil, loopback)
	if err != nil {
		return err
	}
	argv := []string{s.cfg.Helper, NATSCommand, "--dir", s.natsStore(), "--listen", addr}
	s.app = addr
	s.server = &child{
		name: "nats", log: s.logFile("nats"), readyWithin: readyWithin,
		argv:  func() []string { return argv },
		ready: func(ctx context.Context) error { return dialable(ctx, addr) },
	}
	return s.server.start(ctx)
}

// natsStore is where nats keeps what it was given, as long as the site is.
func (s *site) natsStore() string { return filepath.Join(s.cfg.Dir, "nats-"+s.cfg.Run) }
