package worker

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A repeat is an event every so often, so many times.
type repeat struct {
	every time.Duration
	times int
	call  func(late time.Duration)
	at    int64
}

func (r *repeat) due(now int64) (int64, bool) {
	r.call(time.Duration(now - r.at))
	r.times--
	r.at += int64(r.every)
	return r.at, r.times > 0
}

func TestPacerCallsEventsAtTheirTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		p := newPacer(newTimerAlarm())
		var wg sync.WaitGroup
		wg.Go(func() { p.run(ctx) })
		start := time.Now()
		var order []string
		for name, r := range map[string]repeat{
			"second": {every: time.Second, times: 3},
			"third":  {every: 1500 * time.Millisecond, times: 2},
		} {
			r.at = start.Add(r.every).UnixNano()
			r.call = func(late time.Duration) {
				order = append(order, name+time.Since(start).String())
				if late != 0 {
					t.Errorf("%s was called %v late", name, late)
				}
			}
			p.add(r.at, &r)
		}
		time.Sleep(100 * time.Millisecond)
		// An event that is due before what the pacer sleeps for.
		early := &repeat{at: start.Add(200 * time.Millisecond).UnixNano(), times: 1, call: func(time.Duration) { order = append(order, "early"+time.Since(start).String()) }}
		p.add(early.at, early)
		time.Sleep(time.Minute)
		cancel()
		wg.Wait()
		slices.Sort(order[len(order)-2:]) // both are due at once
		if want := []string{"early200ms", "second1s", "third1.5s", "second2s", "second3s", "third3s"}; !slices.Equal(order, want) {
			t.Errorf("called %v; want %v", order, want)
		}
	})
}

// Both alarms end a sleep when its time is over, and at once when they are
// poked, before it or during it.
func TestAlarms(t *testing.T) {
	for name, a := range map[string]alarm{"kernel": newAlarm(), "runtime": newTimerAlarm()} {
		t.Run(name, func(t *testing.T) {
			defer a.close()
			for range 20 {
				before := time.Now()
				a.sleep(2 * time.Millisecond)
				if slept := time.Since(before); slept < 2*time.Millisecond {
					t.Fatalf("slept %v; want 2 ms at least", slept)
				}
			}
			for range 20 {
				a.poke()
				a.sleep(time.Hour)
				var wg sync.WaitGroup
				wg.Go(a.poke)
				a.sleep(time.Hour)
				wg.Wait()
			}
		})
	}
}

func TestCredentialIsThatOfMoorageToken(t *testing.T) {
	got := credential([]byte("fleet-key-of-some-length"), "run/builders/7")
	if want := "SzJh3wYFSYfyRWc_sN93B94uDr1PU5ZAHbX83SAK80o"; got != want {
		t.Errorf("credential %s; want %s, as moorage token prints", got, want)
	}
}
