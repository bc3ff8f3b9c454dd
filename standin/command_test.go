package standin

import (
	"bytes"
	"errors"
	"testing"

	"github.com/moorage-dev/moorage/remoting"
)

// sent is a command as it comes out of the chunks at the other end.
func sent(t testing.TB, c command) []byte {
	t.Helper()
	var wire bytes.Buffer
	if err := c.write(&wire); err != nil {
		t.Fatal(err)
	}
	var r remoting.Reassembler
	whole, n, err := r.Feed(wire.Bytes())
	if whole == nil || n != wire.Len() || err != nil {
		t.Fatalf("%d of %d bytes make a command, %v", n, wire.Len(), err)
	}
	return whole
}

func TestCommandsOfEverySize(t *testing.T) {
	head := len(command{class: remoting.ClassUserRequest, text: "text"}.header())
	for _, size := range []int{0, 1, remoting.ChunkSize - head - 1, remoting.ChunkSize - head, remoting.ChunkSize - head + 1, 2*remoting.ChunkSize - head, 1 << 20} {
		want := command{class: remoting.ClassUserRequest, serial: 7, id: 5, want: 3, text: "text", seed: 9, size: uint32(size)}
		got, err := parseCommand(sent(t, want))
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if err := got.check(); err != nil || len(got.data) != size {
			t.Errorf("%d bytes: %d have come, %v", size, len(got.data), err)
		}
		if size > 0 {
			got.data[size/2] ^= 1
			if err := got.check(); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%d bytes, one changed: %v", size, err)
			}
		}
		got.data = nil
		if got.class != want.class || got.serial != 7 || got.id != 5 || got.want != 3 || got.text != want.text {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

func FuzzParseCommand(f *testing.F) {
	f.Add(sent(f, command{class: remoting.ClassUserRequest, text: pingText, size: 100}))
	f.Add(sent(f, command{class: remoting.ClassCloseCommand}))
	f.Add(remoting.AppendStreamAck(nil, 5, 1000))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseCommand(b)
		switch {
		case err != nil && !errors.Is(err, ErrCorrupt):
			t.Fatalf("an error of its own: %v", err)
		case err == nil && (int(c.size) != len(c.data) || c.want > commandLimit):
			t.Fatalf("%d bytes, said to be %d, that want %d", len(c.data), c.size, c.want)
		case err == nil && c.check() != nil && c.size == 0:
			t.Fatal("nothing is corrupt")
		}
	})
}
