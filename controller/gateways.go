package controller

import (
	"sync"

	"github.com/moorage-dev/moorage/proto/envelope"
)

const (
	// silentAfter is how many of our own beats come back without one of a
	// gateway's before it counts as dead.
	silentAfter = 4
	// forgetAfter is after how many beats more a dead gateway is forgotten.
	forgetAfter = 600
	// maxGateways bounds the processes kept in mind.
	maxGateways = 10_000
)

// gateways is which gateway processes are alive, seen from the log: from
// their beats, held against our own in the same partition. A record of a
// session may name a process before any beat of it was read; then its silence
// is counted from there.
type gateways struct {
	mu        sync.Mutex
	processes map[envelope.Gateway]*process
	boots     map[string]uint64 // by name: the process that beat last
}

type process struct {
	silence int // own beats since its last
	dead    bool
}

func newGateways() *gateways {
	return &gateways{processes: make(map[envelope.Gateway]*process), boots: make(map[string]uint64)}
}

// beat notes a gateway's beat. replaced is the process of the same name that
// it took the place of, if there was one.
func (g *gateways) beat(gw envelope.Gateway) (replaced envelope.Gateway, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.process(gw)
	if p == nil {
		return replaced, false
	}
	p.silence, p.dead = 0, false
	boot, known := g.boots[gw.Name]
	g.boots[gw.Name] = gw.Boot
	replaced = envelope.Gateway{Name: gw.Name, Boot: boot}
	old := g.processes[replaced]
	if !known || boot == gw.Boot || old == nil || old.dead {
		return replaced, false
	}
	old.dead = true
	return replaced, true
}

// named notes that a session's record names a gateway, and reports whether
// that is dead.
func (g *gateways) named(gw envelope.Gateway) (dead bool) {
	if gw.Boot == 0 {
		return false // a name without a process
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.process(gw)
	return p != nil && p.dead
}

// process returns what is known of a gateway; nil: too many are known.
func (g *gateways) process(gw envelope.Gateway) *process {
	p := g.processes[gw]
	if p == nil && len(g.processes) < maxGateways {
		p = new(process)
		g.processes[gw] = p
	}
	return p
}

// ownBeat notes that a beat of ours came back and returns who is dead now and
// was not before.
func (g *gateways) ownBeat() (dead []envelope.Gateway) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for gw, p := range g.processes {
		p.silence++
		switch {
		case p.silence >= silentAfter && !p.dead:
			p.dead = true
			dead = append(dead, gw)
		case p.silence >= silentAfter+forgetAfter:
			delete(g.processes, gw)
			if g.boots[gw.Name] == gw.Boot {
				delete(g.boots, gw.Name)
			}
		}
	}
	return dead
}

// pardon begins to count every silence anew: Kafka was away, so nobody could
// be heard.
func (g *gateways) pardon() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.processes {
		if !p.dead {
			p.silence = 0
		}
	}
}
