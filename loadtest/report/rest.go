package report

import (
	"math"

	"github.com/moorage-dev/moorage/loadtest/results"
)

// A rest is a time in which the number of agents stayed the same.
type rest struct {
	agents   int
	from, to float64 // seconds after the start
}

const (
	// restAtLeast is how many seconds make a rest; what is shorter is a ramp.
	restAtLeast = 20
	// settling is how many of them are left out at its beginning: who has just
	// come still has to be welcomed.
	settling = 10
	// collected is how many seconds at a rest's end are looked at. Go collects
	// at least every two minutes, and just after it what is held is what is
	// needed; between two, half of a heap may be garbage.
	collected = 125
	// parting is how many are left out at its end: the next may have begun to
	// come, or to go, before the second was over.
	parting = 2
)

// rests are those of a run, in order.
func rests(ticks []results.Tick) (all []rest) {
	var now rest
	end := func() {
		if now.agents > 0 && now.to-now.from >= restAtLeast {
			all = append(all, now)
		}
	}
	for _, t := range ticks {
		if t.Agents != now.agents {
			end()
			now = rest{t.Agents, t.At, t.At}
		}
		now.to = t.At
	}
	end()
	return all
}

// least is the lowest value in the part of a rest that counts; NaN: there is none.
func (r rest) least(bySecond []float64) float64 {
	least := math.NaN()
	to := r.to - parting
	from := max(r.from+settling, to-collected)
	for i := max(0, int(math.Ceil(from))); i <= int(to) && i < len(bySecond); i++ {
		if v := bySecond[i]; math.IsNaN(least) || v < least {
			least = v
		}
	}
	return least
}

// perFurtherAgent is what an idle agent costs, as a slope: by how much the
// processes of a role were larger at the most agents that rested than at the
// fewest, ÷ the agents between. What a process needs anyway is in neither.
func (m *measuring) perFurtherAgent() {
	all := rests(m.run.Ticks)
	if len(all) == 0 {
		return
	}
	few, many := all[0], all[0]
	for _, r := range all {
		if r.agents < few.agents {
			few = r
		}
		if r.agents >= many.agents {
			many = r
		}
	}
	if few.agents == many.agents {
		return
	}
	for name, value := range map[string]func(results.Sample) (float64, bool){
		"rss":        func(s results.Sample) (float64, bool) { return float64(s.RSS), true },
		"heap_stack": func(s results.Sample) (float64, bool) { return float64(s.Heap + s.Stack), s.Heap > 0 && s.Stack > 0 },
		"goroutines": func(s results.Sample) (float64, bool) { return float64(s.Goroutines), s.Goroutines > 0 },
	} {
		_, lines := bySecond(m.run, value)
		sums := map[string][]float64{}
		for _, l := range lines {
			if isGenerator(l.Label) || l.Label == "coordinator" {
				continue
			}
			r := role(l.Label)
			if sums[r] == nil {
				sums[r] = make([]float64, len(l.Values))
			}
			for i, v := range l.Values {
				sums[r][i] += v // NaN stays: a sum without one of them is none
			}
		}
		for r, sum := range sums {
			m.set("per_agent."+name+"."+r, (many.least(sum)-few.least(sum))/float64(many.agents-few.agents))
		}
	}
}
