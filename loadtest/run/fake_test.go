package run_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"go.uber.org/goleak"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/loadtest/fault"
	"github.com/moorage-dev/moorage/loadtest/results"
	"github.com/moorage-dev/moorage/loadtest/run"
	"github.com/moorage-dev/moorage/loadtest/scenario"
	"github.com/moorage-dev/moorage/loadtest/site"
	"github.com/moorage-dev/moorage/loadtest/worker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A stage is a world of fakes. It writes down what happens, in order.
type stage struct {
	t *testing.T
	// account is what a worker tells at its end; nil: one session, in order.
	account func(p worker.Plan) check.Account
	// tick may change what a worker tells each second.
	tick func(name string, t *worker.Tick)
	// dies is the name of a worker that fails at its third tick.
	dies string
	// refused is what agents are told that want a session; "": they get one.
	refused string
	// mute is the name of a worker that falls silent after its third tick.
	mute string
	// deaf is the name of one that does not know stop.
	deaf string
	// slow workers have something under way for ever.
	slow bool
	// down tells that a fault's victim is down; nil: none is.
	down func() bool
	// stubborn faults are undone a minute after they should be.
	stubborn bool

	mu   sync.Mutex
	list []string
}

func (s *stage) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, fmt.Sprintf(format, args...))
}

func (s *stage) noted() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.list)
}

// wantOrder fails unless all of want were noted, in this order.
func (s *stage) wantOrder(want ...string) {
	s.t.Helper()
	rest := s.noted()
	for _, w := range want {
		i := slices.Index(rest, w)
		if i < 0 {
			s.t.Fatalf("no %q, or not in its place, in %q", w, s.noted())
		}
		rest = rest[i+1:]
	}
}

// start is run.Config.Start.
func (s *stage) start(_ context.Context, cfg site.Config) (site.Site, error) {
	s.note("start %s", cfg.System)
	return &fakeSite{stage: s, cfg: cfg}, nil
}

type fakeSite struct {
	*stage
	cfg site.Config
	app string
}

func (f *fakeSite) Gateways() []string {
	if f.app != "" {
		return []string{f.app}
	}
	return []string{"g:1"}
}
func (f *fakeSite) Kafka() []string    { return []string{"k:1"} }
func (f *fakeSite) Doors() []string    { return nil }
func (f *fakeSite) Shims() []string    { return nil }
func (f *fakeSite) Token() string      { return "" }
func (f *fakeSite) CAFile() string     { return "" }
func (f *fakeSite) Controller() string { return "load" }
func (f *fakeSite) Words() string      { return "a fake" }
func (f *fakeSite) SetApp(addr string) { f.app = addr }
func (f *fakeSite) Track(name string, pid int) {
	f.note("track %s", name)
}
func (f *fakeSite) Connect(_ context.Context, jenkins string) error {
	f.note("connect %s", jenkins)
	return nil
}
func (f *fakeSite) Measure(ctx context.Context, _ time.Time) { <-ctx.Done() }
func (f *fakeSite) Processes() []results.Process             { return nil }
func (f *fakeSite) Extra(context.Context) map[string]float64 {
	return map[string]float64{"sessions": 2}
}
func (f *fakeSite) Can() []string { return fault.Kinds }
func (f *fakeSite) Do(_ context.Context, fl scenario.Fault) (func(context.Context) error, error) {
	if f.down != nil && f.down() {
		return nil, fmt.Errorf("site: %s %w", fl.To, site.ErrDown)
	}
	f.note("do %s", fl.Do)
	return func(context.Context) error {
		if f.stubborn {
			time.Sleep(time.Minute)
		}
		f.note("undo %s", fl.Do)
		return nil
	}, nil
}
func (f *fakeSite) Close() error {
	f.note("close %s", f.cfg.System)
	return nil
}

// spawn is run.Config.Spawn: the worker is a goroutine at the far end of pipes.
func (s *stage) spawn(ctx context.Context, _, name string) (*run.Child, error) {
	orders, in := io.Pipe()
	out, words := io.Pipe()
	done := make(chan struct{})
	w := &fakeWorker{stage: s, name: name, words: words}
	go func() {
		defer close(done)
		w.live(orders)
		words.Close()
		orders.Close()
	}()
	kill := func() {
		orders.CloseWithError(io.ErrUnexpectedEOF)
		words.Close()
	}
	stop := context.AfterFunc(ctx, kill)
	return &run.Child{
		PID: 1, In: in, Out: out,
		Kill: kill,
		Stop: func(on bool) { s.note("freeze %s %v", name, on) },
		Wait: func() error {
			<-done
			stop()
			return nil
		},
	}, nil
}

type fakeWorker struct {
	*stage
	name  string
	words io.Writer
	plan  worker.Plan
}

func (w *fakeWorker) say(word worker.Word) { _ = json.NewEncoder(w.words).Encode(word) }

func (w *fakeWorker) live(in io.Reader) {
	defer w.note("end %s", w.name)
	lines := make(chan []byte)
	go func() {
		defer close(lines)
		scan := bufio.NewScanner(in)
		for scan.Scan() {
			lines <- slices.Clone(scan.Bytes())
		}
	}()
	defer func() {
		for range lines {
		}
	}()
	line, ok := <-lines
	if !ok || json.Unmarshal(line, &w.plan) != nil {
		return
	}
	w.note("plan %s", w.name)
	ready := &worker.Ready{PID: 1}
	if w.plan.Role == worker.RoleLegacy {
		ready.Jenkins = "http://jenkins/"
	}
	if w.plan.Transport == site.TCP && w.plan.Role == worker.RoleApp {
		ready.Addr = "app:1"
	}
	if w.plan.Transport == site.TCP && w.plan.Role == worker.RoleAgents {
		w.note("dial %v", w.plan.Gateways)
	}
	w.say(worker.Word{Ready: ready})
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	rest := time.NewTimer(time.Hour)
	defer rest.Stop()
	n := 0
	for {
		select {
		case line, ok := <-lines:
			var o worker.Order
			if !ok || json.Unmarshal(line, &o) != nil {
				return
			}
			w.note("%s %s", o.Do, w.name)
			switch o.Do {
			case "start":
				time.Sleep(time.Until(o.At))
				tick.Reset(time.Second)
			case "stop":
				switch {
				case w.slow:
					rest.Reset(o.Within + o.Beyond)
					continue
				case w.name != w.deaf:
					w.say(worker.Word{Final: w.final()})
				}
				tick.Stop() // all is said
			case "quit":
				return
			}
		case <-rest.C:
			w.say(worker.Word{Final: w.final()})
			tick.Stop()
		case at := <-tick.C:
			if n++; n == 3 && w.name == w.dies {
				w.say(worker.Word{Fail: "no strength left"})
				return
			}
			t := &worker.Tick{At: at, Agents: 1, Latency: map[string][]byte{}}
			if w.plan.Role == worker.RoleAgents {
				t.Sent, t.Received = [2]uint64{10, 0}, [2]uint64{0, 10}
				t.Latency["down"] = spread(5000)
			} else {
				t.Sent, t.Received = [2]uint64{0, 10}, [2]uint64{10, 0}
			}
			if w.tick != nil {
				w.tick(w.name, t)
			}
			if n > 3 && w.name == w.mute {
				continue
			}
			if w.refused != "" && w.plan.Role == worker.RoleAgents {
				t.Agents = 0
				w.say(worker.Word{Event: &results.Event{Kind: "lost-session", Who: "g/0/0", Text: w.refused}})
			}
			w.say(worker.Word{Tick: t})
		}
	}
}

func (w *fakeWorker) final() *worker.Final {
	f := &worker.Final{Latency: map[string][]byte{"down": spread(5000, 7000)}, Recovery: map[int][]byte{0: spread(300_000)}}
	if w.refused == "" {
		f.Opens = 1
	}
	if w.account != nil {
		f.Account = w.account(w.plan)
		return f
	}
	side := check.Agent
	switch w.plan.Role {
	case worker.RoleLegacy:
		return f // it has no sessions
	case worker.RoleApp:
		side = check.Controller
	}
	f.Account = check.Account{Side: side, Sessions: map[string]*check.Entry{
		"g/1/1": {Sent: 100, Received: 100, Reason: check.OK, Over: time.Now()},
	}}
	return f
}

// spread is a histogram of microseconds as workers send it.
func spread(values ...int64) []byte {
	h := hdrhistogram.New(1, time.Hour.Microseconds(), 3)
	for _, v := range values {
		_ = h.RecordValue(v)
	}
	b, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		panic(err)
	}
	return b
}
