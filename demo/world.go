package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/broker"
	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/demo/fabric"
	"github.com/moorage-dev/moorage/gateway"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
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
	wrong      []string // what went wrong beside the sessions
	hands      int      // names given to agents by hand
}

// A node is a place for a gateway: the processes in it come and go.
type node struct {
	name, addr string
	gw         *gateway.Gateway
	serving    chan struct{} // closed when gw's Serve returned
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

func (w *World) startGateway(n *node) error {
	lis, err := w.net.Listen("tcp", n.addr)
	if err != nil {
		return err
	}
	gw, err := gateway.New(w.ctx, gateway.Config{
		Name: n.name, Advertise: n.addr, Bridge: w.kafka(n.name), Insecure: true, Heartbeat: w.cfg.Heartbeat,
		CacheBytes: w.cfg.CacheBytes, Logger: w.cfg.Log.With("process", n.name),
	})
	if err != nil {
		lis.Close()
		return err
	}
	serving := make(chan struct{})
	go func() {
		defer close(serving)
		if err := gw.Serve(lis); err != nil && !errors.Is(err, net.ErrClosed) {
			w.cfg.Log.Debug("gateway stopped", "gateway", n.name, "err", err)
		}
	}()
	w.mu.Lock()
	n.gw, n.serving = gw, serving
	w.mu.Unlock()
	return nil
}

func linksFrom(host string) func(*fabric.Link) bool {
	return func(l *fabric.Link) bool { return l.From == host }
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
	brains := w.brains
	w.mu.Unlock()
	for _, b := range brains {
		b.Kill()
	}
	w.mu.Lock()
	gateways := w.gateways
	w.mu.Unlock()
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

// A peer is one end of a session as its application sees it.
type peer interface {
	Send(ctx context.Context, p []byte) error
	Receive(ctx context.Context) ([]byte, error)
	CloseWrite() error
	Close() error
	Done() <-chan struct{}
	Err() error
	dead() bool                // its process is gone, so the application hears nothing more
	pause(ctx context.Context) // before it reads on
	ebbed()                    // it has read the last
}

// talk is what both applications do: send numbered messages until it is
// quiet, then half-close; receive until the other side did; and note the end.
func (w *World) talk(id check.Session, side check.Side, p peer, rng *rand.Rand) {
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	var sending sync.WaitGroup
	sending.Go(func() { w.send(ctx, id, side, p, rng) })
	w.receive(ctx, id, side, p)
	sending.Wait()
	if side == check.Agent {
		p.Close()
	}
	w.await(id, side, p)
}

// await notes how the session ends at one side.
func (w *World) await(id check.Session, side check.Side, p peer) {
	select {
	case <-p.Done():
		if p.dead() {
			w.check.Gone(id, side)
		} else {
			w.ended(id, side, p.Err())
		}
	case <-w.ctx.Done():
	}
}

func (w *World) send(ctx context.Context, id check.Session, side check.Side, p peer, rng *rand.Rand) {
	for seq := uint64(1); w.cfg.Messages == 0 || seq <= uint64(w.cfg.Messages); seq++ {
		select {
		case <-w.quiet:
			p.CloseWrite()
			return
		case <-p.Done():
			return
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(rng.ExpFloat64() * float64(w.cfg.Every))):
		}
		m := message(seq, rng, w.cfg.MaxSize)
		w.check.Sent(id, side, seq, m)
		if err := p.Send(ctx, m); err != nil {
			return
		}
	}
	p.CloseWrite()
}

func (w *World) receive(ctx context.Context, id check.Session, side check.Side, p peer) {
	for {
		p.pause(ctx)
		m, err := p.Receive(ctx)
		if err != nil {
			p.ebbed()
			return
		}
		if p.dead() {
			return
		}
		w.check.Received(id, side, number(m), m)
	}
}

func (w *World) ended(id check.Session, side check.Side, err error) {
	var end *session.EndedError
	switch {
	case errors.As(err, &end):
		switch {
		case side != check.Agent:
		case end.Reason == linkv1.Reason_REASON_CONTROLLER_GONE:
			w.check.Gone(id, check.Controller)
		case end.Reason == linkv1.Reason_REASON_DATA_LOSS:
			w.orphan(id)
		}
		w.check.Ended(id, side, session.ReasonName(end.Reason), end.Text)
	case err != nil:
		w.check.Ended(id, side, "", err.Error())
	default:
		w.check.Ended(id, side, check.OK, "")
	}
}

// message returns message seq: its number, and random bytes.
func message(seq uint64, rng *rand.Rand, most int) []byte {
	m := make([]byte, 8+rng.IntN(most))
	for i := range 8 {
		m[i] = byte(seq >> (56 - 8*i))
	}
	for i := 8; i < len(m); i++ {
		m[i] = byte(rng.Uint32())
	}
	return m
}

func number(m []byte) (seq uint64) {
	if len(m) < 8 {
		return 0
	}
	for _, b := range m[:8] {
		seq = seq<<8 | uint64(b)
	}
	return seq
}
