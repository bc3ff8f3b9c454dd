package baseline

import (
	"sync"

	"github.com/moorage-dev/moorage/loadtest/baseline/flow"
)

// A roll is the sessions of one process, by key.
type roll[S interface{ end(reason string) }] struct {
	mu     sync.Mutex // guards the following
	by     map[string]S
	closed bool
}

// add reports false when the roll is closed, or the key is there already.
func (r *roll[S]) add(key string, s S) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, double := r.by[key]; double || r.closed {
		return false
	}
	if r.by == nil {
		r.by = make(map[string]S)
	}
	r.by[key] = s
	return true
}

func (r *roll[S]) remove(key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.by, key)
}

// all returns the sessions that keep names; all of them if it is nil.
func (r *roll[S]) all(keep func(key string) bool) []S {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []S
	for key, s := range r.by {
		if keep == nil || keep(key) {
			list = append(list, s)
		}
	}
	return list
}

// close lets nobody in any more and ends those that are here.
func (r *roll[S]) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	for _, s := range r.all(nil) {
		s.end(flow.Closed)
	}
}
