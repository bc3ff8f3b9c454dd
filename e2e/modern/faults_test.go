package modern_test

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/e2e/rig"
	"github.com/moorage-dev/moorage/standin"
)

var faultSeed = flag.Uint64("modern.seed", 1, "seed of the faults that come all at once")

// outage is how long a link is broken.
const outage = 5 * time.Second

// A fleet is one agent of each manner, each behind a shim of its own, and a
// controller that never stops talking to them.
type fleet struct {
	*site
	lines []*cable // the shims' ways to the gateways
	done  context.CancelFunc
	talks sync.WaitGroup

	mu    sync.Mutex // guards the following
	calls map[string]int
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{site: newSite(t, standin.Config{}, nil), calls: make(map[string]int)}
	for _, m := range manners {
		h := f.startShim(m.word)
		f.lines = append(f.lines, h.wire)
		f.startAgent(m.word, h.door, m)
	}
	f.jenkins.wantAgents(t, len(f.agents), 60*time.Second)
	ctx, cancel := context.WithCancel(context.Background())
	f.done = cancel
	t.Cleanup(cancel)
	for i, a := range f.agents {
		random := rand.New(rand.NewPCG(*faultSeed, uint64(i)))
		f.talks.Go(func() { f.talk(ctx, a.name, random) })
	}
	return f
}

// talk makes one call after the other, of all sizes, until ctx ends.
func (f *fleet) talk(ctx context.Context, name string, random *rand.Rand) {
	for ctx.Err() == nil {
		size := func() int { return random.IntN(1 << (4 + random.IntN(17))) }
		within, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		err := f.jenkins.Call(within, name, size(), size())
		cancel()
		if err != nil {
			f.Errorf("%s: %v", name, err)
			return
		}
		f.mu.Lock()
		f.calls[name]++
		f.mu.Unlock()
	}
}

// wantGoingOn waits until every agent has answered a few calls from now on.
func (f *fleet) wantGoingOn(when string, within time.Duration) (took time.Duration) {
	f.Helper()
	began, before := time.Now(), f.counted()
	rig.Eventually(f.T, "all agents answer "+when, within, func() bool {
		now := f.counted()
		for _, a := range f.agents {
			if now[a.name] < before[a.name]+3 {
				return false
			}
		}
		return true
	})
	return time.Since(began)
}

func (f *fleet) counted() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.calls)
}

// wantUnharmed ends the talking, and checks that neither end has noticed
// anything but slowness.
func (f *fleet) wantUnharmed() {
	f.Helper()
	f.done()
	f.talks.Wait()
	for _, a := range f.agents {
		a.wantUnharmed()
	}
	stats := f.jenkins.Stats()
	if stats.Online != len(f.agents) || stats.Lost != 0 || stats.Corrupt != 0 || stats.CloseNotify != 0 || len(stats.Refused) != 0 {
		f.Errorf("at the controller: %+v", stats)
	}
	f.Logf("calls: %v; %d bytes came up", f.counted(), stats.Bytes)
}

func (f *fleet) eachWire(do func(*cable)) {
	for _, wire := range f.lines {
		do(wire)
	}
}

// killInUse kills the gateway that holds an agent's session; a fresh one takes
// its place after a while.
func (f *fleet) killInUse(agent string, away time.Duration) {
	f.Helper()
	e := f.holding(agent)
	e.kill()
	rig.Pass(f.T, away)
	f.startGateway(e.place)
}

// roll replaces all gateways one after the other, as an upgrade does.
func (f *fleet) roll() {
	f.Helper()
	for _, e := range f.living() {
		e.drain()
		f.startGateway(e.place)
	}
}

// What breaks between shim and connector, agents behind shims do not see.
func TestFaultsAreHidden(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		desc   string
		strike func(*fleet) // returns when it is over
	}{
		{"links reset", func(f *fleet) {
			f.eachWire((*cable).cut)
			rig.Pass(f.T, outage)
			f.eachWire((*cable).mend)
		}},
		{"links silent", func(f *fleet) {
			f.eachWire((*cable).swallow)
			rig.Pass(f.T, outage)
			f.eachWire((*cable).mend)
		}},
		{"gateways killed twice", func(f *fleet) {
			for range 2 {
				f.killInUse(f.agents[0].name, time.Second)
			}
		}},
		{"gateways upgraded", (*fleet).roll},
		{"connector without Kafka", func(f *fleet) {
			f.connectorWire.cut()
			rig.Pass(f.T, outage)
			f.connectorWire.mend()
		}},
		{"Kafka silent for the connector", func(f *fleet) {
			f.connectorWire.swallow()
			rig.Pass(f.T, outage)
			f.connectorWire.mend()
		}},
		{"gateways without Kafka", func(f *fleet) {
			f.gatewayWire.cut()
			rig.Pass(f.T, outage)
			f.gatewayWire.mend()
		}},
		{"all at once", (*fleet).storm},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			f.wantGoingOn("before the fault", 30*time.Second)
			tt.strike(f)
			t.Logf("went on %v after the fault was over", f.wantGoingOn("after the fault", 60*time.Second).Round(10*time.Millisecond))
			f.wantUnharmed()
		})
	}
}

// storm has several do their worst side by side, in an order that the seed
// decides.
func (f *fleet) storm() {
	var wg sync.WaitGroup
	defer wg.Wait()
	over := time.Now().Add(15 * time.Second)
	random := func(who uint64) *rand.Rand { return rand.New(rand.NewPCG(*faultSeed, 1000+who)) }
	some := func(r *rand.Rand, most time.Duration) time.Duration { return time.Duration(r.Int64N(int64(most))) }
	for i, wire := range f.lines {
		r := random(uint64(i))
		wg.Go(func() {
			for time.Now().Before(over) {
				f.calm(some(r, 4*time.Second))
				switch r.IntN(3) {
				case 0:
					wire.reset()
				case 1:
					wire.cut()
				case 2:
					wire.swallow()
				}
				f.calm(some(r, 2*time.Second))
				wire.mend()
			}
		})
	}
	wg.Go(func() {
		r := random(100)
		for time.Now().Before(over) {
			f.calm(some(r, 4*time.Second))
			f.connectorWire.cut()
			f.calm(some(r, 2*time.Second))
			f.connectorWire.mend()
		}
	})
	// The gateways are this goroutine's alone, which may fail the test.
	for r := random(200); time.Now().Before(over); {
		f.calm(some(r, 3*time.Second))
		living := f.living()
		e := living[r.IntN(len(living))]
		if r.IntN(2) == 0 {
			e.kill()
		} else {
			e.drain()
		}
		f.calm(some(r, 2*time.Second))
		f.startGateway(e.place)
	}
}

// calm is pass for goroutines that may not end the test.
func (f *fleet) calm(d time.Duration) {
	select {
	case <-time.After(d):
	case <-f.Context().Done():
	}
}

// Straight at a gateway an agent lives through Kafka's absence, and through
// troubles of the connector's way to it.
func TestKafkaAwayFromTier0(t *testing.T) {
	t.Parallel()
	s := newSite(t, standin.Config{}, nil)
	var agents []*actor
	for i, m := range manners {
		agents = append(agents, s.startAgent("t0-"+m.word, s.places[i%2], m))
	}
	s.jenkins.wantAgents(t, len(agents), 60*time.Second)
	kafka := []*cable{&s.connectorWire, &s.gatewayWire}
	for _, fault := range []struct {
		desc  string
		wires []*cable
		how   func(*cable)
	}{
		{"the connector's way is cut", kafka[:1], (*cable).cut},
		{"Kafka is gone", kafka, (*cable).cut},
		{"Kafka is silent", kafka, (*cable).swallow},
	} {
		for _, wire := range fault.wires {
			fault.how(wire)
		}
		answered := make(chan error, len(agents))
		for _, a := range agents {
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
				defer cancel()
				if err := s.jenkins.Call(ctx, a.name, 300_000, 300_000); err != nil {
					answered <- fmt.Errorf("%s: %w", a.name, err)
					return
				}
				answered <- nil
			}()
		}
		rig.Pass(t, outage)
		for _, wire := range fault.wires {
			wire.mend()
		}
		began := time.Now()
		for range agents {
			if err := <-answered; err != nil {
				t.Errorf("%s: %v", fault.desc, err)
			}
		}
		t.Logf("%s: all had answered %v after it was over", fault.desc, time.Since(began).Round(10*time.Millisecond))
	}
	for _, a := range agents {
		a.wantUnharmed()
	}
}
