package buffer

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// A recentModel is the naive cache without bounds: per session all that was
// ever appended since its tail began.
type recentModel struct {
	from, next int64
	records    []modelRecord
}

type modelRecord struct {
	offset int64
	frame  []byte
}

func recentFrame(offset int64, size int) []byte {
	return bytes.Repeat([]byte{byte(offset)}, size)
}

// A Recent either answers exactly as the naive cache does, or not at all; and
// it never takes more than its bound.
func TestRecentAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.SampledFrom([]int{0, 1000, 5000, 50_000, 1 << 20}).Draw(t, "limit")
		r := NewRecent(limit)
		models := map[[16]byte]*recentModel{}
		end := map[[16]byte]int64{} // each session's place in its log
		session := rapid.Custom(func(t *rapid.T) [16]byte {
			return [16]byte{rapid.ByteRange(1, 5).Draw(t, "session")}
		})
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				id := session.Draw(t, "id")
				offset := end[id] + rapid.Int64Range(0, 3).Draw(t, "foreign")
				frame := recentFrame(offset, rapid.IntRange(0, 3000).Draw(t, "size"))
				end[id] = offset + 1
				m := models[id]
				if m == nil {
					m = &recentModel{from: offset}
					models[id] = m
				}
				m.records = append(m.records, modelRecord{offset, bytes.Clone(frame)})
				m.next = offset + 1
				r.Append(id, offset, frame)
				clear(frame) // the caller's memory is its own again
			},
			"repeat": func(t *rapid.T) {
				id := session.Draw(t, "id")
				if m := models[id]; m != nil && len(m.records) > 0 && r.has(id) {
					old := m.records[0]
					r.Append(id, old.offset, []byte("another stream tells it again"))
				}
			},
			"start": func(t *rapid.T) {
				id := session.Draw(t, "id")
				end[id] += rapid.Int64Range(0, 5).Draw(t, "missed")
				models[id] = &recentModel{from: end[id], next: end[id]}
				r.Start(id, end[id])
			},
			"advance": func(t *rapid.T) {
				id := session.Draw(t, "id")
				if m := models[id]; m != nil {
					end[id] += rapid.Int64Range(0, 5).Draw(t, "foreign")
					m.next = max(m.next, end[id])
					r.Advance(id, end[id])
				}
			},
			"trim": func(t *rapid.T) {
				id := session.Draw(t, "id")
				offset := rapid.Int64Range(0, end[id]+2).Draw(t, "offset")
				if m := models[id]; m != nil {
					m.from = max(m.from, min(offset, m.next))
				}
				r.Trim(id, offset)
			},
			"drop": func(t *rapid.T) {
				id := session.Draw(t, "id")
				delete(models, id)
				r.Drop(id)
			},
			"after": func(t *rapid.T) {
				id := session.Draw(t, "id")
				from := rapid.Int64Range(0, end[id]+2).Draw(t, "from")
				frames, next, ok := r.After(id, from)
				m := models[id]
				if m == nil {
					if ok {
						t.Fatal("answers for a session it was not told of")
					}
					return
				}
				covered := m.from <= from && from <= m.next
				if ok && !covered {
					t.Fatalf("answers from %d, covered is %d to %d", from, m.from, m.next)
				}
				if !ok {
					if covered && limit == 1<<20 {
						t.Fatalf("no answer from %d though nothing was evicted", from)
					}
					return
				}
				if next != m.next {
					t.Fatalf("next %d, want %d", next, m.next)
				}
				want := slices.DeleteFunc(slices.Clone(m.records), func(rec modelRecord) bool { return rec.offset < from })
				i := 0
				for offset, frame := range frames {
					if i == len(want) || offset != want[i].offset || !bytes.Equal(frame, want[i].frame) {
						t.Fatalf("record %d at offset %d is not the model's", i, offset)
					}
					i++
				}
				if i != len(want) {
					t.Fatalf("%d records, want %d", i, len(want))
				}
			},
			"": func(t *rapid.T) {
				if got := r.Bytes(); got > limit || got < r.Len()*tailCost {
					t.Fatalf("%d bytes in %d tails, limit %d", got, r.Len(), limit)
				}
			},
		})
	})
}

// has reports whether the session has a tail, without using it.
func (r *Recent) has(id [16]byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tails.Contains(id)
}

func TestRecentEvictsTheLeastRecentlyUsedWhole(t *testing.T) {
	a, b, c, d, e := [16]byte{1}, [16]byte{2}, [16]byte{3}, [16]byte{4}, [16]byte{5}
	r := NewRecent(10_000)
	for i, id := range [][16]byte{a, b, c} {
		r.Start(id, 0)
		r.Append(id, int64(i), make([]byte, 1000))
		r.Append(id, int64(i)+10, make([]byte, 1000))
	}
	if _, _, ok := r.After(a, 0); !ok {
		t.Fatal("a is not there while there is room")
	}
	r.Append(d, 20, make([]byte, 2000))
	r.Append(e, 21, make([]byte, 1000)) // over the limit: b is now the oldest
	if _, _, ok := r.After(b, 0); ok {
		t.Error("b, evicted, answers")
	}
	for id, from := range map[[16]byte]int64{a: 0, c: 0, d: 20, e: 21} {
		if _, _, ok := r.After(id, from); !ok {
			t.Errorf("session %d lost its tail", id[0])
		}
	}
	if r.Evicted() != 1 || r.Len() != 4 {
		t.Errorf("%d evicted, %d left", r.Evicted(), r.Len())
	}

	r.Append(b, 30, []byte("again"))
	if _, _, ok := r.After(b, 29); ok {
		t.Error("answers for what was before the new tail")
	}
	if _, next, ok := r.After(b, 30); !ok || next != 31 {
		t.Errorf("the new tail: next %d, %v", next, ok)
	}
}

func TestRecentFloodEvictsOnlyItself(t *testing.T) {
	calm, flood := [16]byte{1}, [16]byte{2}
	r := NewRecent(100_000)
	r.Append(calm, 1, []byte("calm"))
	for i := range int64(10_000) {
		r.Append(flood, 10+i, make([]byte, 1000))
	}
	if _, _, ok := r.After(calm, 1); !ok {
		t.Error("the flood pushed the calm session out")
	}
}

// A reader walks what it was given while the tail grows and is trimmed.
func TestRecentReadersAreUndisturbed(t *testing.T) {
	id := [16]byte{1}
	r := NewRecent(1 << 20)
	for i := range int64(100) {
		r.Append(id, i, recentFrame(i, 100))
	}
	frames, _, _ := r.After(id, 0)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := int64(100); i < 1000; i++ {
			r.Append(id, i, recentFrame(i, 100))
			r.Trim(id, i-50)
		}
	})
	n := int64(0)
	for offset, frame := range frames {
		if offset != n || !bytes.Equal(frame, recentFrame(n, 100)) {
			t.Fatalf("record %d at offset %d", n, offset)
		}
		n++
	}
	wg.Wait()
	if n != 100 {
		t.Errorf("%d records, want 100", n)
	}
}

// What is charged is what the heap holds, for small frames and large ones.
func TestRecentChargesHonestly(t *testing.T) {
	for _, size := range []int{0, 30, 256, 4096, 65536} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			heap := func() int {
				runtime.GC()
				runtime.GC()
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				return int(m.HeapAlloc)
			}
			before := heap()
			r := NewRecent(16 << 20)
			frame := make([]byte, size)
			for i := range 20_000 {
				if i*(size+tailCost) > 16<<20 {
					break
				}
				r.Append([16]byte{byte(i), byte(i >> 8)}, int64(i), frame)
			}
			took := heap() - before
			if got := r.Bytes(); took > got+got/20 {
				t.Errorf("%d tails take %d bytes, %d are charged", r.Len(), took, got)
			}
			runtime.KeepAlive(r)
			runtime.KeepAlive(frame)
		})
	}
}

func BenchmarkRecent(b *testing.B) {
	r, id, frame := NewRecent(4<<20), [16]byte{1}, make([]byte, 256)
	b.ReportAllocs()
	offset := int64(0)
	for b.Loop() {
		r.Append(id, offset, frame)
		offset++
		r.Trim(id, offset-8)
	}
}
