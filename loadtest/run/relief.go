package run

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/loadtest/site"
	"github.com/moorage-dev/moorage/loadtest/worker"
)

// remains are what a worker that is no more has left of its account.
type remains struct {
	hand  *hand
	final worker.Final
}

// A death is that of a process which played agents: those whose number modulo
// of is index, in their sessions from first on.
type death struct {
	index, of, first int
	at               time.Time
}

func (h *hand) plays() bool { return h.role == worker.RoleAgents }

// letGo has the coordinator forget workers, so that nobody waits for their
// words. All of those that which names have to be there.
func (p *pass) letGo(what string, want int, which func(*hand) bool) (gone []*hand, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var rest []*hand
	for _, h := range p.hands {
		if which(h) {
			gone = append(gone, h)
		} else {
			rest = append(rest, h)
		}
	}
	if len(gone) < want {
		return nil, fmt.Errorf("run: %s %w", what, site.ErrDown)
	}
	p.hands = rest
	for _, h := range gone {
		delete(p.heard, h.name)
	}
	return gone, nil
}

// kill is SIGKILL to workers. Of what they saw there is left what they had
// told: sessions that were over for a while, and anomalies.
func (p *pass) kill(hit []*hand) {
	at := time.Now()
	for _, h := range hit {
		h.kill()
	}
	for _, h := range hit {
		<-h.done
		p.buryWorker(h, at)
		p.tell("process", h.name, "killed")
	}
}

// buryWorker keeps what is known of a worker that was killed. It says no more.
func (p *pass) buryWorker(h *hand, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h.plays() {
		p.deaths = append(p.deaths, death{h.plan.Index, max(h.plan.Of, 1), h.plan.First, at})
	} else {
		p.killed = at
	}
	left := worker.Final{Opens: h.last.Opens, Failed: h.last.Failed}
	if h.tally != nil {
		left.Account = *h.tally
		for word, n := range left.Account.Counts {
			if word == "lost" && n > 0 {
				left.Account.Seen = append(left.Account.Seen, check.Anomaly{
					What: word, Session: check.Session(h.name), Side: sideOf(h).String(),
					Detail: fmt.Sprintf("%d, seen by a process before a fault killed it; which ones it took along", n),
				})
			}
		}
	}
	p.past = append(p.past, remains{h, left})
	p.seconds.left(h.name)
}

// dismiss ends workers in order, as SIGTERM would: their agents end their
// sessions, and their accounts are kept. They have as long as sessions have at
// the end of a run in which nothing moves any more, so that what is open then is
// judged as it is there. When somebody interrupts the run, they have little time.
func (p *pass) dismiss(ctx context.Context, some []*hand) {
	limit := time.Duration(p.Scenario.Drain + p.Scenario.Quiet)
	var wg sync.WaitGroup
	for _, h := range some {
		wg.Go(func() {
			waits, cancel := context.WithTimeout(p.life, limit+accountLimit)
			defer cancel()
			_ = h.say(worker.Order{Do: "stop", Within: limit, Leave: true}) // a dead one gives no account
			defer context.AfterFunc(ctx, func() {
				if !errors.Is(context.Cause(ctx), errLoadOver) {
					_ = h.say(worker.Order{Do: "stop", Within: interruptDrain, Leave: true})
				}
			})()
			final, err := h.awaitFinal(waits.Done())
			if err != nil {
				p.tell("process", h.name, "does not stop: "+err.Error())
				p.kill([]*hand{h})
				return
			}
			h.end()
			p.keep(h, final)
		})
	}
	wg.Wait()
}

// keep takes the account of a worker that has left. What ended in order goes to
// the ledger, so that only what did not is kept for the end.
func (p *pass) keep(h *hand, final worker.Final) {
	over, open := map[string]*check.Entry{}, 0
	for key, e := range final.Account.Sessions {
		switch {
		case e.Reason == check.OK && !e.Gone:
			over[key] = e
			delete(final.Account.Sessions, key)
		case e.Reason == "" && !e.Gone:
			open++
		}
	}
	p.mu.Lock()
	p.ledger.Add(sideOf(h), over)
	p.past = append(p.past, remains{h, final})
	p.seconds.left(h.name)
	p.mu.Unlock()
	said := "stopped in order"
	if open > 0 {
		said = fmt.Sprintf("stopped, but %d sessions had not ended in time", open)
	}
	p.tell("process", h.name, said)
}

// succeed starts the next ones in the place of workers that are no more.
func (p *pass) succeed(gone []*hand) undo {
	return func(ctx context.Context) error {
		errs := make([]error, len(gone))
		var wg sync.WaitGroup
		for i, h := range gone {
			plan := h.plan
			if h.plays() {
				plan.First += worker.Lives
			}
			wg.Go(func() { _, _, errs[i] = p.startWorker(ctx, h.name, plan, p.begun) })
		}
		wg.Wait()
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, h := range gone { // a process that starts is no slow one
			p.limits.excuse(h.name, time.Now())
		}
		return errors.Join(errs...)
	}
}

// killApp is SIGKILL to the application; to undo it is to start the next one.
func (p *pass) killApp() (undo, error) {
	app, err := p.letGo("the application", 1, func(h *hand) bool { return h.role == worker.RoleApp })
	if err != nil {
		return nil, err
	}
	p.kill(app)
	return p.succeed(app), nil
}

// killAgents is SIGKILL to all processes of agents, legacy ones among them.
func (p *pass) killAgents() (undo, error) {
	all, err := p.letGo("a process of the agents", p.Workers, (*hand).plays)
	if err != nil {
		return nil, err
	}
	p.kill(all)
	return p.succeed(all), nil
}

// stopAgents ends all processes of agents in order.
func (p *pass) stopAgents(ctx context.Context) (undo, error) {
	all, err := p.letGo("a process of the agents", p.Workers, (*hand).plays)
	if err != nil {
		return nil, err
	}
	p.dismiss(ctx, all)
	return p.succeed(all), nil
}

// rollAgents ends one process of agents after the other in order and starts the
// next in its place, pause after the one before it is back. When ctx ends it goes
// no further; what it has stopped comes back.
func (p *pass) rollAgents(ctx context.Context, pause time.Duration) error {
	for i := range p.Workers {
		if i > 0 {
			timer := time.NewTimer(pause)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return nil
			}
		}
		name := agentsName(i)
		one, err := p.letGo(name, 1, func(h *hand) bool { return h.name == name })
		if err != nil {
			return err
		}
		p.dismiss(ctx, one)
		mending, cancel := context.WithTimeout(p.life, undoLimit)
		err = p.succeed(one)(mending)
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// agentsName is what a process of agents is called.
func agentsName(index int) string { return worker.RoleAgents + "-" + strconv.Itoa(index+1) }

// buryAgents makes up what processes of agents that were killed would have said
// of the sessions that they had: that their applications are no more. What the
// other side sent and received is all there is. A session that none of the dead
// can have had stays unknown to its agents' side, which is an anomaly.
func (a *accounts) buryAgents(deaths []death) {
	if len(deaths) == 0 {
		return
	}
	type life struct{ of, index, first int }
	died := map[life]time.Time{}
	of := deaths[0].of // the same for all of a pass
	for _, d := range deaths {
		died[life{d.of, d.index, d.first}] = d.at
	}
	known := map[string]bool{}
	for _, one := range a.agent {
		for key := range one.Sessions {
			known[key] = true
		}
	}
	dead := check.Account{Side: check.Agent, Sessions: map[string]*check.Entry{}}
	for _, one := range a.controller {
		for key, e := range one.Sessions {
			agent, number, ok := sessionOf(key)
			if known[key] || !ok {
				continue
			}
			if at, was := died[life{of, agent % of, number - number%worker.Lives}]; was {
				dead.Sessions[key] = &check.Entry{Sent: e.Received, Received: e.Sent, Gone: true, Over: at}
			}
		}
	}
	a.agent = append(a.agent, dead)
}

// sessionOf takes the agent's number and the session's out of a key.
func sessionOf(key string) (agent, number int, ok bool) {
	_, rest, _ := strings.Cut(key, "/")
	one, two, _ := strings.Cut(rest, "/")
	agent, err := strconv.Atoi(one)
	number, err2 := strconv.Atoi(two)
	return agent, number, err == nil && err2 == nil && agent >= 0 && number >= 0
}
