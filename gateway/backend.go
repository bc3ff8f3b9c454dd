package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/moorage-dev/moorage/door"
	"github.com/moorage-dev/moorage/session"
)

// A backend is what a door in this process needs of the gateway.
type backend struct {
	g *Gateway

	mu   sync.Mutex      // guards the following
	seen map[string]view // the last known of each controller; at most Config.Controllers
}

// DoorBackend returns what the door of this gateway stands on.
func (g *Gateway) DoorBackend() door.Backend {
	return &backend{g: g, seen: make(map[string]view)}
}

// Describe returns the last heartbeat that was read, however old: an agent is
// told where to connect long before its controller is back. A controller that
// is not followed any more, with Kafka away, is described from memory.
func (b *backend) Describe(ctx context.Context, controller string) (door.Description, error) {
	_, v, err := b.g.find(ctx, controller)
	b.mu.Lock()
	defer b.mu.Unlock()
	switch known, ok := b.seen[controller]; {
	case err == nil:
		if ok || len(b.seen) < b.g.cfg.Controllers {
			b.seen[controller] = v
		}
	case isUnknown(err):
		return door.Description{}, fmt.Errorf("%w: %s", door.ErrUnknownController, controller)
	case ok:
		v = known
	default:
		return door.Description{}, fmt.Errorf("gateway: describe controller %s: %w", controller, err)
	}
	return door.Description{Jenkins: v.jenkins, Age: max(b.g.now()-v.read, time.Duration(0))}, nil
}

// isUnknown reports whether there is no controller of that name. An impossible
// name is one that nobody has.
func isUnknown(err error) bool {
	return errors.Is(err, errUnknownController) || errors.Is(err, errNoName)
}

// Open opens a session and returns when it is welcomed.
func (b *backend) Open(ctx context.Context, r door.Request) (door.Session, error) {
	l, err := b.g.OpenLocal(ctx, Local{
		Controller: r.Controller, Kind: r.Kind, Agent: r.Remoting.GetAgent(), Remoting: r.Remoting, RemoteAddr: r.Remoting.GetAddress(),
	})
	switch {
	case isUnknown(err):
		return nil, fmt.Errorf("%w: %s", door.ErrUnknownController, r.Controller)
	case err != nil:
		return nil, err
	}
	return l, nil
}

var _ door.Session = (*LocalSession)(nil)

// errNoName is an impossible controller's name. To a remote agent side it is a
// violation like any other.
var errNoName = fmt.Errorf("%w: a controller's name", session.ErrViolation)
