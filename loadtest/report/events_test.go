package report

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moorage-dev/moorage/loadtest/results"
)

func TestEventsAreThereWithinASecond(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		e, err := NewEvents(dir)
		if err != nil {
			t.Fatal(err)
		}
		e.Add(results.Event{Kind: "start"})
		time.Sleep(1001 * time.Millisecond)
		synctest.Wait()
		b, err := os.ReadFile(filepath.Join(dir, EventsFile))
		if err != nil || !strings.Contains(string(b), "start") {
			t.Errorf("got %q, %v", b, err)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestAFullDiskIsToldOnce(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		e, err := NewEvents(dir)
		if err != nil {
			t.Fatal(err)
		}
		e.mu.Lock()
		e.f.Close()
		e.f = full
		e.w.Reset(full)
		e.mu.Unlock()
		e.Add(results.Event{Kind: "start"})
		<-e.Failed()
		e.Add(results.Event{Kind: "end"})
		err = e.Close()
		if err == nil || !strings.Contains(err.Error(), "no space left on device: make room") {
			t.Errorf("got %v", err)
		}
	})
}

func TestEventsAreBounded(t *testing.T) {
	dir := t.TempDir()
	e, err := NewEvents(dir)
	if err != nil {
		t.Fatal(err)
	}
	e.limit = 1000
	for range 100 {
		e.Add(results.Event{Kind: "process", Text: strings.Repeat("x", 50)})
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, EventsFile))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if len(b) > 1200 || !strings.Contains(lines[len(lines)-1], "left out") {
		t.Errorf("%d bytes, the last line %s", len(b), lines[len(lines)-1])
	}
}
