package link

import (
	"slices"
	"time"
)

// Waiting between attaches: a random time up to a bound that doubles.
const (
	backoffFirst = 50 * time.Millisecond
	backoffMost  = 5 * time.Second
)

// A walk is one session's way through the gateways.
type walk struct {
	hints    []string             // gateways to try before the list, each once
	list     []string             // the one to try next stands first
	away     map[string]time.Time // gateways that want to be left alone until then
	failures int                  // attaches in a row that came to nothing
}

// bound returns how long to wait at most before the next attach.
func (w *walk) bound() time.Duration {
	return min(backoffFirst<<min(w.failures, 10), backoffMost)
}

// next returns the gateway to try after wait, or, when each wants to be left
// alone for longer, the one that will do so first.
func (w *walk) next(now time.Time, wait time.Duration) (gateway string, in time.Duration) {
	at := now.Add(wait)
	for i, g := range w.hints {
		if !w.away[g].After(at) {
			w.hints = slices.Delete(w.hints, i, i+1)
			return g, wait
		}
	}
	first := w.list[0]
	for _, g := range w.list {
		if !w.away[g].After(at) {
			return g, wait
		}
		if w.away[g].Before(w.away[first]) {
			first = g
		}
	}
	return first, w.away[first].Sub(now) + wait
}

// last puts a gateway to the end of the list.
func (w *walk) last(gateway string) {
	if i := slices.Index(w.list, gateway); i >= 0 {
		w.list = append(slices.Delete(w.list, i, i+1), gateway)
	}
}

// first puts a gateway of the list to its beginning.
func (w *walk) first(gateway string) {
	if i := slices.Index(w.list, gateway); i >= 0 {
		w.list = slices.Insert(slices.Delete(w.list, i, i+1), 0, gateway)
	}
}

// leave keeps away from a gateway until then.
func (w *walk) leave(gateway string, until time.Time) {
	if w.away == nil {
		w.away = make(map[string]time.Time)
	}
	w.away[gateway] = until
}
