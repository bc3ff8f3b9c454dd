package check

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// openFaults is how many faults messages are still held against. An older one's
// histogram is encoded and takes a few hundred bytes from then on.
const openFaults = 64

// faults is a Book's account of how long each fault kept sessions waiting.
//
// A session holds one number, the worst wait of the fault that met it last; it
// goes into that fault's histogram when the session meets the next fault, or at
// the end.
type faults struct {
	// points are those of the open faults, in the order of time. The slice is
	// never changed, so that who receives takes no lock while there is no fault.
	points atomic.Pointer[[]faultPoint]

	mu   sync.Mutex // guards the following; taken with a leaf's lock held
	open map[int]*hdrhistogram.Histogram
	done map[int][]byte
}

type faultPoint struct {
	n  int
	at int64 // Unix nanoseconds
}

// Fault records that fault n, from 0, struck at at. Its recovery is, per
// session, the longest that a message waited from then on, of those that were
// due before it or within a second after it; as with Checker.Fault, a fault that
// nobody felt recovers in about the calm latency. Where faults overlap, a message
// is held against the first that it met.
func (b *Book) Fault(n int, at time.Time) {
	f := &b.faults
	f.mu.Lock()
	var points []faultPoint
	if old := f.points.Load(); old != nil {
		points = append(points, *old...)
	}
	i := len(points)
	for i > 0 && points[i-1].at > at.UnixNano() {
		i--
	}
	points = append(points[:i], append([]faultPoint{{n, at.UnixNano()}}, points[i:]...)...)
	retired := -1
	if len(points) > openFaults {
		retired = points[0].n
		points = points[1:]
	}
	f.points.Store(&points)
	f.mu.Unlock()
	if retired < 0 {
		return
	}
	for _, l := range b.all() {
		l.recovered(retired)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if h := f.open[retired]; h != nil {
		f.done[retired] = encoded(h)
		delete(f.open, retired)
	}
}

// Recovery returns each fault's histogram, encoded, in microseconds: one entry
// per session that had something under way. A session that two faults held at
// the same time may have two entries in one of them. Call it once, at the end.
func (b *Book) Recovery() map[int][]byte {
	for _, l := range b.all() {
		l.recovered(-1)
	}
	f := &b.faults
	f.mu.Lock()
	defer f.mu.Unlock()
	out := maps.Clone(f.done)
	for n, h := range f.open {
		out[n] = encoded(h)
	}
	return out
}

// met returns the first fault that a message met which was due and arrived then.
func (f *faults) met(due, now time.Time) (faultPoint, bool) {
	p := f.points.Load()
	if p == nil {
		return faultPoint{}, false
	}
	points, earliest, latest := *p, due.Add(-feltFor).UnixNano(), now.UnixNano()
	i := len(points)
	for i > 0 && points[i-1].at >= earliest {
		i--
	}
	if i == len(points) || points[i].at > latest {
		return faultPoint{}, false
	}
	return points[i], true
}

func (f *faults) record(n int, wait time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done[n] != nil {
		return // retired meanwhile
	}
	h := f.open[n]
	if h == nil {
		h = newHistogram()
		f.open[n] = h
	}
	record(h, wait)
}

// feel holds one message's wait against the fault that it met. l.mu is held.
func (l *Leaf) feel(due, now time.Time) {
	p, ok := l.book.faults.met(due, now)
	if !ok {
		return
	}
	wait := now.Sub(later(time.Unix(0, p.at), due))
	switch current := int(l.fault) - 1; {
	case p.n == current:
		l.worst = max(l.worst, wait)
	case p.n < current: // an answer, due long before what came earlier
		l.book.faults.record(p.n, wait)
	default:
		if current >= 0 {
			l.book.faults.record(current, l.worst)
		}
		l.fault, l.worst = int32(p.n+1), wait
	}
}

// recovered puts the session's worst wait into the histogram of fault n, or -1
// for whichever it belongs to.
func (l *Leaf) recovered(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	current := int(l.fault) - 1
	if current < 0 || n >= 0 && n != current {
		return
	}
	l.book.faults.record(current, l.worst)
	l.fault, l.worst = 0, 0
}
