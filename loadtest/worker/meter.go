package worker

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// What a latency is of: an index into whats.
const (
	whatUp = iota
	whatDown
	whatRequest
	whatConnect
)

var whats = [...]string{"up", "down", "request", "connect"}

// meterShards is into how many parts a meter is divided, so that receivers
// seldom meet at a lock.
const meterShards = 4

// A meter measures latencies: of the present second, and of the whole run from
// warm-up on. Its memory is bounded by the number of groups.
type meter struct {
	groups []string // their names
	shards [meterShards]struct {
		mu    sync.Mutex
		hists [2][]*hdrhistogram.Histogram // scheduled before and after warm-up, by group and what; nil: nothing yet
	}

	warm int64 // nanoseconds since 1970, set before anything is recorded: what was scheduled before is left out of the whole

	mu     sync.Mutex // guards the following
	second []*hdrhistogram.Histogram
	whole  []*hdrhistogram.Histogram

	sent, received, bytes [2]atomic.Uint64 // up, down, in this second
	lag                   atomic.Int64     // the most of this second, in nanoseconds
	overdue               atomic.Uint64    // messages that the generator itself held up for longer than overdueAfter, in this second
}

func newMeter(groups []string) *meter {
	m := &meter{groups: groups, second: make([]*hdrhistogram.Histogram, len(groups)*len(whats)), whole: make([]*hdrhistogram.Histogram, len(groups)*len(whats))}
	for i := range m.shards {
		for j := range m.shards[i].hists {
			m.shards[i].hists[j] = make([]*hdrhistogram.Histogram, len(groups)*len(whats))
		}
	}
	return m
}

// newHistogram counts microseconds up to an hour, to three digits.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, time.Hour.Microseconds(), 3)
}

// take is record for who knows names; unknown ones are dropped.
func (m *meter) take(what, group string, scheduled time.Time, took time.Duration) {
	w, g := slices.Index(whats[:], what), slices.Index(m.groups, group)
	if w >= 0 && g >= 0 {
		m.record(uint64(scheduled.UnixNano()), g, w, scheduled.UnixNano(), took)
	}
}

// record takes one latency of a group, by its number. shard spreads the locks.
func (m *meter) record(shard uint64, group, what int, scheduled int64, took time.Duration) {
	s := &m.shards[shard%meterShards]
	late := 0
	if scheduled >= m.warm {
		late = 1
	}
	i := group*len(whats) + what
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.hists[late][i]
	if h == nil {
		h = newHistogram()
		s.hists[late][i] = h
	}
	_ = h.RecordValue(micros(took)) // micros keeps within its bounds
}

// micros is d as a histogram takes it.
func micros(d time.Duration) int64 {
	return min(max(d.Microseconds(), 1), time.Hour.Microseconds())
}

// gather moves what the shards have into second and whole. m.mu is held.
func (m *meter) gather() {
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		for late := range s.hists {
			for j, h := range s.hists[late] {
				if h == nil || h.TotalCount() == 0 {
					continue
				}
				mergeInto(&m.second[j], h)
				if late == 1 {
					mergeInto(&m.whole[j], h)
				}
				h.Reset()
			}
		}
		s.mu.Unlock()
	}
}

func mergeInto(sum **hdrhistogram.Histogram, h *hdrhistogram.Histogram) {
	if *sum == nil {
		*sum = newHistogram()
	}
	(*sum).Merge(h)
}

// tick moves what was measured since the call before into t.
func (m *meter) tick(t *Tick) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gather()
	for d := range 2 {
		t.Sent[d] += m.sent[d].Swap(0)
		t.Received[d] += m.received[d].Swap(0)
		t.Bytes[d] += m.bytes[d].Swap(0)
	}
	t.Lag = max(t.Lag, time.Duration(m.lag.Swap(0)))
	t.Extra["overdue"] += float64(m.overdue.Swap(0))
	t.Latency = m.encode(m.second)
	for _, h := range m.second {
		if h != nil {
			h.Reset()
		}
	}
}

// all encodes the whole run.
func (m *meter) all() map[string][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gather()
	return m.encode(m.whole)
}

// encode encodes histograms by what, all groups together, and by group.
func (m *meter) encode(hists []*hdrhistogram.Histogram) map[string][]byte {
	encoded := map[string][]byte{}
	for w, what := range whats {
		var all *hdrhistogram.Histogram
		for g, group := range m.groups {
			h := hists[g*len(whats)+w]
			if h == nil || h.TotalCount() == 0 {
				continue
			}
			mergeInto(&all, h)
			encoded[what+"."+group] = encodeHistogram(h)
		}
		if all != nil {
			encoded[what] = encodeHistogram(all)
		}
	}
	return encoded
}

// encodeHistogram is the form in which histograms travel.
func encodeHistogram(h *hdrhistogram.Histogram) []byte {
	b, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		panic(fmt.Sprintf("worker: encode a histogram: %v", err)) // it is written into memory
	}
	return b
}

// overdueAfter is how far the generator may be behind before a message counts as
// held up by it.
const overdueAfter = 10 * time.Millisecond

// late notes how far the generator itself was behind its schedule, in
// nanoseconds, and whether that makes one more message overdue.
func (m *meter) late(by int64, counted bool) (overdue bool) {
	if by > int64(overdueAfter) && !counted {
		m.overdue.Add(1)
		counted = true
	}
	for {
		most := m.lag.Load()
		if by <= most || m.lag.CompareAndSwap(most, by) {
			return counted
		}
	}
}
