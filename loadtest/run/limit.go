package run

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/moorage-dev/moorage/loadtest/worker"
)

// limits notes each worker's seconds, to tell whether the generator was the
// limit. The package comment has the rule.
type limits struct {
	from  time.Time // the end of warm-up
	until time.Time // the end of load
	share float64   // of the processors, in cores, that a worker may use
	seen  map[string]*strain
}

// strain is what one worker's seconds were like.
type strain struct {
	seconds, late, busy int
	behind              time.Duration // the lags of late seconds, together
	worst               time.Duration
}

func newLimits(from, until time.Time, cores, workers int) *limits {
	return &limits{from: from, until: until, share: float64(cores) / float64(max(workers, 1)), seen: map[string]*strain{}}
}

// add notes a second, if it counts.
func (l *limits) add(name string, t worker.Tick) {
	if !t.At.After(l.from) || t.At.After(l.until) {
		return
	}
	s := l.seen[name]
	if s == nil {
		s = &strain{}
		l.seen[name] = s
	}
	s.seconds++
	if t.Lag > LagLimit {
		s.late++
		s.behind += t.Lag
	}
	if t.CPU > BusyLimit*l.share {
		s.busy++
	}
	s.worst = max(s.worst, t.Lag)
}

// verdict says why the pass proves nothing; "": it does.
func (l *limits) verdict() string {
	for _, name := range slices.Sorted(maps.Keys(l.seen)) {
		s := l.seen[name]
		switch {
		case s.late >= LimitFloor && s.behind.Seconds() > LateShare*float64(s.seconds):
			return fmt.Sprintf("the generator was the limit: %s was behind its own schedule by more than %v in %d of %d seconds, at worst by %v; give it more processors, or less to do",
				name, LagLimit, s.late, s.seconds, s.worst.Round(time.Millisecond))
		case s.busy >= LimitFloor && float64(s.busy) > BusyShare*float64(s.seconds):
			return fmt.Sprintf("the generator was the limit: %s used more than %.1f of its %.2g processors in %d of %d seconds; give it more, spread it with --workers, or give it less to do",
				name, BusyLimit*l.share, l.share, s.busy, s.seconds)
		}
	}
	return ""
}
