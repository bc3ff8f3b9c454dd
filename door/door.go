// Package door is where legacy Jenkins and Hudson agents come in: one port that
// tells by the first bytes what a connection speaks, for a gateway (tier 0) and
// for a shim (tier 1).
//
// What must be answered in time is answered here: JNLP4's ACK, pings of a
// WebSocket, look-ups. Everything else becomes a session with the controller.
// While a controller is away, agents are held silently and never refused: an
// accept that is followed by a close ends an old agent's process for good.
package door

import (
	"context"
	"errors"
	"time"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/tunnel"
)

// ErrUnknownController reports that there is no controller of that name. Any
// other error of a Backend means: not now, try again.
var ErrUnknownController = errors.New("door: unknown controller")

// A Backend is what a door needs of the gateway or the shim it belongs to. Its
// methods may be called concurrently.
type Backend interface {
	// Describe returns what is known of a controller, however old.
	Describe(ctx context.Context, controller string) (Description, error)

	// Open opens a session and returns when it is welcomed; the controller side
	// may still accept or reject it. ctx bounds the opening, not the session.
	Open(ctx context.Context, r Request) (Session, error)
}

// A Description is what is known of a controller.
type Description struct {
	// Jenkins is what its connector has learned; nil: nothing yet.
	Jenkins *linkv1.Jenkins
	// Age is how long ago the controller side was heard.
	Age time.Duration
}

// A Request says what a session is for.
type Request struct {
	Controller string
	Kind       linkv1.ServiceKind // REMOTING, HTTP or WEBSOCKET
	Remoting   *linkv1.Remoting   // never nil

	early *early // what is sent before the session is accepted; nil: nothing
}

// A Session is one session as the door sees it: bytes both ways.
//
// Abort ends it with PEER_RESET, Close with OK; both let go on what was written
// before.
type Session interface {
	tunnel.Conn

	// Accepted waits until the controller side has accepted the session: nil.
	// Otherwise the error says why it ended.
	Accepted(ctx context.Context) error

	// Answer returns what the controller side said beside its yes. It is there
	// once Accepted has returned nil.
	Answer() *linkv1.Accept

	// Done is closed when the session's ending is known, and Err tells it then:
	// a *session.EndedError.
	Done() <-chan struct{}
	Err() error
}
