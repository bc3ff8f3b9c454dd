package report

import (
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/moorage-dev/moorage/loadtest/figure"
	"github.com/moorage-dev/moorage/loadtest/results"
)

// Compare writes the runs of several directories side by side as text: the
// figures that are looked at first, with their ratios to the first directory's.
// Of several runs of Moorage in one directory the medians count.
func Compare(w io.Writer, dirs []string) error {
	v, err := compared(dirs)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	line := func(first string, rest ...string) { fmt.Fprintln(table, first+"\t"+strings.Join(rest, "\t")) }
	var names, outcomes []string
	for _, c := range v.Columns {
		names, outcomes = append(names, c.Dir), append(outcomes, c.Outcome)
	}
	line("", names...)
	line("verdict", outcomes...)
	for _, row := range v.Rows {
		if !row.main {
			continue
		}
		var cells []string
		for _, c := range row.Cells {
			text := c.Value
			if c.Ratio != "" {
				text += " (" + c.Ratio + ")"
			}
			cells = append(cells, text)
		}
		line(row.Figure, cells...)
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if v.Warning != "" {
		fmt.Fprintln(w, "\n"+v.Warning)
	}
	return nil
}

// CompareHTML writes the same as a page, with every figure.
func CompareHTML(w io.Writer, dirs []string) error {
	v, err := compared(dirs)
	if err != nil {
		return err
	}
	v.assets = newAssets()
	v.Title = "Comparison of " + strconv.Itoa(len(dirs)) + " load tests"
	if err := pages().ExecuteTemplate(w, "compare", v); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

// comparison is what the template of several runs shows.
type comparison struct {
	assets
	Warning string
	Columns []column
	Rows    []row
}

type column struct{ Dir, Scenario, Version, When, Outcome string }

type row struct {
	Figure, Meaning string
	Cells           []cell
	main            bool
}

// A cell is one figure of one directory. Better is better or worse where the
// ratio to the first says so.
type cell struct{ Value, Ratio, Better string }

func compared(dirs []string) (comparison, error) {
	var v comparison
	var all []map[string]float64
	var first *results.Results
	names := map[string]bool{}
	for _, dir := range dirs {
		r, err := Open(dir)
		if err != nil {
			return v, err
		}
		if first == nil {
			first = r
		}
		if r.Scenario.Name != first.Scenario.Name || r.Machine.CPU != first.Machine.CPU || r.Machine.Cores != first.Machine.Cores {
			v.Warning = "These are of different scenarios or machines: their ratios say little about Moorage."
		}
		v.Columns = append(v.Columns, column{
			Dir: filepath.Base(filepath.Clean(dir)), Scenario: r.Scenario.Name, Version: r.Machine.Moorage,
			When: r.Started.UTC().Format("2006-01-02 15:04"), Outcome: view{Outcome: Outcome(r)}.Word(),
		})
		m := medians(r)
		all = append(all, m)
		for name := range m {
			names[name] = true
		}
	}
	for _, name := range slices.SortedFunc(maps.Keys(names), byRank) {
		if strings.HasSuffix(name, ".low") || strings.HasSuffix(name, ".high") {
			continue
		}
		v.Rows = append(v.Rows, newRow(name, all))
	}
	return v, nil
}

func newRow(name string, all []map[string]float64) row {
	r := row{Figure: name, main: isMain(name) || isSummed(name)}
	f := figure.Of(name)
	if f != nil {
		r.Meaning = f.Meaning
	}
	for i, m := range all {
		value, ok := m[name]
		if !ok {
			r.Cells = append(r.Cells, cell{Value: "–"})
			continue
		}
		c := cell{Value: withUnit(name, value)}
		if of, ok := all[0][name]; i > 0 && ok && of != 0 && !strings.HasPrefix(name, "slope.") {
			ratio := value / of
			c.Ratio = fmt.Sprintf("%.2f ×", ratio)
			if f != nil && isCompared(name) && (ratio > 1.05 || ratio < 0.95) {
				c.Better = "worse"
				if (ratio > 1) == f.More {
					c.Better = "better"
				}
			}
		}
		r.Cells = append(r.Cells, c)
	}
	return r
}

// isSummed tells the other figures of the short comparison.
func isSummed(name string) bool {
	return slices.Contains(figure.Promises, name) ||
		slices.Contains([]string{"agents", "silence.p99_ms", "silence.max_ms", "recovery.p99_ms", "kafka_read_ratio", "faults", "lag_ms"}, name)
}

// medians are a directory's figures over its runs of Moorage; of promises the
// sum.
func medians(r *results.Results) map[string]float64 {
	values := map[string][]float64{}
	for _, run := range r.Runs {
		if run.System != product {
			continue
		}
		for name, v := range run.Figures {
			values[name] = append(values[name], v)
		}
	}
	m := map[string]float64{}
	for name, v := range values {
		slices.Sort(v)
		m[name] = median(v)
		if slices.Contains(figure.Promises, name) {
			m[name] = 0
			for _, n := range v {
				m[name] += n
			}
		}
	}
	return m
}
