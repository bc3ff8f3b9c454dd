package report

import "math"

// thin reduces lines that share their x values to at most limit points, and
// keeps the least and the most of each line in each stretch: a spike of one
// second in an hour stays as high as it was. Where it stood within its stretch
// may shift. NaN is no value.
func thin(x []float64, lines [][]float64, limit int) ([]float64, [][]float64) {
	n := len(x)
	if n <= limit || limit < 2 {
		return x, lines
	}
	stretches := limit / 2
	thinX := make([]float64, 0, 2*stretches)
	thinned := make([][]float64, len(lines))
	for s := range stretches {
		from, to := s*n/stretches, (s+1)*n/stretches
		thinX = append(thinX, x[from], x[to-1])
		for i, line := range lines {
			least, most, mostFirst := math.NaN(), math.NaN(), false
			for _, v := range line[from:to] {
				if math.IsNaN(v) {
					continue
				}
				if !(v >= least) {
					least, mostFirst = v, !math.IsNaN(most)
				}
				if !(v <= most) {
					most, mostFirst = v, false
				}
			}
			if mostFirst {
				least, most = most, least
			}
			thinned[i] = append(thinned[i], least, most)
		}
	}
	return thinX, thinned
}
