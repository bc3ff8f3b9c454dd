package demo

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
)

// A byteEnd sends messages as a byte stream does: their length, and their bytes
// in pieces, which the session joins and cuts as it likes.
type byteEnd struct {
	peer
	io.ReadWriter
}

// spoken returns the end as this world's applications use it.
func (w *World) spoken(p interface {
	peer
	io.ReadWriter
}) peer {
	if w.cfg.Bytes {
		return byteEnd{p, p}
	}
	return p
}

// errGarbled reports bytes that nobody can have written.
var errGarbled = errors.New("demo: a length that no message has")

func (e byteEnd) Send(_ context.Context, m []byte) error {
	half := len(m) / 2
	for _, piece := range [][]byte{binary.BigEndian.AppendUint32(nil, uint32(len(m))), m[:half], m[half:]} {
		if _, err := e.Write(piece); err != nil {
			return err
		}
	}
	return nil
}

func (e byteEnd) Receive(context.Context) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(e, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > mostMessage {
		return nil, errGarbled // the checker will find that the rest is lost
	}
	m := make([]byte, n)
	_, err := io.ReadFull(e, m)
	return m, err
}

// mostMessage is more than any message has bytes.
const mostMessage = 1 << 20
