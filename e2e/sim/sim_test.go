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
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moorage-dev/moorage/demo"
)

var (
	baseSeed = flag.Uint64("sim.seed", 0, "first seed; 0: a fresh one")
	runs     = flag.Int("sim.n", 1000, "number of seeds")
	verbose  = flag.Bool("sim.log", false, "log what all processes say")
)

func TestSimulation(t *testing.T) {
	base := *baseSeed
	if base == 0 {
		base = rand.Uint64() >> 16
	}
	t.Logf("seeds %d to %d", base, base+uint64(*runs)-1)
	var all table
	t.Run("seed", func(t *testing.T) {
		for i := range *runs {
			seed := base + uint64(i)
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { all.add(simulate(t, seed)) })
			})
		}
	})
	t.Logf("%d seeds, what struck sessions in which state:\n%s", *runs, demo.FaultTable(all.states))
	if *runs < 100 {
		return
	}
	for _, kind := range demo.All {
		if all.met[kind] == 0 {
			t.Errorf("fault %s never met anything", kind)
		}
	}
}

// simulate runs one seed and judges it.
func simulate(t *testing.T, seed uint64) *demo.World {
	rng := rand.New(rand.NewPCG(seed, 1))
	log := slog.DiscardHandler
	if *verbose {
		log = slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})
	}
	cfg := demo.WorldConfig{
		Agents: 5 + rng.IntN(3), Gateways: 2 + rng.IntN(2), Seed: seed, Partitions: 1 << rng.IntN(3),
		Messages: 20 + rng.IntN(20), Every: time.Duration(50+rng.IntN(400)) * time.Millisecond, MaxSize: 1 << (4 + rng.IntN(8)),
		Grace: 30 * time.Second, Log: slog.New(log),
	}
	switch rng.IntN(6) {
	case 0: // a window that is often full
		cfg.Window = 2 << 10
	case 1: // a cache that evicts
		cfg.CacheBytes, cfg.MaxSize, cfg.Messages = 512<<10, 16<<10, 60
	}
	const d = 15 * time.Second
	plan := demo.Schedule(seed, kinds(rng), 5+rng.IntN(6), cfg.Agents, cfg.Gateways, d)
	for _, f := range plan {
		cfg.Mortal = cfg.Mortal || f.Kind == demo.ControllerDied
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w, err := demo.NewWorld(ctx, cfg)
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	defer w.Close()
	start := time.Now()
	for _, f := range plan {
		time.Sleep(time.Until(start.Add(f.At)))
		w.Strike(f)
	}
	time.Sleep(time.Until(start.Add(d)))
	settled := w.Quiet(10 * time.Minute)
	if r := w.Report(true); !settled || !r.Clean() {
		t.Errorf("seed %d: settled=%v\n%v\nreplay: go test -race ./e2e/sim -run TestSimulation -sim.seed=%d -sim.n=1 -sim.log -v", seed, settled, r, seed)
	}
	return w
}

// kinds returns the faults in an order of its own, so that a plan that is
// shorter than the list has any of them.
func kinds(rng *rand.Rand) []demo.FaultKind {
	k := slices.Clone(demo.All)
	rng.Shuffle(len(k), func(i, j int) { k[i], k[j] = k[j], k[i] })
	return k
}

// A table adds up what many runs met.
type table struct {
	mu     sync.Mutex
	met    map[demo.FaultKind]int
	states map[demo.FaultKind]map[string]int
}

func (a *table) add(w *demo.World) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.met == nil {
		a.met, a.states = map[demo.FaultKind]int{}, map[demo.FaultKind]map[string]int{}
	}
	for kind, n := range w.Met() {
		a.met[kind] += n
	}
	for kind, row := range w.States() {
		if a.states[kind] == nil {
			a.states[kind] = map[string]int{}
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
	os.Exit(m.Run())
}
