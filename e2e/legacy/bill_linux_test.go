package legacy_test

import (
	"flag"
	"fmt"
	"slices"
	"testing"
	"text/tabwriter"
	"time"
)

var (
	bill       = flag.Bool("bill", false, "measure what the way over Kafka costs; wants a machine with nothing else to do")
	billRounds = flag.Int("bill.rounds", 3, "how often each is measured; the median is printed")
)

// A cost is one thing that users wait for.
type cost struct {
	what string
	job  job
}

// TestBill prints what an agent's start and its builds cost directly and
// through a shim, one after the other. It measures only when told to.
func TestBill(t *testing.T) {
	if !*bill {
		return // there is nothing here that could fail
	}
	k := startKafka(t, 1)
	for _, g := range generations {
		t.Run(g.name, func(t *testing.T) { measure(t, k, g) })
	}
}

func measure(t *testing.T, k *kafka, g generation) {
	var many []int
	for range 300 {
		many = append(many, 20<<10)
	}
	costs := []cost{
		{"first small build (3 lines, 3 s, 5 MB)", job{lines: 3, every: time.Second, files: []int{5 << 20}}},
		{"unpaced build (200,000 lines, 300 files, 50 MB)", job{lines: 200_000, files: append(many, 50<<20)}},
	}
	var nodes []node
	for round := range *billRounds {
		for i, c := range costs {
			for _, way := range []string{"direct", "shim"} {
				c.job.dir, c.job.seed = t.TempDir(), uint64(i)
				nodes = append(nodes, node{fmt.Sprintf("%s-%d-%d", way, i, round), c.job})
			}
		}
	}
	home, office := newHost(t, "controller"), newLAN(t)
	root := fmt.Sprintf("http://%s:%d/", home.plug(office).address, httpPort)
	home.plug(k.lan)
	c := startHudson(t, g, home, nodes...)
	c.ready(startLimit)
	s := newSite(t, k, c)

	online := map[string][]time.Duration{}
	took := map[string][]time.Duration{}
	for _, n := range nodes {
		way, kind := n.name[:len(n.name)-4], n.name[:len(n.name)-2]
		begin := time.Now()
		var a *agent
		if way == "direct" {
			a = startAgent(t, office, g, n, root)
		} else {
			a = s.shim(t, n)
		}
		c.waitOnline(t, n.name, startLimit)
		online[way] = append(online[way], time.Since(begin))
		for again := range 2 { // the second has all classes
			b := c.build(t, a, again+1)
			b.wantExact(t, n.job, buildLimit)
			took[fmt.Sprint(kind, again)] = append(took[fmt.Sprint(kind, again)], b.duration(t))
		}
		a.kill()
	}
	w := tabwriter.NewWriter(t.Output(), 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "Hudson %s, %s\tdirect\tshim\tratio\n", g.name, g.protocol)
	line := func(what string, direct, shim []time.Duration) {
		d, s := median(direct), median(shim)
		fmt.Fprintf(w, "%s\t%v\t%v\t%.2f\n", what, d.Round(time.Millisecond), s.Round(time.Millisecond), float64(s)/float64(d))
	}
	line("agent start to online", online["direct"], online["shim"])
	for i, cost := range costs {
		for again, which := range []string{"", ", again"} {
			line(cost.what+which, took[fmt.Sprint("direct-", i, again)], took[fmt.Sprint("shim-", i, again)])
		}
	}
	must(t, w.Flush())
}

func median(all []time.Duration) time.Duration {
	all = slices.Sorted(slices.Values(all))
	return all[len(all)/2]
}

// duration is how long the build took, as the controller says.
func (b *build) duration(t *testing.T) time.Duration {
	t.Helper()
	var state struct{ Duration int64 }
	must(t, b.c.ask(b.page(), &state))
	return time.Duration(state.Duration) * time.Millisecond
}
