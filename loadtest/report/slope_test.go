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
