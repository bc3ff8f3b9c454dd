package report_test

import (
	"strings"
	"testing"

	"github.com/moorage-dev/moorage/loadtest/report"
	"github.com/moorage-dev/moorage/loadtest/report/made"
	"github.com/moorage-dev/moorage/loadtest/results"
)

func TestMarkdownHasARowPerGoal(t *testing.T) {
	write := func(change func(*results.Results)) string {
		r := made.Kind{Baselines: []string{"relay"}}.Results()
		r.Scenario.Name = "story"
		r.Scenario.Thresholds = map[string]float64{
			"lost": 0, "down.p99_ms": 1e9, "messages_per_s.down.min": 1e9, "ratio.relay.down.p50": 1e9, "ratio.nats.down.p50": 1,
		}
		change(r)
		report.Judge(r)
		dir := t.TempDir()
		if err := report.Write(dir, r); err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := report.Markdown(&b, []string{dir}); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	text := write(func(*results.Results) {})
	table, place, _ := strings.Cut(text, "\n\n")
	if !strings.HasPrefix(place, "Measured 20") || strings.Count(place, "\n") != 1 {
		t.Errorf("where it was measured is told as %q", place)
	}
	rows := strings.Split(table, "\n")[2:]
	for i, want := range []struct{ figure, verdict string }{
		{"down.p99_ms", "met"}, {"messages_per_s.down", "**missed**"}, {"down.p50", "not measured"}, {"down.p50_ms", "met"},
	} {
		if i >= len(rows) || !strings.HasPrefix(rows[i], "| `story` | "+want.figure+" | ") || !strings.HasSuffix(rows[i], "| "+want.verdict+" |") {
			t.Fatalf("row %d: want %v in:\n%s", i, want, text)
		}
	}
	if len(rows) != 4 {
		t.Errorf("want 4 rows, and none of the promise:\n%s", text)
	}
	if text := write(func(r *results.Results) { r.Scenario.Thresholds = nil }); !strings.Contains(text, "| promises broken | 0 | | | ") {
		t.Errorf("without thresholds the promises have a row:\n%s", text)
	}
	if text := write(func(r *results.Results) { r.Runs[0].Figures["lost"] = 1 }); !strings.Contains(text, "| `story` **anomalies** |") {
		t.Errorf("a broken promise has no word:\n%s", text)
	}
	text = write(func(r *results.Results) { r.Runs[1].Figures["failed_opens"] = 1 })
	if !strings.Contains(text, "| `story` **invalid** | down.p50_ms |") || !strings.Contains(text, "| not comparable |") {
		t.Errorf("a baseline that fell short is compared with:\n%s", text)
	}
}
