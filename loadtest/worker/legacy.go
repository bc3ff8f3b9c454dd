package worker

import (
	"context"
	"encoding/hex"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/loadtest/scenario"
)

// Bounds of the legacy groups.
const (
	// legacyInFlight bounds the calls of one flow of an agent that are under
	// way: a channel works on no more of them at once.
	legacyInFlight = 64
	// legacyBacklog bounds the calls of one flow that are due and wait for
	// those; what comes due then is left out and counted as overrun.
	legacyBacklog = 1024
	// legacyAnomalies bounds the anomalies that are kept in full.
	legacyAnomalies = 100
)

// Words of a group in the scenario, where they are not the default.
const (
	doorShim        = "shim" // tier 1: the channel lives through everything but its own ends
	legacyWebSocket = "websocket"
)

// A legacyPart is one side of a plan's legacy groups. Main says what it is
// told; run makes the load until ctx ends.
type legacyPart interface {
	run(ctx context.Context, start time.Time) error
	order(o Order)
	// drain stops the load and waits for what is under way, for the limit at most.
	drain(ctx context.Context, limit time.Duration)
	tick(t *Tick)           // adds what was since the call before
	tally(a *check.Account) // adds the anomalies so far
	final(f *Final)         // adds the whole; it may be asked at any time
}

// legacyHost is what Main lends to a legacyPart. Both may be called
// concurrently.
type legacyHost struct {
	// record takes a latency: what is request or connect.
	record func(what, group string, scheduled time.Time, took time.Duration)
	// event takes a line for the events file.
	event func(kind, who, text string)
}

// legacyName is what an agent is called by its controller.
func legacyName(p *Plan, g *scenario.Group, number int) string {
	return p.Run + "-" + g.Name + "-" + strconv.Itoa(number)
}

// legacyKey is the key of which the agents' secrets are made.
func legacyKey(p *Plan) ([]byte, error) {
	key, err := hex.DecodeString(p.Secrets)
	if err != nil || len(key) == 0 {
		return nil, fmt.Errorf("worker: the plan's key of legacy agents' secrets: want hex digits, got %d characters", len(p.Secrets))
	}
	return key, nil
}

// legacyGroups yields the plan's legacy groups.
func legacyGroups(p *Plan) (groups []*scenario.Group) {
	for i := range p.Scenario.Groups {
		if g := &p.Scenario.Groups[i]; g.Kind == scenario.Legacy {
			groups = append(groups, g)
		}
	}
	return groups
}

// An anomalyList is the first anomalies in full and the number of all by word.
type anomalyList struct {
	mu     sync.Mutex
	seen   []check.Anomaly
	counts map[string]uint64
	total  uint64
}

func (l *anomalyList) add(side check.Side, what, agent, detail string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.counts == nil {
		l.counts = map[string]uint64{}
	}
	l.counts[what]++
	l.total++
	if len(l.seen) < legacyAnomalies {
		l.seen = append(l.seen, check.Anomaly{What: what, Session: check.Session(agent), Side: side.String(), Detail: detail})
	}
}

func (l *anomalyList) all() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}

// addTo adds them to an account.
func (l *anomalyList) addTo(a *check.Account) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a.Seen = append(a.Seen, l.seen...)
	if a.Counts == nil {
		a.Counts = map[string]uint64{}
	}
	for what, n := range l.counts {
		a.Counts[what] += n
	}
}

// addFigures adds to a final's figures.
func addFigures(f *Final, figures map[string]uint64) {
	if f.Figures == nil {
		f.Figures = map[string]float64{}
	}
	for name, n := range figures {
		f.Figures[name] += float64(n)
	}
}
