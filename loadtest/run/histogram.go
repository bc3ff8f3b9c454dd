package run

import (
	"fmt"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/moorage-dev/moorage/loadtest/results"
)

// A spread is histograms by name, in microseconds, put together from what
// workers sent.
type spread map[string]*hdrhistogram.Histogram

// add merges an encoded histogram. An empty one adds nothing.
func (s spread) add(name string, encoded []byte) error {
	if len(encoded) == 0 {
		return nil
	}
	h, err := hdrhistogram.Decode(encoded)
	if err != nil {
		return fmt.Errorf("histogram %s: %w", name, err)
	}
	s.merge(name, h)
	return nil
}

func (s spread) merge(name string, h *hdrhistogram.Histogram) {
	if s[name] == nil {
		s[name] = hdrhistogram.New(1, time.Hour.Microseconds(), 3)
	}
	s[name].Merge(h)
}

// of returns the percentiles of one histogram, those of nothing when there is none.
func (s spread) of(name string) results.Hist {
	h := s[name]
	if h == nil || h.TotalCount() == 0 {
		return results.Hist{P: map[string]float64{}}
	}
	ms := func(us int64) float64 { return float64(us) / 1000 }
	p := make(map[string]float64, len(percentiles))
	for text, q := range percentiles {
		p[text] = ms(min(h.ValueAtQuantile(q), h.Max()))
	}
	return results.Hist{Count: uint64(h.TotalCount()), Mean: h.Mean() / 1000, Max: ms(h.Max()), P: p}
}

var percentiles = map[string]float64{"50": 50, "90": 90, "99": 99, "99.9": 99.9, "99.99": 99.99}

// all returns every histogram's percentiles.
func (s spread) all() map[string]results.Hist {
	all := make(map[string]results.Hist, len(s))
	for name := range s {
		all[name] = s.of(name)
	}
	return all
}
