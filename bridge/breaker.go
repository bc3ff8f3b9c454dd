package bridge

import (
	"errors"
	"log/slog"
	"time"

	"github.com/sony/gobreaker/v2"
)

// A breaker says whether a partition takes records. It decides nothing about
// records that are queued already: those are tried until they succeed. Who
// asks it stops bringing new ones.
//
// closed: outcomes come. It opens when the partition has had records for
// longer than Config.StallAfter without one outcome.
//
// open: none came. After reopenAfter it is half-open.
//
// half-open: new records may come, and are the probe. It closes with the next
// outcome, or when nothing waits, and opens again when nothing has moved.
type breaker struct {
	stallAfter time.Duration
	cb         *gobreaker.TwoStepCircuitBreaker[struct{}]
}

// reopenAfter is how long an open breaker stays open at least.
const reopenAfter = time.Second

var errStalled = errors.New("bridge: no outcome in time")

func newBreaker(name string, stallAfter time.Duration, log *slog.Logger) breaker {
	return breaker{stallAfter, gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name:        name,
		Timeout:     reopenAfter,
		ReadyToTrip: func(gobreaker.Counts) bool { return true },
		OnStateChange: func(name string, from, to gobreaker.State) {
			log.Info("breaker "+to.String(), "partition", name, "was", from.String())
		},
	})}
}

// feed tells the breaker how long nothing has moved although something waits;
// 0: nothing waits. It returns the state.
func (b breaker) feed(since time.Duration) gobreaker.State {
	state := b.cb.State()
	switch {
	case state != gobreaker.StateOpen && since > b.stallAfter:
		if done, err := b.cb.Allow(); err == nil {
			done(errStalled)
		}
		return b.cb.State()
	case state == gobreaker.StateHalfOpen && since == 0:
		b.moved()
		return b.cb.State()
	}
	return state
}

// moved tells the breaker of an outcome.
func (b breaker) moved() {
	if b.cb.State() != gobreaker.StateHalfOpen {
		return
	}
	if done, err := b.cb.Allow(); err == nil {
		done(nil)
	}
}
