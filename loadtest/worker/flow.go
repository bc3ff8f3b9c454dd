package worker

import (
	"time"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/loadtest/pace"
	"github.com/moorage-dev/moorage/loadtest/scenario"
)

// A flow is one flow of one session: the pacer's times, turned into items.
type flow struct {
	t       *talk
	pacer   *pace.Pacer
	answers *pace.Sizes // nil: no request
	kind    check.Kind
	loop    bool          // a closed loop
	after   time.Duration // of a closed loop: when it begins
	bound   int           // of a closed loop of requests: how many may be unanswered
	base    int64         // the session's begin, in nanoseconds since 1970
	until   int64         // nothing is due then or later
	at      int64         // of the next message
	size    int
}

// step moves to the next message; false: there is none.
func (f *flow) step() bool {
	offset, size, ok := f.pacer.Next()
	f.at, f.size = f.base+int64(offset), size
	return ok && f.at < f.until
}

// due is called by the pacer when the next message is due.
func (f *flow) due(now int64) (next int64, again bool) {
	it := f.item(f.at)
	it.late = f.t.load.meter.late(now-f.at, false)
	f.t.due(it)
	if !f.step() {
		f.t.flowEnded()
		return 0, false
	}
	return f.at, true
}

func (f *flow) item(at int64) item {
	it := item{at: at, size: uint32(f.size), kind: f.kind, paced: true}
	if f.answers != nil {
		it.answer = uint32(f.answers.Next())
	}
	return it
}

// now returns the next message of a closed loop; false: it has to wait for an
// answer, or is over. Its talk's lock is held.
func (f *flow) now(inFlight int) (item, bool) {
	now := time.Now().UnixNano()
	if now < f.base || now >= f.until || f.kind == check.Request && inFlight >= f.bound {
		return item{}, false
	}
	_, size, ok := f.pacer.Next()
	if !ok {
		f.until = 0
		return item{}, false
	}
	f.size = size
	it := f.item(now)
	it.paced = false
	return it, true
}

// An ending is the end of a session's time.
type ending struct{ t *talk }

func (e ending) due(int64) (int64, bool) {
	e.t.finish()
	return 0, false
}

// A beginning is the start of a closed loop.
type beginning struct{ t *talk }

func (b beginning) due(int64) (int64, bool) {
	b.t.mu.Lock()
	defer b.t.mu.Unlock()
	b.t.wake()
	return 0, false
}

// A group is one group of agents, as talks need it.
type group struct {
	*scenario.Group
	number   int
	asks     check.Side // who sends requests
	inFlight int        // requests that may be unanswered; 0: no bound
	seed     uint64
}

func newGroup(g *scenario.Group, number int, seed uint64) *group {
	ours := &group{Group: g, number: number, seed: pace.Seed(seed, g.Name)}
	if r := g.Request; r != nil {
		ours.inFlight = r.InFlight
		ours.asks = check.Controller
		if r.From == scenario.FromAgent {
			ours.asks = check.Agent
		}
	}
	return ours
}

// flows returns what a side sends in a session of the group by itself. life
// numbers the agent's sessions: each has times of its own.
func (g *group) flows(side check.Side, agent, life int) (flows []*flow) {
	seed := func(name string) uint64 { return pace.Seed(g.seed+uint64(life), name) }
	oneWay := g.Up
	if side == check.Controller {
		oneWay = g.Down
	}
	if oneWay != nil {
		flows = append(flows, &flow{
			pacer: pace.New(*oneWay, seed(side.String()), agent),
			loop:  oneWay.Closed, after: time.Duration(oneWay.After), kind: check.OneWay,
		})
	}
	if r := g.Request; r != nil && g.asks == side {
		flows = append(flows, &flow{
			pacer:   pace.New(r.Flow, seed("request"), agent),
			answers: pace.NewSizes(r.Answer, seed("answer"), agent),
			loop:    r.Closed, after: time.Duration(r.After), kind: check.Request, bound: max(r.InFlight, 1),
		})
	}
	return flows
}
