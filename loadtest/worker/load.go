package worker

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/loadtest/scenario"
)

// Bounds of backlogs: of a process, in items, and of a session.
const (
	allBacklog   = 4 << 20
	mostBacklog  = 8192
	leastBacklog = 64
)

// A load is what all talks of a process share.
type load struct {
	ctx     context.Context // of the run
	plan    *Plan
	side    check.Side
	event   func(kind, who, text string) // a line of the events file
	groups  []*group
	book    *check.Book
	meter   *meter
	pacer   *pacer
	senders *senders
	backlog int           // items that wait in one session at most
	overrun atomic.Uint64 // messages left out because of it

	opens, failed atomic.Uint64
	lastError     atomic.Pointer[string]

	// Set when the run starts, before any talk.
	start time.Time
	end   time.Time // of the schedule

	mu    sync.Mutex // guards the following
	talks map[*talk]struct{}
}

// newLoad prepares one side of a plan's native and tunnel groups. agents is how
// many there are in this process.
func newLoad(ctx context.Context, p *Plan, side check.Side, agents int, m *meter, event func(kind, who, text string), a alarm) *load {
	l := &load{
		ctx: ctx, plan: p, side: side, meter: m, event: event,
		book: check.NewBook(side, check.Config{}), pacer: newPacer(a), senders: newSenders(ctx),
		backlog: min(max(allBacklog/max(agents, 1), leastBacklog), mostBacklog),
		talks:   map[*talk]struct{}{},
	}
	for i := range p.Scenario.Groups {
		l.groups = append(l.groups, newGroup(&p.Scenario.Groups[i], i, p.Scenario.Seed))
	}
	return l
}

// begin sets the instant from which all schedules count, and starts the pacer.
// wait waits for what begin and all talks have started; the context has ended.
func (l *load) begin(start time.Time) {
	l.start = start
	l.end = l.start.Add(time.Duration(l.plan.Scenario.Length))
	l.senders.wg.Go(func() { l.pacer.run(l.ctx) })
}

func (l *load) wait() {
	l.senders.wg.Wait()
	l.pacer.alarm.close()
}

// over reports whether the schedule has ended.
func (l *load) over() bool { return !time.Now().Before(l.end) }

// talk sets up one end of a session that has just been opened: its flows count
// from now, and end with the schedule or the session's stay.
func (l *load) talk(g *group, agent, life int, leaf *check.Leaf, s Session) *talk {
	t := &talk{load: l, group: g, leaf: leaf, s: s, sent: make(chan struct{})}
	now := time.Now()
	until := l.end
	if g.Stay > 0 {
		if leaves := now.Add(time.Duration(g.Stay)); leaves.Before(until) {
			until = leaves
		}
	}
	asks, answers := g.Request != nil && g.asks == l.side, g.Request != nil && g.asks != l.side
	// An agent stays until its time is over. An application does if it asks, and
	// is done before its agent, which may have to answer until then; else it stays
	// until the agent has left.
	timed := l.side == check.Agent || asks
	t.waitsEOF = answers || !timed
	var paced []*flow
	for _, f := range g.flows(l.side, agent, life) {
		f.t, f.base, f.until = t, now.UnixNano(), until.UnixNano()
		switch {
		case f.loop:
			f.base += int64(f.after)
			t.closed = f
		case f.step():
			paced = append(paced, f)
		}
	}
	t.flows = len(paced)
	if timed || t.closed != nil {
		t.flows++
	}
	l.mu.Lock()
	l.talks[t] = struct{}{}
	l.mu.Unlock()
	for _, f := range paced {
		l.pacer.add(f.at, f)
	}
	if timed || t.closed != nil {
		l.pacer.add(until.UnixNano(), ending{t})
	}
	if t.closed != nil {
		l.pacer.add(t.closed.base, beginning{t})
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closeIfDone()
	return t
}

// forget is called when a talk is over.
func (l *load) forget(t *talk) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.talks, t)
}

// each calls do for every session that is open.
func (l *load) each(do func(t *talk)) {
	l.mu.Lock()
	open := make([]*talk, 0, len(l.talks))
	for t := range l.talks {
		open = append(open, t)
	}
	l.mu.Unlock()
	for _, t := range open {
		do(t)
	}
}

func (l *load) open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.talks)
}

// couldNot counts a session that could not be opened.
func (l *load) couldNot(err error) {
	l.failed.Add(1)
	l.lastError.Store(new(err.Error()))
}

// tick adds what was since the call before.
func (l *load) tick(t *Tick) {
	waiting := 0
	l.each(func(talk *talk) { waiting += talk.backlogged() })
	t.Agents += l.open()
	t.Anomaly += l.book.Anomalies()
	t.Over = l.book.HandOver()
	t.Opens += l.opens.Load()
	t.Failed += l.failed.Load()
	t.Extra["overrun"] += float64(l.overrun.Load())
	t.Extra["backlog"] += float64(waiting)
}

func (l *load) tally(a *check.Account) { *a = l.book.Tally() }

// final gives the account. Nothing is sent from here on.
func (l *load) final(f *Final) {
	l.each((*talk).over)
	f.Account = l.book.Account()
	f.Silence, f.Recovery = l.book.Silence(), l.book.Recovery()
	f.Opens, f.Failed = l.opens.Load(), l.failed.Load()
	if text := l.lastError.Load(); text != nil {
		f.LastError = *text
	}
	f.Figures = map[string]float64{"overrun": float64(l.overrun.Load())}
}

// keyOf is what both ends call a session.
func keyOf(group string, agent, life int) string {
	return group + "/" + strconv.Itoa(agent) + "/" + strconv.Itoa(life)
}

// parseKey takes a key apart; nil: there is no such group.
func (l *load) parseKey(key string) (g *group, agent, life int) {
	parts := strings.Split(key, "/")
	if len(parts) != 3 {
		return nil, 0, 0
	}
	agent, err := strconv.Atoi(parts[1])
	life, err2 := strconv.Atoi(parts[2])
	if err != nil || err2 != nil {
		return nil, 0, 0
	}
	for _, g := range l.groups {
		if g.Name == parts[0] && g.Kind != scenario.Legacy {
			return g, agent, life
		}
	}
	return nil, 0, 0
}
