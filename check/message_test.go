package check

import (
	"bytes"
	"errors"
	"io"
	"math"
	"testing"
	"testing/iotest"
	"time"

	"pgregory.net/rapid"
)

var drawMessage = rapid.Custom(func(t *rapid.T) Message {
	m := Message{
		Session:    Hash(rapid.String().Draw(t, "key")),
		From:       Side(rapid.IntRange(0, 1).Draw(t, "from")),
		Kind:       Kind(rapid.IntRange(0, 2).Draw(t, "kind")),
		Seq:        rapid.Uint64Min(1).Draw(t, "seq"),
		Ref:        rapid.Uint64().Draw(t, "ref"),
		AnswerSize: rapid.Uint32().Draw(t, "answer"),
	}
	if rapid.Bool().Draw(t, "has a time") {
		m.At = time.Unix(0, rapid.Int64Min(math.MinInt64+1).Draw(t, "at"))
	}
	return m
})

func TestMessagesComeBackAsTheyWere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawMessage.Draw(t, "message")
		size := rapid.IntRange(0, 200_000).Draw(t, "size")
		b := AppendMessage(nil, m, size)
		if len(b) != max(size, Header) {
			t.Fatalf("%d bytes, asked for %d", len(b), size)
		}
		got, err := ReadMessage(m.Session, b)
		if err != nil || got != m {
			t.Fatalf("got %+v, %v; sent %+v", got, err, m)
		}
	})
}

func TestAnyChangedByteIsFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawMessage.Draw(t, "message")
		b := AppendMessage(nil, m, rapid.OneOf(rapid.IntRange(0, 300), rapid.IntRange(0, 200_000)).Draw(t, "size"))
		switch rapid.IntRange(0, 3).Draw(t, "defect") {
		case 0:
			b[rapid.IntRange(0, len(b)-1).Draw(t, "where")] ^= byte(rapid.IntRange(1, 255).Draw(t, "bits"))
		case 1:
			b = b[:rapid.IntRange(0, len(b)-1).Draw(t, "cut to")]
		case 2:
			b = append(b, byte(rapid.IntRange(0, 255).Draw(t, "added")))
		case 3:
			m.Session++
		}
		if _, err := ReadMessage(m.Session, b); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("got %v, want ErrCorrupt", err)
		}
	})
}

// A system that mixes up the bodies of two messages is caught too.
func TestEachMessageHasABodyOfItsOwn(t *testing.T) {
	one := AppendMessage(nil, Message{Session: 7, Seq: 1}, 256)
	for name, m := range map[string]Message{
		"seq":     {Session: 7, Seq: 2},
		"side":    {Session: 7, Seq: 1, From: Controller},
		"session": {Session: 8, Seq: 1},
	} {
		other := AppendMessage(nil, m, 256)
		if bytes.Equal(one[Header:], other[Header:]) {
			t.Errorf("another %s, the same body", name)
		}
	}
}

func TestMessagesAreReadOutOfAStream(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var stream []byte
		var want []Message
		for range rapid.IntRange(0, 8).Draw(t, "messages") {
			m := drawMessage.Draw(t, "message")
			want = append(want, m)
			stream = AppendMessage(stream, m, rapid.IntRange(0, 5000).Draw(t, "size"))
		}
		r := iotest.OneByteReader(bytes.NewReader(stream))
		var buf []byte
		for _, m := range want {
			var err error
			if buf, err = ReadFrom(r, buf); err != nil {
				t.Fatal(err)
			}
			if got, err := ReadMessage(m.Session, buf); err != nil || got != m {
				t.Fatalf("got %+v, %v; sent %+v", got, err, m)
			}
		}
		if _, err := ReadFrom(r, buf); err != io.EOF {
			t.Fatalf("at the end: %v", err)
		}
		if cut := len(stream) - 1; cut > 0 {
			r := bytes.NewReader(stream[:cut])
			var err error
			for err == nil {
				buf, err = ReadFrom(r, buf)
			}
			if err != io.ErrUnexpectedEOF {
				t.Fatalf("cut short: %v", err)
			}
		}
	})
}

func FuzzReadMessage(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(AppendMessage(nil, Message{Session: 1, Seq: 1}, 0))
	f.Add(AppendMessage(nil, Message{Session: 1, Seq: 2, Kind: Request, AnswerSize: 9, At: time.Unix(1, 2)}, 300))
	f.Fuzz(func(t *testing.T, b []byte) {
		framed, err := ReadFrom(bytes.NewReader(b), nil)
		if err == nil && !bytes.HasPrefix(b, framed) {
			t.Fatal("framed bytes that were not there")
		}
		m, err := ReadMessage(1, b)
		if err != nil {
			return
		}
		if again := AppendMessage(nil, m, len(b)); !bytes.Equal(again, b) {
			t.Fatalf("%x was taken for %+v, which is %x", b, m, again)
		}
	})
}

func BenchmarkAppendMessage(b *testing.B) { benchSizes(b, false) }
func BenchmarkReadMessage(b *testing.B)   { benchSizes(b, true) }

func benchSizes(b *testing.B, read bool) {
	for _, bb := range []struct {
		name string
		size int
	}{{"256", 256}, {"8KiB", 8 << 10}, {"64KiB", 64 << 10}} {
		b.Run(bb.name, func(b *testing.B) {
			m := Message{Session: Hash("builders/17/1"), Seq: 1, At: time.Now()}
			buf := AppendMessage(nil, m, bb.size)
			b.SetBytes(int64(bb.size))
			b.ReportAllocs()
			for b.Loop() {
				if read {
					if _, err := ReadMessage(m.Session, buf); err != nil {
						b.Fatal(err)
					}
				} else {
					m.Seq++
					buf = AppendMessage(buf[:0], m, bb.size)
				}
			}
		})
	}
}
