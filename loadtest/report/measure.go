package report

import (
	"cmp"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/moorage-dev/moorage/loadtest/fault"
	"github.com/moorage-dev/moorage/loadtest/results"
	"github.com/moorage-dev/moorage/loadtest/scenario"
)

// measure completes a run's figures with what follows from its ticks,
// histograms and samples. It does not change those that are there.
func measure(run *results.Run, s *scenario.Scenario) {
	if run.Figures == nil {
		run.Figures = map[string]float64{}
	}
	m := measuring{run: run, from: time.Duration(s.Warmup).Seconds(), to: time.Duration(s.Length).Seconds()}
	if !slices.ContainsFunc(run.Ticks, func(t results.Tick) bool { return m.counts(t.At) }) {
		m.from, m.to = 0, math.Inf(1) // ended before its warm-up did: all that there is
	}
	m.latencies()
	m.back()
	m.rates()
	m.faults()
	m.processes()
	m.kafka()
	m.slopes()
}

// measuring is the window of one run that counts, in seconds after its start.
type measuring struct {
	run      *results.Run
	from, to float64
	messages float64 // received in it, both ways
	down     float64 // bytes received in it by agents
}

// counts tells whether the second that ended at is measured: half a second of
// play, for seconds do not end on the dot.
func (m *measuring) counts(at float64) bool { return at > m.from+0.5 && at <= m.to+0.5 }

func (m *measuring) set(name string, v float64) {
	if _, ok := m.run.Figures[name]; !ok && !math.IsNaN(v) && !math.IsInf(v, 0) {
		m.run.Figures[name] = v
	}
}

func (m *measuring) hist(name string, h results.Hist) {
	if h.Count == 0 {
		return
	}
	m.set(name+".mean_ms", h.Mean)
	for p, v := range h.P {
		m.set(name+".p"+p+"_ms", v)
	}
	m.set(name+".max_ms", h.Max)
}

func (m *measuring) latencies() {
	for name, h := range m.run.Latency {
		m.hist(name, h)
	}
	m.hist("silence", m.run.Silence)
	kinds := map[string][]results.Hist{}
	for _, r := range m.run.Recovery {
		kinds["recovery"] = append(kinds["recovery"], r.Hist)
		kinds["recovery."+r.Name] = append(kinds["recovery."+r.Name], r.Hist)
	}
	for name, all := range kinds {
		m.hist(name, worst(all))
	}
}

// worst is what was worst of several faults, percentile by percentile.
// Percentiles cannot be merged; this never says less than the truth.
func worst(all []results.Hist) results.Hist {
	w := results.Hist{P: map[string]float64{}}
	for _, h := range all {
		if h.Count == 0 {
			continue
		}
		w.Mean = (w.Mean*float64(w.Count) + h.Mean*float64(h.Count)) / float64(w.Count+h.Count)
		w.Count += h.Count
		w.Max = max(w.Max, h.Max)
		for p, v := range h.P {
			w.P[p] = max(w.P[p], v)
		}
	}
	return w
}

// back is how fast sessions return that could not dial for a while. What waited
// for them was due when they were cut off, so their recovery has the time away in
// it. Where some had nothing waiting it says nothing. Of a baseline it is how fast as many open: the floor under returning.
func (m *measuring) back() {
	if m.run.System != product {
		if h := m.run.Latency["connect"]; h.Max > 0 {
			m.set("back_per_s", float64(h.Count)*1000/h.Max)
		}
		return
	}
	all := 0
	for _, t := range m.run.Ticks {
		all = max(all, t.Agents)
	}
	slowest := math.Inf(1)
	for _, r := range m.run.Recovery {
		if r.Fault >= len(m.run.Faults) || r.Name != fault.CutAgents {
			continue
		}
		away := m.run.Faults[r.Fault].For * 1000
		if took := r.Hist.Max - away; away > 0 && took > 0 && r.Hist.Count >= uint64(all) {
			slowest = min(slowest, float64(r.Hist.Count)*1000/took)
		}
	}
	m.set("back_per_s", slowest)
}

func (m *measuring) rates() {
	var received, bytes [2]float64
	first, last := math.Inf(1), 0.0
	agents, lag := 0, 0.0
	for _, t := range m.run.Ticks {
		agents = max(agents, t.Agents)
		if !m.counts(t.At) {
			continue
		}
		first, last = min(first, t.At), max(last, t.At)
		lag = max(lag, t.Lag)
		for way := range 2 {
			received[way] += float64(t.Received[way])
			bytes[way] += float64(t.Bytes[way])
		}
	}
	m.set("agents", float64(agents))
	m.set("lag_ms", lag)
	m.messages, m.down = received[0]+received[1], bytes[1]
	seconds := last - first + 1
	if seconds <= 0 || math.IsInf(seconds, 0) {
		return
	}
	for way, name := range ways {
		m.set("messages_per_s."+name, received[way]/seconds)
		m.set("bytes_per_s."+name, bytes[way]/seconds)
	}
}

// ways are the names of the two elements of a tick's counters.
var ways = [2]string{"up", "down"}

func (m *measuring) faults() {
	done, failed := 0, 0
	for _, f := range m.run.Faults {
		if f.Error == "" {
			done++
		} else {
			failed++
		}
	}
	m.set("faults", float64(done))
	m.set("failed_faults", float64(failed))
	reset := uint64(0)
	for reason, n := range m.run.Ended {
		if reason != "OK" && reason != "" {
			reset += n
		}
	}
	m.set("reset", float64(reset))
}

var number = regexp.MustCompile(`-[0-9]+$`)

// role is a process's name without its number.
func role(process string) string { return number.ReplaceAllString(process, "") }

// isGenerator tells the harness's own processes.
func isGenerator(process string) bool {
	return slices.Contains([]string{"agents", "app", "legacy"}, role(process))
}

func (m *measuring) processes() {
	cpu := map[string]float64{}
	busiest := 0.0
	for _, p := range m.run.Processes {
		r := role(p.Name)
		for i, s := range p.Samples {
			if !m.counts(s.At) {
				continue
			}
			since := 1.0 // of the first there is none before
			if i > 0 {
				since = max(0, s.At-p.Samples[i-1].At)
			}
			cpu[r] += s.CPU * since
			if isGenerator(p.Name) {
				busiest = max(busiest, s.CPU)
			}
		}
	}
	for r, seconds := range cpu {
		m.set("cpu_s."+r, seconds)
		if m.messages > 0 {
			m.set("cpu_us_per_message."+r, seconds*1e6/m.messages)
		}
	}
	if busiest > 0 {
		m.set("generator_cores", busiest)
	}
	m.memory()
}

func (m *measuring) memory() {
	_, lines := bySecond(m.run, func(s results.Sample) (float64, bool) { return float64(s.RSS), true })
	sums := map[string][]float64{} // of a role, by second
	first := 0.0                   // of all gateways
	for _, l := range lines {
		r := role(l.Label)
		if sums[r] == nil {
			sums[r] = make([]float64, len(l.Values))
		}
		if r == "gateway" {
			first += l.Values[slices.IndexFunc(l.Values, func(v float64) bool { return !math.IsNaN(v) })]
		}
		for i, v := range l.Values {
			if !math.IsNaN(v) {
				sums[r][i] += v
			}
		}
	}
	for r, sum := range sums {
		m.set("rss."+r, slices.Max(sum))
	}
	m.perAgent(first, sums["gateway"])
	m.perFurtherAgent()
}

// perAgent is what the gateways grew by, by the time that the most agents were
// there, for each of them. The last such second counts: what the attaching
// itself took for a moment is not the price of an agent.
func (m *measuring) perAgent(first float64, sum []float64) {
	most := m.run.Figures["agents"]
	for _, t := range slices.Backward(m.run.Ticks) {
		i := int(math.Round(t.At))
		if most > 0 && float64(t.Agents) == most && i >= 0 && i < len(sum) && sum[i] > 0 {
			m.set("gateway_rss_per_agent", (sum[i]-first)/most)
			return
		}
	}
}

func (m *measuring) kafka() {
	// A gateway that does not count what it fetched has no ratio.
	if fetched, d := m.growth("records_fetched"), m.growth("records_delivered"); fetched > 0 && d > 0 {
		m.set("kafka_read_ratio", fetched/d)
	}
	if read := m.growth("kafka_read_bytes"); read > 0 && m.down > 0 {
		m.set("kafka_read_bytes_ratio", read/m.down)
	}
}

// growth is by how much a counter grew. Where it fell, a process has started
// again at 0.
func (m *measuring) growth(counter string) float64 {
	sum, before, seen := 0.0, 0.0, false
	for _, t := range m.run.Ticks {
		v, ok := t.Extra[counter]
		if !ok {
			continue
		}
		if seen && m.counts(t.At) {
			sum += increase(before, v)
		}
		before, seen = v, true
	}
	return sum
}

func increase(before, now float64) float64 {
	if now < before {
		return now
	}
	return now - before
}

// slopes are of processes that no fault ended: a new process begins small, and
// a trend across the two says nothing.
func (m *measuring) slopes() {
	lives, ended := map[string]int{}, map[string]bool{}
	for _, p := range m.run.Processes {
		lives[p.Name]++
	}
	for _, f := range m.run.Faults {
		if slices.Contains([]string{"kill", "stop", "rolling", "upgrade", "disk-full"}, f.Name) {
			to := cmp.Or(f.To, "gateway")
			ended[strings.TrimSuffix(role(to), "s")] = true // whichever gateway "gateway" was
		}
	}
	for _, p := range m.run.Processes {
		if lives[p.Name] > 1 || ended[role(p.Name)] {
			continue
		}
		var at []float64
		values := map[string][]float64{}
		for _, s := range p.Samples {
			if !m.counts(s.At) {
				continue
			}
			at = append(at, s.At)
			values["rss"] = append(values["rss"], float64(s.RSS))
			values["files"] = append(values["files"], float64(s.Files))
			if s.Goroutines > 0 {
				values["goroutines"] = append(values["goroutines"], float64(s.Goroutines))
			}
		}
		for name, v := range values {
			if len(v) != len(at) {
				continue // not told in each sample
			}
			if slope, low, high, ok := Slope(at, v); ok {
				m.set("slope."+name+"."+p.Name, slope)
				m.set("slope."+name+"."+p.Name+".low", low)
				m.set("slope."+name+"."+p.Name+".high", high)
			}
		}
	}
}
