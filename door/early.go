package door

import "io"

// An early is what an agent has said when its session is opened: its log-in,
// or the begin of its TLS. It goes behind OPEN, not behind the controller side's
// yes, and so is there when the connector has dialled: a way down and up again
// less for each agent that starts. It stays in the line until the session is
// accepted, for a session that is not may be followed by another. That one has
// it again, and may: no answer to it has reached the agent.
//
// A nil early sends nothing.
type early struct {
	line *line
	sent int // bytes of the line that stand in the session which was opened last
}

// mostEarly bounds what is sent so. It fits into every window, so that no write
// of it waits.
const mostEarly = 4 << 10

// send writes what the agent has said by now to a session. An error means that
// it has ended, and Accepted tells why.
func (e *early) send(s io.Writer) {
	if e != nil {
		e.sent, _ = e.line.copySaid(s, mostEarly)
	}
}

// taken takes from the line what the accepted session has of it already.
func (e *early) taken() error {
	if e == nil || e.sent == 0 {
		return nil
	}
	return e.line.skip(e.sent)
}
