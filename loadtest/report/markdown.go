package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/moorage-dev/moorage/loadtest/figure"
	"github.com/moorage-dev/moorage/loadtest/results"
)

// Markdown writes what several runs were to show: a row per threshold of each
// scenario but the promises, with the median of Moorage's runs, or of the pairs
// for a ratio, the lowest and highest, and whether it was met; below it where
// they ran. A run that broke a promise, or proves nothing, has that word beside
// its name.
func Markdown(w io.Writer, dirs []string) error {
	var places []string
	fmt.Fprintf(w, "| scenario | figure | moorage | baseline | ratio | runs | goal | |\n|---|---|---|---|---|---|---|---|\n")
	for _, dir := range dirs {
		r, err := Open(dir)
		if err != nil {
			return err
		}
		title := "`" + r.Scenario.Name + "`"
		if word := Outcome(r); word == Anomalies || word == Invalid {
			title += " **" + word + "**"
		}
		m := r.Machine
		place := fmt.Sprintf("%s, %d × %s, %s; %s; moorage %s", r.Started.Format(time.DateOnly), m.Cores, m.CPU, m.Go, m.Kafka, m.Moorage)
		if !slices.Contains(places, place) {
			places = append(places, place)
		}
		rows := 0
		for _, threshold := range slices.Sorted(maps.Keys(r.Scenario.Thresholds)) {
			if cells := goalRow(r, threshold, r.Scenario.Thresholds[threshold]); cells != "" {
				fmt.Fprintf(w, "| %s | %s |\n", title, cells)
				rows++
			}
		}
		if rows == 0 {
			fmt.Fprintf(w, "| %s | promises broken | %.0f | | | %d | 0 | %s |\n", title, broken(r), len(valuesOf(r, product, "lost")), met(broken(r) <= 0))
		}
	}
	if len(places) > 0 {
		fmt.Fprintf(w, "\nMeasured %s.\n", strings.Join(places, ".\nMeasured "))
	}
	return nil
}

// goalRow is the cells of one threshold from the figure's name on; "" of one
// that needs no row.
func goalRow(r *results.Results, threshold string, bound float64) string {
	full, isMin := strings.CutSuffix(threshold, ".min")
	if slices.Contains(figure.Promises, full) || full == "failed_opens" || full == "failed_faults" {
		return ""
	}
	sign := "≤ "
	if isMin {
		sign = "≥ "
	}
	if rest, ok := strings.CutPrefix(full, differenceOf); ok {
		return differenceRow(r, rest, sign, bound, isMin)
	}
	rest, isRatio := strings.CutPrefix(full, ratioOf)
	if !isRatio {
		ours := valuesOf(r, product, full)
		if len(ours) == 0 {
			return fmt.Sprintf("%s | – | | | 0 | %s%s | not measured", full, sign, withUnit(full, bound))
		}
		return fmt.Sprintf("%s | %s | | | %d | %s%s | %s", full, medianAndRange(full, ours), len(ours), sign, withUnit(full, bound),
			met(keeps(median(ours), bound, isMin)))
	}
	baseline, name, _ := strings.Cut(rest, ".")
	i := slices.IndexFunc(r.Ratios, func(x results.Ratio) bool {
		return x.Baseline == baseline && (x.Figure == name || x.Figure == name+"_ms")
	})
	goal := fmt.Sprintf("%s%.3g × %s", sign, bound, baseline)
	if i < 0 {
		return fmt.Sprintf("%s | – | – | – | 0 | %s | not measured", name, goal)
	}
	x := r.Ratios[i]
	verdict := met(keeps(x.Median, bound, isMin))
	if x.Flawed != "" {
		verdict = "not comparable"
	}
	return fmt.Sprintf("%s | %s | %s | %.3g (%.3g–%.3g) | %d | %s | %s", x.Figure, medianAndRange(x.Figure, valuesOf(r, product, x.Figure)),
		medianAndRange(x.Figure, valuesOf(r, baseline, x.Figure)), x.Median, x.Low, x.High, len(x.Pairs), goal, verdict)
}

// differenceRow is goalRow for a bound of Moorage - a baseline; the difference
// stands in the column of ratios.
func differenceRow(r *results.Results, rest, sign string, bound float64, isMin bool) string {
	baseline, name, _ := strings.Cut(rest, ".")
	goal := fmt.Sprintf("%s%s more than %s", sign, withUnit(name, bound), baseline)
	pairs := differences(r, baseline, name)
	if len(pairs) == 0 {
		return fmt.Sprintf("%s | – | – | – | 0 | %s | not measured", name, goal)
	}
	verdict := met(keeps(median(pairs), bound, isMin))
	if slices.ContainsFunc(r.Ratios, func(x results.Ratio) bool { return x.Baseline == baseline && x.Flawed != "" }) {
		verdict = "not comparable"
	}
	return fmt.Sprintf("%s | %s | %s | %s more | %d | %s | %s", name, medianAndRange(name, valuesOf(r, product, name)),
		medianAndRange(name, valuesOf(r, baseline, name)), medianAndRange(name, pairs), len(pairs), goal, verdict)
}

func keeps(v, bound float64, isMin bool) bool { return isMin && v >= bound || !isMin && v <= bound }

func met(yes bool) string {
	if yes {
		return "met"
	}
	return "**missed**"
}

// valuesOf is a figure in all runs of a system, sorted.
func valuesOf(r *results.Results, system, name string) (values []float64) {
	for _, run := range r.Runs {
		if v, ok := run.Figures[name]; ok && run.System == system {
			values = append(values, v)
		}
	}
	slices.Sort(values)
	return values
}

// medianAndRange is the median, with the lowest and highest if there are several.
func medianAndRange(name string, sorted []float64) string {
	switch len(sorted) {
	case 0:
		return "–"
	case 1:
		return withUnit(name, sorted[0])
	}
	return fmt.Sprintf("%s (%s–%s)", withUnit(name, median(sorted)), withUnit(name, sorted[0]), withUnit(name, sorted[len(sorted)-1]))
}
