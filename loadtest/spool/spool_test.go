package spool_test

import (
	"os"
	"reflect"
	"runtime"
	"testing"

	"github.com/moorage-dev/moorage/loadtest/results"
	"github.com/moorage-dev/moorage/loadtest/spool"
)

func tick(i int) results.Tick {
	return results.Tick{
		At: float64(i), Agents: i, Sent: [2]uint64{1, uint64(i)}, Extra: map[string]float64{"records_fetched": float64(i), "nothing": 0},
		P: map[string]results.Hist{"up": {Count: 3, Mean: 1.5, P: map[string]float64{"50": 1, "99": 0}}},
	}
}

func TestWhatWasAddedComesBackInItsOrder(t *testing.T) {
	l, err := spool.New[results.Tick](t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var want []results.Tick
	for i := range 100 {
		want = append(want, tick(i))
		if err := l.Add(tick(i)); err != nil {
			t.Fatal(err)
		}
		if i%33 != 0 { // it may be read at any time, and go on
			continue
		}
		got, err := l.All()
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("after %d: %v, %v; want %v", i+1, got, err, want)
		}
	}
}

func TestALongListTakesNoMemory(t *testing.T) {
	l, err := spool.New[results.Tick](t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	used := func(ticks int) uint64 {
		for i := range ticks {
			if err := l.Add(tick(i)); err != nil {
				t.Fatal(err)
			}
		}
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := used(100)
	if after := used(20_000); after > before+100<<10 {
		t.Errorf("%d bytes of heap after 100 ticks, %d after 20,000", before, after)
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	dir := t.TempDir()
	l, err := spool.New[int](dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Add(1); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
	if err := l.Add(1); err == nil {
		// The buffer may take it; the file does not.
		if _, err := l.All(); err == nil {
			t.Error("a list that is closed can be read")
		}
	}
	if _, err := spool.New[int](dir + "/missing"); err == nil {
		t.Error("a list in a directory that is not there")
	}
}
