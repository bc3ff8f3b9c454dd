package report

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/moorage-dev/moorage/loadtest/figure"
	"github.com/moorage-dev/moorage/loadtest/results"
	"github.com/moorage-dev/moorage/loadtest/scenario"
)

// product is the system that is judged; the others are what it is compared with.
const product = "moorage"

// Judge completes the figures of each run, compares the pairs, and says what
// is to be made of it. Judging again gives the same.
//
// A run is clean if no promise was broken and every threshold was met by every
// run of Moorage. Of ratios the median counts. A slope's threshold is met if
// the lower end of its interval does not pass it: "slope.rss: 0" fails only a
// growth that cannot be chance. Baselines are not judged, but if the generator
// was the limit of one, or one did less than was asked for, the comparison
// proves nothing either.
func Judge(r *results.Results) {
	for i := range r.Runs {
		measure(&r.Runs[i], &r.Scenario)
	}
	r.Ratios = ratios(r)
	r.Verdict = judge(r)
}

// Outcomes of a load test, in a word.
const (
	Clean     = "clean"
	Anomalies = "anomalies" // a promise was broken
	Missed    = "missed"    // the promises were kept, but a threshold was not met
	Invalid   = "invalid"   // it proves nothing
)

// Outcome is the verdict in a word.
func Outcome(r *results.Results) string {
	switch {
	case r.Verdict.Invalid:
		return Invalid
	case r.Verdict.Clean:
		return Clean
	case broken(r) > 0:
		return Anomalies
	}
	return Missed
}

// broken counts broken promises of Moorage.
func broken(r *results.Results) (n float64) {
	for _, run := range r.Runs {
		if run.System != product {
			continue
		}
		counted := 0.0
		for _, p := range slices.Concat(figure.Promises, figure.OfLegacy) {
			counted += run.Figures[p]
		}
		n += max(counted, float64(len(run.Anomalies)))
	}
	return n
}

func judge(r *results.Results) results.Verdict {
	v := results.Verdict{}
	miss := func(format string, args ...any) { v.Lines = append(v.Lines, fmt.Sprintf(format, args...)) }
	var notes []string
	judged := 0
	for i := range r.Runs {
		run := &r.Runs[i]
		if run.Invalid != "" {
			v.Invalid = true
			miss("%s is invalid: %s", name(run), run.Invalid)
		}
		if run.System != product {
			if why := shortOf(run, &r.Scenario); why != "" {
				v.Invalid = true
				miss("%s is no measure: %s; its ratios are not to be compared", name(run), why)
			}
			continue
		}
		judged++
		judgePromises(run, miss)
		if talks(&r.Scenario) && !received(run) {
			miss("%s: no message was received", name(run))
		}
		for _, threshold := range slices.Sorted(maps.Keys(r.Scenario.Thresholds)) {
			if !compares(threshold) {
				judgeThreshold(run, threshold, r.Scenario.Thresholds[threshold], miss)
			}
		}
	}
	if judged == 0 {
		v.Invalid = true
		miss("no run of moorage was measured")
	}
	for _, threshold := range slices.Sorted(maps.Keys(r.Scenario.Thresholds)) {
		switch {
		case strings.HasPrefix(threshold, differenceOf):
			notes = append(notes, judgeDifference(r, threshold, r.Scenario.Thresholds[threshold], miss)...)
		case compares(threshold):
			notes = append(notes, judgeRatio(r, threshold, r.Scenario.Thresholds[threshold], miss)...)
		}
	}
	v.Clean = len(v.Lines) == 0 && !v.Invalid
	if v.Clean {
		met := "no thresholds were set"
		if n := len(r.Scenario.Thresholds) - len(notes); n > 0 {
			met = fmt.Sprintf("all thresholds met (%d)", n)
		}
		miss("nothing lost, repeated, reordered, corrupted or stuck; %s", met)
	}
	v.Lines = append(v.Lines, notes...)
	return v
}

// shortOf says in what a baseline's run fell short of what Moorage's has to do,
// which made it easier; "": in nothing. Baselines have no faults, so nothing
// excuses a session that breaks.
func shortOf(run *results.Run, s *scenario.Scenario) string {
	asked := 0.0
	for _, g := range s.Groups {
		asked += float64(g.Agents)
	}
	if n := run.Figures["failed_opens"]; n > 0 {
		return number3(n) + " sessions could not be opened"
	}
	if n, ok := run.Figures["opens"]; ok && n < asked {
		return fmt.Sprintf("it opened %s of %s sessions", number3(n), number3(asked))
	}
	if n := run.Figures["reset"]; n > 0 {
		return number3(n) + " sessions broke off"
	}
	for _, p := range figure.Promises {
		if n := run.Figures[p]; n > 0 {
			f := figure.Of(p)
			return fmt.Sprintf("%s %s (%s: %s)", number3(n), p, f.Unit, f.Meaning)
		}
	}
	return ""
}

func judgePromises(run *results.Run, miss func(string, ...any)) {
	counted := false
	for _, p := range slices.Concat(figure.Promises, figure.OfLegacy) {
		n, ok := run.Figures[p]
		switch {
		case !ok && slices.Contains(figure.OfLegacy, p): // there were none
		case !ok:
			miss("%s: %s was not counted", name(run), p)
		case n != 0:
			counted = true
			f := figure.Of(p)
			miss("%s: %s %s (%s: %s)", name(run), number3(n), p, f.Unit, f.Meaning)
		}
	}
	if !counted && len(run.Anomalies) > 0 {
		miss("%s: %d anomalies, first: %s in session %s", name(run), len(run.Anomalies), run.Anomalies[0].What, run.Anomalies[0].Session)
	}
	failed := slices.DeleteFunc(slices.Clone(run.Faults), func(f results.FaultMark) bool { return f.Error == "" })
	if len(failed) > 0 {
		miss("%s: %d of %d faults could not be done, first: %s of %s at %.0f s: %s",
			name(run), len(failed), len(run.Faults), failed[0].Name, cmp.Or(failed[0].To, "its default"), failed[0].At, failed[0].Error)
	}
}

func judgeThreshold(run *results.Run, threshold string, bound float64, miss func(string, ...any)) {
	figureName, isMin := strings.CutSuffix(threshold, ".min")
	if (figureName == "failed_faults" || slices.Contains(figure.Promises, figureName)) && bound <= 0 && !isMin {
		return // has been judged
	}
	found := false
	for _, n := range slices.Sorted(maps.Keys(run.Figures)) {
		if !isMeant(figureName, n) {
			continue
		}
		found = true
		v := run.Figures[n]
		if edge, ok := run.Figures[n+edges[isMin]]; ok && strings.HasPrefix(n, "slope.") {
			v = edge
		}
		if isMin && v < bound {
			miss("%s: %s is %s, less than %s", name(run), n, withUnit(n, v), withUnit(n, bound))
		}
		if !isMin && v > bound {
			miss("%s: %s is %s, more than %s", name(run), n, withUnit(n, v), withUnit(n, bound))
		}
	}
	switch {
	case found:
	case figure.Known(figureName):
		miss("%s: %s was not measured, so its threshold was not met", name(run), figureName)
	default:
		miss("%s: there is no figure %s: see docs/loadtest-report.md for their names", name(run), figureName)
	}
}

// edges of a slope's interval that thresholds speak of: an upper bound is
// passed when the whole interval is above it.
var edges = map[bool]string{false: ".low", true: ".high"}

// isMeant tells whether a threshold's name means figure n. A slope without a
// process means each of them.
func isMeant(threshold, n string) bool {
	if threshold == n {
		return true
	}
	return strings.HasPrefix(threshold, "slope.") && strings.Count(threshold, ".") == 1 && strings.HasPrefix(n, threshold+".") &&
		!strings.HasSuffix(n, ".low") && !strings.HasSuffix(n, ".high")
}

// judgeRatio judges a threshold of a ratio. One with a baseline that was not
// run is noted, and no miss: baselines are run when they are asked for.
func judgeRatio(r *results.Results, threshold string, bound float64, miss func(string, ...any)) (notes []string) {
	full, isMin := strings.CutSuffix(threshold, ".min")
	baseline, figureName, _ := strings.Cut(strings.TrimPrefix(full, "ratio."), ".")
	if note := notRun(r, full, baseline); note != nil {
		return note
	}
	i := slices.IndexFunc(r.Ratios, func(x results.Ratio) bool {
		return x.Baseline == baseline && (x.Figure == figureName || x.Figure == figureName+"_ms")
	})
	switch {
	case i < 0 && figure.Known(full):
		miss("%s was not measured, so its threshold was not met", full)
	case i < 0:
		miss("there is no figure %s: see docs/loadtest-report.md for their names", full)
	case isMin && r.Ratios[i].Median < bound:
		miss("%s is %.3g (median of %d), less than %.3g", full, r.Ratios[i].Median, len(r.Ratios[i].Pairs), bound)
	case !isMin && r.Ratios[i].Median > bound:
		miss("%s is %.3g (median of %d), more than %.3g", full, r.Ratios[i].Median, len(r.Ratios[i].Pairs), bound)
	}
	return nil
}

// Thresholds that begin so compare with a baseline.
const (
	ratioOf      = "ratio."
	differenceOf = "difference."
)

func compares(threshold string) bool {
	return strings.HasPrefix(threshold, ratioOf) || strings.HasPrefix(threshold, differenceOf)
}

// notRun is the note of a threshold whose baseline was not run.
func notRun(r *results.Results, threshold, baseline string) []string {
	if slices.ContainsFunc(r.Runs, func(run results.Run) bool { return run.System == baseline }) {
		return nil
	}
	return []string{fmt.Sprintf("%s was not judged: %s was not run (--baseline %s)", threshold, baseline, baseline)}
}

// judgeDifference judges a bound of Moorage - a baseline, by the median of the pairs.
func judgeDifference(r *results.Results, threshold string, bound float64, miss func(string, ...any)) (notes []string) {
	full, isMin := strings.CutSuffix(threshold, ".min")
	baseline, figureName, _ := strings.Cut(strings.TrimPrefix(full, differenceOf), ".")
	if note := notRun(r, full, baseline); note != nil {
		return note
	}
	pairs := differences(r, baseline, figureName)
	word := map[bool]string{false: "more", true: "less"}[isMin]
	switch {
	case len(pairs) == 0 && figure.Known(full):
		miss("%s was not measured, so its threshold was not met", full)
	case len(pairs) == 0:
		miss("there is no figure %s: see docs/loadtest-report.md for their names", full)
	case !keeps(median(pairs), bound, isMin):
		miss("%s is %s (median of %d), %s than %s", full, withUnit(figureName, median(pairs)), len(pairs), word, withUnit(figureName, bound))
	}
	return nil
}

// differences are a figure of Moorage - the baseline's, of each pair, sorted.
func differences(r *results.Results, baseline, figureName string) (pairs []float64) {
	for _, ours := range r.Runs {
		for _, theirs := range r.Runs {
			a, measured := ours.Figures[figureName]
			b, compared := theirs.Figures[figureName]
			if ours.System == product && theirs.System == baseline && ours.Pair == theirs.Pair && measured && compared {
				pairs = append(pairs, a-b)
			}
		}
	}
	slices.Sort(pairs)
	return pairs
}

// talks tells whether a scenario has anything to send.
func talks(s *scenario.Scenario) bool {
	return slices.ContainsFunc(s.Groups, func(g scenario.Group) bool { return g.Up != nil || g.Down != nil || g.Request != nil })
}

func received(run *results.Run) bool {
	return run.Figures["calls"] > 0 || slices.ContainsFunc(run.Ticks, func(t results.Tick) bool { return t.Received[0]+t.Received[1] > 0 })
}

// name of a run, as in events.ndjson.
func name(run *results.Run) string { return fmt.Sprintf("%s/%d", run.System, run.Pair) }

// ratios compares each figure of moorage with each baseline's of the same pair.
// Figures that count promises, faults or trends are not compared.
func ratios(r *results.Results) []results.Ratio {
	ours := map[int]results.Run{}
	var baselines []string
	flawed := map[string]string{} // by baseline
	for _, run := range r.Runs {
		if why := cmp.Or(run.Invalid, shortOf(&run, &r.Scenario)); why != "" && run.System != product && flawed[run.System] == "" {
			flawed[run.System] = name(&run) + ": " + why
		}
		if run.System == product {
			ours[run.Pair] = run
		} else if !slices.Contains(baselines, run.System) {
			baselines = append(baselines, run.System)
		}
	}
	var all []results.Ratio
	for _, baseline := range baselines {
		pairs := map[string][]float64{}
		for _, run := range r.Runs {
			if run.System != baseline {
				continue
			}
			for figureName, v := range ours[run.Pair].Figures {
				of := run.Figures[figureName]
				if isCompared(figureName) && of != 0 && !math.IsInf(v/of, 0) {
					pairs[figureName] = append(pairs[figureName], v/of)
				}
			}
		}
		for _, figureName := range slices.SortedFunc(maps.Keys(pairs), byRank) {
			p := pairs[figureName]
			sorted := slices.Sorted(slices.Values(p))
			all = append(all, results.Ratio{
				Figure: figureName, Baseline: baseline, Pairs: p,
				Median: median(sorted), Low: sorted[0], High: sorted[len(sorted)-1],
				Flawed: flawed[baseline],
			})
		}
	}
	return all
}

func isCompared(name string) bool {
	if slices.Contains(figure.Promises, name) || strings.HasPrefix(name, "slope.") {
		return false
	}
	return !slices.Contains([]string{"faults", "failed_faults", "reset", "failed_opens", "opens", "agents", "lag_ms", "overrun", "corrupt", "stuck_calls", "legacy_opens", "failed_calls", "lost_channels"}, name)
}

func median(sorted []float64) float64 {
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// byRank is the order of package figure; of names that are one figure, the
// percentiles in their order, then the alphabet's.
func byRank(a, b string) int {
	rank := func(name string) int {
		f := figure.Of(name)
		for i := range figure.All {
			if f == &figure.All[i] {
				return i
			}
		}
		return len(figure.All)
	}
	percentile := func(name string) (string, int) {
		for i, p := range slices.Backward(figure.Percentiles) {
			if rest, ok := strings.CutSuffix(name, "."+p+"_ms"); ok {
				return rest, i
			}
		}
		return name, 0
	}
	restA, pA := percentile(a)
	restB, pB := percentile(b)
	return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(strings.Count(restA, "."), strings.Count(restB, ".")),
		cmp.Compare(restA, restB), cmp.Compare(pA, pB))
}
