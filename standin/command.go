package standin

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"

	"github.com/moorage-dev/moorage/remoting"
	"github.com/moorage-dev/moorage/seeded"
)

// ErrCorrupt reports a command that is not what the other end sent: lost,
// repeated, overtaken or changed.
var ErrCorrupt = errors.New("standin: corrupt")

// commandLimit is the largest command that is taken or asked for. Java takes
// any.
const commandLimit = 128 << 20

// pingText is what an onlooker knows a ping by.
const pingText = "hudson.remoting.PingThread$Ping"

// A command is what two stand-ins tell each other.
type command struct {
	class  string
	serial uint64 // counts the commands of one direction, from 0
	id     uint64 // of a request, and of its response
	want   uint32 // bytes that the response shall bring
	text   string // pingText, or what went wrong
	seed   uint64 // of the size bytes that follow
	size   uint32
	data   []byte // set when received
}

func (c command) header() []byte {
	b := remoting.AppendClass(nil, c.class)
	b = binary.BigEndian.AppendUint64(b, 1) // serialVersionUID
	b = binary.BigEndian.AppendUint64(b, c.serial)
	b = binary.BigEndian.AppendUint64(b, c.id)
	b = binary.BigEndian.AppendUint32(b, c.want)
	b = remoting.AppendString(b, c.text)
	b = binary.BigEndian.AppendUint64(b, c.seed)
	return binary.BigEndian.AppendUint32(b, c.size)
}

func parseCommand(b []byte) (c command, err error) {
	if c.class, err = remoting.Class(b); err != nil {
		return c, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	r := bytes.NewReader(b[len(remoting.AppendClass(nil, c.class)):])
	var fixed struct {
		_          uint64
		Serial, ID uint64
		Want       uint32
		TextSize   uint16
	}
	err = binary.Read(r, binary.BigEndian, &fixed)
	text := make([]byte, fixed.TextSize)
	if err == nil {
		_, err = io.ReadFull(r, text)
	}
	if err == nil {
		err = binary.Read(r, binary.BigEndian, &c.seed)
	}
	if err == nil {
		err = binary.Read(r, binary.BigEndian, &c.size)
	}
	if err != nil || r.Len() != int(c.size) || fixed.Want > commandLimit {
		return c, fmt.Errorf("%w: a %s that breaks off", ErrCorrupt, c.class)
	}
	c.serial, c.id, c.want, c.text = fixed.Serial, fixed.ID, fixed.Want, string(text)
	c.data = b[len(b)-r.Len():]
	return c, nil
}

// write sends the command in chunks, each in one Write as Java does.
func (c command) write(w io.Writer) error {
	buffer := chunks.Get().(*[]byte)
	defer chunks.Put(buffer)
	head, content := c.header(), contents(c.seed)
	for left := len(head) + int(c.size); left > 0; {
		n := min(left, remoting.ChunkSize)
		left -= n
		full := n == remoting.ChunkSize && seeded.On(seeded.EmptyFinalChunk)
		b := remoting.AppendChunkHeader((*buffer)[:0], n, left > 0 || full)
		part := min(n, len(head))
		b, head = append(b, head[:part]...), head[part:]
		content.Read(b[len(b) : len(b)+n-part]) // never fails
		if _, err := w.Write(b[:2+n]); err != nil {
			return err
		}
		if full && left == 0 {
			_, err := w.Write(remoting.AppendChunkHeader(nil, 0, false))
			return err
		}
	}
	return nil
}

var chunks = sync.Pool{New: func() any { return new(make([]byte, 2+remoting.ChunkSize)) }}

// check compares the command's contents with what its seed makes.
func (c command) check() error {
	buffer := chunks.Get().(*[]byte)
	defer chunks.Put(buffer)
	content, at := contents(c.seed), 0
	for at < len(c.data) {
		b := (*buffer)[:min(len(*buffer), len(c.data)-at)]
		content.Read(b) // never fails
		if !bytes.Equal(b, c.data[at:at+len(b)]) {
			return fmt.Errorf("%w: other bytes than were sent, in the %d from %d of %d", ErrCorrupt, len(b), at, len(c.data))
		}
		at += len(b)
	}
	return nil
}

func contents(seed uint64) *rand.ChaCha8 {
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], seed)
	return rand.NewChaCha8(key)
}
