package legacy_test

import (
	"flag"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/e2e/rig"
)

// faultSeed chooses when each fault comes of those that come all at once.
var faultSeed = flag.Uint64("legacy.seed", uint64(time.Now().UnixNano()), "seed of the faults that come all at once")

// killLeader kills the node that has the agent's session, waits until another
// has it, and brings the first one back.
func (s *site) killLeader(t *testing.T, a *agent) {
	t.Helper()
	_, l := s.inUse(t, a.node.name)
	topic := "moorage." + s.controller + ".up"
	s.k.one.Lock()
	defer s.k.one.Unlock()
	leader := int(s.k.partition(t, topic, l.Partition).Leader)
	rig.Must(t, s.k.Kill(leader))
	rig.Eventually(t, "another leads", time.Minute, func() bool {
		now := int(s.k.partition(t, topic, l.Partition).Leader)
		return now != leader && now >= 0
	})
	rig.Must(t, s.k.Start(t.Context(), leader))
	s.k.waitInSync(t, topic, l.Partition)
}

// upgrade ends a gateway in order, and starts its successor.
func (s *site) upgrade(t *testing.T, old *gateway) {
	t.Helper()
	old.Signal(syscall.SIGTERM)
	if code := old.Exit(time.Minute); code != 0 {
		t.Errorf("%s ended with %d after SIGTERM, want 0", old.Name, code)
	}
	s.successor(t, old)
}

// A fault begins at its time, and ends after some more.
type fault struct {
	at, length time.Duration
	what       string
	begin, end func()
}

// allAtOnce gives every fault within a minute, each at a time and of a length
// that follow from the seed, so that they overlap as chance has it.
func (s *site) allAtOnce(t *testing.T, a *agent, kafka *cable) {
	t.Helper()
	rng := rand.New(rand.NewPCG(*faultSeed, 0))
	between := func(least, most int) time.Duration {
		return time.Duration(1000*least+rng.IntN(1000*(most-least))) * time.Millisecond
	}
	gateways := s.living()
	slices.SortFunc(gateways, func(a, b *gateway) int { return strings.Compare(a.place, b.place) })
	first := rng.IntN(2)
	killed, upgraded := gateways[first], gateways[1-first]
	broker := 1 + rng.IntN(3)
	nothing := func() {}
	faults := []fault{
		{between(0, 30), between(5, 20), "the agent's link swallows", a.cable.cut, a.cable.mend},
		{between(0, 30), between(10, 30), "the connector's link to Kafka swallows", kafka.cut, kafka.mend},
		{between(0, 30), between(1, 5), "a gateway is killed", killed.Kill, func() { s.successor(t, killed) }},
		{between(0, 40), 0, "the other gateway is upgraded", func() { s.upgrade(t, upgraded) }, nothing},
		{between(0, 30), between(3, 10), "a broker is killed",
			func() { s.k.one.Lock(); rig.Must(t, s.k.Kill(broker)) },
			func() { rig.Must(t, s.k.Start(t.Context(), broker)); s.k.one.Unlock() }},
	}
	for range 3 {
		faults = append(faults, fault{between(0, 50), 0, "the agent's link is reset", func() { a.cable.resetNow(s.edge) }, nothing})
	}
	t.Logf("seed %d", *faultSeed)
	begin := time.Now()
	var wg sync.WaitGroup
	for _, f := range faults {
		wg.Go(func() {
			rig.Pass(t, f.at)
			t.Logf("%v: %s", time.Since(begin).Round(100*time.Millisecond), f.what)
			f.begin()
			rig.Pass(t, f.length)
			f.end()
			if f.length > 0 {
				t.Logf("%v: no longer: %s", time.Since(begin).Round(100*time.Millisecond), f.what)
			}
		})
	}
	wg.Wait()
}
