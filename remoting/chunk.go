package remoting

import "encoding/binary"

// ChunkSize is how many bytes of a command Java puts into a chunk.
const ChunkSize = 8192

// MaxChunk is the most that a chunk can hold, and MaxChunk + 2 the most that a
// whole one takes on the wire.
const MaxChunk = 0x7fff

const chunkGoesOn = 0x8000

// AppendCommand appends a command in chunks of ChunkSize. The last is never
// empty, for Java would not deliver the command until the next byte arrives;
// an empty command, which Java does not know, adds nothing.
func AppendCommand(b, command []byte) []byte {
	for len(command) > 0 {
		n := min(len(command), ChunkSize)
		b = AppendChunkHeader(b, n, n < len(command))
		b = append(b, command[:n]...)
		command = command[n:]
	}
	return b
}

// AppendChunkHeader appends the header of a chunk of n bytes, at most MaxChunk;
// more says that its command goes on behind it.
func AppendChunkHeader(b []byte, n int, more bool) []byte {
	header := uint16(n)
	if more {
		header |= chunkGoesOn
	}
	return binary.BigEndian.AppendUint16(b, header)
}

// ParseChunkHeader reads the two bytes before a chunk of n bytes.
func ParseChunkHeader(b []byte) (n int, more bool, err error) {
	if len(b) < 2 {
		return 0, false, ErrShort
	}
	header := binary.BigEndian.Uint16(b)
	return int(header &^ chunkGoesOn), header&chunkGoesOn != 0, nil
}

// NextChunk returns the length of the first chunk in b with its header, and
// whether it is there whole: to cut a stream into WebSocket messages.
func NextChunk(b []byte) (n int, ok bool) {
	n, _, err := ParseChunkHeader(b)
	if err != nil || len(b) < 2+n {
		return 0, false
	}
	return 2 + n, true
}

// A Reassembler makes commands out of chunks that come in any pieces. It has
// the habit of Java's: a command whose last chunk is empty is not delivered
// until the next byte is there.
//
// The zero value accepts commands of any size.
type Reassembler struct {
	// Limit bounds a command; one that is larger is ErrMalformed. Zero: none.
	Limit int

	command []byte
	header  [2]byte
	have    int  // bytes of header
	left    int  // bytes of the chunk that are still to come
	more    bool // the command goes on behind this chunk
	ended   bool // the command is whole, by an empty chunk: it waits for the next byte
}

// Feed takes bytes from the front of b until a command is whole or b is used
// up, and says how many it took. A command is the caller's to keep; nil: none
// is whole yet.
func (r *Reassembler) Feed(b []byte) (command []byte, n int, err error) {
	for n < len(b) {
		switch {
		case r.ended:
			return r.whole(), n, nil
		case r.have < 2:
			r.header[r.have] = b[n]
			r.have++
			n++
			if r.have == 2 {
				r.left, r.more, _ = ParseChunkHeader(r.header[:])
				if r.Limit > 0 && len(r.command)+r.left > r.Limit {
					return nil, n, malformed("a command of more than %d bytes", r.Limit)
				}
				if r.left == 0 {
					r.have, r.ended = 0, !r.more
				}
			}
		default:
			part := min(r.left, len(b)-n)
			r.command = append(r.command, b[n:n+part]...)
			n += part
			r.left -= part
			if r.left == 0 {
				r.have = 0
				if !r.more {
					return r.whole(), n, nil
				}
			}
		}
	}
	return nil, n, nil
}

// Pending is how many bytes of a command that is not whole are held.
func (r *Reassembler) Pending() int { return len(r.command) }

func (r *Reassembler) whole() []byte {
	command := r.command
	if command == nil {
		command = []byte{}
	}
	r.command, r.ended = nil, false
	return command
}
