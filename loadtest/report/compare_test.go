package report_test

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moorage-dev/moorage/loadtest/report"
	"github.com/moorage-dev/moorage/loadtest/results"
)

// written leaves a run of so many messages per second down in a directory.
func written(t *testing.T, dir, scenario string, rates ...float64) string {
	t.Helper()
	r := &results.Results{Machine: results.Machine{Moorage: "v1"}}
	r.Scenario.Name = scenario
	for pair, rate := range rates {
		r.Runs = append(r.Runs, results.Run{System: "moorage", Pair: pair, Figures: map[string]float64{
			"messages_per_s.down": rate, "down.p50_ms": 1000 / rate, "lost": 1, "rss.gateway": 1 << 20,
		}})
	}
	report.Judge(r)
	path := filepath.Join(t.TempDir(), dir)
	if err := report.Write(path, r); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRunsSideBySide(t *testing.T) {
	dirs := []string{written(t, "before", "steady", 90, 100, 500), written(t, "after", "steady", 200)}
	var b bytes.Buffer
	if err := report.Compare(&b, dirs); err != nil {
		t.Fatal(err)
	}
	got := strings.Join(strings.Fields(b.String()), " ")
	for _, want := range []string{
		"before after verdict Anomalies Anomalies lost 3 messages 1 messages (0.33 ×)", // the sum
		"messages_per_s.down 100 1/s 200 1/s (2.00 ×)",                                 // the median
		"down.p50_ms 10 ms 5 ms (0.50 ×)",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("there is no %q in\n%s", want, b.String())
		}
	}
	if strings.Contains(got, "different") {
		t.Error("the same scenario is said to be another")
	}
	b.Reset()
	if err := report.CompareHTML(&b, dirs); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"rss.gateway", `class="n better"`, "2.00 ×", "Anomalies"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the page has no %q", want)
		}
	}
}

func TestRunsOfDifferentScenariosAreCalledSo(t *testing.T) {
	var b bytes.Buffer
	if err := report.Compare(&b, []string{written(t, "a", "steady", 1), written(t, "b", "smoke", 1)}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "different scenarios or machines") {
		t.Errorf("got\n%s", b.String())
	}
}

func TestADirectoryWithoutResultsIsNotCompared(t *testing.T) {
	var b bytes.Buffer
	err := report.Compare(&b, []string{written(t, "a", "steady", 1), t.TempDir()})
	if err == nil || b.Len() > 0 || !strings.Contains(err.Error(), "has no results.json") {
		t.Errorf("got %v and %q", err, b.String())
	}
}
