package buffer

import (
	"bytes"
	"errors"
	"testing"

	"pgregory.net/rapid"
)

func TestWindowRoom(t *testing.T) {
	for _, tc := range []struct {
		desc  string
		limit int
		push  []int
		ask   int
		want  bool
	}{
		{"the zero window has no room", 0, nil, 0, false},
		{"exactly full is allowed", 10, []int{4}, 6, true},
		{"one byte more is not", 10, []int{4}, 7, false},
		{"a frame larger than the window goes when nothing is outstanding", 10, nil, 11, true},
		{"and nothing goes behind it", 10, []int{11}, 1, false},
		{"control frames take no room", 10, []int{0, 0}, 11, true},
	} {
		w := Window{Limit: tc.limit}
		for _, n := range tc.push {
			w.Push(4, make([]byte, n), n)
		}
		if got := w.Room(tc.ask); got != tc.want {
			t.Errorf("%s: Room(%d) = %v", tc.desc, tc.ask, got)
		}
	}
}

func TestWindowRefusesNewsOfWhatWasNeverPushed(t *testing.T) {
	w := Window{Limit: 10}
	w.Push(4, []byte("a"), 1)
	if err := w.Persist(2); !errors.Is(err, ErrBeyond) {
		t.Errorf("Persist(2) of 1 = %v, want ErrBeyond", err)
	}
	if _, err := w.Deliver(2); !errors.Is(err, ErrBeyond) {
		t.Errorf("Deliver(2) of 1 = %v, want ErrBeyond", err)
	}
	if w.Persisted() != 0 || w.Delivered() != 0 || w.Outstanding() != 1 {
		t.Errorf("refused news changed the window: %+v", w)
	}
}

func TestWindowLetsGoOfPayloads(t *testing.T) {
	w := Window{Limit: 10}
	for range 3 {
		w.Push(4, []byte("abc"), 3)
	}
	if err := w.Persist(2); err != nil {
		t.Fatal(err)
	}
	if w.frames[0].Payload != nil || w.frames[1].Payload != nil || w.frames[2].Payload == nil {
		t.Errorf("want the payloads of persisted frames gone and no other: %v", w.frames)
	}
	if _, err := w.Deliver(3); err != nil {
		t.Fatal(err)
	}
	if w.frames != nil {
		t.Error("an empty window keeps an array")
	}
}

// TestWindowIsAQueue drives a Window and a plain list of everything ever
// pushed, and compares what both say after every step.
func TestWindowIsAQueue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := Window{Limit: rapid.IntRange(1, 20).Draw(t, "limit")}
		type sent struct {
			payload []byte
			counted int
		}
		var all []sent
		var persisted, delivered uint64
		seq := func(label string) uint64 { return rapid.Uint64Range(0, uint64(len(all))+1).Draw(t, label) }
		t.Repeat(map[string]func(*rapid.T){
			"push data": func(t *rapid.T) {
				p := bytes.Repeat([]byte{byte(len(all))}, rapid.IntRange(0, 25).Draw(t, "size"))
				if !w.Room(len(p)) {
					return
				}
				all = append(all, sent{p, len(p)})
				if got := w.Push(4, p, len(p)); got != uint64(len(all)) {
					t.Fatalf("Push = %d, want %d", got, len(all))
				}
			},
			"push control": func(t *rapid.T) {
				all = append(all, sent{nil, 0})
				w.Push(5, nil, 0)
			},
			"persist": func(t *rapid.T) {
				n := seq("persisted")
				if err := w.Persist(n); (err != nil) != (n > uint64(len(all))) {
					t.Fatalf("Persist(%d) of %d = %v", n, len(all), err)
				} else if err == nil {
					persisted = max(persisted, n)
				}
			},
			"deliver": func(t *rapid.T) {
				n := seq("delivered")
				news, err := w.Deliver(n)
				if (err != nil) != (n > uint64(len(all))) || news != (err == nil && n > delivered) {
					t.Fatalf("Deliver(%d) of %d, %d known = %v, %v", n, len(all), delivered, news, err)
				}
				if err == nil {
					delivered = max(delivered, n)
					persisted = max(persisted, n)
				}
			},
			"clone": func(*rapid.T) {
				c := w.Clone()
				if c.Last() > c.Delivered() {
					_, _ = c.Deliver(c.Last()) // must not reach the original
				}
			},
			"": func(t *rapid.T) {
				if w.Last() != uint64(len(all)) || w.Persisted() != persisted || w.Delivered() != delivered {
					t.Fatalf("last, persisted, delivered = %d, %d, %d; want %d, %d, %d",
						w.Last(), w.Persisted(), w.Delivered(), len(all), persisted, delivered)
				}
				bytesOut := 0
				for _, f := range all[delivered:] {
					bytesOut += f.counted
				}
				if w.Outstanding() != bytesOut || w.Free() != max(0, w.Limit-bytesOut) {
					t.Fatalf("outstanding %d, free %d; want %d bytes of %d", w.Outstanding(), w.Free(), bytesOut, w.Limit)
				}
				for n := persisted + 1; n <= w.Last(); n++ {
					if f := w.Frame(n); f.Seq != n || !bytes.Equal(f.Payload, all[n-1].payload) {
						t.Fatalf("frame %d = %+v, want the bytes it was pushed with", n, f)
					}
				}
			},
		})
	})
}
