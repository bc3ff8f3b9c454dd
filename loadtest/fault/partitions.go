package fault

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/moorage-dev/moorage/loadtest/scenario"
)

// MaxPartitions is how many partitions a run's topics can grow to: each costs
// every gateway and the broker memory, and a file or two.
const MaxPartitions = 256

// startPartitions are those of the topics when a scenario does not say.
const startPartitions = 16

// Grown returns how many partitions there are after an add-partitions: with a
// setting count so many more, without twice as many. Topics have a power of two,
// MaxPartitions at most; an error says what could be instead.
func Grown(now int, with map[string]string) (int, error) {
	more := now
	if text := with["count"]; text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return now, fmt.Errorf("count %q: want a number above 0", text)
		}
		more = n
	}
	n := now + more
	switch {
	case n > MaxPartitions:
		return now, fmt.Errorf("%d partitions and %d more are above %d, too many for one machine; start with fewer (local.partitions), or add less often", now, more, MaxPartitions)
	case n&(n-1) != 0:
		return now, fmt.Errorf("%d partitions and %d more are %d, which is no power of two; set count to %d, or leave it out", now, more, n, now)
	}
	return n, nil
}

// A named fault is one of a plan, and what the scenario calls it.
type named struct {
	scenario.Fault
	name string
}

// grow returns how many partitions there are after all that a scenario adds
// itself. An error names the one that cannot be.
func (w world) grow(adds []named) (n int, err error) {
	slices.SortStableFunc(adds, func(a, b named) int { return cmp.Compare(a.At, b.At) })
	n = w.starts
	for _, f := range adds {
		if n, err = Grown(n, f.With); err != nil {
			return n, wrong(f.name, "%s at %s: %v", f.Do, time.Duration(f.At), err)
		}
	}
	return n, nil
}
