package demo

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/link"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

// An agent is one agent and the lives of its processes.
type agent struct {
	w     *World
	index int
	name  string

	mu        sync.Mutex
	life      int           // counts processes; part of the host's name
	client    *link.Client  // of the current life
	session   *link.Session // of the current life; nil before it opened
	dialed    string        // the gateway last dialed
	opening   bool          // a session is being opened
	half      bool          // one side has written its last
	closing   bool          // the application has closed the session
	killed    chan struct{} // closed: this life is over
	slowUntil time.Time
	lastOne   bool // no further life
}

// host names the machine of the current life, so that its links can be found.
func (a *agent) host() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return hostOf(a.name, a.life)
}

func hostOf(name string, life int) string {
	if life == 0 {
		return name
	}
	return name + "-" + string(rune('a'+life%26))
}

// live runs one process after the other until it is quiet.
func (a *agent) live() {
	rng := a.w.rng(uint64(a.index) | 1<<41)
	for a.once() {
		a.w.sleep(time.Duration(20+rng.IntN(80)) * time.Millisecond) // as a supervisor does
	}
}

// once is the life of one process. It reports whether another follows.
func (a *agent) once() bool {
	w := a.w
	killed := make(chan struct{})
	a.mu.Lock()
	a.life++
	host := hostOf(a.name, a.life)
	a.killed = killed
	a.mu.Unlock()

	var gateways []string
	for _, n := range w.gateways {
		gateways = append(gateways, n.addr)
	}
	client, err := link.New(link.Config{
		Gateways: gateways, Controller: controllerName, Agent: a.name, Window: w.cfg.Window,
		Logger: w.cfg.Log.With("process", a.name), Rand: w.rng(uint64(a.index)<<8 | uint64(a.life)),
		Dial: func(ctx context.Context, addr string) (net.Conn, error) {
			if isClosed(killed) {
				return nil, net.ErrClosed
			}
			a.note(func() { a.dialed = addr })
			return w.net.Dial(ctx, host, addr)
		},
	})
	if err != nil {
		w.cfg.Log.Error("agent does not start", "agent", a.name, "err", err)
		return false
	}
	defer client.Close()
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	go func() {
		select {
		case <-killed: // not a word more gets out
			reset(w.net.Links(linksFrom(host)))
			cancel()
		case <-ctx.Done():
		}
	}()
	a.note(func() { a.opening, a.half, a.closing = true, false, false })
	s, err := client.Open(ctx, link.Target{Kind: linkv1.ServiceKind_SERVICE_KIND_NATIVE})
	if err != nil {
		a.note(func() { a.opening = false })
		return a.again()
	}
	id := check.Session(s.ID().String())
	w.check.Expect(id, w.cfg.Reasons...)
	a.note(func() { a.client, a.session, a.opening = client, s, false })

	done := make(chan struct{})
	go func() {
		defer close(done)
		w.talk(id, check.Agent, w.spoken(&agentEnd{s, a, killed}), w.rng(uint64(a.index)<<8|uint64(a.life)|1<<40))
	}()
	select {
	case <-done:
	case <-killed:
		// The process is gone without a word: its application tells and hears nothing more.
		w.check.Expect(id, "GRACE")
		w.check.Gone(id, check.Agent)
		w.orphan(id)
		client.Close()
		<-done
	}
	a.note(func() { a.session = nil })
	return a.again()
}

// again reports whether another life follows: only while there is traffic.
func (a *agent) again() bool {
	if isClosed(a.w.quiet) || a.w.ctx.Err() != nil {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.lastOne
}

// kill ends the current process without a word.
func (a *agent) kill() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !isClosed(a.killed) {
		close(a.killed)
	}
}

func (a *agent) stop() {
	a.mu.Lock()
	a.lastOne = true
	a.mu.Unlock()
	a.kill()
}

// slow keeps the application from reading for a while.
func (a *agent) slow(d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.slowUntil = time.Now().Add(d)
}

// note changes what is known of the agent.
func (a *agent) note(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
}

// An agentEnd is the agent's end of a session, with an application that can be slow.
type agentEnd struct {
	*link.Session
	a      *agent
	killed chan struct{}
}

func (e *agentEnd) CloseWrite() error {
	e.a.note(func() { e.a.half = true })
	return e.Session.CloseWrite()
}

func (e *agentEnd) Close() error {
	e.a.note(func() { e.a.closing = true })
	return e.Session.Close()
}

// dead reports whether the process is gone, so that its application hears nothing.
func (e *agentEnd) dead() bool { return isClosed(e.killed) }

func (e *agentEnd) ebbed() { e.a.note(func() { e.a.half = true }) }

func (e *agentEnd) pause(ctx context.Context) {
	e.a.mu.Lock()
	wait := time.Until(e.a.slowUntil)
	e.a.mu.Unlock()
	if wait <= 0 {
		return
	}
	select {
	case <-time.After(wait):
	case <-ctx.Done():
	}
}
