// Package legacy is the part of the demonstration that has a Jenkins: a
// stand-in for it, a connector beside it, a gateway with a door, and agents that
// know nothing of Moorage. All of it is in this process, on loopback.
//
// The checker is told what both ends saw: a call that was answered was heard,
// and whoever has left must be missed.
package legacy

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/broker"
	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/connector"
	"github.com/moorage-dev/moorage/controller"
	"github.com/moorage-dev/moorage/door"
	"github.com/moorage-dev/moorage/gateway"
	"github.com/moorage-dev/moorage/remoting"
	"github.com/moorage-dev/moorage/standin"
)

const name = "ci" // of the controller

// A Config says whom a Site tells.
type Config struct {
	Check    *check.Checker
	Patience time.Duration // what has not come after it does not come; 0: 10 s
	Log      *slog.Logger  // nil discards
}

// A Site is a running system.
type Site struct {
	cfg     Config
	log     *slog.Logger
	closers []func() // the last first
	ctrl    *controller.Controller
	door    string // host:port
	jenkins *standin.Controller
	kill    func() // ends jenkins as a killed process ends
	lives   int    // of agents, for the names of sessions
}

// Start starts a Site; Close ends it.
func Start(ctx context.Context, cfg Config) (*Site, error) {
	if cfg.Patience == 0 {
		cfg.Patience = 10 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Site{cfg: cfg, log: cfg.Log}
	if err := s.start(ctx); err != nil {
		s.Close()
		return nil, fmt.Errorf("legacy: %w", err)
	}
	return s, nil
}

func (s *Site) start(ctx context.Context) error {
	kafka, err := broker.StartEmbedded(broker.EmbeddedConfig{Brokers: 1, Log: s.log})
	if err != nil {
		return err
	}
	s.closers = append(s.closers, kafka.Close)
	cfg := bridge.Config{Brokers: kafka.Addrs(), Logger: s.log}
	admin, err := bridge.Dial(ctx, cfg)
	if err != nil {
		return err
	}
	defer admin.Close()
	if err := admin.CreateTopics(ctx, name, bridge.TopicSpec{Partitions: 1, SingleBroker: true, AllowSmall: true}); err != nil {
		return err
	}
	if err := s.startJenkins(standin.Config{}); err != nil {
		return err
	}
	s.closers = append(s.closers, func() { s.kill() })
	s.ctrl, err = controller.Start(ctx, controller.Config{Bridge: cfg, Name: name, SingleBroker: true, AllowSmall: true, Logger: s.log})
	if err != nil {
		return err
	}
	s.closers = append(s.closers, s.ctrl.Kill)
	s.run(func(ctx context.Context) {
		if err := connector.Run(ctx, connector.Config{Jenkins: &connector.Jenkins{URL: s.jenkins.URL}, Log: s.log}, s.ctrl); err != nil {
			s.log.Error("connector ended", "err", err)
		}
	})
	return s.startGateway(ctx, cfg)
}

func (s *Site) startGateway(ctx context.Context, kafka bridge.Config) error {
	g, err := gateway.New(ctx, gateway.Config{Name: "gateway", Advertise: "127.0.0.1:1", Bridge: kafka, Insecure: true, Logger: s.log})
	if err != nil {
		return err
	}
	s.closers = append(s.closers, g.Kill)
	d, err := door.New(door.Config{Backend: g.DoorBackend(), Default: name, Again: -1, Log: s.log})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.door = l.Addr().String()
	s.run(func(ctx context.Context) {
		if err := d.Serve(ctx, l); err != nil {
			s.log.Error("door ended", "err", err)
		}
	})
	return nil
}

// run starts what Close ends and waits for.
func (s *Site) run(f func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { f(ctx) })
	s.closers = append(s.closers, func() { cancel(); wg.Wait() })
}

var errKilled = errors.New("legacy: killed")

func (s *Site) startJenkins(cfg standin.Config) error {
	cfg.LoginCalls, cfg.Pings.Interval, cfg.Log = 1, -1, s.log
	j, err := standin.NewController(cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = j.Run(ctx) }) // it ends with the cause
	s.jenkins, s.kill = j, func() { cancel(errKilled); wg.Wait() }
	return nil
}

// Close ends everything.
func (s *Site) Close() {
	for i := len(s.closers) - 1; i >= 0; i-- {
		s.closers[i]()
	}
}

// until reports whether ok came true in time.
func (s *Site) until(ctx context.Context, ok func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Patience)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for !ok() {
		select {
		case <-again.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

func (s *Site) session(agent string) check.Session {
	s.lives++
	id := check.Session(fmt.Sprintf("%s/%d", agent, s.lives))
	s.cfg.Check.Expect(id)
	return id
}

// Serve has an agent connect by JNLP4, answer calls and leave.
func (s *Site) Serve(ctx context.Context) error {
	const agent = "agent"
	id, c := s.session(agent), s.cfg.Check
	identity := s.identity(ctx, nil)
	a := standin.Agent{Name: agent, Secret: s.jenkins.Secret(agent), Direct: s.door, Identity: identity, Protocols: []string{remoting.JNLP4}, Pings: standin.Pings{Interval: -1}}
	life, leave := context.WithCancel(ctx)
	defer leave()
	var living sync.WaitGroup
	defer living.Wait()
	defer leave()
	hello := []byte("here I am")
	c.Sent(id, check.Agent, 1, hello)
	living.Go(func() { _ = a.Run(life) }) // it ends with life
	patient, stop := context.WithTimeout(ctx, s.cfg.Patience)
	defer stop()
	if s.jenkins.WaitOnline(patient, agent) != nil {
		return nil // stuck
	}
	c.Received(id, check.Controller, 1, hello)
	if !s.calls(patient, id, agent) {
		return nil // so is the call
	}
	leave()
	living.Wait()
	c.Ended(id, check.Agent, check.OK, "it has left")
	patient, stop = context.WithTimeout(ctx, s.cfg.Patience)
	defer stop()
	if s.jenkins.WaitOffline(patient, agent) == nil {
		c.Ended(id, check.Controller, check.OK, "the channel has ended")
	}
	return nil
}

// calls makes calls whose answers fill their chunks to the last byte, and
// others. The first tells how large an answer's own words are.
func (s *Site) calls(ctx context.Context, id check.Session, agent string) bool {
	before := s.jenkins.Stats().Bytes
	const first, whole = 100, remoting.ChunkSize
	for n, up := range []int{first, 0, 1000, 3 * whole} {
		if n == 1 {
			up = whole - int(s.jenkins.Stats().Bytes-before-first)
		}
		m := fmt.Appendf(nil, "a call for %d bytes", up)
		seq := uint64(n + 1)
		s.cfg.Check.Sent(id, check.Controller, seq, m)
		err := s.jenkins.Call(ctx, agent, up, len(m))
		if errors.Is(err, standin.ErrCorrupt) {
			m = []byte(err.Error())
		} else if err != nil {
			return false
		}
		s.cfg.Check.Received(id, check.Agent, seq, m)
	}
	return true
}

// connect is an agent that does not get further than the greeting.
func (s *Site) connect(ctx context.Context) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.door)
	if err != nil {
		return nil, err
	}
	_, err = conn.Write(append(remoting.AppendGreeting(nil, remoting.JNLP4), remoting.ACK...))
	if err == nil {
		err = conn.SetDeadline(time.Now().Add(s.cfg.Patience))
	}
	if err == nil {
		_, err = io.ReadFull(conn, make([]byte, len(remoting.ACK)))
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// Restart replaces Jenkins by another with other keys, another jar and another
// agent port. Agents must be told of it, and get its jar.
func (s *Site) Restart(ctx context.Context) error {
	id, c := s.session("starting"), s.cfg.Check
	old := s.jenkins
	told := s.identity(ctx, nil)
	c.Sent(id, check.Controller, 1, []byte(old.Identity))
	c.Received(id, check.Agent, 1, []byte(told))
	if _, err := s.get(ctx, "jnlpJars/agent.jar"); err != nil {
		return err
	}
	jar := make([]byte, 10_000)
	rand.Read(jar) // never fails
	s.kill()
	at := strings.TrimSuffix(strings.TrimPrefix(old.URL, "http://"), "/")
	if err := s.startJenkins(standin.Config{ListenHTTP: at, Jar: jar}); err != nil {
		return err
	}
	c.Sent(id, check.Controller, 2, []byte(s.jenkins.Identity))
	if conn, err := s.connect(ctx); err == nil { // nobody is at the old port: the connector looks
		defer conn.Close()
	}
	told = s.identity(ctx, func(told string) bool { return told == s.jenkins.Identity })
	if told != s.jenkins.Identity {
		return nil // stuck
	}
	c.Received(id, check.Agent, 2, []byte(told))
	c.Sent(id, check.Controller, 3, jar)
	got, err := s.get(ctx, "jnlpJars/agent.jar")
	if err != nil {
		return err
	}
	c.Received(id, check.Agent, 3, got)
	return nil
}

// identity looks up, as agents do, until it is told one that will do; nil: any.
func (s *Site) identity(ctx context.Context, does func(string) bool) (told string) {
	s.until(ctx, func() bool {
		resp, err := s.ask(ctx, remoting.PathDiscovery)
		if err != nil {
			return false
		}
		resp.Body.Close()
		told = resp.Header.Get(remoting.HeaderIdentity)
		return told != "" && (does == nil || does(told))
	})
	return told
}

func (s *Site) ask(ctx context.Context, page string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.door+"/"+page, nil)
	if err != nil {
		return nil, err
	}
	req.Close = true
	return http.DefaultClient.Do(req)
}

func (s *Site) get(ctx context.Context, page string) ([]byte, error) {
	resp, err := s.ask(ctx, page)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}
