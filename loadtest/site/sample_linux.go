package site

import (
	"bufio"
	"cmp"
	"context"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/procfs"

	"github.com/moorage-dev/moorage/loadtest/results"
	"github.com/moorage-dev/moorage/loadtest/spool"
)

const (
	// sampleEvery is the distance of samples.
	sampleEvery = time.Second
	// metricsBound is how much of one process's metrics is read, in bytes.
	metricsBound = 1 << 20
)

// A meter is one name's, over all processes that bore it. Its samples are in
// the spool, where an hour of them takes no memory.
type meter struct {
	results.Process
	number int       // of its samples in the spool
	used   float64   // seconds of processor by the current process so far
	at     time.Time // of the last sample; zero: there is none
}

// A numbered sample is of the meter of that number.
type numberedSample struct {
	Meter int
	results.Sample
}

// Track adds a process that somebody else started; a later one of the same
// name takes its place.
func (s *site) Track(name string, pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tracked[name] = pid
}

// Measure samples until ctx ends.
func (s *site) Measure(ctx context.Context, start time.Time) {
	samples, err := spool.New[numberedSample](s.cfg.Dir)
	if err != nil {
		s.log.Warn("site: nothing is sampled", "err", err)
		return
	}
	s.mu.Lock()
	s.samples = samples
	s.mu.Unlock()
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		s.sample(ctx, start)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Processes are the samples so far; what a full disk did not take is missing.
func (s *site) Processes() []results.Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.samples == nil {
		return nil
	}
	samples, err := s.samples.All()
	if err != nil {
		s.log.Warn("site: samples cannot be read back", "err", err)
	}
	all := make([]results.Process, len(s.meters))
	place := make([]int, len(s.meters))
	for i, m := range s.meters {
		all[i], place[m.number] = m.Process, i
	}
	for _, one := range samples {
		p := &all[place[one.Meter]]
		p.Samples = append(p.Samples, one.Sample)
	}
	return all
}

// running are the pids of now by name.
func (s *site) running() map[string]int {
	s.mu.Lock()
	children := []*child{s.connector, s.server}
	for _, sh := range s.shims {
		children = append(children, sh.child)
	}
	all := maps.Clone(s.tracked)
	s.mu.Unlock()
	for _, g := range s.gateways {
		children = append(children, g.child)
	}
	for _, c := range children {
		if c == nil {
			continue
		}
		if pid := c.pid(); pid != 0 {
			all[c.name] = pid
		}
	}
	if s.kafka != nil && s.kafka.apache != nil {
		maps.Copy(all, s.kafka.pids())
	}
	all["coordinator"] = os.Getpid()
	return all
}

// scrapeAll asks all gateways for their metrics, at once. One that is frozen
// or cut off does not answer in time, and has nothing new to say.
func (s *site) scrapeAll(ctx context.Context) (metrics map[string]map[string]float64, pids map[string]int) {
	ctx, cancel := context.WithTimeout(ctx, sampleEvery/2)
	defer cancel()
	metrics, pids = map[string]map[string]float64{}, map[string]int{}
	var mu sync.Mutex // guards the maps
	var all sync.WaitGroup
	for _, g := range s.gateways {
		pid := g.pid()
		if pid == 0 {
			continue
		}
		all.Go(func() {
			m, err := s.scrape(ctx, g.admin)
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			metrics[g.name], pids[g.name] = m, pid
		})
	}
	all.Wait()
	return metrics, pids
}

// sample takes one of each process. Those that just ended are passed over.
func (s *site) sample(ctx context.Context, start time.Time) {
	metrics, _ := s.scrapeAll(ctx)
	for name, pid := range s.running() {
		p, err := procfs.NewProc(pid)
		if err != nil {
			continue
		}
		stat, err := p.Stat()
		if err != nil {
			continue
		}
		now := time.Now()
		one := results.Sample{At: now.Sub(start).Seconds(), RSS: uint64(stat.ResidentMemory())}
		if files, err := p.FileDescriptorsLen(); err == nil {
			one.Files = files
		}
		if m := metrics[name]; m != nil {
			one.Goroutines, one.Heap = int(m["go_goroutines"]), uint64(m["go_memstats_heap_inuse_bytes"])
			one.Stack = uint64(m["go_memstats_stack_inuse_bytes"])
		}
		s.mu.Lock()
		m := s.meter(name, pid)
		m.add(pid, stat.CPUTime(), now, start, &one)
		if err := s.samples.Add(numberedSample{m.number, one}); err != nil {
			s.log.Warn("site: a sample is lost", "err", err)
		}
		s.mu.Unlock()
	}
}

// meter finds a name's. Called with the lock held.
func (s *site) meter(name string, pid int) *meter {
	for _, m := range s.meters {
		if m.Name == name {
			return m
		}
	}
	m := &meter{Process: results.Process{Name: name, PID: pid}, number: len(s.meters)}
	s.meters = append(s.meters, m)
	slices.SortFunc(s.meters, func(a, b *meter) int { return cmp.Compare(a.Name, b.Name) })
	return m
}

// add counts what the process used since the sample before. A new process
// under the name begins at nothing; what the old one used after its last
// sample nobody can tell. What a process used before it was first seen, at a
// start of measurement, was not in the measured time.
func (m *meter) add(pid int, used float64, now, start time.Time, one *results.Sample) {
	since, from := m.used, m.at
	if m.at.IsZero() {
		since, from = used, now
	} else if pid != m.PID {
		since = 0
	}
	m.PID = pid
	spent := max(used-since, 0)
	if d := now.Sub(from).Seconds(); d > 0 {
		one.CPU = spent / d
	}
	m.used, m.at = used, now
	m.CPU += spent
}

// scrape reads a gateway's metrics, those without labels.
func (s *site) scrape(ctx context.Context, admin string) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	m := map[string]float64{}
	lines := bufio.NewScanner(io.LimitReader(resp.Body, metricsBound))
	for lines.Scan() {
		if f := strings.Fields(lines.Text()); len(f) == 2 {
			if v, err := strconv.ParseFloat(f[1], 64); err == nil {
				m[f[0]] = v
			}
		}
	}
	return m, lines.Err()
}

// ourMetrics are what is ours of a gateway's.
const ourMetrics = "moorage_"

// extraNames are metrics that results know by another name; the others keep
// theirs, without moorage_gateway_ and _total.
var extraNames = map[string]string{
	"moorage_gateway_fetched_records_total": "records_fetched",
	"moorage_gateway_fetched_bytes_total":   "kafka_read_bytes",
	"moorage_gateway_down_frames_total":     "records_delivered",
}

// A count is one gateway's counters, over all its processes: a new one begins
// at nothing.
type count struct {
	pid  int
	base map[string]float64 // of processes that are gone
	last map[string]float64
}

// Extra sums the gateways' metrics: counters since the gateway's first start,
// gauges of those that answer.
func (s *site) Extra(ctx context.Context) map[string]float64 {
	fresh, pids := s.scrapeAll(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, m := range fresh {
		c := s.counts[name]
		if c == nil {
			c = &count{base: map[string]float64{}}
			s.counts[name] = c
		}
		if c.pid != pids[name] {
			for k, v := range c.last {
				if isCounter(k) {
					c.base[k] += v
				}
			}
		}
		c.pid, c.last = pids[name], m
	}
	sum := map[string]float64{}
	for name, c := range s.counts {
		for k, v := range c.last {
			if !strings.HasPrefix(k, ourMetrics) || strings.HasSuffix(k, "_sum") || strings.HasSuffix(k, "_count") {
				continue
			}
			if isCounter(k) {
				v += c.base[k]
			} else if fresh[name] == nil {
				continue // a gauge of one that is down
			}
			sum[extraName(k)] += v
		}
	}
	return sum
}

func isCounter(name string) bool { return strings.HasSuffix(name, "_total") }

func extraName(metric string) string {
	if name := extraNames[metric]; name != "" {
		return name
	}
	name := strings.TrimPrefix(strings.TrimPrefix(metric, ourMetrics), "gateway_")
	return strings.TrimSuffix(name, "_total")
}
