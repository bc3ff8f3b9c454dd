package check

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A Book records what one process saw of the sessions that it has an end of.
// Where a Checker keeps every message under way, a Book keeps a fixed number of
// bytes per session, for the headers let the receiver judge alone; what takes
// both sides to tell, Settle finds in their Accounts. It is safe for concurrent
// use.
//
// Times of two processes are compared, so all of them must have the same clock.
//
// Bounds: a session takes some 200 bytes and its key, until HandOver gives its
// Entry away. Its last Events are kept for 10,000 sessions at a time; all others
// share the last 65,536 events. The
// first Anomalies of a process are kept in full, the rest is counted. Of a
// session, the 16 latest holes may still be filled; older ones are lost for good.
type Book struct {
	side Side
	cfg  Config

	mu     sync.Mutex // guards the following; taken with a leaf's lock held
	leaves map[string]*Leaf
	opened []*Leaf                 // the same in their order, and some that were handed over; only ever appended to
	over   []resting               // ended in order, oldest first; not yet looked at by HandOver
	handed int                     // of opened
	quiet  *hdrhistogram.Histogram // Silence of those that were handed over; nil: of none
	seen   []Anomaly

	counts [words]atomic.Uint64
	shared sharedTrace
	faults faults
}

// What a Book counts; names has the words.
const (
	sent = iota
	received
	lost
	repeated
	reordered
	corrupted
	revived
	misjudged
	words
)

var names = [words]string{"sent", "received", "lost", "repeated", "reordered", "corrupted", "revived", "misjudged"}

// NewBook returns an empty Book of one side. Of cfg, Settle is not used.
func NewBook(side Side, cfg Config) *Book {
	b := &Book{side: side, cfg: cfg.filled(), leaves: map[string]*Leaf{}}
	b.faults.open = map[int]*hdrhistogram.Histogram{}
	b.faults.done = map[int][]byte{}
	return b
}

// Open returns the Leaf of a session, the same one for the same key.
func (b *Book) Open(key string) *Leaf {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.leaves[key]
	if l == nil {
		l = &Leaf{Key: key, Hash: Hash(key), book: b}
		if len(b.leaves) < ownTraces {
			l.trace = new(trace)
		}
		b.leaves[key] = l
		b.opened = append(b.opened, l)
	}
	return l
}

// Anomalies returns how many there were so far, of those that one side alone
// can tell.
func (b *Book) Anomalies() (n uint64) {
	for w := lost; w < words; w++ {
		n += b.counts[w].Load()
	}
	return n
}

// Account returns what was recorded so far.
func (b *Book) Account() Account {
	sessions, events := map[string]*Entry{}, map[string][]Event{}
	for _, l := range b.all() {
		e, holes := l.entry()
		if e == nil {
			continue
		}
		sessions[l.Key] = e
		if holes != nil {
			b.blame(*holes)
		}
		// An end in order leaves nothing to ask about.
		if e.Reason != OK && !e.Gone && len(events) < keptEvents {
			events[l.Key] = l.events()
		}
	}
	a := b.Tally() // with what was just blamed
	a.Sessions, a.Events = sessions, events
	return a
}

// Tally is the Account of now without its sessions: what was counted, and the
// anomalies that were kept. It is all that is left of a process that is killed,
// if somebody asked in time.
func (b *Book) Tally() Account {
	a := Account{Side: b.side, Made: b.cfg.Now(), Counts: map[string]uint64{}}
	for w, name := range names {
		if n := b.counts[w].Load(); n > 0 {
			a.Counts[name] = n
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	a.Seen = slices.Clone(b.seen)
	return a
}

// keptEvents bounds the sessions whose last events an Account has.
const keptEvents = 100

// Silence returns the histogram of the sessions' longest silences, encoded: how
// long a message was due and nothing arrived, in microseconds.
func (b *Book) Silence() []byte {
	h := newHistogram()
	all := b.all()
	b.mu.Lock()
	if b.quiet != nil {
		h.Merge(b.quiet)
	}
	b.mu.Unlock()
	for _, l := range all {
		l.mu.Lock()
		if l.received > 0 && !l.handed {
			record(h, time.Duration(l.silence))
		}
		l.mu.Unlock()
	}
	return encoded(h)
}

// all returns the leaves in the order in which they were opened, and some that
// were handed over.
func (b *Book) all() []*Leaf {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.opened
}

// blame keeps an anomaly, if there is room.
func (b *Book) blame(a Anomaly) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.seen) < b.cfg.Anomalies {
		b.seen = append(b.seen, a)
	}
}

// wanted reports whether blame would keep another one.
func (b *Book) wanted() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.seen) < b.cfg.Anomalies
}

func encoded(h *hdrhistogram.Histogram) []byte {
	text, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		panic(fmt.Sprintf("check: encoding a histogram: %v", err)) // it is written into memory
	}
	return text
}
