package main

import (
	"errors"
	"sync"
)

// mostFlying is how many messages a process has published and not yet heard of.
// At the bound whoever publishes waits, in the order of coming. Relay's producer
// has room for as many. Fewer make a busy server idle between two turns of the
// processor; more do not make it faster, but a server that stores 2,000 messages
// a second would come to the last of 65,536 after the time within which it has
// to be acknowledged. Eight workers' are less than the 100,000 above which the
// server refuses what it has no time for.
const mostFlying = 8192

// A flight is the places of what a process has published and not yet heard of,
// whatever the connection.
type flight chan struct{}

func newFlight() flight { return make(flight, mostFlying) }

// places are those of a flight that one connection has taken. They end with it:
// of what was under way nothing will be heard.
type places struct {
	flight flight
	gone   chan struct{} // closed when the connection is

	mu    sync.Mutex // guards the following
	taken int
	over  bool
}

var errGone = errors.New("nats: the connection is closed")

// take waits for a place.
func (p *places) take() error {
	select {
	case p.flight <- struct{}{}:
	case <-p.gone:
		return errGone
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		<-p.flight
		return errGone
	}
	p.taken++
	return nil
}

// free gives one place back.
func (p *places) free() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over {
		p.taken--
		<-p.flight
	}
}

// end gives all back. It is called once, when the connection is closed.
func (p *places) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	for ; p.taken > 0; p.taken-- {
		<-p.flight
	}
	close(p.gone)
}
