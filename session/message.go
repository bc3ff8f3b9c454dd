package session

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"

	"github.com/moorage-dev/moorage/proto/envelope"
)

// Version is the protocol version this package speaks.
const Version = 1

// MaxFrame is the largest payload of one frame, in bytes.
const MaxFrame = 64 << 10

// MostHeartbeat is the longest interval of heartbeats: a stream that is dead
// must show in bounded time.
const MostHeartbeat = 5 * time.Minute

// mostGrace is more than anybody keeps a session.
const mostGrace = 30 * 24 * time.Hour

// MaxWindow is the largest window either side may ask for, in payload bytes.
const MaxWindow = 16 << 20

// DefaultWindow is the window of either direction, in payload bytes.
const DefaultWindow = 1 << 20

// What a role reports when a stream cannot go on. The session is not touched:
// the agent side comes again with a new stream.
var (
	// ErrHole: a frame came whose predecessor did not; it will come again (row 7).
	ErrHole = errors.New("session: frame out of sequence")
	// ErrSwapped: Kafka took a frame before its predecessor, so readers dropped it (row 2).
	ErrSwapped = errors.New("session: frames swapped in the log")
	// ErrProduce: a produce failed or its outcome is unknown.
	ErrProduce = errors.New("session: produce failed")
	// ErrTakenOver: a newer stream of the session is known.
	ErrTakenOver = errors.New("session: taken over by a newer stream")
	// ErrViolation: the peer broke the rules of the protocol.
	ErrViolation = errors.New("session: protocol violation")
)

func violation(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrViolation, fmt.Sprintf(format, args...))
}

// An Ending is why a session ended: a reason of the closed list and a line for a human.
type Ending struct {
	Reason linkv1.Reason
	Text   string
}

// An EndedError is what an application gets from a session that has ended.
type EndedError struct{ Ending }

func (e *EndedError) Error() string {
	if e.Text == "" {
		return "session ended: " + ReasonName(e.Reason)
	}
	return "session ended: " + ReasonName(e.Reason) + ": " + e.Text
}

// ReasonName returns the reason as documents and people write it: "DATA_LOSS".
func ReasonName(r linkv1.Reason) string {
	const prefix = "REASON_"
	if s := r.String(); len(s) > len(prefix) && s[:len(prefix)] == prefix {
		return s[len(prefix):]
	}
	return r.String()
}

// NewID returns the id a session has in the log: a hash of the agent's name
// and of the 16 random bytes that only its agent side knows. So no other
// identity can write into a session, whatever it has seen of its id.
func NewID(agent string, secret [16]byte) envelope.SessionID {
	h := sha256.New()
	h.Write([]byte("moorage session\x00"))
	h.Write([]byte(agent))
	h.Write([]byte{0})
	h.Write(secret[:])
	var sum [sha256.Size]byte
	return envelope.SessionID(h.Sum(sum[:0])[:16])
}

// A Frame is one numbered message on a stream. Delivered and Persisted are
// cumulative news about the other direction; 0 means none.
type Frame struct {
	Seq       uint64
	Kind      envelope.Kind
	Payload   []byte
	Delivered uint64
	Persisted uint64
}

// A Hello opens or resumes a session. Its resume half is zero at the first attach.
type Hello struct {
	Secret     [16]byte
	Agent      string
	Controller string
	Attempt    uint32
	Credential string
	Labels     map[string]string

	Ticket      []byte
	Incarnation envelope.Incarnation
	Start       envelope.Position
	Position    envelope.Position
	LastDown    uint64
	Delivered   uint64
	Persisted   uint64
}

// Resume reports whether the session was welcomed before.
func (h *Hello) Resume() bool { return !h.Incarnation.IsZero() }

// ID returns the session's id in the log.
func (h *Hello) ID() envelope.SessionID { return NewID(h.Agent, h.Secret) }

// A Welcome tells the agent side that it is attached.
type Welcome struct {
	Start       envelope.Position
	Incarnation envelope.Incarnation
	Ticket      []byte
	UpWindow    int
	MaxFrame    int
	Grace       time.Duration
	Heartbeat   time.Duration
	Persisted   uint64
	Delivered   uint64
	Better      []string
}

// A Heartbeat is a sign of life with cumulative acknowledgements; zero fields are no news.
type Heartbeat struct {
	Position  envelope.Position
	Persisted uint64
	Delivered uint64
	Probe     bool
	Ticket    []byte
	Paused    bool
}

// A Close is the gateway's word that a session has ended, and the incarnation that says so.
type Close struct {
	Ending
	Incarnation envelope.Incarnation
}
