package gateway

import (
	"errors"
	"fmt"
	"time"
)

// A gateway can be short of processor time: because of a crowd of agents that
// come at once, or because of what else runs on its machine. Taking an agent in
// costs as much as its heartbeats of many minutes. If newcomers were taken in
// as they come, each would wait longer than it has patience for, give up, and
// come again, and the sessions that are attached would miss their heartbeats
// and come again too. So newcomers are turned away first.
//
// How short of it the gateway is, the wheel tells: it wakes many times a
// second and knows when it should have. That can be caused by nobody who is
// slow or silent, only by lack of processor time. It does not see everything:
// Go lets timers overtake other goroutines, so a crowd that keeps the gateway's
// own run queue long, with nobody else on the machine, goes unnoticed.
const (
	// inTime is how late a wake may be: no agent notices that.
	inTime = 250 * time.Millisecond
	// openLag is how long none was in time before no session is opened. Those
	// that come back are still taken.
	openLag = time.Second
	// connLag is how long before no connection is taken at all: with TLS it is
	// what costs most.
	connLag = 3 * time.Second
)

var errBusy = errors.New("this gateway has more to do than it can")

// came notes that the wheel woke so late.
func (w *wheel) came(now, late time.Duration) {
	if late < inTime {
		w.punctual.Store(int64(now))
	}
}

// behind returns for how long the gateway has not kept up; 0 or less: it does.
func (w *wheel) behind(now time.Duration) time.Duration {
	return now - time.Duration(w.punctual.Load()) - w.turn - inTime
}

// turnAway refuses a session that would open now.
func (g *Gateway) turnAway() error {
	if lag := g.wheel.behind(g.now()); lag > openLag {
		return fmt.Errorf("%w: for %v", errBusy, lag.Round(time.Millisecond))
	}
	return nil
}

// overrun reports whether not even connections are taken.
func (g *Gateway) overrun() bool { return g.wheel.behind(g.now()) > connLag }
