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
