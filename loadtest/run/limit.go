package run

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/moorage-dev/moorage/loadtest/scenario"
	"github.com/moorage-dev/moorage/loadtest/worker"
)

// limits notes each worker's seconds, to tell whether the generator was the
// limit. The package comment has the rule.
type limits struct {
	from  time.Time // the end of warm-up
	until time.Time // the end of load
	share float64   // of the processors, in cores, that a worker may use; 0: whatever it gets
	seen  map[string]*strain
}

// strain is what one worker's seconds were like.
type strain struct {
	seconds, busy int
	sent, overdue float64
	worst         time.Duration
	excused       time.Time // until then it catches up with what a fault kept it from
}

func newLimits(from, until time.Time, cores, workers int, story *scenario.Scenario) *limits {
	l := &limits{from: from, until: until, share: float64(cores) / float64(max(workers, 1)), seen: map[string]*strain{}}
	if slices.ContainsFunc(story.Groups, isClosed) {
		l.share = 0
	}
	return l
}

// isClosed tells groups with a closed loop.
func isClosed(g scenario.Group) bool {
	return g.Up != nil && g.Up.Closed || g.Down != nil && g.Down.Closed || g.Request != nil && g.Request.Closed
}

// strain returns what is noted of a worker.
func (l *limits) strain(name string) *strain {
	s := l.seen[name]
	if s == nil {
		s = &strain{}
		l.seen[name] = s
	}
	return s
}

// excuse leaves a worker's seconds out until at, and [CatchUp] longer: a fault
// froze it, which is no want of processors.
func (l *limits) excuse(name string, at time.Time) {
	l.strain(name).excused = at.Add(CatchUp)
}

// add notes a second, if it counts.
func (l *limits) add(name string, t worker.Tick) {
	if !t.At.After(l.from) || t.At.After(l.until) {
		return
	}
	s := l.strain(name)
	if !t.At.After(s.excused) {
		return
	}
	s.seconds++
	s.sent += float64(t.Sent[0] + t.Sent[1])
	s.overdue += t.Extra["overdue"]
	if l.share > 0 && t.CPU > BusyLimit*l.share {
		s.busy++
	}
	s.worst = max(s.worst, t.Lag)
}

// verdict says why the pass proves nothing; "": it does.
func (l *limits) verdict() string {
	for _, name := range slices.Sorted(maps.Keys(l.seen)) {
		s := l.seen[name]
		switch {
		case s.overdue > OverdueShare*s.sent:
			return fmt.Sprintf("the generator was the limit: %s itself held up %.0f of %.0f messages for more than 10 ms, at worst for %v; give it more processors, or less to do",
				name, s.overdue, s.sent, s.worst.Round(time.Millisecond))
		case s.busy >= BusyFloor && float64(s.busy) > BusyShare*float64(s.seconds):
			return fmt.Sprintf("the generator was the limit: %s used more than %.1f of its %.2g processors in %d of %d seconds; give it more, spread it with --workers, or give it less to do",
				name, BusyLimit*l.share, l.share, s.busy, s.seconds)
		}
	}
	return ""
}
