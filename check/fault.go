package check

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// feltFor is how long after a fault a message may be sent and still count as
// having met it: a cut link is noticed by the next message, not by the last.
const feltFor = time.Second

// maxFaults bounds the faults that messages are still held against.
const maxFaults = 1024

// A fault is one injected fault and the longest wait it is to blame for.
type fault struct {
	name  string
	at    time.Time
	worst time.Duration
}

// Fault records that a fault was injected now. Its recovery time is the longest
// that any message under way then, or sent within a second after it, waited
// from the fault on. Messages of the calm rest count too, so a fault that
// nobody felt recovers in about the calm latency.
func (c *Checker) Fault(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.faults) == maxFaults {
		half := maxFaults / 2
		for _, f := range c.faults[:half] {
			c.recovered(c.recovery, f)
		}
		c.faults = append(c.faults[:0], c.faults[half:]...)
	}
	c.faults = append(c.faults, fault{name: name, at: c.cfg.Now()})
}

// feel holds one message's wait against the faults it met. Faults stand in the
// order of time, so only the latest few are looked at. c.mu is held.
func (c *Checker) feel(sent, now time.Time) {
	for i := len(c.faults) - 1; i >= 0; i-- {
		f := &c.faults[i]
		if sent.Sub(f.at) > feltFor {
			return
		}
		f.worst = max(f.worst, now.Sub(later(f.at, sent)))
	}
}

// later returns the later of two instants: what waits for both waits from then.
func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func (c *Checker) recovered(into map[string]*hdrhistogram.Histogram, f fault) {
	h := into[f.name]
	if h == nil {
		h = newHistogram()
		into[f.name] = h
	}
	record(h, f.worst)
}

// newHistogram counts microseconds from 1 µs to an hour, to three digits.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, time.Hour.Microseconds(), 3)
}

// record counts d, held within the histogram's range: an hour is as bad as more.
func record(h *hdrhistogram.Histogram, d time.Duration) {
	us := min(max(d.Microseconds(), 1), time.Hour.Microseconds())
	if err := h.RecordValue(us); err != nil {
		panic("check: " + err.Error()) // within range by the line above
	}
}
