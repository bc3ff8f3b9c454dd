package report_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/moorage-dev/moorage/loadtest/report"
)

func TestSlope(t *testing.T) {
	for _, c := range []struct {
		what  string
		value func(second int, rnd *rand.Rand) float64
		trend bool // told from chance
	}{
		{"constant", func(int, *rand.Rand) float64 { return 5 }, false},
		{"noise", func(_ int, rnd *rand.Rand) float64 { return 1e8 + 1e6*rnd.NormFloat64() }, false},
		{"saw tooth of a garbage collector", func(s int, _ *rand.Rand) float64 { return 1e8 + 1e6*float64(s%97) }, false},
		{"one step", func(s int, _ *rand.Rand) float64 {
			if s > 900 {
				return 2e8
			}
			return 1e8
		}, false},
		{"leak under noise", func(s int, rnd *rand.Rand) float64 { return 1e8 + 1e4*float64(s) + 1e6*rnd.NormFloat64() }, true},
		{"leak under a saw tooth", func(s int, _ *rand.Rand) float64 { return 1e8 + 1e5*float64(s) + 1e5*float64(s%60) }, true},
		{"line", func(s int, _ *rand.Rand) float64 { return 3 * float64(s) }, true},
	} {
		rnd := rand.New(rand.NewPCG(1, 2))
		var at, values []float64
		for s := range 1800 {
			at, values = append(at, float64(s)), append(values, c.value(s, rnd))
		}
		slope, low, high, ok := report.Slope(at, values)
		if !ok || low > slope || high < slope {
			t.Errorf("%s: %g in [%g, %g], ok %v", c.what, slope, low, high, ok)
		}
		if told := low > 0 || high < 0; told != c.trend {
			t.Errorf("%s: %g in [%g, %g] per hour; told from chance: %v, want %v", c.what, slope, low, high, told, c.trend)
		}
	}
}

// TestSlopeOfNoise: with noise that resembles itself from second to second, as
// memory does, about 95 % of intervals hold 0 and a trend is found all the same.
func TestSlopeOfNoise(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		what        string
		remembers   float64 // correlation of a second with the next
		slow, fast  float64 // standard deviations: of what remembers, and of what comes on top
		least, most float64 // share of runs whose interval holds 0
		leak        float64 // per hour, found in at least nine of ten runs
	}{
		{"none remembers", 0, 1 * mib, 0, 0.93, 0.99, 1 * mib},
		{"ten seconds", 0.9, 1 * mib, 0, 0.92, 0.99, 3.5 * mib},
		{"half a minute", 0.97, 1 * mib, 0, 0.90, 0.99, 8 * mib},
		{"half a minute, little", 0.97, 0.1 * mib, 0, 0.90, 0.99, 1 * mib},
		{"two minutes", 0.99, 1 * mib, 0, 0.90, 0.99, 16 * mib},
		{"two minutes under a garbage collector's", 0.99, 0.6 * mib, 1.2 * mib, 0.88, 0.99, 9 * mib},
	} {
		const runs = 300
		rnd := rand.New(rand.NewPCG(3, 4))
		free, found := 0, 0
		for range runs {
			var at, values, leaking []float64
			state := c.slow * rnd.NormFloat64()
			for s := range 1800 {
				state = c.remembers*state + math.Sqrt(1-c.remembers*c.remembers)*c.slow*rnd.NormFloat64()
				v := 100*mib + state + c.fast*rnd.NormFloat64()
				at, values, leaking = append(at, float64(s)), append(values, v), append(leaking, v+c.leak*float64(s)/3600)
			}
			if _, low, high, ok := report.Slope(at, values); ok && low <= 0 && high >= 0 {
				free++
			}
			if _, low, _, ok := report.Slope(at, leaking); ok && low > 0 {
				found++
			}
		}
		if share := float64(free) / runs; share < c.least || share > c.most {
			t.Errorf("%s: %.3f of intervals hold 0, want %.2f to %.2f", c.what, share, c.least, c.most)
		}
		if share := float64(found) / runs; share < 0.9 {
			t.Errorf("%s: %.1f MiB/h are found in %.3f of runs", c.what, c.leak/mib, share)
		}
	}
}

func TestSlopeOfALine(t *testing.T) {
	var at, values []float64
	for s := range 100 {
		at, values = append(at, float64(s)), append(values, 7+2*float64(s))
	}
	slope, low, high, ok := report.Slope(at, values)
	if !ok || math.Abs(slope-7200) > 1e-6 || math.Abs(low-7200) > 1e-3 || math.Abs(high-7200) > 1e-3 {
		t.Errorf("%v in [%v, %v], ok %v; want 7200 per hour", slope, low, high, ok)
	}
}

func TestTooFewSamplesHaveNoSlope(t *testing.T) {
	at := []float64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}
	for _, n := range []int{0, 1, 9, 11} { // the last are of ten seconds only
		if _, _, _, ok := report.Slope(at[:n], at[:n]); ok {
			t.Errorf("%d samples have a slope", n)
		}
	}
}
