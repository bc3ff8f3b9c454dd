package gateway

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

// A moments counts what happens at one time.
type moments struct {
	mu sync.Mutex
	at map[time.Time]int
	n  int
}

// A timedStream notes when it is sent what.
type timedStream struct {
	*nullStream
	all *moments
}

func (s timedStream) Send(*linkv1.AttachResponse) error {
	s.all.mu.Lock()
	defer s.all.mu.Unlock()
	s.all.at[time.Now()]++
	s.all.n++
	return nil
}

// Heartbeats of many idle streams are spread over time: as many at once as a
// slot of the wheel has would want as many goroutines and write buffers, which
// are kept for the next time.
func TestHeartbeatsAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const streams, beat = 50 * wheelSlots, 5 * time.Second
		v := newVoid()
		cfg, err := Config{Name: "gw", Insecure: true, Heartbeat: beat}.resolve()
		if err != nil {
			t.Fatal(err)
		}
		g := start(cfg, v)
		t.Cleanup(func() { g.Close() })
		all := &moments{at: make(map[time.Time]int)}
		for range streams {
			s, rpc := voidStream(t, g, v)
			s.feed.mu.Lock()
			s.rpc = timedStream{rpc, all}
			s.feed.mu.Unlock()
		}
		time.Sleep(beat)
		synctest.Wait()
		all.mu.Lock()
		clear(all.at)
		all.n = 0
		all.mu.Unlock()
		time.Sleep(beat)
		synctest.Wait()
		all.mu.Lock()
		defer all.mu.Unlock()
		most := 0
		for _, n := range all.at {
			most = max(most, n)
		}
		if most > bite {
			t.Errorf("%d heartbeats at once, want at most %d", most, bite)
		}
		if all.n < streams*9/10 {
			t.Errorf("%d heartbeats in an interval, want one for each of %d streams", all.n, streams)
		}
	})
}

// A gateway short of processor time wakes late again and again. Its slots are
// seen to as often as ever, each a little late.
func TestWheelCatchesUp(t *testing.T) {
	const turn = 40 * time.Millisecond
	for _, late := range []time.Duration{0, time.Millisecond, turn, 3 * turn, 10 * turn} {
		now := time.Unix(1000, 0)
		end := now.Add(5 * wheelSlots * turn)
		table := timetable{turn: turn, due: now}
		var seen [wheelSlots]time.Time
		var longest time.Duration
		for i := 0; now.Before(end); i++ {
			slot, due := table.next(now)
			if slot != i%wheelSlots {
				t.Fatalf("%v late: slot %d after %d", late, slot, i-1)
			}
			if due.After(now) {
				now = due.Add(late)
			}
			if !seen[slot].IsZero() {
				longest = max(longest, now.Sub(seen[slot]))
			}
			seen[slot] = now
		}
		if most := wheelSlots*turn + late; longest > most {
			t.Errorf("%v late: a slot waited for %v, want at most %v", late, longest, most)
		}
	}
}

// After the process was stopped, each slot is seen to once, not once for each
// time that it was missed.
func TestWheelForgetsWhatItMissed(t *testing.T) {
	const turn = 40 * time.Millisecond
	start := time.Unix(1000, 0)
	table := timetable{turn: turn, due: start}
	now := start.Add(time.Hour + turn/2)
	at := 0
	for {
		_, due := table.next(now)
		if due.After(now) {
			break
		}
		at++
	}
	if at > wheelSlots {
		t.Errorf("%d slots at once, want at most %d", at, wheelSlots)
	}
}
