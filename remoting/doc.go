// Package remoting is the wire code of Jenkins and Hudson inbound agents:
// greetings, log-ins, headers, capability, chunks and what an onlooker can read
// of commands and TLS. docs/protocol.md says which part of it a door uses.
//
// Functions that begin with Append add one message to a byte slice. Those that
// begin with Parse read one message from the front of a slice and say how many
// bytes it took: [ErrShort] asks for more bytes, [ErrMalformed] says that more
// would not help. None looks beyond its message, and each refuses a message
// that is over its limit as soon as the length is known.
//
// The package does no I/O, starts no goroutine and reads no clock. Its errors
// never quote what a peer sent: it may be a secret.
package remoting

import (
	"errors"
	"fmt"
)

// ErrShort reports a message that has not come whole: more bytes are needed.
var ErrShort = errors.New("remoting: more bytes are needed")

// ErrMalformed reports bytes that are no such message, whatever follows them.
var ErrMalformed = errors.New("remoting: malformed")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}
