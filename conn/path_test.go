package conn_test

import (
	"sync/atomic"
	"time"

	"github.com/moorage-dev/moorage/conn"
	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

// A path is a whole session in one process: the three roles, directly
// coupled over a log that never fails. One goroutine carries everything.
type path struct {
	agent      *session.Agent
	relay      *session.Relay
	controller *session.Controller
	near, far  *conn.Conn // the agent side's and the controller side's
	up, down   int64      // next offsets of the log

	kick chan struct{}
	stop chan struct{}
	gone chan struct{}

	// holding: Kafka takes records and acknowledges none, until it is cleared.
	holding atomic.Bool
	held    []func()
	dataUp  atomic.Int64 // data frames that went up
	crowded atomic.Bool  // others wait before the near end's frames
}

var (
	incarnation = envelope.Incarnation{Topic: envelope.TopicID{1}, Offset: 7}
	start       = envelope.Position{Topic: envelope.TopicID{2}, Partition: 3, Offset: 100}
)

// newPath returns a session that was opened and accepted.
func newPath(window int) *path {
	p := &path{
		up: 100, down: 100, kick: make(chan struct{}, 1), stop: make(chan struct{}), gone: make(chan struct{}),
	}
	now := time.Now()
	p.agent = session.NewAgent(session.AgentConfig{
		Secret: [16]byte{9}, Agent: "a", Controller: "c", Resumable: true, DownWindow: window,
		Kind: linkv1.ServiceKind_SERVICE_KIND_NATIVE,
	})
	p.near = conn.New(conn.Config{
		End: &p.agent.End, Kick: p.kicked, CloseSession: p.agent.CloseSession, MaxFrame: p.agent.MaxFrame,
		Crowded: p.crowded.Load,
	})
	hello := p.agent.Attach(now)
	p.relay = session.NewRelay(now, &hello, start, incarnation, 5*time.Second)
	welcome := session.Welcome{UpWindow: window, MaxFrame: session.MaxFrame, Grace: time.Minute, Ticket: []byte("t")}
	p.relay.Welcome(&welcome)
	must(p.agent.Welcome(now, welcome))

	u, _ := p.agent.Pending(now)
	open, _, err := p.relay.Frame(now, u.Frame)
	must(err)
	p.controller, err = session.NewController(now, &open, window, time.Minute)
	must(err)
	must(p.relay.Produced(1, p.next(&p.up), nil))
	p.far = conn.New(conn.Config{
		End: &p.controller.End, Kick: p.kicked, CloseSession: p.controller.CloseSession,
		Ready: func() bool { return p.controller.State() > session.Opening },
	})
	go p.run()
	return p
}

// accept answers the OPEN.
func (p *path) accept() *path {
	p.far.Lock()
	defer p.far.Unlock()
	p.controller.Accept(nil)
	p.far.Changed()
	p.kicked()
	return p
}

func (p *path) close() {
	close(p.stop)
	<-p.gone
}

func (p *path) kicked() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

func (p *path) next(offset *int64) int64 {
	*offset++
	return *offset - 1
}

func (p *path) run() {
	defer close(p.gone)
	tick := time.NewTicker(50 * time.Millisecond) // the roles' own timers
	defer tick.Stop()
	for {
		for p.carry() {
		}
		select {
		case <-p.kick:
		case <-tick.C:
		case <-p.stop:
			return
		}
	}
}

// carry moves what there is one hop on. It reports whether anything moved.
func (p *path) carry() (moved bool) {
	now := time.Now()
	if !p.holding.Load() {
		for _, answer := range p.held {
			answer()
		}
		p.held = nil
	}
	for {
		p.near.Lock()
		u, ok := p.agent.Pending(now)
		p.near.Unlock()
		if !ok {
			break
		}
		moved = true
		if u.Frame.Seq == 0 {
			must(p.relay.Heartbeat(now, u.Heartbeat))
			continue
		}
		if u.Frame.Kind == envelope.Data {
			p.dataUp.Add(1)
		}
		rec, ok, err := p.relay.Frame(now, u.Frame)
		must(err)
		if ok {
			offset := p.next(&p.up)
			p.answer(func() { must(p.relay.Produced(rec.Seq, offset, nil)) })
			p.record(now, rec)
		}
	}
	for rec, ok := p.relay.PendingRecord(); ok; rec, ok = p.relay.PendingRecord() {
		p.next(&p.up)
		p.record(now, rec)
	}
	for {
		p.far.Lock()
		produce, ok := p.controller.Pending(now)
		p.far.Unlock()
		if !ok {
			break
		}
		moved = true
		offset := p.next(&p.down)
		p.answer(func() {
			p.far.Lock()
			defer p.far.Unlock()
			p.controller.Produced(now, &produce, offset, nil)
			p.far.Changed()
		})
		d, err := p.relay.Record(now, offset, &produce.Record)
		must(err)
		if d.Frame.Seq != 0 {
			p.toAgent(func() error { return p.agent.Frame(now, d.Frame) })
		}
	}
	if h, ok := p.relay.PendingHeartbeat(now); ok {
		moved = true
		p.toAgent(func() error { return p.agent.Heartbeat(now, h) })
	}
	return moved
}

func (p *path) answer(f func()) {
	if p.holding.Load() {
		p.held = append(p.held, f)
		return
	}
	f()
}

func (p *path) record(now time.Time, rec envelope.Record) {
	p.far.Lock()
	defer p.far.Unlock()
	p.controller.Record(now, &rec)
	p.far.Changed()
}

func (p *path) toAgent(give func() error) {
	p.near.Lock()
	defer p.near.Unlock()
	if p.agent.State() == session.AgentEnded {
		return
	}
	must(give())
	p.near.Changed()
}

// release lets Kafka acknowledge.
func (p *path) release() {
	p.holding.Store(false)
	p.kicked()
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
