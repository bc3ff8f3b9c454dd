package connector

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/moorage-dev/moorage/controller"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

const (
	// holdBehind is how long a session waits at most for older ones of its agent.
	// After that it is dialled, and the controller's own rule decides.
	holdBehind = 20 * time.Second
	// straggle is how long an older session's records may still come in after a
	// newer one's OPEN without proving anything: they stand in other partitions.
	straggle = 300 * time.Millisecond
	// settle is what a controller is given to notice that a socket was closed,
	// before the next one of the same agent is opened.
	settle = 500 * time.Millisecond
	// lookAtOld is how often an older session is looked at meanwhile.
	lookAtOld = 100 * time.Millisecond
)

// same orders the sessions of one agent. A controller turns down an agent that
// it believes to be connected, and an old agent's process ends by that. So a
// newcomer waits until what is left of its predecessor is gone:
//
//   - a predecessor that is detached is ended with REPLACED, its socket first;
//   - one that is attached is asked for a sign of life. If it gives one, two
//     agents have one name, and the newcomer is dialled at once: the controller
//     knows what to do with it. If it does not, its gateway or its link is dead,
//     and the newcomer is held until that is noticed, holdBehind at most.
type same struct {
	mu     sync.Mutex // guards what follows
	agents map[string][]*place
}

// A place is one session among those of its agent, oldest first.
type place struct {
	same    *same
	key     string // what makes sessions the same agent's; empty: nothing does
	s       peer
	before  []*place      // those that were here when it came
	dialled bool          // it had a socket; handle's alone
	left    chan struct{} // closed when it has no socket any more
	leftAt  time.Time     // valid then; zero: it never had one
}

// keyOf is the name under which the controller knows the agent, if that can be
// told. Behind a shim an opaque connection is its agent's; straight from a
// gateway it could be anybody's.
func keyOf(i controller.Info) string {
	if i.Kind != linkv1.ServiceKind_SERVICE_KIND_REMOTING && i.Kind != linkv1.ServiceKind_SERVICE_KIND_WEBSOCKET {
		return ""
	}
	if i.Remoting.GetAgent() == "" && !i.Resumable {
		return ""
	}
	return nameOf(i)
}

// arrive takes a place behind all others of this agent.
func (m *same) arrive(i controller.Info, s peer) *place {
	p := &place{same: m, key: keyOf(i), s: s, left: make(chan struct{})}
	if p.key == "" {
		return p
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.agents == nil {
		m.agents = make(map[string][]*place)
	}
	p.before = slices.Clone(m.agents[p.key])
	m.agents[p.key] = append(m.agents[p.key], p)
	return p
}

// leave gives the place up, now that the session's socket is closed. Who comes
// within settle still finds it.
func (p *place) leave() {
	if p.dialled {
		p.leftAt = time.Now()
	}
	close(p.left)
	switch {
	case p.key == "":
	case p.dialled:
		time.AfterFunc(settle, p.forget)
	default:
		p.forget()
	}
}

func (p *place) forget() {
	m := p.same
	m.mu.Lock()
	defer m.mu.Unlock()
	rest := slices.DeleteFunc(m.agents[p.key], func(q *place) bool { return q == p })
	if len(rest) == 0 {
		delete(m.agents, p.key)
		return
	}
	m.agents[p.key] = rest
}

// wait returns when the session may be dialled; an error is ctx's cause.
func (p *place) wait(ctx context.Context) error {
	if len(p.before) == 0 {
		return nil
	}
	p.s.Waits(fmt.Sprintf("the old session of agent %s to end", p.key))
	defer p.s.Waits("")
	within, cancel := context.WithTimeout(ctx, holdBehind) // for all of them together
	defer cancel()
	for _, old := range p.before {
		p.pass(within, old)
	}
	p.before = nil // a session that lasts keeps nobody
	return context.Cause(ctx)
}

// pass returns when nothing of an older session stands in the way, when it is
// known to be alive, or when ctx ends.
func (p *place) pass(ctx context.Context, old *place) {
	tick := time.NewTicker(lookAtOld)
	defer tick.Stop()
	began := time.Now()
	var asked time.Time // for a sign of life; zero: not yet
	var up uint64       // what it had sent then
	for {
		i := old.s.Info()
		switch {
		case i.State >= session.Closing:
		case !i.Attached && p.replaces(i):
			old.s.CloseWithReason(session.Ending{Reason: linkv1.Reason_REASON_REPLACED, Text: "a new session of agent " + p.key + " took its place"})
		case asked.IsZero() && time.Since(began) >= straggle:
			asked, up = time.Now(), i.Up
			if i.Resumable {
				old.s.Probe()
			}
		case !asked.IsZero() && alive(i, asked, up):
			return
		}
		select {
		case <-old.left:
			pause(ctx, settle-time.Since(old.leftAt))
			return
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// alive reports whether the agent itself has been heard since it was asked.
// Straight behind a gateway only its bytes say so: the gateway answers for
// itself, and may not know yet that the agent is cut off.
func alive(i controller.Info, asked time.Time, up uint64) bool {
	if i.Resumable {
		return i.Heard.After(asked)
	}
	return i.Up > up
}

// replaces reports whether this session may end a detached one: nobody who
// merely claims a name may end what a gateway has verified to be another's.
func (p *place) replaces(old controller.Info) bool {
	return old.Identity == "" || old.Identity == p.s.Info().Identity
}

func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
