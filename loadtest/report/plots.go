package report

import (
	"math"
	"slices"
	"strconv"

	"github.com/moorage-dev/moorage/loadtest/results"
)

// A plot is lines over the seconds of one run.
type plot struct {
	ID    string
	Title string
	Note  string
	Unit  string // of package figure; "cores"
	Log   bool
	X     []float64
	Lines []line
	Marks bool // of faults
}

// A line is one of a plot; NaN is no value.
type line struct {
	Label  string
	Values []float64
}

// plotsOf are a run's, without those that have nothing to show.
func plotsOf(run *results.Run) []plot {
	all := []plot{rates(run), agents(run)}
	for _, way := range []string{"down", "up", "request"} {
		all = append(all, latency(run, way))
	}
	all = append(all, kafka(run))
	all = append(all, usage(run)...)
	all = append(all, lag(run))
	return slices.DeleteFunc(all, func(p plot) bool {
		return !slices.ContainsFunc(p.Lines, func(l line) bool {
			return slices.ContainsFunc(l.Values, func(v float64) bool { return !math.IsNaN(v) })
		})
	})
}

func overTicks(run *results.Run, value func(results.Tick) float64) []float64 {
	values := make([]float64, len(run.Ticks))
	for i, t := range run.Ticks {
		values[i] = value(t)
	}
	return values
}

func times(run *results.Run) []float64 {
	return overTicks(run, func(t results.Tick) float64 { return t.At })
}

func rates(run *results.Run) plot {
	p := plot{
		ID: "rate", Title: "Messages received", Unit: "1/s", X: times(run), Marks: true,
		Note: "Per second, after the checker has judged them.",
	}
	for way, label := range ways {
		p.Lines = append(p.Lines, line{label, overTicks(run, func(t results.Tick) float64 { return float64(t.Received[way]) })})
	}
	return p
}

func agents(run *results.Run) plot {
	return plot{ID: "agents", Title: "Agents with a session", X: times(run), Marks: true, Lines: []line{
		{"agents", overTicks(run, func(t results.Tick) float64 { return float64(t.Agents) })},
	}}
}

func latency(run *results.Run, way string) plot {
	titles := map[string]string{
		"down": "Latency down, application to agent", "up": "Latency up, agent to application", "request": "Latency of requests, both ways",
	}
	p := plot{
		ID: "latency-" + way, Title: titles[way], Unit: "ms", Log: true, X: times(run), Marks: true,
		Note: "From the scheduled time of each message, also while nothing could be sent. Logarithmic.",
	}
	of := func(value func(results.Hist) (float64, bool)) []float64 {
		return overTicks(run, func(t results.Tick) float64 {
			if h, ok := t.P[way]; ok && h.Count > 0 {
				if v, ok := value(h); ok && v > 0 {
					return v
				}
			}
			return math.NaN()
		})
	}
	for _, percentile := range []string{"50", "99"} {
		p.Lines = append(p.Lines, line{"p" + percentile, of(func(h results.Hist) (float64, bool) { v, ok := h.P[percentile]; return v, ok })})
	}
	p.Lines = append(p.Lines, line{"max", of(func(h results.Hist) (float64, bool) { return h.Max, true })})
	return p
}

// kafka is over five seconds, for what is read in one may be delivered in the next.
func kafka(run *results.Run) plot {
	const span = 5
	p := plot{
		ID: "kafka", Title: "Kafka bytes read ÷ delivered", X: times(run), Marks: true,
		Note: "Bytes that gateways read from Kafka for each byte that agents received, over five seconds.",
	}
	values := make([]float64, len(run.Ticks))
	for i := range run.Ticks {
		values[i] = math.NaN()
		read, delivered, ok := 0.0, 0.0, i >= span
		for j := max(1, i-span+1); j <= i; j++ {
			before, had := run.Ticks[j-1].Extra["kafka_read_bytes"]
			now, has := run.Ticks[j].Extra["kafka_read_bytes"]
			ok = ok && had && has
			read += increase(before, now)
			delivered += float64(run.Ticks[j].Bytes[1])
		}
		if ok && delivered > 0 {
			values[i] = read / delivered
		}
	}
	p.Lines = []line{{"read ÷ delivered", values}}
	return p
}

func lag(run *results.Run) plot {
	return plot{
		ID: "lag", Title: "Generator lag", Unit: "ms", X: times(run), Marks: true,
		Note: "How far the generator was behind its own schedule at most. What is above the latencies of interest spoils them.",
		Lines: []line{
			{"lag", overTicks(run, func(t results.Tick) float64 { return t.Lag })},
		},
	}
}

// usage is what each process used.
func usage(run *results.Run) []plot {
	var plots []plot
	for _, kind := range []struct {
		id, title, unit, note string
		value                 func(results.Sample) (float64, bool)
	}{
		{"memory", "Memory", "B", "Resident set of each process.", func(s results.Sample) (float64, bool) { return float64(s.RSS), true }},
		{"cpu", "Processor", "cores", "Cores that each process used, user and system.", func(s results.Sample) (float64, bool) { return s.CPU, true }},
		{"goroutines", "Goroutines", "", "Of the processes that tell.", func(s results.Sample) (float64, bool) { return float64(s.Goroutines), s.Goroutines > 0 }},
		{"files", "Open files", "", "", func(s results.Sample) (float64, bool) { return float64(s.Files), s.Files > 0 }},
	} {
		x, lines := bySecond(run, kind.value)
		plots = append(plots, plot{ID: kind.id, Title: kind.title, Unit: kind.unit, Note: kind.note, X: x, Marks: true, Lines: lines})
	}
	return plots
}

// bySecond puts the samples of all processes on common seconds, so that one x
// serves all and they can be added up. On a busy machine a second may go by
// without a sample; its value is the one before, but a process that is silent
// for more than a few is not there.
func bySecond(run *results.Run, value func(results.Sample) (float64, bool)) (x []float64, lines []line) {
	const silent = 5
	last := 0
	for _, p := range run.Processes {
		for _, s := range p.Samples {
			last = max(last, second(s))
		}
	}
	last = min(last, 7*24*3600) // a clock that jumped must not cost the memory of a year
	x = make([]float64, last+1)
	for i := range x {
		x[i] = float64(i)
	}
	byName := map[string]int{}
	for _, process := range run.Processes {
		i, ok := byName[process.Name] // a process that was started again goes on with its line
		if !ok {
			i = len(lines)
			byName[process.Name] = i
			lines = append(lines, line{process.Name, nothing(len(x))})
		}
		values, before := lines[i].Values, -1
		for _, s := range process.Samples {
			v, ok := value(s)
			at := second(s)
			if !ok || at < 0 || at > last {
				continue
			}
			for gap := before + 1; before >= 0 && at-before <= silent && gap < at; gap++ {
				values[gap] = values[before]
			}
			values[at], before = v, at
		}
	}
	return x, slices.DeleteFunc(lines, func(l line) bool {
		return !slices.ContainsFunc(l.Values, func(v float64) bool { return !math.IsNaN(v) })
	})
}

func second(s results.Sample) int { return int(math.Round(s.At)) }

func nothing(n int) []float64 {
	values := make([]float64, n)
	for i := range values {
		values[i] = math.NaN()
	}
	return values
}

// A summary says in numbers what a line shows.
type summary struct {
	Label, Least, Mean, Most, Last string
}

func (p plot) Summaries() []summary {
	var all []summary
	for _, l := range p.Lines {
		least, most, sum, n, last := math.Inf(1), math.Inf(-1), 0.0, 0.0, math.NaN()
		for _, v := range l.Values {
			if !math.IsNaN(v) {
				least, most, sum, n, last = min(least, v), max(most, v), sum+v, n+1, v
			}
		}
		if n == 0 {
			continue
		}
		all = append(all, summary{l.Label, quantity(least, p.Unit), quantity(sum/n, p.Unit), quantity(most, p.Unit), quantity(last, p.Unit)})
	}
	return all
}

// A short number is written to JSON with five digits that count, and NaN as
// null: a page of many runs should still open on a phone.
type short float64

func (s short) MarshalJSON() ([]byte, error) {
	v := float64(s)
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return []byte("null"), nil
	}
	b := strconv.AppendFloat(nil, v, 'g', 5, 64)
	if f, err := strconv.ParseFloat(string(b), 64); err == nil {
		b = strconv.AppendFloat(b[:0], f, 'f', -1, 64)
	}
	return b, nil
}

func shorts(values []float64) []short {
	all := make([]short, len(values))
	for i, v := range values {
		all[i] = short(v)
	}
	return all
}
