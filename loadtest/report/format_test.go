package report

import (
	"strings"
	"testing"
)

func TestQuantities(t *testing.T) {
	for _, c := range []struct {
		v          float64
		unit, want string
	}{
		{0, "", "0"}, {7, "messages", "7 messages"}, {999, "", "999"}, {1000, "", "1_000"}, {1234567, "1/s", "1_234_567 1/s"}, {-1234.5, "", "-1_234"},
		{999.7, "", "1_000"}, {123.4, "ms", "123 ms"}, {12.34, "ms", "12.3 ms"}, {9.999, "ms", "10.0 ms"}, {1.234, "ms", "1.23 ms"},
		{0.01234, "ms", "0.01 ms"}, {0.001234, "", "0.00123"}, {999.4, "ms", "999 ms"}, {1069, "ms", "1.07 s"}, {60000, "ms", "60 s"},
		{512, "B", "512 B"}, {1536, "B", "1.50 KiB"}, {-2 << 30, "B", "-2 GiB"}, {3 << 20, "B/s", "3 MiB/s"},
	} {
		if got := strings.ReplaceAll(quantity(c.v, c.unit), "\u202f", "_"); got != c.want {
			t.Errorf("%v %s is %q, want %q", c.v, c.unit, got, c.want)
		}
	}
}

func TestClock(t *testing.T) {
	for seconds, want := range map[float64]string{0: "0:00.0", 9.96: "0:10.0", 59.97: "1:00.0", 3723.4: "1:02:03.4", -1: "-0:01.0"} {
		if got := clock(seconds); got != want {
			t.Errorf("%v is %q, want %q", seconds, got, want)
		}
	}
}
