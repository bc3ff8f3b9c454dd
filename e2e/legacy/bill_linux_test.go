package legacy_test

import (
	"flag"
	"fmt"
	"slices"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/moorage-dev/moorage/e2e/rig"
)

var (
	bill       = flag.Bool("bill", false, "measure what the way over Kafka costs; wants a machine with nothing else to do")
	billRounds = flag.Int("bill.rounds", 3, "how often small builds are measured, each with a start; the median is printed")
	billStarts = flag.Int("bill.starts", 15, "how often starts alone are measured before that; one differs from the next by a tenth or more, so that a few tell little")
)

// A cost is one thing that users wait for.
type cost struct {
	what   string
	rounds int // each with a fresh agent
	builds int // in a row; from the second on, the agent has all classes
	job    job
}

// A run is one agent's life.
type run struct {
	node
	way  string // direct or shim
	cost int
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
		{"start", *billStarts, 0, job{}},
		{"build of 3 lines in 3 s and 5 MB", *billRounds, 2, job{lines: 3, every: time.Second, files: []int{5 << 20}}},
		{"build of 200,000 lines, 300 files and 50 MB", 1, 1, job{lines: 200_000, files: append(many, 50<<20)}},
	}
	var nodes []node
	var runs []run
	for i, c := range costs {
		for round := range c.rounds {
			for _, way := range []string{"direct", "shim"} {
				c.job.dir, c.job.seed = t.TempDir(), uint64(i)
				n := node{fmt.Sprintf("%s-%d-%d", way, i, round), c.job}
				nodes, runs = append(nodes, n), append(runs, run{n, way, i})
			}
		}
	}
	home, office := newHost(t, "controller"), newLAN(t)
	root := fmt.Sprintf("http://%s:%d/", home.plug(office).address, httpPort)
	home.plug(k.lan)
	c := startHudson(t, g, home, nodes...)
	c.ready(startLimit)
	s := newSite(t, k, c)

	online := map[string][]time.Duration{} // by way
	took := map[string][]time.Duration{}   // by way, cost and how often before
	for _, r := range runs {
		begin := time.Now()
		var a *agent
		if r.way == "direct" {
			a = startAgent(t, office, g, r.node, root)
		} else {
			a = s.shim(t, r.node)
		}
		c.waitOnline(t, r.name, startLimit)
		online[r.way] = append(online[r.way], time.Since(begin))
		for before := range costs[r.cost].builds {
			b := c.build(t, a, before+1)
			b.wantExact(t, r.job, buildLimit)
			key := fmt.Sprint(r.way, r.cost, before)
			took[key] = append(took[key], b.duration(t))
		}
		a.Kill()
	}
	w := tabwriter.NewWriter(t.Output(), 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "Hudson %s, %s\tdirect\tshim\tratio\n", g.name, g.protocol)
	line := func(what string, direct, shim []time.Duration) {
		d, s := median(direct), median(shim)
		fmt.Fprintf(w, "%s\t%v\t%v\t%.2f\n", what, d.Round(time.Millisecond), s.Round(time.Millisecond), float64(s)/float64(d))
	}
	line("agent start to online", online["direct"], online["shim"])
	for _, way := range []string{"direct", "shim"} {
		all := slices.Sorted(slices.Values(online[way]))
		fmt.Fprintf(w, "%d starts, %s\t%v to %v\n", len(all), way, all[0].Round(time.Millisecond), all[len(all)-1].Round(time.Millisecond))
	}
	for i, cost := range costs {
		for before := range cost.builds {
			what := "first " + cost.what
			if before > 0 {
				what = "the same again"
			}
			line(what, took[fmt.Sprint("direct", i, before)], took[fmt.Sprint("shim", i, before)])
		}
	}
	rig.Must(t, w.Flush())
}

func median(all []time.Duration) time.Duration {
	all = slices.Sorted(slices.Values(all))
	return all[len(all)/2]
}

// duration is how long the build took, as the controller says.
func (b *build) duration(t *testing.T) time.Duration {
	t.Helper()
	var state struct{ Duration int64 }
	rig.Must(t, b.c.ask(b.page(), &state))
	return time.Duration(state.Duration) * time.Millisecond
}
