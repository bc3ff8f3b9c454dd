package report

import "math"

const (
	// slopeBlocks is of how many means a trend is made: a minute each in a run of
	// half an hour.
	slopeBlocks = 30
	// leastFreedom bounds how uncertain the noise is taken to be: of the few values
	// that very slow noise leaves, next to nothing could be told.
	leastFreedom = 4
)

// Slope is the trend of values over time (at, in seconds) by least squares, per
// hour, with its 95 % confidence interval. An interval that includes 0 says
// that the values can not be told from ones without a trend.
//
// What a process uses now is close to what it used a second ago, so samples
// tell less than their number suggests, and the usual formula would find a
// trend in every saw tooth. Two things stand against that. The samples are made
// into 30 means of as many each, which leaves what is slow: where fast noise is on
// top, neighbouring samples resemble each other little even if their minutes
// do. And the variance of the trend grows by (1+r)/(1-r), with r the correlation
// of neighbouring means, corrected for what a fitted line takes off it, and at
// most 0.9. The interval has Student's t for the number of independent values
// that remain.
//
// It holds 0 in 93 to 96 % of runs without a trend, while the noise forgets
// itself within two minutes; in 89 % where it takes eight. See the test.
//
// ok is false for fewer than 10 samples or less than a minute.
func Slope(at, values []float64) (perHour, low, high float64, ok bool) {
	n := min(len(at), len(values))
	if n < 10 || at[n-1]-at[0] < 60 {
		return 0, 0, 0, false
	}
	x, y := means(at[:n]), means(values[:n])
	count := float64(len(x))
	var meanX, meanY float64
	for i := range x {
		meanX += x[i] / count
		meanY += y[i] / count
	}
	var sxx, sxy float64
	for i := range x {
		sxx += (x[i] - meanX) * (x[i] - meanX)
		sxy += (x[i] - meanX) * (y[i] - meanY)
	}
	if sxx == 0 {
		return 0, 0, 0, false
	}
	slope := sxy / sxx
	var sum, beside, last float64 // squares of deviations; products of neighbours
	for i := range x {
		d := y[i] - meanY - slope*(x[i]-meanX)
		sum += d * d
		beside += d * last
		last = d
	}
	if sum < 1e-9*(1+meanY*meanY) { // a line, but for rounding
		if math.Abs(slope)*(at[n-1]-at[0]) < 1e-9*(1+math.Abs(meanY)) {
			slope = 0
		}
		return slope * 3600, slope * 3600, slope * 3600, true
	}
	r := beside / sum
	r = min(max(0, r+(1+4*r)/count), 0.9)
	inflated := (1 + r) / (1 - r)
	margin := student975(max(leastFreedom, count/inflated-2)) * math.Sqrt(sum/(count-2)/sxx*inflated)
	return slope * 3600, (slope - margin) * 3600, (slope + margin) * 3600, true
}

// means cuts values into slopeBlocks stretches, as equal as can be, and returns
// the mean of each; fewer values stay as they are.
func means(values []float64) []float64 {
	n := len(values)
	if n <= slopeBlocks {
		return values
	}
	means := make([]float64, slopeBlocks)
	for i := range means {
		stretch := values[i*n/slopeBlocks : (i+1)*n/slopeBlocks]
		for _, v := range stretch {
			means[i] += v / float64(len(stretch))
		}
	}
	return means
}

// student975 is the 97.5 % quantile of Student's t with so many degrees of
// freedom, below 1 % off from 3 on.
func student975(df float64) float64 {
	const z = 1.959964
	z3, z5, z7 := math.Pow(z, 3), math.Pow(z, 5), math.Pow(z, 7)
	return z + (z3+z)/(4*df) + (5*z5+16*z3+3*z)/(96*df*df) + (3*z7+19*z5+17*z3-15*z)/(384*df*df*df)
}
