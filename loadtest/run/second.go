package run

import (
	"maps"
	"math"
	"slices"
	"time"

	"github.com/moorage-dev/moorage/loadtest/results"
	"github.com/moorage-dev/moorage/loadtest/worker"
)

// patient is for how many seconds the merger waits for a worker's tick: one
// that is frozen holds nobody up longer.
const patient = 3

// seconds puts the workers' ticks together, second by second. What comes for a
// second that has been given away already counts in the oldest that has not.
type seconds struct {
	start   time.Time
	waiting map[int]*second
	next    int                // the oldest not yet given away
	newest  int                // that anybody told of
	anomaly map[string]uint64  // so far, by worker
	gone    uint64             // of workers that are no more
	agents  map[string]int     // latest, by worker
	extra   map[string]float64 // of the target, latest
}

type second struct {
	results.Tick
	latency spread
	heard   map[string]bool // workers
	agents  map[string]int  // with a session at its end, by worker
}

func newSeconds(start time.Time) *seconds {
	return &seconds{start: start, waiting: map[int]*second{}, next: 1, anomaly: map[string]uint64{}, agents: map[string]int{}}
}

// add counts a worker's tick. agents says whether its sessions are those to count.
func (s *seconds) add(name string, agents bool, t worker.Tick) error {
	n := max(int(math.Round(t.At.Sub(s.start).Seconds())), s.next)
	s.newest = max(s.newest, n)
	sec := s.waiting[n]
	if sec == nil {
		sec = &second{latency: spread{}, heard: map[string]bool{}, agents: map[string]int{}}
		sec.Tick.At = float64(n)
		s.waiting[n] = sec
	}
	sec.heard[name] = true
	if agents {
		sec.agents[name] = t.Agents // two ticks may fall into one second
	}
	for way := range 2 {
		sec.Sent[way] += t.Sent[way]
		sec.Received[way] += t.Received[way]
		sec.Bytes[way] += t.Bytes[way]
	}
	sec.Lag = max(sec.Lag, float64(t.Lag)/float64(time.Millisecond))
	for key, v := range t.Extra {
		if sec.Extra == nil {
			sec.Extra = map[string]float64{}
		}
		sec.Extra[key] += v
	}
	s.anomaly[name] = max(s.anomaly[name], t.Anomaly)
	for _, key := range []string{"up", "down", "request"} {
		if err := sec.latency.add(key, t.Latency[key]); err != nil {
			return err
		}
	}
	return nil
}

// left notes that a worker is no more; what it counted stays.
func (s *seconds) left(name string) {
	s.gone += s.anomaly[name]
	delete(s.anomaly, name)
	delete(s.agents, name)
}

// take returns the seconds that are complete: every one of workers has told of
// it, or one is already patient seconds further. all takes what there is.
func (s *seconds) take(workers []string, all bool) (ticks []results.Tick) {
	for ; s.next <= s.newest; s.next++ {
		sec := s.waiting[s.next]
		complete := sec != nil && !slices.ContainsFunc(workers, func(w string) bool { return !sec.heard[w] })
		if !complete && !all && s.newest < s.next+patient {
			return ticks
		}
		delete(s.waiting, s.next)
		if sec == nil {
			sec = &second{latency: spread{}}
			sec.Tick.At = float64(s.next)
		}
		sec.P = sec.latency.all()
		maps.Copy(s.agents, sec.agents) // who said nothing has as many as before
		for _, n := range s.agents {
			sec.Agents += n
		}
		sec.Anomaly = s.gone
		for _, n := range s.anomaly {
			sec.Anomaly += n
		}
		if len(s.extra) > 0 {
			if sec.Extra == nil {
				sec.Extra = map[string]float64{}
			}
			maps.Copy(sec.Extra, s.extra)
		}
		ticks = append(ticks, sec.Tick)
	}
	return ticks
}
