package report

import "math"

// Slope is the trend of values over time (at, in seconds) by least squares, per
// hour, with its 95 % confidence interval. An interval that includes 0 says
// that the values can not be told from ones without a trend.
//
// What a process uses now is close to what it used a second ago, so samples
// tell less than their number suggests, and the usual formula would find a
// trend in every saw tooth. Here the number is first reduced by how much
// neighbouring deviations resemble each other: n·(1-r)/(1+r), with r their
// correlation, but not below 3. ok is false for fewer than 10 samples or less
// than a minute.
func Slope(at, values []float64) (perHour, low, high float64, ok bool) {
	n := min(len(at), len(values))
	if n < 10 || at[n-1]-at[0] < 60 {
		return 0, 0, 0, false
	}
	var meanX, meanY float64
	for i := range n {
		meanX += at[i] / float64(n)
		meanY += values[i] / float64(n)
	}
	var sxx, sxy float64
	for i := range n {
		sxx += (at[i] - meanX) * (at[i] - meanX)
		sxy += (at[i] - meanX) * (values[i] - meanY)
	}
	if sxx == 0 {
		return 0, 0, 0, false
	}
	slope := sxy / sxx
	var sum, beside, last float64 // squares of deviations; products of neighbours
	for i := range n {
		d := values[i] - meanY - slope*(at[i]-meanX)
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
	r := max(0, beside/sum)
	effective := max(3, float64(n)*(1-r)/(1+r))
	margin := student975(effective-2) * math.Sqrt(sum/(effective-2)/sxx)
	return slope * 3600, (slope - margin) * 3600, (slope + margin) * 3600, true
}

// student975 is the 97.5 % quantile of Student's t with so many degrees of
// freedom: exact for 1 and 2, below 1 % off otherwise.
func student975(df float64) float64 {
	switch {
	case df < 2: // between the exact values of 1 and 2
		return 12.706 + (4.303-12.706)*(max(1, df)-1)
	case df < 3:
		return 4.303 + (3.182-4.303)*(df-2)
	}
	const z = 1.959964
	z3, z5, z7 := math.Pow(z, 3), math.Pow(z, 5), math.Pow(z, 7)
	return z + (z3+z)/(4*df) + (5*z5+16*z3+3*z)/(96*df*df) + (3*z7+19*z5+17*z3-15*z)/(384*df*df*df)
}
