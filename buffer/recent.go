package buffer

import (
	"iter"
	"slices"
	"sort"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// What a Recent charges beside the bytes of frames, so that its bound is one of
// memory and not of payload.
const (
	entryCost = 32  // one entry: an offset and a slice header
	tailCost  = 288 // a tail, its LRU entry and its share of the LRU's map
)

// tailShare is the part of the bound that one session may fill: a flood must
// not push everybody else out.
const tailShare = 4

// A Recent keeps, per session, the tail of its down log: every record of the
// session from one offset up to another, so that a reconnect within seconds
// needs no Kafka.
//
// Its bound is in bytes, over all sessions. When it is reached the tails used
// least recently go, each whole: what is answered is always complete. A tail
// that alone takes more than a quarter of the bound goes too.
//
// It is safe for concurrent use. It copies what it is given: a frame aliases
// the megabytes that one fetch brought, and would pin them.
type Recent struct {
	limit int

	mu      sync.Mutex // guards the following
	tails   *simplelru.LRU[[16]byte, *tail]
	bytes   int // sum of the tails' costs; at most limit when mu is free
	evicted uint64
}

// A tail covers the offsets from <= offset < next: every record of its session
// there is in entries, those below first excepted, which are trimmed.
type tail struct {
	from, next int64
	entries    []entry // by offset; never written below its length, readers hold it without the lock
	first      int     // entries below it are trimmed and still charged
	frames     int     // bytes allocated for entries' frames
	cost       int     // what r.bytes holds for this tail
}

type entry struct {
	offset int64
	frame  []byte
}

// NewRecent returns a Recent that takes at most limit bytes of memory. With a
// limit of 0 or less it keeps nothing.
func NewRecent(limit int) *Recent {
	// The count is no bound here, bytes are: every tail costs at least
	// tailCost, so more than this many never fit.
	tails, err := simplelru.NewLRU[[16]byte, *tail](max(limit, 0)/tailCost+2, nil)
	if err != nil {
		panic("buffer: " + err.Error()) // only for a size below 1
	}
	return &Recent{limit: limit, tails: tails}
}

// Start begins a new, empty tail that covers what will follow from on. An older
// tail of the session is forgotten. Call it when records may have been missed.
func (r *Recent) Start(id [16]byte, from int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.start(id, from)
	r.shrink()
}

// Append adds the record at offset. Between the tail's end and offset there is
// no other record of the session: whoever calls it has seen them all, in order,
// or calls Start. A record below the tail's end is known already and ignored.
// A session without a tail (evicted, or never started) gets one that begins at
// offset.
func (r *Recent) Append(id [16]byte, offset int64, frame []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, ok := r.tails.Get(id)
	if !ok {
		t = r.start(id, offset)
	}
	if offset < t.next {
		return
	}
	t.entries = append(t.entries, entry{offset, slices.Clone(frame)})
	t.next = offset + 1
	r.charge(t, cap(t.entries[len(t.entries)-1].frame))
	if t.cost > r.limit/tailShare {
		r.evict(id, t)
	}
	r.shrink()
}

// Advance says that no record of the session lies between the tail's end and next.
func (r *Recent) Advance(id [16]byte, next int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t, ok := r.tails.Peek(id); ok {
		t.next = max(t.next, next)
	}
}

// After returns, in order, the records of the session from offset from on, and
// the offset that follows all it covers. ok is false if any of them may be
// missing here. The frames are shared: read them only. The sequence is what
// stood there at the call and may be walked at leisure.
func (r *Recent) After(id [16]byte, from int64) (frames iter.Seq2[int64, []byte], next int64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, ok := r.tails.Get(id)
	if !ok || from < t.from || from > t.next {
		return nil, 0, false
	}
	rest := t.entries[t.below(from):]
	return func(yield func(int64, []byte) bool) {
		for _, e := range rest {
			if !yield(e.offset, e.frame) {
				return
			}
		}
	}, t.next, true
}

// Trim says that nothing of the session below offset will be asked for again.
func (r *Recent) Trim(id [16]byte, offset int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, ok := r.tails.Peek(id)
	if !ok || offset <= t.from {
		return
	}
	t.from = min(offset, t.next)
	t.first = t.below(t.from)
	if t.first*2 < len(t.entries) {
		return // moving the rest now would cost more than it frees
	}
	// A new array, for readers may hold the old one.
	t.entries, t.first = append([]entry(nil), t.entries[t.first:]...), 0
	t.frames = 0
	for _, e := range t.entries {
		t.frames += cap(e.frame)
	}
	r.charge(t, 0)
}

// Drop forgets the session.
func (r *Recent) Drop(id [16]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t, ok := r.tails.Peek(id); ok {
		r.remove(id, t)
	}
}

// Bytes returns what is charged against the bound now.
func (r *Recent) Bytes() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes
}

// Len returns how many sessions have a tail.
func (r *Recent) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tails.Len()
}

// Evicted returns how many tails went because of a bound.
func (r *Recent) Evicted() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.evicted
}

// below returns the index of the first entry at or above offset.
func (t *tail) below(offset int64) int {
	return t.first + sort.Search(len(t.entries)-t.first, func(i int) bool {
		return t.entries[t.first+i].offset >= offset
	})
}

// start replaces the session's tail by an empty one. r.mu is held.
func (r *Recent) start(id [16]byte, from int64) *tail {
	if t, ok := r.tails.Peek(id); ok {
		r.remove(id, t)
	}
	t := &tail{from: from, next: from}
	r.tails.Add(id, t)
	r.charge(t, 0)
	return t
}

// charge adds the cost of frame bytes to t; the costs of t itself and of its
// array, which append lets grow, are brought up to date. r.mu is held.
func (r *Recent) charge(t *tail, frame int) {
	r.bytes -= t.cost
	t.frames += frame
	t.cost = tailCost + entryCost*cap(t.entries) + t.frames
	r.bytes += t.cost
}

// shrink evicts until the bound holds. r.mu is held.
func (r *Recent) shrink() {
	for r.bytes > max(r.limit, 0) {
		id, t, ok := r.tails.GetOldest()
		if !ok {
			return
		}
		r.evict(id, t)
	}
}

func (r *Recent) evict(id [16]byte, t *tail) {
	r.remove(id, t)
	r.evicted++
}

func (r *Recent) remove(id [16]byte, t *tail) {
	r.tails.Remove(id)
	r.bytes -= t.cost
}
