package legacy_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/e2e/rig"
)

const (
	// startLimit bounds the start of a controller or of an agent: seconds on
	// an idle machine, and many start side by side.
	startLimit = 4 * time.Minute

	// buildLimit bounds a build of forty seconds with its faults.
	buildLimit = 8 * time.Minute

	// failLimit bounds how long a controller may believe in an agent that is
	// gone, up to the time of the build's log.
	failLimit = 2 * time.Second
)

// Real controllers and their real agents build, calm and under faults. What
// fails a direct build leaves no trace in one through a shim: the console to
// the byte, the artifact, and the same agent process.
func TestBuilds(t *testing.T) {
	single, cluster := startKafka(t, 1), startKafka(t, 3)
	for _, g := range generations {
		t.Run(g.name, func(t *testing.T) { builds(t, g, single, cluster) })
	}
}

// builds has two controllers of a generation: one for all cases but those that
// cut the controller's own link to Kafka.
func builds(t *testing.T, g generation, single, cluster *kafka) {
	t.Parallel()
	calm := newNodes(t, "direct", "direct-reset", "zero", "zero-reset", "one", "reset-5", "reset-60", "hole-5", "hole-60", "killed", "leader", "rolling", "agent-killed")
	torn := newNodes(t, "kafka-cut", "all-at-once")
	torn[1].job.lines = 1800
	home, other := newHost(t, "controller"), newHost(t, "torn")
	office := newLAN(t) // of agents that can reach their controller
	address := home.plug(office).address
	home.plug(single.lan)
	home.plug(cluster.lan)
	tornSingle, tornCluster := other.plug(single.lan), other.plug(cluster.lan)
	c, d := startHudson(t, g, home, calm...), startHudson(t, g, other, torn...)
	var all verdicts
	c.verdicts, d.verdicts = &all, &all
	t.Cleanup(func() { all.print(t, g) })
	root := fmt.Sprintf("http://%s:%d/", address, httpPort)
	c.ready(startLimit)
	shared := newSite(t, single, c)
	d.ready(startLimit)

	t.Run("direct", func(t *testing.T) {
		t.Parallel()
		c.succeeds(t, startAgent(t, office, g, calm[0], root))
	})
	t.Run("direct, a reset", func(t *testing.T) {
		t.Parallel()
		a := startAgent(t, office, g, calm[1], root)
		c.fails(t, a, func() { a.cable.reset(home, 0) })
	})
	t.Run("tier 0", func(t *testing.T) {
		t.Parallel()
		c.succeeds(t, shared.straight(t, calm[2]))
	})
	t.Run("tier 0, a reset", func(t *testing.T) {
		t.Parallel()
		a := shared.straight(t, calm[3])
		c.fails(t, a, func() { a.cable.reset(shared.edge, 0) })
	})
	t.Run("tier 1", func(t *testing.T) {
		t.Parallel()
		shared.survives(t, calm[4], func(*testing.T, *agent, *build) {})
	})
	for i, d := range []time.Duration{5 * time.Second, 60 * time.Second} {
		t.Run(fmt.Sprintf("tier 1, resets for %v", d), func(t *testing.T) {
			t.Parallel()
			shared.survives(t, calm[5+i], func(_ *testing.T, a *agent, _ *build) { a.cable.reset(shared.edge, d) })
		})
		t.Run(fmt.Sprintf("tier 1, a black hole for %v", d), func(t *testing.T) {
			t.Parallel()
			shared.survives(t, calm[7+i], func(t *testing.T, a *agent, _ *build) {
				a.cable.cut()
				rig.Pass(t, d)
				a.cable.mend()
			})
		})
	}
	t.Run("tier 1, the gateway in use killed twice", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, single, c)
		s.survives(t, calm[9], func(t *testing.T, a *agent, b *build) {
			for range 2 {
				gateway, _ := s.inUse(t, a.node.name)
				gateway.Kill()
				s.successor(t, gateway)
				b.goesOn(t, a.job)
			}
		})
	})
	t.Run("tier 1, the agent killed", func(t *testing.T) {
		t.Parallel()
		a := shared.shim(t, calm[12])
		c.fails(t, a, func() { rig.Must(t, syscall.Kill(a.node.java(), syscall.SIGKILL)) })
		c.waitOnline(t, a.node.name, startLimit) // the shim starts it again, and nobody says that it is there already
	})
	t.Run("tier 1, the leader killed", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, cluster, c)
		s.survives(t, calm[10], func(t *testing.T, a *agent, _ *build) { s.killLeader(t, a) })
	})
	t.Run("tier 1, both gateways upgraded", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, single, c)
		s.survives(t, calm[11], func(t *testing.T, a *agent, b *build) {
			for _, old := range s.living() {
				s.upgrade(t, old)
				s.inUse(t, a.node.name)
				b.goesOn(t, a.job)
			}
		})
	})
	t.Run("tier 1, the connector's link to Kafka cut for 30 s", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, single, d)
		s.survives(t, torn[0], func(t *testing.T, _ *agent, _ *build) {
			tornSingle.cut()
			rig.Pass(t, 30*time.Second)
			tornSingle.mend()
		})
	})
	t.Run("tier 1, all of it at once", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, cluster, d)
		s.survives(t, torn[1], func(t *testing.T, a *agent, _ *build) { s.allAtOnce(t, a, tornCluster) })
	})
}

// newNodes are nodes with a paced job each, whose files all differ.
func newNodes(t *testing.T, names ...string) []node {
	nodes := make([]node, len(names))
	for i, name := range names {
		nodes[i] = node{name, paced(t, uint64(i))}
	}
	return nodes
}

// succeeds builds once on a node that comes online, with nothing in the way.
func (c *hudson) succeeds(t *testing.T, a *agent) {
	t.Helper()
	c.waitOnline(t, a.node.name, startLimit)
	b := c.build(t, a, 1)
	b.wantExact(t, a.job, buildLimit)
	c.verdicts.add(t, fmt.Sprintf("SUCCESS after %v", b.took.Round(100*time.Millisecond)))
}

// fails builds on a node, and wants a fault to fail the build within seconds.
func (c *hudson) fails(t *testing.T, a *agent, fault func()) {
	t.Helper()
	c.waitOnline(t, a.node.name, startLimit)
	b := c.build(t, a, 1)
	b.waitLine(t, 100, buildLimit)
	b.agent = nil // old agents may end with their connection
	fault()
	begin := time.Now()
	if result := b.result(t, time.Minute); result != "FAILURE" {
		t.Errorf("the build ended %s, want FAILURE", result)
	}
	after := b.lost(t).Sub(begin)
	if after > failLimit {
		t.Errorf("the build failed after %v, want %v", after, failLimit)
	}
	c.verdicts.add(t, fmt.Sprintf("FAILURE within %v", after.Round(100*time.Millisecond)))
}

// survives builds under a shim, gives a fault in the middle, and wants nothing
// to show of it.
func (s *site) survives(t *testing.T, n node, fault func(*testing.T, *agent, *build)) {
	t.Helper()
	a := s.shim(t, n)
	s.hudson.waitOnline(t, n.name, startLimit)
	before := n.java()
	b := s.hudson.build(t, a, 1)
	b.waitLine(t, 100, buildLimit)
	begin := time.Now()
	fault(t, a, b)
	t.Logf("the fault lasted %v, and %d of %d lines were there then", time.Since(begin).Round(100*time.Millisecond), b.lines(), n.job.lines)
	b.wantExact(t, n.job, buildLimit)
	if after := n.java(); before == 0 || after != before {
		t.Errorf("the agent's process was %d, and is %d after the build", before, after)
	}
	if s.hudson.offline(t, n.name) {
		t.Errorf("%s is offline after the build", n.name)
	}
	s.hudson.verdicts.add(t, fmt.Sprintf("SUCCESS after %v", b.took.Round(100*time.Millisecond)))
}
