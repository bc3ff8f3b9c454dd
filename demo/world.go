package demo

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/broker"
	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/demo/fabric"
)

const (
	controllerName = "demo"
	kafkaHost      = "kafka"
	gatewayPort    = 7443
)

// A WorldConfig says what lives in a World and what it does.
type WorldConfig struct {
	Agents, Gateways int
	Seed             uint64
	Messages         int           // of each agent, each way; 0: until Quiet
	Every            time.Duration // mean time between two messages of one agent, one way; 0: 100 ms
	MaxSize          int           // bytes of the largest message; 0: 2 KiB
	Window           int           // either way; 0: session.DefaultWindow
	CacheBytes       int           // per gateway; 0: the gateway's default
	Partitions       int32         // 0: 16
	Grace            time.Duration // 0: 15 s
	Heartbeat        time.Duration // of streams; 0: 1 s, so that a dead one is noticed well within the grace
	StallAfter       time.Duration // of breakers; 0: the bridge's default
	Bytes            bool          // applications write bytes, in pieces, and no messages
	Reasons          []string      // ends to expect beside OK
	Log              *slog.Logger  // nil discards
}

// A World is a running system with its users.
type World struct {
	cfg     WorldConfig
	net     *fabric.Network
	broker  *broker.Embedded
	topics  bridge.Topics
	check   *check.Checker
	users   sync.WaitGroup // applications of both sides
	serving sync.WaitGroup // the controller's accept loop
	restart sync.WaitGroup
	quiet   chan struct{} // closed: nobody sends anything new
	once    sync.Once
	ctx     context.Context
	cancel  context.CancelFunc

	mu       sync.Mutex
	gateways []*node
	agents   []*agent
	ctrl     *brain   // nil: it is down
	brains   []*brain // all its lives

	partitions int32                  // of up and down
	known      map[check.Session]bool // the controller side has seen it
	orphans    []check.Session        // whose agent side died, or was told DATA_LOSS
	met        map[FaultKind]int      // how often a fault struck something
	states     map[FaultKind]map[State]int
	wrong      []string // what went wrong beside the sessions; the first mostWrong
	moreWrong  int      // how many more
	hands      int      // names given to agents by hand
}

// NewWorld starts brokers, topics, gateways, a controller and agents.
func NewWorld(ctx context.Context, cfg WorldConfig) (*World, error) {
	if cfg.Every == 0 {
		cfg.Every = 100 * time.Millisecond
	}
	if cfg.MaxSize == 0 {
		cfg.MaxSize = 2 << 10
	}
	if cfg.Partitions == 0 {
		cfg.Partitions = 16
	}
	if cfg.Grace == 0 {
		cfg.Grace = 15 * time.Second
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	w := &World{
		cfg: cfg, net: fabric.New(), quiet: make(chan struct{}),
		check:      check.New(check.Config{Settle: time.Minute}),
		partitions: cfg.Partitions, known: make(map[check.Session]bool),
		met: make(map[FaultKind]int), states: make(map[FaultKind]map[State]int),
	}
	w.ctx, w.cancel = context.WithCancel(ctx)
	if err := w.start(); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

func (w *World) start() error {
	var err error
	w.broker, err = broker.StartEmbedded(broker.EmbeddedConfig{Brokers: 1, Listen: kafkaHost + ":9092", ListenFn: w.net.Listen, Log: w.cfg.Log})
	if err != nil {
		return err
	}
	if err := w.createTopics(); err != nil {
		return err
	}
	if err := w.startController(); err != nil {
		return err
	}
	for i := range w.cfg.Gateways {
		n := &node{name: fmt.Sprintf("gateway-%d", i+1)}
		n.addr = fmt.Sprintf("%s:%d", n.name, gatewayPort)
		w.gateways = append(w.gateways, n)
		if err := w.startGateway(n); err != nil {
			return err
		}
	}
	for i := range w.cfg.Agents {
		a := &agent{w: w, index: i, name: fmt.Sprintf("agent-%03d", i+1)}
		w.agents = append(w.agents, a)
		w.users.Go(a.live)
	}
	return nil
}

// kafka returns the settings of a process that runs on the named host.
func (w *World) kafka(host string) bridge.Config {
	return bridge.Config{
		Brokers: []string{kafkaHost + ":9092"}, ClientID: host, Dial: w.net.Dialer(host), StallAfter: w.cfg.StallAfter,
		Logger: w.cfg.Log.With("process", host),
	}
}

// Met returns how often each kind of fault struck something.
func (w *World) Met() map[FaultKind]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make(map[FaultKind]int, len(w.met))
	maps.Copy(out, w.met)
	return out
}

// States returns how often each kind of fault struck a session in each state.
func (w *World) States() map[FaultKind]map[State]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.states
}

// Attached returns how many agents' sessions have a stream now.
func (w *World) Attached() (n int) {
	for _, a := range w.agents {
		if s := a.state(); s == Attached || s == HalfClosed {
			n++
		}
	}
	return n
}

// Quiet lets everybody finish: nothing new is sent, what is under way is
// delivered, and the sessions are closed in order. It returns false when
// that takes longer than within.
func (w *World) Quiet(within time.Duration) bool {
	w.once.Do(func() { close(w.quiet) })
	w.restart.Wait()
	done := make(chan struct{})
	go func() {
		w.users.Wait()
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-time.After(within):
		return false
	}
}

// orphan notes a session of which the controller side need not have heard.
func (w *World) orphan(id check.Session) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.orphans = append(w.orphans, id)
}

// Report returns the checker's verdict.
func (w *World) Report(final bool) check.Report {
	if final {
		w.mu.Lock()
		for _, id := range w.orphans {
			if !w.known[id] { // the controller side never heard of it
				w.check.Gone(id, check.Controller)
			}
		}
		w.mu.Unlock()
	}
	return w.check.Report(final)
}

// Close ends everything.
func (w *World) Close() {
	w.once.Do(func() { close(w.quiet) })
	w.cancel()
	w.restart.Wait()
	for _, a := range w.agents {
		a.stop()
	}
	w.mu.Lock()
	brains, gateways := w.brains, w.gateways
	w.mu.Unlock()
	for _, b := range brains {
		b.Kill()
	}
	for _, n := range gateways {
		if n.gw != nil {
			n.gw.Kill()
			<-n.serving
		}
	}
	w.users.Wait()
	w.serving.Wait()
	if w.broker != nil {
		w.broker.Close()
	}
	w.net.Close()
}

// rng returns the random numbers of one user: the same for the same seed.
func (w *World) rng(who uint64) *rand.Rand { return rand.New(rand.NewPCG(w.cfg.Seed, who)) }

func hash(id [16]byte) (h uint64) {
	for _, b := range id[:8] {
		h = h<<8 | uint64(b)
	}
	return h
}
