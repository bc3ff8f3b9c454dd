package baseline

import (
	"context"
	"sync"

	"github.com/moorage-dev/moorage/loadtest/worker"
)

// acceptQueue is how many sessions wait for Accept. Who comes when it is full waits too.
const acceptQueue = 1024

// A door is where an application's sessions wait to be taken.
type door struct {
	queue  chan arrival
	closed chan struct{}
	once   sync.Once
	why    error // valid once closed
}

type arrival struct {
	key     string
	session worker.Session
}

func newDoor() *door {
	return &door{queue: make(chan arrival, acceptQueue), closed: make(chan struct{})}
}

// enter reports false when the door is closed.
func (d *door) enter(key string, s worker.Session) bool {
	select {
	case d.queue <- arrival{key, s}:
		return true
	case <-d.closed:
		return false
	}
}

// close makes Accept fail with why from now on.
func (d *door) close(why error) {
	d.once.Do(func() {
		d.why = why
		close(d.closed)
	})
}

// Accept returns the next session.
func (d *door) Accept(ctx context.Context) (string, worker.Session, error) {
	select {
	case a := <-d.queue:
		return a.key, a.session, nil
	case <-d.closed:
		return "", nil, d.why
	case <-ctx.Done():
		return "", nil, context.Cause(ctx)
	}
}
