// Package sim runs the whole system under faults in fake time: agent sides,
// gateways, a controller and the embedded broker, over a network in memory,
// all in one testing/synctest bubble and driven by one seed.
//
// A failing seed is replayed alone by
//
//	go test -race ./e2e/sim -run TestSimulation -sim.seed=SEED -sim.n=1 -v
package sim

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moorage-dev/moorage/demo"
)

var (
	baseSeed = flag.Uint64("sim.seed", 0, "first seed; 0: a fresh one")
	runs     = flag.Int("sim.n", 1000, "number of seeds")
	verbose  = flag.Bool("sim.log", false, "log what all processes say")
	hasty    = flag.Bool("sim.first", false, "stop at the first seed that fails")
)

// What every run must have had at least.
const (
	wantSessions = 5
	wantFrames   = 200
	wantFaults   = 5
)

func TestSimulation(t *testing.T) {
	base := *baseSeed
	if base == 0 {
		base = rand.Uint64() >> 16
	}
	t.Logf("seeds %d to %d", base, base+uint64(*runs)-1)
	var all table
	t.Run("seed", func(t *testing.T) {
		var next atomic.Uint64
		for range runtime.GOMAXPROCS(0) {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				for i := next.Add(1) - 1; i < uint64(*runs) && !(*hasty && all.failed.Load()); i = next.Add(1) - 1 {
					t.Run(fmt.Sprint(base+i), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) { all.add(simulate(t, base+i)) })
						all.failed.CompareAndSwap(false, t.Failed())
					})
				}
			})
		}
	})
	t.Logf("%d seeds with %d sessions, %d frames, %d faults; what struck sessions in which state:\n%s",
		*runs, all.sessions, all.frames, all.faults, demo.FaultTable(all.states))
	if *runs >= 1000 && !t.Failed() {
		all.wantFull(t)
	}
}

// wantFull wants each fault to have struck sessions in every state: there is
// no cell of the table that cannot occur.
func (a *table) wantFull(t *testing.T) {
	for _, kind := range demo.All {
		for _, state := range demo.States {
			if a.states[kind][state] == 0 {
				t.Errorf("fault %s never struck a session that was %s", kind, state)
			}
		}
	}
}

// A plan is all that a seed decides.
type plan struct {
	world  demo.WorldConfig
	faults []demo.Fault
	length time.Duration // of the traffic
}

func planOf(seed uint64) plan {
	rng := rand.New(rand.NewPCG(seed, 1))
	p := plan{length: 9 * time.Second}
	p.world = demo.WorldConfig{
		Agents: 5 + rng.IntN(3), Gateways: 2 + rng.IntN(2), Seed: seed, Partitions: 1 << rng.IntN(3),
		Messages: 20 + rng.IntN(20), Every: time.Duration(50+rng.IntN(150)) * time.Millisecond, MaxSize: 1 << (4 + rng.IntN(8)),
		Grace: time.Minute, Heartbeat: 5 * time.Second,
	}
	switch rng.IntN(6) {
	case 0: // a window that is often full
		p.world.Window = 2 << 10
	case 1: // a cache that evicts
		p.world.CacheBytes, p.world.MaxSize, p.world.Messages = 512<<10, 16<<10, 60
	}
	kinds := slices.Clone(demo.Survivable)
	switch rng.IntN(8) {
	case 0, 1:
		kinds = append(kinds, demo.Mortal...)
		p.world.Reasons = []string{"CONTROLLER_GONE"}
	case 2, 3:
		rare := slices.Concat(demo.Mortal, demo.Lossy)
		kinds = slices.Concat(rare, rare, demo.Survivable)
		p.world.Reasons = []string{"CONTROLLER_GONE", "DATA_LOSS"}
	}
	rng.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	p.faults = demo.Aimed(seed, demo.Schedule(seed, kinds, 7+rng.IntN(6), p.world.Agents, p.world.Gateways, p.length))
	return p
}

// simulate runs one seed and judges it.
func simulate(t *testing.T, seed uint64) *demo.World {
	p := planOf(seed)
	log := slog.DiscardHandler
	if *verbose {
		log = slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})
	}
	p.world.Log = slog.New(log)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w, err := demo.NewWorld(ctx, p.world)
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	defer w.Close()
	start := time.Now()
	for _, f := range p.faults {
		time.Sleep(time.Until(start.Add(f.At)))
		p.world.Log.Info("FAULT", "kind", f.Kind, "target", f.Target, "for", f.For, "in", f.In)
		w.Strike(f)
	}
	time.Sleep(time.Until(start.Add(p.length)))
	for range 60 { // where faults left little time for anything else
		if r := w.Report(false); r.Received[0]+r.Received[1] >= wantFrames {
			break
		}
		time.Sleep(time.Second)
	}
	settled := w.Quiet(10 * time.Minute)
	r, wrong := w.Report(true), w.Wrong()
	if !settled || len(wrong) > 0 || !r.Clean() {
		t.Errorf("seed %d: settled=%v %q\n%v", seed, settled, wrong, r)
	}
	faults := 0
	for _, n := range w.Met() {
		faults += n
	}
	if frames := r.Received[0] + r.Received[1]; r.Sessions < wantSessions || frames < wantFrames || faults < wantFaults {
		t.Errorf("seed %d: %d sessions, %d frames, %d faults; want %d, %d, %d", seed, r.Sessions, frames, faults, wantSessions, wantFrames, wantFaults)
	}
	if t.Failed() {
		t.Logf("replay: go test -race ./e2e/sim -run TestSimulation -sim.seed=%d -sim.n=1 -sim.log -v", seed)
	}
	return w
}

// The same seed plans the same.
func TestPlansRepeat(t *testing.T) {
	for seed := range uint64(200) {
		if a, b := planOf(seed), planOf(seed); !reflect.DeepEqual(a, b) {
			t.Fatalf("seed %d plans %v, then %v", seed, a, b)
		}
	}
}

// A table adds up what many runs met.
type table struct {
	failed atomic.Bool

	mu       sync.Mutex // guards the following
	states   map[demo.FaultKind]map[demo.State]int
	sessions int
	frames   uint64
	faults   int
}

func (a *table) add(w *demo.World) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := w.Report(true)
	a.sessions += r.Sessions
	a.frames += r.Received[0] + r.Received[1]
	for _, n := range w.Met() {
		a.faults += n
	}
	if a.states == nil {
		a.states = map[demo.FaultKind]map[demo.State]int{}
	}
	for kind, row := range w.States() {
		if a.states[kind] == nil {
			a.states[kind] = map[demo.State]int{}
		}
		for state, n := range row {
			a.states[kind][state] += n
		}
	}
}

func TestMain(m *testing.M) {
	flag.Parse()
	if strings.Contains(os.Getenv("GODEBUG"), "asynctimerchan=1") {
		fmt.Fprintln(os.Stderr, "sim: needs the timers of Go 1.23 and later")
		os.Exit(2)
	}
	debug.SetGCPercent(400) // short lives: most of it is garbage before it is looked at
	os.Exit(m.Run())
}
