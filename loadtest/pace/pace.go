// Package pace says when an agent sends what: arithmetic from a scenario and a
// seed. The same of both gives the same schedule, on any machine.
//
// It starts no goroutine and reads no clock. A [Pacer] costs about a hundred
// bytes and no allocation per message, for there are hundreds of thousands.
package pace

import (
	"hash/fnv"
	"math"
	"time"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/loadtest/scenario"
)

// A Pacer yields the schedule of one flow of one agent. It is not safe for
// concurrent use.
type Pacer struct {
	sizes   Sizes
	pattern pattern
	gap     float64 // nanoseconds between two drawings, or two bursts
	at      float64 // nanoseconds from the arrival to the first, without After; of poisson: to the latest
	after   time.Duration
	drawn   int64 // so far
	count   int64 // at most; 0: no bound
	burst   int64 // drawings that share a time
	offset  time.Duration
}

type pattern uint8

const (
	regular pattern = iota // constant, and burst
	poisson
	once // all at After
)

// New makes the pacer of an agent, whose number in its group is agent. Two
// flows of one agent need two seeds, see [Seed]: with one they would send at
// the same moments.
//
// Agents of a constant flow begin at phases that are spread evenly over its
// interval, so that the sum of them is even too.
func New(flow scenario.Flow, seed uint64, agent int) *Pacer {
	p := &Pacer{
		sizes: *NewSizes(flow.Size, ^seed, agent), // so that answers drawn with seed are others
		after: time.Duration(flow.After),
		count: int64(flow.Count),
		burst: 1,
	}
	switch {
	case flow.Closed || flow.Rate <= 0:
		p.pattern = once
		return p
	case flow.Pattern == scenario.Poisson:
		p.pattern = poisson
	case flow.Pattern == scenario.Burst:
		p.burst = int64(max(1, flow.Burst))
	}
	p.gap = float64(time.Second) / flow.Rate * float64(p.burst)
	if p.pattern == regular {
		p.at = p.gap * phase(seed, agent)
	}
	return p
}

// phase is in [0, 1). Multiples of the golden ratio fill a circle evenly,
// however many there are.
func phase(seed uint64, agent int) float64 {
	start := dice(seed)
	u := start.float() + float64(agent)*(math.Phi-1)
	return u - math.Floor(u)
}

// Next returns the time of the next message, from the agent's arrival, and its
// size; false: there are no more. Times never go back. A file's pieces have one
// time, and count as one.
func (p *Pacer) Next() (offset time.Duration, size int, ok bool) {
	if p.sizes.left > 0 {
		return p.offset, p.sizes.Next(), true
	}
	if p.count > 0 && p.drawn >= p.count {
		return 0, 0, false
	}
	since := p.at
	switch p.pattern {
	case regular:
		since += float64(p.drawn/p.burst) * p.gap // from the start each time: sums of rounded steps would drift
	case poisson:
		p.at += p.sizes.dice.exponential() * p.gap
		since = p.at
	case once:
	}
	p.drawn++
	p.offset = p.after + time.Duration(min(since, math.MaxInt64/2))
	return p.offset, p.sizes.Next(), true
}

// Sizes draws from a distribution of sizes. It is not safe for concurrent use.
type Sizes struct {
	dice  dice
	parts []scenario.Part // shared by all agents of a group
	total float64         // of their weights
	left  int32           // pieces of the file that has begun
	piece int32           // its part
}

var usual = []scenario.Part{{Min: 256, Max: 256, Weight: 1}}

// NewSizes makes the sizes of an agent's messages, or of its answers.
func NewSizes(size scenario.Size, seed uint64, agent int) *Sizes {
	s := &Sizes{parts: size.Parts}
	if len(s.parts) == 0 {
		s.parts = usual
	}
	for _, p := range s.parts {
		s.total += p.Weight
	}
	s.dice = dice(seed)
	s.dice = dice(s.dice.next() + uint64(agent)*golden)
	s.dice.next()
	return s
}

// Next returns the next size, at least check.Header. The pieces of a file
// follow each other.
func (s *Sizes) Next() int {
	part := s.piece
	if s.left > 0 {
		s.left--
	} else {
		part = s.draw()
		s.piece, s.left = part, int32(max(1, s.parts[part].Pieces)-1)
	}
	p := &s.parts[part]
	return max(check.Header, p.Min+s.dice.below(p.Max-p.Min+1))
}

// draw takes a part in proportion to its weight.
func (s *Sizes) draw() int32 {
	if len(s.parts) == 1 {
		return 0
	}
	rest := s.dice.float() * s.total
	for i := range s.parts {
		if rest -= s.parts[i].Weight; rest < 0 {
			return int32(i)
		}
	}
	return int32(len(s.parts) - 1) // a sum was rounded
}

// At is when agent i of a group, counted from 0, arrives after the start.
func At(g scenario.Group, i int) time.Duration {
	return time.Duration(g.Arrive.After) + time.Duration(float64(g.Arrive.Ramp)*float64(i)/float64(max(1, g.Agents)))
}

// Seed derives a seed for something that has a name, such as "builders.up".
func Seed(seed uint64, name string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name)) // which cannot fail
	d := dice(seed ^ h.Sum64())
	return d.next()
}

// dice is splitmix64: eight bytes of state, where math/rand/v2 has sixteen
// behind a pointer.
type dice uint64

const golden = 0x9e3779b97f4a7c15

func (d *dice) next() uint64 {
	*d += golden
	z := uint64(*d)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// float is in [0, 1).
func (d *dice) float() float64 { return float64(d.next()>>11) / (1 << 53) }

// exponential has mean 1.
func (d *dice) exponential() float64 { return -math.Log(1 - d.float()) }

// below is in [0, n); its bias is 2^-53 n, which nobody sees.
func (d *dice) below(n int) int {
	if n <= 1 {
		return 0
	}
	return int(d.float() * float64(n))
}
