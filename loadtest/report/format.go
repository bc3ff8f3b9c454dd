package report

import (
	"fmt"
	"math"
	"strconv"

	"github.com/moorage-dev/moorage/loadtest/figure"
)

// number3 writes a number with about three digits that mean something, and
// thousands apart: 1 234, 12.3, 0.0123.
func number3(v float64) string {
	switch a := math.Abs(v); {
	case a == math.Trunc(a) && a < 1000:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 999.5 && a < 1e15:
		return thousands(v)
	case a >= 99.95:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 9.995:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case a >= 0.01:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

func thousands(v float64) string {
	digits := strconv.FormatFloat(math.Abs(v), 'f', 0, 64)
	grouped := ""
	for len(digits) > 3 {
		grouped = "\u202f" + digits[len(digits)-3:] + grouped // narrow, and no line break
		digits = digits[:len(digits)-3]
	}
	if v < 0 {
		digits = "-" + digits
	}
	return digits + grouped
}

// quantity writes a value with its unit; bytes in steps of 1024.
func quantity(v float64, unit string) string {
	switch unit {
	case "B", "B/s", "B/h":
		return bytesOf(v) + unit
	case "ms":
		if math.Abs(v) >= 999.5 {
			return number3(v/1000) + " s"
		}
	case "":
		return number3(v)
	}
	return number3(v) + " " + unit
}

func bytesOf(v float64) string {
	steps := []string{" ", " Ki", " Mi", " Gi", " Ti"}
	i := 0
	for math.Abs(v) >= 1024 && i < len(steps)-1 {
		v, i = v/1024, i+1
	}
	return number3(v) + steps[i]
}

// withUnit writes a figure's value with its unit, if it is one.
func withUnit(name string, v float64) string {
	if f := figure.Of(name); f != nil {
		return quantity(v, f.Unit)
	}
	return fmt.Sprintf("%g", v)
}
