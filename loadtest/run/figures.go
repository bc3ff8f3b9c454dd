package run

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/loadtest/results"
	"github.com/moorage-dev/moorage/loadtest/worker"
)

// result puts together what a pass measured. Figures that follow from the rest
// are left to package report.
func (p *pass) result(finals map[*hand]worker.Final, length time.Duration) (*results.Run, error) {
	processes := p.site.Processes() // asked for without the lock: the site has its own
	p.mu.Lock()
	defer p.mu.Unlock()
	ticks, err := p.ticks.All()
	if err != nil {
		return nil, fmt.Errorf("run: read the seconds back: %w", err)
	}
	one := &results.Run{
		System: p.system, Pair: p.pair, Acks: p.Acks(p.system), Started: p.begun, Length: length,
		Figures: map[string]float64{}, Ticks: ticks, Processes: processes, Faults: p.marks, Invalid: p.limits.verdict(),
	}
	latency, silence, recovery := spread{}, spread{}, map[int]spread{}
	seen := accounts{agent: p.ledger.Rest(check.Agent), controller: p.ledger.Rest(check.Controller)}
	var errs []error
	all := slices.Clone(p.past)
	for h, f := range finals {
		all = append(all, remains{h, f})
	}
	for _, left := range all {
		h, f := left.hand, left.final
		for name, encoded := range f.Latency {
			errs = append(errs, latency.add(name, encoded))
		}
		errs = append(errs, silence.add("", f.Silence))
		for i, encoded := range f.Recovery {
			if recovery[i] == nil {
				recovery[i] = spread{}
			}
			errs = append(errs, recovery[i].add("", encoded))
		}
		for name, v := range f.Figures {
			one.Figures[name] += v
		}
		if h.role == worker.RoleAgents {
			seen.agent = append(seen.agent, f.Account)
			one.Figures["opens"] += float64(f.Opens)
			one.Figures["failed_opens"] += float64(f.Failed)
		} else {
			seen.controller = append(seen.controller, f.Account)
		}
		if f.LastError != "" {
			p.tell("error", h.name, "the last of its errors: "+f.LastError)
		}
	}
	one.Latency, one.Silence = latency.all(), silence.of("")
	p.recoveries(one, recovery)
	if !p.killed.IsZero() {
		seen.bury(p.killed)
	}
	seen.buryAgents(p.deaths)
	p.settle(one, seen)
	if one.Figures["opens"] == 0 && p.most == 0 {
		why := errNobody
		if p.away != "" {
			why = fmt.Errorf("run: no agent gets in: %s", p.away)
		}
		errs = append(errs, why)
	}
	return one, errors.Join(errs...)
}

// recoveries adds how long sessions were silent, fault by fault, and by kind.
func (p *pass) recoveries(one *results.Run, by map[int]spread) {
	kinds := spread{}
	for _, i := range slices.Sorted(maps.Keys(by)) {
		h := by[i][""]
		if h == nil || i >= len(p.marks) {
			continue
		}
		kind := p.marks[i].Name
		one.Recovery = append(one.Recovery, results.Recovery{Fault: i, Name: kind, Hist: by[i].of("")})
		kinds.merge("recovery."+kind, h)
		kinds.merge("recovery", h)
	}
	for name := range kinds {
		addHist(one.Figures, name, kinds.of(name))
	}
}

// settle judges the accounts of both sides. What the ledger has found to fit
// together already was in order.
func (p *pass) settle(one *results.Run, seen accounts) {
	r := check.Settle(seen.agent, seen.controller, p.terms())
	maps.Copy(one.Figures, map[string]float64{
		"lost": float64(r.Lost), "repeated": float64(r.Repeated), "reordered": float64(r.Reordered),
		"corrupted": float64(r.Corrupted), "stuck": float64(r.Stuck), "revived": float64(r.Revived),
		"unexplained": float64(r.Unexplained), "misjudged": float64(r.Misjudged), "untold": float64(r.Untold),
	})
	one.Anomalies = r.Anomalies
	for _, a := range r.Anomalies {
		p.tell("anomaly", string(a.Session), fmt.Sprintf("%s at the %s: %s", a.What, a.Side, a.Detail))
	}
	one.Ended = map[string]uint64{}
	for reason, n := range r.Ended {
		one.Ended[reason] = uint64(n)
	}
	if n := p.ledger.Sessions; n > 0 {
		one.Ended[check.OK] += uint64(n)
	}
}

// bury makes up what an application that was killed would have said of
// sessions that were over by then: what agents saw of them is all there is.
// The rest the agents were told the end of, or had to be.
func (a *accounts) bury(killed time.Time) {
	known := map[string]bool{}
	for _, c := range a.controller {
		for key := range c.Sessions {
			known[key] = true
		}
	}
	dead := check.Account{Side: check.Controller, Sessions: map[string]*check.Entry{}}
	for _, c := range a.agent {
		for key, e := range c.Sessions {
			if !known[key] && e.Reason == check.OK && e.Over.Before(killed.Add(buryWithin)) {
				dead.Sessions[key] = &check.Entry{Sent: e.Received, Received: e.Sent, Reason: check.OK, Over: e.Over}
			}
		}
	}
	a.controller = append(a.controller, dead)
}

// buryWithin is for how long after an application's death its last words may
// still reach agents.
const buryWithin = 10 * time.Second

func addHist(into map[string]float64, name string, h results.Hist) {
	if h.Count == 0 {
		return
	}
	into[name+".mean_ms"], into[name+".max_ms"] = h.Mean, h.Max
	for p, v := range h.P {
		into[name+".p"+p+"_ms"] = v
	}
}
