package report_test

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/moorage-dev/moorage/loadtest/report"
	"github.com/moorage-dev/moorage/loadtest/report/made"
	"github.com/moorage-dev/moorage/loadtest/results"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWhatWasWrittenCanBeOpened(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "run")
	r := made.Kind{Faults: 2, Lost: 1, Baselines: []string{"relay"}}.Results()
	r.Runs[0].Figures["nonsense"] = math.NaN()
	report.Judge(r)
	if err := report.Write(dir, r); err != nil {
		t.Fatal(err)
	}
	back, err := report.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	was, _ := json.Marshal(r)
	is, _ := json.Marshal(back)
	if !bytes.Equal(was, is) {
		t.Error("what came back differs")
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 2 {
		t.Errorf("want results.json and report.html and nothing else, got %v, %v", files, err)
	}
}

func TestWhatCannotBeOpenedIsSaidInOneLine(t *testing.T) {
	dir := t.TempDir()
	wantLine := func(want string) {
		t.Helper()
		_, err := report.Open(dir)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	wantLine("has no results.json: give the --out directory")
	for content, want := range map[string]string{
		"{":                "is damaged",
		`{"version": 999}`: "has version 999 of the format",
	} {
		if err := os.WriteFile(filepath.Join(dir, report.ResultsFile), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		wantLine(want)
	}
}

func TestWhatCannotBeWrittenIsSaidInOneLine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	r := made.Kind{}.Results()
	report.Judge(r)
	_, eventsErr := report.NewEvents(file)
	for _, err := range []error{report.Write(file, r), eventsErr} {
		if err == nil || !strings.Contains(err.Error(), "cannot write "+file) || !strings.Contains(err.Error(), "--out") {
			t.Errorf("got %v", err)
		}
	}
}

func TestEventsAreLines(t *testing.T) {
	dir := t.TempDir()
	e, err := report.NewEvents(dir)
	if err != nil {
		t.Fatal(err)
	}
	e.Add(results.Event{At: 1.5, Run: "moorage/0", Kind: "fault", Who: "gateway-1", Text: "kill\nand more"})
	e.Add(results.Event{At: 2, Run: "moorage/0", Kind: "end"})
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, report.EventsFile))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	if len(lines) != 2 {
		t.Fatalf("got %q", lines)
	}
	var first results.Event
	if err := json.Unmarshal([]byte(lines[0]), &first); err != nil || first.Who != "gateway-1" || first.At != 1.5 {
		t.Errorf("got %+v, %v", first, err)
	}
}
