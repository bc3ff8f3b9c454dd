// Package made makes results such as a load test leaves, for tests of what is
// shown of them and for a look at it. The same Kind gives the same results.
package made

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/loadtest/results"
	"github.com/moorage-dev/moorage/loadtest/scenario"
)

// A Kind says what the made test was like. Its zero value is a clean run of
// 2 minutes on one gateway, without faults.
type Kind struct {
	Length    time.Duration // 0: 2 min
	Gateways  int           // 0: 1
	Brokers   int           // 0: 1
	Agents    int           // 0: 2,000
	Faults    int           // evenly spread
	Baselines []string
	Pairs     int // 0: 1
	Leak      bool
	Lost      int    // anomalies
	Limit     bool   // the generator was the limit
	Session   string // name of the anomalies' session; "": builders/17/1
}

// Results makes them. They have not been judged.
func (k Kind) Results() *results.Results {
	if k.Length == 0 {
		k.Length = 2 * time.Minute
	}
	k.Gateways, k.Brokers, k.Pairs = max(1, k.Gateways), max(1, k.Brokers), max(1, k.Pairs)
	if k.Agents == 0 {
		k.Agents = 2000
	}
	if k.Session == "" {
		k.Session = "builders/17/1"
	}
	started := time.Date(2026, 5, 4, 9, 30, 0, 0, time.UTC)
	r := &results.Results{
		Version: results.Version,
		Scenario: scenario.Scenario{
			Name: "build-farm", Description: "Builders that take many small commands and send their logs, while gateways and brokers come and go.",
			Length: scenario.Duration(k.Length), Warmup: scenario.Duration(10 * time.Second), Seed: 42,
			Groups: []scenario.Group{
				{
					Name: "builders", Kind: scenario.Native, Agents: k.Agents, Arrive: scenario.Arrive{Ramp: scenario.Duration(8 * time.Second)},
					Up: &scenario.Flow{Rate: 1, Pattern: scenario.Poisson}, Down: &scenario.Flow{Rate: 0.6, Pattern: scenario.Poisson},
				},
			},
			Thresholds: map[string]float64{"down.p99_ms": 250, "failed_opens": 0},
		},
		Command: fmt.Sprintf("moorage loadtest run build-farm --local gateways=%d,brokers=%d --seed 42", k.Gateways, k.Brokers),
		Started: started,
		Machine: results.Machine{
			CPU: "AMD EPYC 7B13", Cores: 2, Memory: 24 << 30, Kernel: "6.1.0-28-amd64", Go: "go1.26.0", Moorage: "v0.5.0",
			Kafka: "Apache Kafka 4.1.0, 3 brokers on this machine",
		},
	}
	if k.Brokers == 1 {
		r.Machine.Kafka = "the embedded broker: one process, no replication; figures with Apache Kafka differ"
	}
	for pair := range k.Pairs {
		for i, system := range append([]string{"moorage"}, k.Baselines...) {
			started = started.Add(k.Length + 20*time.Second)
			r.Runs = append(r.Runs, k.run(system, pair, started, rand.New(rand.NewPCG(uint64(pair), uint64(i)))))
		}
	}
	r.Ended = started.Add(k.Length)
	return r
}

var acks = map[string]string{
	"moorage": "An acknowledged message was written by Kafka with acks=all; the receiver gets it once and in order.",
	"relay":   "An acknowledged message was written by Kafka with acks=all; a broken stream loses its place.",
	"grpc":    "A message was handed to the kernel; nothing is stored.",
	"tcp":     "A message was handed to the kernel; nothing is stored.",
	"nats":    "An acknowledged message was written to JetStream's file store, which syncs it within two minutes.",
}

func (k Kind) run(system string, pair int, started time.Time, rnd *rand.Rand) results.Run {
	speed := map[string]float64{"relay": 0.92, "grpc": 0.25, "tcp": 0.2, "nats": 0.8}[system]
	if speed == 0 {
		speed = 1
	}
	speed *= 1 + 0.04*rnd.NormFloat64()
	run := results.Run{
		System: system, Pair: pair, Acks: acks[system], Started: started, Length: k.Length + 3*time.Second,
		Figures: map[string]float64{
			"lost": 0, "repeated": 0, "reordered": 0, "corrupted": 0, "stuck": 0, "revived": 0, "unexplained": 0, "misjudged": 0, "untold": 0,
			"opens": float64(k.Agents), "failed_opens": 0,
		},
		Latency: map[string]results.Hist{"up": hist(rnd, 5.1*speed, 200000), "down": hist(rnd, 4.2*speed, 120000), "connect": hist(rnd, 11*speed, 2000)},
		Silence: hist(rnd, 40*speed, uint64(k.Agents)),
		Ended:   map[string]uint64{"OK": uint64(k.Agents)},
	}
	if system == "moorage" {
		k.breakIt(&run, rnd)
	}
	seconds := int(k.Length.Seconds()) + 3
	read := 0.0
	for s := 1; s <= seconds; s++ {
		at := float64(s) + 0.02*rnd.Float64()
		trouble := 1.0
		for _, f := range run.Faults {
			if at >= f.At && at < f.At+max(2, f.For) {
				trouble = 9 + 20*rnd.Float64()
			}
		}
		agents := min(k.Agents, k.Agents*s/8)
		up := uint64(float64(agents) * (1 + 0.05*rnd.NormFloat64()) / math.Sqrt(trouble))
		down := uint64(float64(agents) * 0.6 * (1 + 0.05*rnd.NormFloat64()) / math.Sqrt(trouble))
		if s > seconds-3 {
			up, down = 0, 0
		}
		tick := results.Tick{
			At: at, Agents: agents, Sent: [2]uint64{up, down}, Received: [2]uint64{up, down}, Bytes: [2]uint64{up * 900, down * 300},
			P: map[string]results.Hist{"up": hist(rnd, 5*speed*trouble, up), "down": hist(rnd, 4*speed*trouble, down)}, Lag: 0.3 + rnd.ExpFloat64()*0.4,
		}
		if system == "moorage" {
			read += float64(down) * 300 * 1.7
			tick.Extra = map[string]float64{
				"kafka_read_bytes": read, "records_fetched": read / 400, "records_delivered": read / 610, "sessions": float64(agents),
			}
		}
		run.Ticks = append(run.Ticks, tick)
	}
	k.processes(&run, rnd, seconds)
	if k.Limit {
		run.Invalid = "agents-1 used 1.02 of 1 core for 41 s and was up to 310 ms behind its schedule: the generator was the limit; spread it with --workers 2 or lower the rates"
	}
	return run
}

func (k Kind) breakIt(run *results.Run, rnd *rand.Rand) {
	kinds := []struct{ name, to string }{{"kill", "gateway-1"}, {"half-open", "agent-gateway-1"}, {"freeze", "broker-1"}, {"rolling", "gateways"}}
	for i := range k.Faults {
		kind := kinds[i%len(kinds)]
		run.Faults = append(run.Faults, results.FaultMark{
			At: 12 + float64(i)*(k.Length.Seconds()-20)/float64(k.Faults), For: float64(i % 3), Name: kind.name, To: kind.to,
		})
		run.Recovery = append(run.Recovery, results.Recovery{
			Fault: i, Name: kind.name, Hist: hist(rnd, 120*float64(1+i%4), uint64(k.Agents/k.Gateways)),
		})
	}
	run.Figures["lost"] = float64(k.Lost)
	if k.Lost == 0 {
		return
	}
	run.Ended = map[string]uint64{"OK": uint64(k.Agents) - 1, "DATA_LOSS": 1}
	at := run.Started.Add(31 * time.Second)
	var events []check.Event
	for i := range 6 {
		side := check.Side(i % 2)
		events = append(events, check.Event{At: at.Add(time.Duration(i) * 40 * time.Millisecond), Side: side, What: []string{"sent", "received"}[i%2], Seq: uint64(31 + i/2)})
	}
	for i := range k.Lost {
		run.Anomalies = append(run.Anomalies, check.Anomaly{
			What: "lost", Session: check.Session(k.Session), Side: "agent", Seq: uint64(33 + i),
			Detail: "34 arrived, 33 never did", Events: events,
		})
	}
}

func (k Kind) processes(run *results.Run, rnd *rand.Rand, seconds int) {
	var names []string
	for i := range k.Gateways {
		names = append(names, fmt.Sprintf("gateway-%d", i+1))
	}
	for i := range k.Brokers {
		names = append(names, fmt.Sprintf("broker-%d", i+1))
	}
	names = append(names, "app", "agents-1", "agents-2")
	for i, name := range names {
		p := results.Process{Name: name, PID: 4100 + i}
		base, cores := 60e6+40e6*float64(i), 0.2+0.1*float64(i%4)
		for s := 1; s <= seconds; s++ {
			grown := base * (1 - math.Exp(-float64(s)/6))
			if k.Leak && i == 0 {
				grown += 60e3 * float64(s)
			}
			cpu := cores * (0.9 + 0.2*rnd.Float64())
			p.CPU += cpu
			sample := results.Sample{At: float64(s), CPU: cpu, RSS: uint64(20e6 + grown + 2e6*rnd.Float64()), Files: 40 + 700*min(s, 8)/8}
			if name[0] != 'b' {
				sample.Goroutines = 60 + 4000*min(s, 8)/8 + rnd.IntN(20)
			}
			p.Samples = append(p.Samples, sample)
		}
		run.Processes = append(run.Processes, p)
	}
}

// hist is about log-normal around a median.
func hist(rnd *rand.Rand, median float64, n uint64) results.Hist {
	if n == 0 {
		return results.Hist{}
	}
	m := median * (1 + 0.08*rnd.Float64())
	h := results.Hist{Count: n, Mean: m * 1.2, Max: m * (14 + 4*rnd.Float64()), P: map[string]float64{}}
	for p, times := range map[string]float64{"50": 1, "90": 2.1, "99": 4.3, "99.9": 8, "99.99": 13} {
		h.P[p] = math.Round(m*times*1000) / 1000
	}
	return h
}
