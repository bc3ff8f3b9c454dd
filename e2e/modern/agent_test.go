package modern_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/controller"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/remoting"
	"github.com/moorage-dev/moorage/standin"
)

// isRemoting tells an agent's session from a look-up.
func isRemoting(i controller.Info) bool {
	return i.Kind == linkv1.ServiceKind_SERVICE_KIND_REMOTING || i.Kind == linkv1.ServiceKind_SERVICE_KIND_WEBSOCKET
}

// A manner is a way in which modern agents are started.
type manner struct {
	word     string
	protocol string // that the controller ends up with
	set      func(a *standin.Agent, door string, j *jenkins)
}

var manners = []manner{
	{"url", remoting.JNLP4, func(a *standin.Agent, door string, _ *jenkins) {
		a.URL = "http://" + door + "/"
	}},
	{"direct", remoting.JNLP4, func(a *standin.Agent, door string, j *jenkins) {
		a.Direct, a.Identity, a.Protocols = door, j.Identity, []string{remoting.JNLP4}
	}},
	{"proxy", remoting.JNLP4, func(a *standin.Agent, door string, j *jenkins) {
		a.Direct, a.Identity, a.Protocols = door, j.Identity, []string{remoting.JNLP4Proxy}
	}},
	{"websocket", standin.WebSocket, func(a *standin.Agent, door string, _ *jenkins) {
		a.URL, a.WebSocket = "http://"+door+"/", true
	}},
}

// An actor is an agent that runs: one process, from its start to its end.
type actor struct {
	t    *testing.T
	name string
	wire *cable // its way to the door
	stop context.CancelCauseFunc
	done chan struct{} // closed when err is set
	err  error

	mu     sync.Mutex // guards the following
	events []told
	news   chan struct{} // closed and renewed with each event
}

type told struct {
	standin.Event
	at time.Time
}

// startAgent starts an agent at a door.
func (s *site) startAgent(name, door string, m manner, more ...func(*standin.Agent)) *actor {
	s.Helper()
	a := &actor{t: s.T, name: name, wire: &cable{}, done: make(chan struct{}), news: make(chan struct{})}
	agent := standin.Agent{Name: name, Secret: s.jenkins.Secret(name), Dial: a.wire.dial, Observe: a.observe}
	m.set(&agent, door, s.jenkins)
	for _, set := range more {
		set(&agent)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	a.stop = cancel
	go func() {
		defer close(a.done)
		a.err = agent.Run(ctx)
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.agents = append(s.agents, a)
	return a
}

func (a *actor) observe(e standin.Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.events = append(a.events, told{e, time.Now()})
	close(a.news)
	a.news = make(chan struct{})
}

// kill ends the process; its socket is closed by a FIN.
func (a *actor) kill() {
	a.stop(errStopped)
	<-a.done
}

// crash ends the process with data unread: its socket is closed by a reset.
func (a *actor) crash() {
	a.stop(standin.ErrReset)
	<-a.done
}

// told returns the events so far of a state.
func (a *actor) told(state standin.State) (some []told) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.events {
		if e.State == state {
			some = append(some, e)
		}
	}
	return some
}

// want waits until the agent has come to a state so many times, and returns
// the last of these events.
func (a *actor) want(state standin.State, times int, within time.Duration) told {
	a.t.Helper()
	limit := time.After(within)
	for {
		a.mu.Lock()
		news := a.news
		a.mu.Unlock()
		if some := a.told(state); len(some) >= times {
			return some[times-1]
		}
		select {
		case <-news:
		case <-a.done:
			a.t.Fatalf("%s: the process ended (%v) before it was %v %d times", a.name, a.err, state, times)
		case <-limit:
			a.t.Fatalf("%s: not %v %d times within %v: %+v", a.name, state, times, within, a.told(state))
		}
	}
}

// wantUnharmed checks that nothing has ever happened to the agent's channel.
func (a *actor) wantUnharmed() {
	a.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.events) != 1 || a.events[0].State != standin.Online {
		a.t.Errorf("%s saw more than that it came online: %+v", a.name, a.events)
	}
}
