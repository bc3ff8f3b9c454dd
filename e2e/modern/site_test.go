package modern_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/broker"
	"github.com/moorage-dev/moorage/connector"
	"github.com/moorage-dev/moorage/controller"
	"github.com/moorage-dev/moorage/door"
	"github.com/moorage-dev/moorage/e2e/rig"
	"github.com/moorage-dev/moorage/gateway"
	"github.com/moorage-dev/moorage/link"
	"github.com/moorage-dev/moorage/shim"
	"github.com/moorage-dev/moorage/standin"
)

// A site is all that belongs to one controller, in this process: a Kafka that
// forgets, the controller, its connector and two gateways that let agents in.
type site struct {
	*testing.T
	cfg     standin.Config // of the controller
	jenkins *jenkins
	kafka   bridge.Config

	connector     *controller.Controller
	connectorWire cable // the connector's way to Kafka
	gatewayWire   cable // the gateways' way to Kafka
	doors         func(*door.Config)

	mu       sync.Mutex // guards the following
	places   []string   // where agents reach the gateways
	gateways map[string]*edge
	lives    int
	agents   []*actor
	shims    []*shore
}

// someKey is an identity that sites share: making one takes its time.
var someKey = sync.OnceValue(newKey)

func newKey() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err) // the system has no randomness
	}
	return key
}

// newSite starts all of it. doors, if not nil, changes what the gateways'
// doors are like.
func newSite(t *testing.T, cfg standin.Config, doors func(*door.Config)) *site {
	t.Helper()
	if cfg.Identity == nil {
		cfg.Identity = someKey()
	}
	cfg.ListenHTTP = rig.FreeAddress(t) // a successor takes it over
	s := &site{T: t, cfg: cfg, doors: doors, gateways: make(map[string]*edge)}
	kafka, err := broker.StartEmbedded(broker.EmbeddedConfig{Brokers: 1})
	rig.Must(t, err)
	t.Cleanup(kafka.Close)
	s.kafka = bridge.Config{Brokers: kafka.Addrs()}
	admin, err := bridge.Dial(t.Context(), s.kafka)
	rig.Must(t, err)
	defer admin.Close()
	rig.Must(t, admin.CreateTopics(t.Context(), "ci", bridge.TopicSpec{Partitions: 4, SingleBroker: true, AllowSmall: true}))
	s.jenkins = startJenkins(t, cfg)
	s.startConnector()
	for range 2 {
		s.startGateway(rig.FreeAddress(t))
	}
	t.Cleanup(s.leave)
	return s
}

// leave ends all agents, and then all shims.
func (s *site) leave() {
	s.mu.Lock()
	agents, shims := s.agents, s.shims
	s.mu.Unlock()
	var wg sync.WaitGroup
	for _, a := range agents {
		wg.Go(a.kill)
	}
	wg.Wait()
	for _, h := range shims {
		wg.Go(h.end)
	}
	wg.Wait()
}

func (s *site) logger(who string) *slog.Logger {
	return slog.New(slog.NewTextHandler(s.Output(), nil)).With("who", who)
}

func (s *site) startConnector() {
	s.Helper()
	kafka := s.kafka
	kafka.Dial = s.connectorWire.dial
	var err error
	s.connector, err = controller.Start(s.Context(), controller.Config{
		Bridge: kafka, Name: "ci", SingleBroker: true, AllowSmall: true, Logger: s.logger("controller"),
	})
	rig.Must(s.T, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := connector.Run(ctx, connector.Config{Jenkins: &connector.Jenkins{URL: s.jenkins.URL}, Log: s.logger("connector")}, s.connector); err != nil {
			s.Errorf("the connector ended: %v", err)
		}
	})
	s.Cleanup(func() {
		cancel()
		running.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.connector.Close(ctx); err != nil {
			s.Error(err)
		}
	})
}

// A jenkins is one life of a controller.
type jenkins struct {
	*standin.Controller
	stop context.CancelCauseFunc
	done chan struct{} // closed when it is dead
}

var errStopped = errors.New("stopped by the test")

func startJenkins(t *testing.T, cfg standin.Config) *jenkins {
	t.Helper()
	c, err := standin.NewController(cfg)
	rig.Must(t, err)
	ctx, cancel := context.WithCancelCause(context.Background())
	j := &jenkins{Controller: c, stop: cancel, done: make(chan struct{})}
	go func() {
		defer close(j.done)
		if err := c.Run(ctx); !errors.Is(err, errStopped) {
			t.Errorf("the controller ended: %v", err)
		}
	}()
	t.Cleanup(j.kill)
	return j
}

// kill ends it as a killed process ends.
func (j *jenkins) kill() {
	j.stop(errStopped)
	<-j.done
}

// wait waits for one of the controller's own conditions.
func (j *jenkins) wait(t *testing.T, what string, within time.Duration, holds func(context.Context) error) (took time.Duration) {
	t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if err := holds(ctx); err != nil {
		t.Fatalf("not within %v: %s (%v); online are %d agents, %+v", within, what, err, len(j.Agents()), j.Stats())
	}
	return time.Since(began)
}

func (j *jenkins) wantOnline(t *testing.T, name string, within time.Duration) (took time.Duration) {
	t.Helper()
	return j.wait(t, name+" is online", within, func(ctx context.Context) error { return j.WaitOnline(ctx, name) })
}

func (j *jenkins) wantOffline(t *testing.T, name string, within time.Duration) (took time.Duration) {
	t.Helper()
	return j.wait(t, name+" is offline", within, func(ctx context.Context) error { return j.WaitOffline(ctx, name) })
}

func (j *jenkins) wantAgents(t *testing.T, n int, within time.Duration) (took time.Duration) {
	t.Helper()
	return j.wait(t, fmt.Sprintf("%d agents are online", n), within, func(ctx context.Context) error { return j.WaitAgents(ctx, n) })
}

// call has an agent take and give bytes, which both ends check.
func (j *jenkins) call(t *testing.T, name string, up, down int, within time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if err := j.Call(ctx, name, up, down); err != nil {
		t.Errorf("%s: a command of %d bytes, answered by %d: %v", name, down, up, err)
	}
}

// An edge is one life of a gateway.
type edge struct {
	site  *site
	name  string
	place string
	g     *gateway.Gateway
	leave context.CancelFunc // closes all that came through the door
	wg    sync.WaitGroup
	over  atomic.Bool
}

// startGateway starts a fresh gateway at a place, where a dead one may have been.
func (s *site) startGateway(place string) *edge {
	s.Helper()
	s.mu.Lock()
	s.lives++
	e := &edge{site: s, name: fmt.Sprintf("gw%d", s.lives), place: place}
	s.mu.Unlock()
	kafka := s.kafka
	kafka.Dial = s.gatewayWire.dial
	log := s.logger(e.name)
	var err error
	e.g, err = gateway.New(s.Context(), gateway.Config{Name: e.name, Advertise: place, Bridge: kafka, Insecure: true, Logger: log})
	rig.Must(s.T, err)
	cfg := door.Config{Backend: e.g.DoorBackend(), Default: "ci", Tier0: true, Registerer: e.g.Registerer(), Log: log}
	if s.doors != nil {
		s.doors(&cfg)
	}
	d, err := door.New(cfg)
	rig.Must(s.T, err)
	l, err := net.Listen("tcp", place)
	rig.Must(s.T, err)
	ctx, cancel := context.WithCancel(context.Background())
	e.leave = cancel
	e.wg.Go(func() {
		if err := d.Serve(ctx, l); err != nil {
			s.Errorf("the door of %s: %v", e.name, err)
		}
	})
	e.wg.Go(func() { _ = e.g.Serve(d.GRPC()) }) // it ends with an error when the gateway is killed
	s.Cleanup(func() { e.end(func() { _ = e.g.Close() }) })
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lives <= 2 {
		s.places = append(s.places, place)
	}
	s.gateways[e.name] = e
	return e
}

func (e *edge) end(how func()) {
	if e.over.Swap(true) {
		return
	}
	how()
	e.leave()
	e.wg.Wait()
}

// kill ends the gateway as SIGKILL does.
func (e *edge) kill() { e.end(e.g.Kill) }

// drain ends it as SIGTERM does.
func (e *edge) drain() {
	e.end(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := e.g.Drain(ctx); err != nil {
			e.site.Errorf("%s drained: %v", e.name, err)
		}
	})
}

// holding waits until an agent's session is attached to a gateway that lives,
// and returns that.
func (s *site) holding(agent string) (found *edge) {
	s.Helper()
	rig.Eventually(s.T, agent+" is attached to a gateway that lives", 30*time.Second, func() bool {
		for _, i := range s.connector.Sessions() {
			name := i.Remoting.GetAgent()
			if name == "" {
				name = i.Agent
			}
			if name != agent || !i.Attached || !isRemoting(i) {
				continue
			}
			s.mu.Lock()
			found = s.gateways[i.Gateway]
			s.mu.Unlock()
			if found != nil && !found.over.Load() {
				return true
			}
		}
		return false
	})
	return found
}

// living are the gateways that run.
func (s *site) living() (all []*edge) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.gateways {
		if !e.over.Load() {
			all = append(all, e)
		}
	}
	return all
}

// A shore is a shim on an agent's host: tier 1.
type shore struct {
	agent string
	door  string // host:port
	wire  *cable // the host's way to the gateways
	end   func() // as SIGTERM does
	over  chan struct{}
}

// startShim starts a shim. It ends with the test.
func (s *site) startShim(agent string) *shore {
	s.Helper()
	h := &shore{agent: agent, wire: &cable{}, over: make(chan struct{})}
	log := s.logger("shim-" + agent)
	s.mu.Lock()
	places := append([]string(nil), s.places...)
	s.mu.Unlock()
	client, err := link.New(link.Config{
		Gateways: places, Controller: "ci", Agent: agent, Dial: h.wire.dialTCP, GiveUp: 240 * time.Second, Logger: log,
	})
	rig.Must(s.T, err)
	known := shim.NewLink(client, "ci", "", log)
	d, err := door.New(door.Config{Backend: known, Default: "ci", Controllers: []string{"ci"}, JarCache: -1, Log: log})
	rig.Must(s.T, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	rig.Must(s.T, err)
	h.door = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(h.over)
		if err := shim.Run(ctx, shim.Config{Door: d, DoorListener: l, Link: known, Log: log}); err != nil {
			s.Errorf("the shim of %s: %v", agent, err)
		}
		known.Close()
		_ = client.Close() // it never fails
	}()
	h.end = func() {
		cancel()
		<-h.over
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shims = append(s.shims, h)
	return h
}
