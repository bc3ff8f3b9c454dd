package pace_test

import (
	"math"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/loadtest/pace"
	"github.com/moorage-dev/moorage/loadtest/scenario"
	"pgregory.net/rapid"
)

func size(t interface{ Fatal(...any) }, text string) scenario.Size {
	s, err := scenario.ParseSize(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// offsets are the first n, less that of the first: what a phase does not change.
func offsets(p *pace.Pacer, n int) (first time.Duration, rest []time.Duration) {
	for i := range n {
		at, _, ok := p.Next()
		if !ok {
			break
		}
		if i == 0 {
			first = at
		}
		rest = append(rest, at-first)
	}
	return first, rest
}

func TestPatterns(t *testing.T) {
	const ms = time.Millisecond
	second := scenario.Duration(time.Second)
	for _, tt := range []struct {
		desc  string
		flow  scenario.Flow
		first [2]time.Duration // between these
		rest  []time.Duration
	}{
		{"constant", scenario.Flow{Rate: 10}, [2]time.Duration{0, 100 * ms}, []time.Duration{0, 100 * ms, 200 * ms, 300 * ms, 400 * ms}},
		{"after the arrival", scenario.Flow{Rate: 10, After: second}, [2]time.Duration{1000 * ms, 1100 * ms}, []time.Duration{0, 100 * ms, 200 * ms, 300 * ms, 400 * ms}},
		{"so many", scenario.Flow{Rate: 10, Count: 3}, [2]time.Duration{0, 100 * ms}, []time.Duration{0, 100 * ms, 200 * ms}},
		{"burst", scenario.Flow{Rate: 10, Pattern: scenario.Burst, Burst: 2}, [2]time.Duration{0, 200 * ms}, []time.Duration{0, 0, 200 * ms, 200 * ms, 400 * ms}},
		{"one, in time", scenario.Flow{Count: 1, After: second}, [2]time.Duration{1000 * ms, 1000 * ms}, []time.Duration{0}},
		{"one, within the first interval", scenario.Flow{Rate: 0.1, Count: 1, After: second}, [2]time.Duration{1000 * ms, 11_000 * ms}, []time.Duration{0}},
		{"closed", scenario.Flow{Closed: true, After: second}, [2]time.Duration{1000 * ms, 1000 * ms}, []time.Duration{0, 0, 0, 0, 0}},
		{"closed, so many", scenario.Flow{Closed: true, Count: 2}, [2]time.Duration{}, []time.Duration{0, 0}},
	} {
		for agent := range 20 {
			first, rest := offsets(pace.New(tt.flow, 7, agent), 5)
			if first < tt.first[0] || first > tt.first[1] || !slices.Equal(round(rest), tt.rest) {
				t.Errorf("%s, agent %d: from %s %v, want from %v %v", tt.desc, agent, first, rest, tt.first, tt.rest)
			}
		}
	}
}

// round takes away what floating point adds: less than a microsecond.
func round(ds []time.Duration) (rounded []time.Duration) {
	for _, d := range ds {
		rounded = append(rounded, d.Round(time.Microsecond))
	}
	return rounded
}

func TestConstantDoesNotDrift(t *testing.T) {
	p := pace.New(scenario.Flow{Rate: 3}, 1, 1)
	first, _, _ := p.Next()
	var last time.Duration
	for range 3 * 60 * 60 * 24 * 7 {
		last, _, _ = p.Next()
	}
	if off := last - first - 7*24*time.Hour; off.Abs() > 10*time.Nanosecond {
		t.Errorf("off by %s after a week", off)
	}
}

func TestAgentsOfAConstantFlowAreSpreadEvenly(t *testing.T) {
	const agents, slots = 1000, 50
	var slot [slots]int
	for agent := range agents {
		at, _, _ := pace.New(scenario.Flow{Rate: 1}, 3, agent).Next()
		slot[int(at*slots/time.Second)]++
	}
	if low, high := slices.Min(slot[:]), slices.Max(slot[:]); low < agents/slots-3 || high > agents/slots+3 {
		t.Errorf("of %d agents %d to %d begin in a fiftieth of the interval", agents, low, high)
	}
}

func TestPoissonIsPoisson(t *testing.T) {
	// The number of messages in a second has a variance like its mean.
	const seconds, rate = 4000, 20
	p := pace.New(scenario.Flow{Rate: rate, Pattern: scenario.Poisson}, 5, 0)
	counts := make([]float64, seconds)
	for {
		at, _, _ := p.Next()
		if at >= seconds*time.Second {
			break
		}
		counts[int(at/time.Second)]++
	}
	mean, variance := 0.0, 0.0
	for _, c := range counts {
		mean += c / seconds
	}
	for _, c := range counts {
		variance += (c - mean) * (c - mean) / seconds
	}
	if math.Abs(mean-rate) > 0.5 || math.Abs(variance-rate) > 2 {
		t.Errorf("mean %.2f, variance %.2f, want %d for both", mean, variance, rate)
	}
}

func TestSizesFollowTheirWeights(t *testing.T) {
	s, err := scenario.Parse("x.yaml", []byte(`length: 1s
groups: [{name: g, agents: 1, up: {rate: 1, size: [{size: 100-200, weight: 3}, {size: 8KiB, weight: 1}, {size: 64KiB, weight: 0.1, pieces: 5}]}}]`))
	if err != nil {
		t.Fatal(err)
	}
	p := pace.New(*s.Groups[0].Up, 1, 0)
	const n = 100_000
	var small, chunk, pieces int
	var previous time.Duration
	for range n {
		at, size, _ := p.Next()
		switch {
		case size >= 100 && size <= 200:
			small++
		case size == 8<<10:
			chunk++
		case size == 64<<10:
			if pieces++; pieces%5 != 1 && at != previous {
				t.Fatalf("piece %d at %s, the one before at %s", pieces, at, previous)
			}
		default:
			t.Fatalf("a message of %d bytes", size)
		}
		previous = at
	}
	if ratio := float64(small) / float64(chunk); math.Abs(ratio-3) > 0.1 {
		t.Errorf("%d small ones for %d chunks", small, chunk)
	}
	if ratio := float64(small) / (float64(pieces) / 5); math.Abs(ratio-30) > 3 {
		t.Errorf("%d small ones for %d pieces", small, pieces)
	}
}

func TestBuildHasTheMeanItSays(t *testing.T) {
	build := size(t, scenario.Build)
	sizes := pace.NewSizes(build, 1, 0)
	// Without the files, which are too rare for a mean.
	sum, n := 0, 0
	for range 500_000 {
		if s := sizes.Next(); s < 64<<10 {
			sum, n = sum+s, n+1
		}
	}
	if mean := float64(sum) / float64(n); math.Abs(mean-1955) > 40 {
		t.Errorf("a mean of %.0f bytes", mean)
	}
}

func TestNothingIsSmallerThanAHeader(t *testing.T) {
	if n := pace.NewSizes(size(t, "1"), 1, 0).Next(); n != check.Header {
		t.Errorf("got %d bytes", n)
	}
	if n := pace.NewSizes(scenario.Size{}, 1, 0).Next(); n != 256 {
		t.Errorf("of the zero Size got %d bytes", n)
	}
}

func TestArrivals(t *testing.T) {
	g := scenario.Group{Agents: 4, Arrive: scenario.Arrive{After: scenario.Duration(time.Second), Ramp: scenario.Duration(2 * time.Second)}}
	var got []time.Duration
	for i := range 4 {
		got = append(got, pace.At(g, i))
	}
	if want := []time.Duration{time.Second, 1500 * time.Millisecond, 2 * time.Second, 2500 * time.Millisecond}; !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	if at := pace.At(scenario.Group{Agents: 4}, 3); at != 0 {
		t.Errorf("all at once: the last at %s", at)
	}
}

// TestSchedules: whatever the flow, times never go back, the rate is met, and
// the same seed gives the same again.
func TestSchedules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		flow := scenario.Flow{
			Rate:    rapid.Float64Range(0.01, 10_000).Draw(t, "rate"),
			Pattern: rapid.SampledFrom([]string{"", scenario.Constant, scenario.Poisson, scenario.Burst}).Draw(t, "pattern"),
			Size:    size(t, rapid.SampledFrom([]string{"64", "100-4KiB", "build"}).Draw(t, "size")),
			After:   scenario.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "after")),
		}
		if flow.Pattern == scenario.Burst {
			flow.Burst = rapid.IntRange(2, 20).Draw(t, "burst")
		}
		seed, agent := rapid.Uint64().Draw(t, "seed"), rapid.IntRange(0, 1_000_000).Draw(t, "agent")
		p, again := pace.New(flow, seed, agent), pace.New(flow, seed, agent)
		const n = 2000
		first, previous := time.Duration(-1), time.Duration(flow.After)
		drawings := 0
		for range n {
			at, size, ok := p.Next()
			at2, size2, _ := again.Next()
			if !ok || at != at2 || size != size2 {
				t.Fatalf("%s, %d, %t; the same seed gives %s, %d", at, size, ok, at2, size2)
			}
			if at < previous {
				t.Fatalf("%s after %s", at, previous)
			}
			if size < check.Header || size > flow.Size.Largest() {
				t.Fatalf("%d bytes", size)
			}
			if first < 0 {
				first = at
			}
			if size < 64<<10 { // pieces of a file count as one; files are too rare here to matter
				drawings++
			}
			previous = at
		}
		if drawings < n-500 {
			return // it drew a file
		}
		// Poisson: five standard deviations of a count are 5/√n of it.
		if rate, tolerance := float64(drawings)/(previous-first).Seconds(), 0.12; math.Abs(rate/flow.Rate-1) > tolerance {
			t.Fatalf("%f a second, want %f", rate, flow.Rate)
		}
	})
}

func TestAgentsAndNamesDiffer(t *testing.T) {
	flow := scenario.Flow{Rate: 1, Pattern: scenario.Poisson}
	seen := map[time.Duration]bool{}
	for agent := range 1000 {
		for _, name := range []string{"a.up", "a.down", "b.up"} {
			at, _, _ := pace.New(flow, pace.Seed(1, name), agent).Next()
			seen[at] = true
		}
	}
	if len(seen) < 2990 {
		t.Errorf("of 3000 first messages only %d have times of their own", len(seen))
	}
}

func TestPacersAreSmall(t *testing.T) {
	if n := unsafe.Sizeof(pace.Pacer{}); n > 128 {
		t.Errorf("a pacer has %d bytes", n)
	}
}

func BenchmarkNext(b *testing.B) {
	for _, pattern := range []string{scenario.Constant, scenario.Poisson} {
		b.Run(pattern, func(b *testing.B) {
			p := pace.New(scenario.Flow{Rate: 1000, Pattern: pattern, Size: size(b, scenario.Build)}, 1, 1)
			b.ReportAllocs()
			for b.Loop() {
				p.Next()
			}
		})
	}
}
