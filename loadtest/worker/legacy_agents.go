package worker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/loadtest/fault"
	"github.com/moorage-dev/moorage/loadtest/scenario"
	"github.com/moorage-dev/moorage/standin"
)

const (
	// legacyRestart is after which time an agent whose process would have ended
	// is started again, as a service manager does.
	legacyRestart = 10 * time.Second
	// connectorGrace is for how long after a connector's death a lost channel
	// is its doing.
	connectorGrace = 60 * time.Second
)

// Why an agent's channel is ended at this end.
var (
	errLegacyStay    = errors.New("worker: the agent's stay is over")
	errLegacyRestart = errors.New("worker: the agent is killed")
	errLegacyLeave   = errors.New("worker: the agents leave")
)

// legacyAgents are the stock agents of a worker. They come as the scenario
// says and come back by themselves, as an agent.jar does; the controller makes
// the load.
//
// On tier 0 a channel ends with its connection to the gateway: that is counted
// and nothing more. On tier 1 a channel that ends otherwise than by the
// agent's own hand, or by its connector's death, is an anomaly.
type legacyAgents struct {
	host   legacyHost
	plan   *Plan
	agents []*legacyAgent

	staying context.Context // ends when they are told to leave
	leave   context.CancelCauseFunc
	left    chan struct{} // closed when all have gone

	anomalies anomalyList
	online    atomic.Int64
	opens     atomic.Uint64 // channels that came up
	lost      atomic.Uint64 // that ended and were not ended here
	expected  atomic.Uint64 // of these, of tier 1, by the connector's death
	failed    atomic.Uint64 // look-ups and handshakes for nothing
	exits     atomic.Uint64 // times an agent's process would have ended

	mu        sync.Mutex
	lastError string
	connector time.Time // when it died last
}

// A legacyAgent is one agent through all its lives.
type legacyAgent struct {
	*legacyAgents
	group  *scenario.Group
	number int
	name   string
	secret string
	url    string
	source string // loopback address to dial from; "": the kernel's choice

	mu    sync.Mutex // guards the following
	conns map[net.Conn]bool
	end   context.CancelCauseFunc // of the present life; nil: none
}

func newLegacyAgents(p *Plan, h legacyHost) (*legacyAgents, error) {
	key, err := legacyKey(p)
	if err != nil {
		return nil, err
	}
	a := &legacyAgents{host: h, plan: p, left: make(chan struct{})}
	a.staying, a.leave = context.WithCancelCause(context.Background())
	for _, g := range legacyGroups(p) {
		doors := p.Doors
		if g.Door == doorShim {
			doors = p.Shims
		}
		if len(doors) == 0 {
			return nil, fmt.Errorf("worker: group %s, door %q: the plan names no such door", g.Name, g.Door)
		}
		for number := p.Index; number < g.Agents; number += p.Of {
			name := legacyName(p, g, number)
			one := &legacyAgent{
				legacyAgents: a, group: g, number: number, name: name, secret: standin.Secret(key, name),
				url: doors[number%len(doors)], conns: map[net.Conn]bool{},
			}
			if len(p.Sources) > 0 {
				one.source = p.Sources[number%len(p.Sources)]
			}
			a.agents = append(a.agents, one)
		}
	}
	return a, nil
}

// run has the agents come and stay until they are told to leave or ctx ends, and
// ends with ctx.
func (a *legacyAgents) run(ctx context.Context, start time.Time) error {
	staying, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer context.AfterFunc(a.staying, func() { end(errLegacyLeave) })()
	var wg sync.WaitGroup
	for _, one := range a.agents {
		wg.Go(func() { one.live(staying, start) })
	}
	wg.Wait()
	close(a.left)
	<-ctx.Done()
	return context.Cause(ctx)
}

// live is one agent from its arrival on: life after life.
func (a *legacyAgent) live(ctx context.Context, start time.Time) {
	due := a.plan.comes(start, a.group, a.number)
	for legacyWait(ctx, time.Until(due)) == nil {
		err := a.life(ctx, due)
		due = time.Now()
		if errors.Is(err, errLegacyStay) || errors.Is(err, errLegacyRestart) {
			continue
		}
		if exit, ok := errors.AsType[*standin.ExitError](err); ok {
			a.exits.Add(1)
			a.fail(exit)
			due = due.Add(legacyRestart)
		}
	}
}

// life is one process of the agent, which was to come when due.
func (a *legacyAgent) life(ctx context.Context, due time.Time) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	if a.group.Stay > 0 {
		stay := time.AfterFunc(time.Duration(a.group.Stay), func() { end(errLegacyStay) })
		defer stay.Stop()
	}
	a.mu.Lock()
	a.end = end
	a.mu.Unlock()
	agent := standin.Agent{
		Name: a.name, Secret: a.secret, URL: a.url, WebSocket: a.group.Protocol == legacyWebSocket,
		Dial: a.dial, Observe: func(e standin.Event) { a.observe(ctx, e, &due) },
	}
	return agent.Run(ctx)
}

// observe counts a change; due is zeroed by the first channel of a life, whose
// latency counts from then.
func (a *legacyAgent) observe(ctx context.Context, e standin.Event, due *time.Time) {
	switch e.State {
	case standin.Online:
		a.online.Add(1)
		a.opens.Add(1)
		if !due.IsZero() {
			a.host.record("connect", a.group.Name, *due, time.Since(*due))
			*due = time.Time{}
		}
	case standin.Offline:
		a.online.Add(-1)
		if ctx.Err() == nil {
			a.channelLost(e.Err)
		}
	case standin.Failed:
		a.fail(e.Err)
	}
}

// channelLost judges the end of a channel that was not ended here.
func (a *legacyAgent) channelLost(err error) {
	a.lost.Add(1)
	a.host.event("lost-session", a.name, fmt.Sprint(err))
	switch {
	case errors.Is(err, standin.ErrCorrupt):
		a.anomalies.add(check.Agent, "corrupted", a.name, err.Error())
	case a.group.Door != doorShim:
	case a.connectorDied():
		a.expected.Add(1)
	default:
		a.anomalies.add(check.Agent, "unexplained", a.name, fmt.Sprintf("a channel of tier 1 ended: %v", err))
	}
}

func (a *legacyAgents) connectorDied() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.connector.IsZero() && time.Since(a.connector) < connectorGrace
}

func (a *legacyAgent) fail(err error) {
	a.failed.Add(1)
	a.legacyAgents.mu.Lock()
	defer a.legacyAgents.mu.Unlock()
	a.lastError = fmt.Sprintf("%s: %v", a.name, err)
}

// dial makes the agent's connections, and keeps them so that they can be cut.
func (a *legacyAgent) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	if a.source != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(a.source)}
	}
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conns[conn] = true
	return &cuttable{conn, a}, nil
}

// A cuttable is a connection that its agent knows of while it is open.
type cuttable struct {
	net.Conn
	agent *legacyAgent
}

// SetLinger lets the agent end it by a reset.
func (c *cuttable) SetLinger(seconds int) error {
	return c.Conn.(*net.TCPConn).SetLinger(seconds)
}

func (c *cuttable) Close() error {
	c.agent.mu.Lock()
	delete(c.agent.conns, c.Conn)
	c.agent.mu.Unlock()
	return c.Conn.Close()
}

// cut closes the agent's connections under it, by a reset.
func (a *legacyAgent) cut() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for conn := range a.conns {
		_ = conn.(*net.TCPConn).SetLinger(0) // then it is a FIN: a cut all the same
		conn.Close()
	}
}

// order does cut and restart to the order's share of the agents, and takes
// notice of a connector's death. A cut is of tier 0: the agents of tier 1 have
// their shim on the same machine, and it is the shim's connection that breaks.
func (a *legacyAgents) order(o Order) {
	switch o.Do {
	case "fault":
		if o.To == "connector" && (o.Name == fault.Kill || o.Name == fault.Stop || o.Name == fault.Rolling || o.Name == fault.Freeze) {
			a.mu.Lock()
			a.connector = time.Now()
			a.mu.Unlock()
		}
	case "stop":
		if o.Leave {
			a.leave(errLegacyLeave)
		}
	case "cut", "restart":
		draw := rand.New(rand.NewPCG(uint64(o.At.UnixNano()), uint64(o.Fault)))
		for _, one := range a.agents {
			switch {
			case draw.Float64() >= o.Share:
			case o.Do == "restart":
				one.restart()
			case one.group.Door != doorShim:
				one.cut()
			}
		}
	}
}

// restart has the agent die and come as new.
func (a *legacyAgent) restart() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.end != nil {
		a.end(errors.Join(errLegacyRestart, standin.ErrReset))
	}
}

// drain has nothing to wait for, where agents stay for their controller's sake,
// and waits for those that leave.
func (a *legacyAgents) drain(ctx context.Context, _ time.Duration) {
	if a.staying.Err() == nil {
		return
	}
	select {
	case <-a.left:
	case <-ctx.Done():
	}
}

func (a *legacyAgents) tick(t *Tick) {
	t.Agents += int(a.online.Load())
	t.Anomaly += a.anomalies.all()
	t.Opens += a.opens.Load()
	t.Failed += a.failed.Load()
}

func (a *legacyAgents) tally(account *check.Account) { a.anomalies.addTo(account) }

func (a *legacyAgents) final(f *Final) {
	a.anomalies.addTo(&f.Account)
	f.Opens += a.opens.Load()
	f.Failed += a.failed.Load()
	addFigures(f, map[string]uint64{
		"legacy_opens": a.opens.Load(), "lost_channels": a.lost.Load(), "expected_lost_channels": a.expected.Load(),
		"legacy_failed": a.failed.Load(), "legacy_exits": a.exits.Load(),
	})
	a.mu.Lock()
	defer a.mu.Unlock()
	if f.LastError == "" {
		f.LastError = a.lastError
	}
}

// legacyWait waits; the error says that ctx ended.
func legacyWait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
