package report

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestThinningKeepsTheExtremes(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for _, n := range []int{0, 1, 10, 2000, 2001, 3999, 50_000} {
		x, a, b := make([]float64, n), make([]float64, n), make([]float64, n)
		for i := range n {
			x[i], a[i], b[i] = float64(i), rnd.NormFloat64(), math.NaN()
			if i%3 == 0 {
				b[i] = rnd.ExpFloat64()
			}
		}
		if n > 20 {
			a[n/2], b[n/3] = 1e9, -1e9
		}
		tx, lines := thin(x, [][]float64{a, b}, 2000)
		if len(tx) > 2000 || !slices.IsSorted(tx) || len(lines[0]) != len(tx) || len(lines[1]) != len(tx) {
			t.Errorf("%d points: %d left, sorted %v", n, len(tx), slices.IsSorted(tx))
		}
		if n > 20 && (slices.Max(lines[0]) != 1e9 || !slices.Contains(lines[1], -1e9)) {
			t.Errorf("%d points: a spike is gone", n)
		}
	}
}

func TestThinningKeepsTheOrderWithinAStretch(t *testing.T) {
	x := []float64{0, 1, 2, 3, 4, 5, 6, 7}
	_, lines := thin(x, [][]float64{{0, 1, 2, 3, 3, 2, 1, 0}}, 4)
	if !slices.Equal(lines[0], []float64{0, 3, 3, 0}) {
		t.Errorf("got %v, want up and down again", lines[0])
	}
}
