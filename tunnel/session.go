package tunnel

import (
	"errors"
	"net"

	"github.com/moorage-dev/moorage/conn"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

// Session is a session as a side of a tunnel.
type Session struct{ *conn.Conn }

// Abort ends the session with PEER_RESET, after what was written, so that the
// far side resets its connection too. A session that has ended keeps its reason.
func (s Session) Abort(why error) {
	s.CloseWithReason(session.Ending{Reason: linkv1.Reason_REASON_PEER_RESET, Text: withoutAddresses(why)})
}

// withoutAddresses tells what broke a connection: local addresses are no
// business of the far side.
func withoutAddresses(err error) string {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	if err == nil {
		return ""
	}
	return err.Error()
}
