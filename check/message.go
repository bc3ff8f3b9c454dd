package check

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"time"
)

// A Message is what a header says. The receiver can judge it alone: whose it
// is, where it belongs in its direction, when it should have been sent, and
// whether a byte of it was changed.
type Message struct {
	Session    uint64    // Hash of the session's key
	From       Side      // who sent it
	Kind       Kind      // what it is for
	Seq        uint64    // 1, 2, 3 … per session and direction
	At         time.Time // scheduled; an answer has the time of its request
	Ref        uint64    // of an Answer: the request's Seq
	AnswerSize uint32    // of a Request: how large the answer is to be
}

// A Kind is what a message is for.
type Kind uint8

// The kinds of messages.
const (
	OneWay Kind = iota
	Request
	Answer
)

// MaxMessage bounds a message's size, so that a broken length cannot take all
// memory.
const MaxMessage = 16 << 20

// ErrCorrupt is what ReadMessage and ReadFrom wrap: the bytes are not those of
// a message of that session.
var ErrCorrupt = errors.New("check: message corrupted")

// Hash is how messages name their session: the same in every process.
func Hash(key string) uint64 {
	h := fnv.New64a()
	io.WriteString(h, key) // a hash takes everything
	return mix(h.Sum64())
}

// Where the fields of a header stand, little-endian. Everything behind sum is
// summed; the body is told by session, side and seq, and needs no sum.
const (
	atSum     = 0  // CRC-32C
	atKind    = 4  // a byte each: kind, side, two zeros
	atSize    = 8  // of header and body
	atAnswer  = 12 // AnswerSize
	atSession = 16
	atSeq     = 24
	atTime    = 32 // nanoseconds since 1970; the zero time is the least number
	atRef     = 40
)

// noTime stands for the zero time.Time, which has no nanoseconds since 1970.
const noTime = -1 << 63

var zeros [Header]byte

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// The body of a message is cut out of a table of noise, at a place that its
// session, side and seq choose: making and judging it cost a copy and a
// comparison, and the body of any other message differs.
const noiseStarts = 1 << 16

var noise = func() *[2 * noiseStarts]byte {
	t := new([2 * noiseStarts]byte)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < len(t); i += 8 {
		binary.LittleEndian.PutUint64(t[i:], rng.Uint64())
	}
	return t
}()

// AppendMessage appends m to dst with a body that makes it size bytes in all,
// or Header if that is more and MaxMessage if that is less. It allocates
// nothing while dst has room.
func AppendMessage(dst []byte, m Message, size int) []byte {
	size = min(max(size, Header), MaxMessage)
	start := len(dst)
	dst = append(dst, zeros[:]...)
	h := dst[start:]
	h[atKind], h[atKind+1] = byte(m.Kind), byte(m.From)
	binary.LittleEndian.PutUint32(h[atSize:], uint32(size))
	binary.LittleEndian.PutUint32(h[atAnswer:], m.AnswerSize)
	binary.LittleEndian.PutUint64(h[atSession:], m.Session)
	binary.LittleEndian.PutUint64(h[atSeq:], m.Seq)
	at := int64(noTime)
	if !m.At.IsZero() {
		at = m.At.UnixNano()
	}
	binary.LittleEndian.PutUint64(h[atTime:], uint64(at))
	binary.LittleEndian.PutUint64(h[atRef:], m.Ref)
	binary.LittleEndian.PutUint32(h[atSum:], crc32.Checksum(h[atKind:], castagnoli))
	for place, left := m.body(), size-Header; left > 0; {
		part := noise[place:][:min(left, noiseStarts)]
		dst = append(dst, part...)
		left -= len(part)
		place = next(place)
	}
	return dst
}

// ReadMessage returns the message that payload is. Any changed, missing or
// added byte is an error that wraps ErrCorrupt, and so is a message of another
// session than the one with this hash. If the header is sound, the Message is
// returned beside the error, with its Seq; else its Seq is 0.
func ReadMessage(session uint64, payload []byte) (Message, error) {
	m, size, err := readHeader(payload)
	if err != nil {
		return Message{}, err
	}
	if m.Session != session {
		return Message{}, fmt.Errorf("%w: message %d of another session", ErrCorrupt, m.Seq)
	}
	if size != len(payload) {
		return m, fmt.Errorf("%w: message %d has %d bytes, sent with %d", ErrCorrupt, m.Seq, len(payload), size)
	}
	rest := payload[Header:]
	for place := m.body(); len(rest) > 0; place = next(place) {
		n := min(len(rest), noiseStarts)
		if !bytes.Equal(rest[:n], noise[place:][:n]) {
			at := len(payload) - len(rest)
			for i := range n {
				if rest[i] != noise[place+i] {
					at += i
					break
				}
			}
			return m, fmt.Errorf("%w: message %d of %d bytes, from byte %d on", ErrCorrupt, m.Seq, size, at)
		}
		rest = rest[n:]
	}
	return m, nil
}

// ReadFrom reads one message out of a stream of bytes and returns it in buf, or
// in a larger one if buf has no room; ReadMessage then judges it. io.EOF: the
// stream ended between two messages. After an error that wraps ErrCorrupt the
// stream cannot be read any more, for where the next message begins is unknown.
func ReadFrom(r io.Reader, buf []byte) ([]byte, error) {
	if cap(buf) < Header {
		buf = make([]byte, Header, 512)
	}
	buf = buf[:Header]
	if _, err := io.ReadFull(r, buf); err != nil {
		return nil, err
	}
	_, size, err := readHeader(buf)
	if err != nil {
		return nil, err
	}
	if size > cap(buf) {
		grown := make([]byte, size)
		copy(grown, buf)
		buf = grown
	}
	buf = buf[:size]
	if _, err := io.ReadFull(r, buf[Header:]); err != nil {
		if errors.Is(err, io.EOF) && size > Header {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return buf, nil
}

func readHeader(b []byte) (m Message, size int, err error) {
	if len(b) < Header {
		return m, 0, fmt.Errorf("%w: %d bytes are no header", ErrCorrupt, len(b))
	}
	h := b[:Header]
	if crc32.Checksum(h[atKind:], castagnoli) != binary.LittleEndian.Uint32(h[atSum:]) {
		return m, 0, fmt.Errorf("%w: its header was changed", ErrCorrupt)
	}
	size = int(binary.LittleEndian.Uint32(h[atSize:]))
	if size < Header || size > MaxMessage || h[atKind] > byte(Answer) || h[atKind+1] > byte(Controller) || h[atKind+2]|h[atKind+3] != 0 {
		return m, 0, fmt.Errorf("%w: its header makes no sense", ErrCorrupt)
	}
	m = Message{
		Session:    binary.LittleEndian.Uint64(h[atSession:]),
		From:       Side(h[atKind+1]),
		Kind:       Kind(h[atKind]),
		Seq:        binary.LittleEndian.Uint64(h[atSeq:]),
		Ref:        binary.LittleEndian.Uint64(h[atRef:]),
		AnswerSize: binary.LittleEndian.Uint32(h[atAnswer:]),
	}
	if at := int64(binary.LittleEndian.Uint64(h[atTime:])); at != noTime {
		m.At = time.Unix(0, at)
	}
	return m, size, nil
}

// body says where in the table of noise the message's body begins.
func (m Message) body() int {
	return int(mix(m.Session^mix(m.Seq<<1|uint64(m.From))) % noiseStarts)
}

// next says where the next piece of a long body begins.
func next(place int) int { return (place + 40503) % noiseStarts }

// mix makes neighbouring numbers differ in every bit (splitmix64's finisher).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
