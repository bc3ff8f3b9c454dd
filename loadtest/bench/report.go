package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"time"
)

// A result is one run of one row against one system.
type result struct {
	Row     string  `json:"row"`
	System  string  `json:"system"`
	Pair    int     `json:"pair"` // both systems' runs of one pair stand next to each other in time
	Figures figures `json:"figures"`
}

// A results file is measured once and looked at many ways.
type results struct {
	Date    time.Time `json:"date"`
	Machine string    `json:"machine"`
	Commit  string    `json:"commit"`
	Kafka   string    `json:"kafka"`
	Runs    []result  `json:"runs"`
}

func (rs *results) save(path string) error {
	b, err := json.MarshalIndent(rs, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

func load(path string) (*results, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	rs := &results{}
	if err := json.Unmarshal(b, rs); err != nil {
		return nil, fmt.Errorf("bench: %s: %w", path, err)
	}
	return rs, nil
}

// write prints the table as Markdown: per row and figure the median of each
// system, and of the ratios of the pairs, with the lowest and highest.
func (rs *results) write(w io.Writer) {
	fmt.Fprintf(w, "Measured %s on %s, commit %s, %s.\n\n", rs.Date.Format(time.DateOnly), rs.Machine, rs.Commit, rs.Kafka)
	fmt.Fprintf(w, "| quantity | figure | moorage | relay | moorage ÷ relay | pairs | goal | |\n|---|---|---|---|---|---|---|---|\n")
	for _, row := range rows {
		ours, theirs := rs.of(row.name, moorage.name), rs.of(row.name, relay.name)
		names := map[string]bool{}
		for _, runs := range []map[int]figures{ours, theirs} {
			for _, f := range runs {
				for name := range f {
					names[name] = true
				}
			}
		}
		for _, name := range slices.Sorted(maps.Keys(names)) {
			if name == "n" {
				continue
			}
			var ratios, differences []float64
			for pair, f := range ours {
				if t, ok := theirs[pair]; ok && t[name] != 0 {
					ratios = append(ratios, f[name]/t[name])
					differences = append(differences, f[name]-t[name])
				}
			}
			goal, met := row.judge(name, values(ours, name), ratios, differences)
			fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %d | %s | %s |\n", row.what, name,
				spread(values(ours, name)), spread(values(theirs, name)), spread(ratios), max(len(ours), len(theirs)), goal, met)
		}
	}
}

// judge holds the row's goal for a figure, if it has one, against its median.
func (r row) judge(figure string, ours, ratios, differences []float64) (text, met string) {
	i := slices.IndexFunc(r.goals, func(g goal) bool { return g.figure == figure })
	if i < 0 {
		return "", ""
	}
	g := r.goals[i]
	vs := map[basis][]float64{ratio: ratios, difference: differences, absolute: ours}[g.of]
	text = map[basis]string{ratio: "× relay", difference: "more than relay", absolute: ""}[g.of]
	text = strings.TrimSpace(short(g.limit) + " " + text)
	sign := "≤ "
	if g.atLeast {
		sign = "≥ "
	}
	switch {
	case len(vs) == 0:
		return sign + text, ""
	case g.atLeast == (median(vs) > g.limit) || median(vs) == g.limit:
		return sign + text, "met"
	}
	return sign + text, "**missed**"
}

// of returns a row's figures of one system by pair.
func (rs *results) of(row, system string) map[int]figures {
	m := map[int]figures{}
	for _, r := range rs.Runs {
		if r.Row == row && r.System == system {
			m[r.Pair] = r.Figures
		}
	}
	return m
}

func values(runs map[int]figures, name string) (vs []float64) {
	for _, f := range runs {
		if v, ok := f[name]; ok {
			vs = append(vs, v)
		}
	}
	return vs
}

// spread is the median of vs, with the lowest and the highest.
func spread(vs []float64) string {
	if len(vs) == 0 {
		return "–"
	}
	if len(vs) == 1 {
		return short(vs[0])
	}
	return fmt.Sprintf("%s (%s–%s)", short(median(vs)), short(slices.Min(vs)), short(slices.Max(vs)))
}

func median(vs []float64) float64 {
	vs = slices.Sorted(slices.Values(vs))
	return (vs[(len(vs)-1)/2] + vs[len(vs)/2]) / 2
}

// short prints three digits.
func short(v float64) string {
	if v == 0 || math.IsInf(v, 0) || math.IsNaN(v) {
		return fmt.Sprint(v)
	}
	digits := max(0, 2-int(math.Floor(math.Log10(math.Abs(v)))))
	return fmt.Sprintf("%.*f", digits, v)
}
