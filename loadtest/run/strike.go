package run

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moorage-dev/moorage/loadtest/fault"
	"github.com/moorage-dev/moorage/loadtest/results"
	"github.com/moorage-dev/moorage/loadtest/site"
	"github.com/moorage-dev/moorage/loadtest/worker"
)

// An undo ends a fault.
type undo func(context.Context) error

// strikeAll does the planned faults at their times. When ctx ends, those that
// last are undone at once; it returns when all are.
func (p *pass) strikeAll(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for _, f := range p.plan {
		timer.Reset(time.Until(p.begun.Add(time.Duration(f.At))))
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		wg.Go(func() { p.strike(ctx, f) })
	}
}

const (
	// waitForVictim bounds how long a fault waits for a process that an earlier one
	// ended and that is not back yet: on a busy machine it may take longer to start
	// than the plan expects. After that the fault counts as failed. The plan stays
	// what it is: faults after this one keep their times.
	waitForVictim = 15 * time.Second
	lookForVictim = 100 * time.Millisecond
)

// strike does one fault, from its beginning to its end.
func (p *pass) strike(ctx context.Context, f fault.Planned) {
	now := time.Now()
	mark := results.FaultMark{
		At: now.Sub(p.begun).Seconds(), For: time.Duration(f.For).Seconds(), Name: f.Do, To: f.To,
	}
	// Workers learn of it first: what arrives from now on counts as after it.
	p.sayAll("", worker.Order{Do: "fault", At: now, Fault: f.Index, Name: f.Do, To: f.To})
	p.tell("fault", f.To, f.Do)
	end, err := p.do(ctx, f)
	if errors.Is(err, site.ErrDown) {
		if end, now, err = p.doWhenUp(ctx, f); err == nil {
			// The time at which it struck after all.
			mark.At = now.Sub(p.begun).Seconds()
			p.sayAll("", worker.Order{Do: "fault", At: now, Fault: f.Index, Name: f.Do, To: f.To})
		}
	}
	if err != nil && ctx.Err() == nil {
		mark.Error = err.Error()
		p.tell("fault", f.To, f.Do+" could not be done: "+mark.Error)
	}
	p.mu.Lock()
	for len(p.marks) <= f.Index {
		p.marks = append(p.marks, results.FaultMark{})
	}
	p.marks[f.Index] = mark
	p.mu.Unlock()
	if end == nil {
		return
	}
	timer := time.NewTimer(time.Until(now.Add(time.Duration(f.For))))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	// Whatever ended the load, what it broke is mended.
	mending, cancel := context.WithTimeout(p.life, undoLimit)
	defer cancel()
	if err := end(mending); err != nil {
		p.mu.Lock()
		p.marks[f.Index].Error = "could not be undone: " + err.Error()
		p.mu.Unlock()
		p.tell("fault", f.To, f.Do+" could not be undone: "+err.Error())
		return
	}
	p.tell("restored", f.To, f.Do)
}

// doWhenUp does a fault whose victim is down as soon as that is up, and says
// when that was.
func (p *pass) doWhenUp(ctx context.Context, f fault.Planned) (end undo, at time.Time, err error) {
	err = site.ErrDown
	late := time.After(waitForVictim)
	tick := time.NewTicker(lookForVictim)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-late:
			return nil, at, fmt.Errorf("%w, and not back within %v", err, waitForVictim)
		case <-ctx.Done():
			return nil, at, context.Cause(ctx)
		}
		at = time.Now()
		if end, err = p.do(ctx, f); !errors.Is(err, site.ErrDown) {
			return end, at, err
		}
	}
}

// do leads a fault to whoever does it: workers are the coordinator's, all else
// is the site's.
func (p *pass) do(ctx context.Context, f fault.Planned) (undo, error) {
	target, _, _ := strings.Cut(f.To, "-")
	ours := target == "app" || target == "agents"
	switch {
	case f.Do == fault.CutAgents:
		return away(f), p.askAgents("cut", f, 1)
	case f.Do == fault.RestartAgents:
		return nil, p.askAgents("restart", f, 0.1)
	case f.Do == fault.Kill && f.To == "app":
		return p.killApp()
	case f.Do == fault.Kill && f.To == "agents":
		return p.killAgents()
	case f.Do == fault.Stop && f.To == "agents":
		return p.stopAgents(ctx)
	case f.Do == fault.Rolling && f.To == "agents":
		return nil, p.rollAgents(ctx, time.Duration(f.For))
	case f.Do == fault.Freeze && ours:
		return p.freeze(f.To)
	}
	end, err := p.site.Do(ctx, f.Fault)
	return end, err
}

// askAgents has workers cut or restart a share of their agents.
func (p *pass) askAgents(what string, f fault.Planned, share float64) error {
	if text := f.With["share"]; text != "" {
		s, err := strconv.ParseFloat(text, 64)
		if err != nil || s <= 0 || s > 1 {
			return fmt.Errorf("run: %s: share %q: want more than 0, at most 1", f.Do, text)
		}
		share = s
	}
	if len(p.living(worker.RoleAgents)) == 0 {
		p.tell("fault", f.To, f.Do+" strikes nobody: an earlier fault has ended all agents, and they are not back")
	}
	p.sayAll(worker.RoleAgents, worker.Order{Do: what, Share: share, For: time.Duration(f.For), Fault: f.Index, Name: f.Do})
	return nil
}

// away is the end of a cut that lasts: agents come back by themselves then, and
// it is only told.
func away(f fault.Planned) undo {
	if f.For == 0 {
		return nil
	}
	return func(context.Context) error { return nil }
}

// freeze stops workers: "app", "agents" or "agents-2".
func (p *pass) freeze(to string) (undo, error) {
	var hit []*hand
	for _, h := range p.living("") {
		if (h.name == to || h.role == to) && h.child.Stop != nil {
			hit = append(hit, h)
		}
	}
	if len(hit) == 0 {
		return nil, fmt.Errorf("run: freeze: %s %w", to, site.ErrDown)
	}
	set := func(on bool, by int) {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, h := range hit {
			before := p.frozen[h.name]
			p.frozen[h.name] = before + by
			p.heard[h.name] = time.Now()
			p.limits.excuse(h.name, p.heard[h.name])
			if on && before == 0 || !on && before+by == 0 {
				h.child.Stop(on)
			}
		}
	}
	set(true, 1)
	return func(context.Context) error {
		set(false, -1)
		return nil
	}, nil
}
