package main

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// What a stock agent's start and first build are made of, counted from real
// peers whose links were made slower by a known time: nearly all are requests
// for classes, one after the other.
const (
	loginCalls = 50  // round trips from the first connection to online
	buildCalls = 350 // and through the first build
)

// legacyRoundTrip times small commands from controller to agent and back, by
// all ways in turn, in short slices, so that what drifts on the machine drifts
// for all. What it adds to direct TCP is held against the whole round trip of
// relay, which is written under the same names.
func legacyRoundTrip(ctx context.Context, r *running) (figures, error) {
	if r.system == &relay {
		f, err := roundTrip(ctx, r)
		if err != nil {
			return nil, err
		}
		return figures{added(tier0): f["p50 ms"], added(tier1): f["p50 ms"], "n": f["n"]}, nil
	}
	r.down() // the site has a gateway of its own
	s, err := r.bench.surrounded(ctx, 0)
	if err != nil {
		return nil, err
	}
	defer s.close()
	const slices = 5
	took := map[string]*hdrhistogram.Histogram{}
	agents := map[string]*inbound{}
	for _, way := range ways {
		took[way] = newHistogram()
		if agents[way], _, err = s.online(ctx, way, way); err != nil {
			return nil, err
		}
		defer agents[way].stop()
		if err := agents[way].calls(ctx, newHistogram(), r.bench.warm); err != nil {
			return nil, err
		}
	}
	for range slices {
		for _, way := range ways {
			if err := agents[way].calls(ctx, took[way], r.bench.measure/slices); err != nil {
				return nil, err
			}
		}
	}
	f := figures{"n": float64(took[tier1].TotalCount())}
	for _, way := range ways {
		f[way+" p50 ms"], f[way+" p99 ms"] = ms(took[way], 50), ms(took[way], 99)
	}
	for _, way := range []string{tier0, tier1} {
		f[added(way)] = ms(took[way], 50) - ms(took[directly], 50)
	}
	return f, nil
}

func added(way string) string { return way + " added p50 ms" }

// calls times one command after the other for as long as it is told to.
func (a *inbound) calls(ctx context.Context, h *hdrhistogram.Histogram, length time.Duration) error {
	for begin := time.Now(); time.Since(begin) < length; {
		sent := time.Now()
		if err := a.call(ctx); err != nil {
			return fmt.Errorf("agent %s: %w", a.name, err)
		}
		record(h, time.Since(sent))
	}
	return nil
}

// legacyStart times agents from their start to online, and on through as many
// calls as a first build makes, by all ways in turn.
func legacyStart(ctx context.Context, r *running) (figures, error) {
	if r.system != &moorage {
		return nil, nil // relay knows no agents of this sort
	}
	r.down()
	s, err := r.bench.surrounded(ctx, loginCalls)
	if err != nil {
		return nil, err
	}
	defer s.close()
	online, built := map[string]*hdrhistogram.Histogram{}, map[string]*hdrhistogram.Histogram{}
	for _, way := range ways {
		online[way], built[way] = newHistogram(), newHistogram()
	}
	for i := range r.bench.starts {
		for _, way := range ways {
			begin := time.Now()
			a, took, err := s.online(ctx, way, fmt.Sprintf("%s %d", way, i))
			if err != nil {
				return nil, err
			}
			record(online[way], took)
			for range buildCalls {
				if err := s.jenkins.Call(ctx, a.name, 1650, 2000); err != nil { // as large as the calls of a login
					a.stop()
					return nil, fmt.Errorf("agent %s: %w", a.name, err)
				}
			}
			record(built[way], time.Since(begin))
			if err := a.leave(ctx); err != nil {
				return nil, err
			}
		}
	}
	f := figures{"n": float64(r.bench.starts)}
	for _, way := range ways {
		f[way+" online ms"], f[way+" built ms"] = ms(online[way], 50), ms(built[way], 50)
	}
	for _, way := range []string{tier0, tier1} {
		f[way+" ÷ direct, online"] = ms(online[way], 50) / ms(online[directly], 50)
		f[way+" ÷ direct, built"] = ms(built[way], 50) / ms(built[directly], 50)
	}
	return f, nil
}

// warmAgents are online when the memory is read from which idle agents' is
// counted: what the first of them costs, the next do not.
const warmAgents = 64

// legacyIdle measures what an idle agent costs the gateway at whose door it
// is, and the connector.
func legacyIdle(ctx context.Context, r *running) (figures, error) {
	if r.system != &moorage {
		return nil, nil
	}
	r.down()
	b, n := r.bench, r.bench.legacyAgents
	s, err := b.surrounded(ctx, 0)
	if err != nil {
		return nil, err
	}
	defer s.close()
	// The connector's goroutines can be counted only once in its life.
	base, err := s.connectorTalk.quit(s.connector)
	if err != nil {
		return nil, err
	}
	if err := s.startConnector(ctx, b); err != nil {
		return nil, err
	}
	if err := s.settle(ctx, tier0); err != nil {
		return nil, err
	}
	var crowd crowd
	defer crowd.stop()
	if err := crowd.grow(ctx, s, warmAgents); err != nil {
		return nil, err
	}
	few, err := s.weigh(ctx, b.collect)
	if err != nil {
		return nil, err
	}
	if err := crowd.grow(ctx, s, n); err != nil {
		return nil, err
	}
	rest(ctx, b.silence)
	many, err := s.weigh(ctx, b.collect)
	if err != nil {
		return nil, err
	}
	if online := len(s.jenkins.Agents()); online != n+warmAgents {
		return nil, fmt.Errorf("%d agents are online, want %d", online, n+warmAgents)
	}
	f := figures{"n": float64(n)}
	for name := range many {
		f[name] = (many[name] - few[name]) / float64(n)
	}
	goroutines, err := s.connectorTalk.quit(s.connector)
	f["connector goroutines"] = float64(goroutines-base) / float64(n+warmAgents)
	for _, name := range []string{"gateway goroutines", "connector goroutines"} {
		f[name] = math.Round(10*f[name]) / 10 // dozens come and go whatever the agents do
	}
	return f, err
}

// weigh reads the memory of gateway and connector; with collect just after
// their next garbage collections.
func (s *site) weigh(ctx context.Context, collect bool) (figures, error) {
	had, live := s.connectorTalk.last()
	g := &running{gateway: s.gateway, metrics: s.metrics}
	m, err := g.memory(ctx, collect)
	if err != nil {
		return nil, err
	}
	if collect {
		if live, err = s.connectorTalk.collected(ctx, had); err != nil {
			return nil, err
		}
	}
	rss, err := s.connector.rss()
	if err != nil {
		return nil, err
	}
	more, err := scrape(ctx, s.metrics)
	return figures{
		"gateway RSS B": m["rss"], "gateway heap+stack B": m["heap"] + m["stack"], "gateway, of it stack B": m["stack"],
		"gateway goroutines": more["go_goroutines"],
		"connector RSS B":    rss, "connector heap+stack B": live,
	}, err
}

// A crowd is agents that are online at a gateway's door.
type crowd struct {
	mu     sync.Mutex // guards agents
	agents []*inbound
}

// grow adds n agents, some at a time.
func (c *crowd) grow(ctx context.Context, s *site, n int) error {
	var (
		wg    sync.WaitGroup
		fault error // guarded by mu
		turn  = make(chan struct{}, 32)
	)
	from := len(c.agents)
	for i := range n {
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			a, _, err := s.online(ctx, tier0, fmt.Sprintf("agent-%d", from+i))
			if err == nil {
				err = a.call(ctx)
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			if a != nil {
				c.agents = append(c.agents, a)
			}
			if fault == nil {
				fault = err
			}
		})
	}
	wg.Wait()
	return fault
}

// stop ends them all, at once.
func (c *crowd) stop() {
	for _, a := range c.agents {
		a.stop()
	}
	for _, a := range c.agents {
		<-a.done
	}
}
