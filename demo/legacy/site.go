// Package legacy is the part of the demonstration that has a Jenkins: a
// stand-in for it, a connector beside it, a gateway with a door, and agents that
// know nothing of Moorage. All of it is in this process, on loopback.
//
// The checker is told what both ends saw: a call that was answered was heard,
// and whoever has left must be missed.
package legacy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
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

const (
	name  = "ci"    // of the controller
	agent = "agent" // whoever comes

	// id is what the checker is told of: each Site is for one story.
	id check.Session = "agent/1"
)

// endWithin bounds how long it takes until an end is known elsewhere. Two
// seconds are promised; the third is for a busy machine.
const endWithin = 3 * time.Second

// A Config says whom a Site tells.
type Config struct {
	Check    *check.Checker
	Patience time.Duration // what has not come after it does not come; 0: 10 s
	Program  string        // moorage itself, for KillShim; "": there is none
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
	var serving sync.WaitGroup
	s.closers = append(s.closers, func() { g.Kill(); serving.Wait() })
	d, err := door.New(door.Config{Backend: g.DoorBackend(), Default: name, Tier0: true, Again: -1, Log: s.log})
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
	serving.Go(func() { _ = g.Serve(d.GRPC()) }) // it ends with the gateway
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
	cfg.LoginCalls, cfg.Pings.Interval, cfg.SocketPing, cfg.Log = 1, -1, 50*time.Millisecond, s.log
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
