package gateway

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/moorage-dev/moorage/bridge"
)

// metrics are what a gateway counts. No session, agent or address is a label.
type metrics struct {
	registry *prometheus.Registry

	connections    prometheus.Gauge       // open now
	streams        prometheus.Gauge       // open now, greeted or not
	sessions       prometheus.Gauge       // attached now
	locals         prometheus.Gauge       // streams whose agent side is the gateway itself; among streams and, attached, among sessions
	lingering      prometheus.Gauge       // down logs read on without a stream
	attached       *prometheus.CounterVec // by how: open, memory (resumed from the cache or nothing missed), kafka (resumed by reading)
	refused        *prometheus.CounterVec // streams refused before Welcome, by reason: the words of status.go, and "gone"
	ended          *prometheus.CounterVec // streams that ended after Welcome, by reason
	connRefused    prometheus.Counter     // connections closed at the bound
	upFrames       prometheus.Counter     // frames taken from agent sides
	upBytes        prometheus.Counter     // their payload
	downFrames     prometheus.Counter     // frames sent to agent sides
	downBytes      prometheus.Counter     // their payload
	produceErrors  prometheus.Counter     // produces that failed or whose outcome is unknown
	corrupt        prometheus.Counter     // records in down or meta topics that are not what they should be
	parked         prometheus.Counter     // times an agent was so slow that its down log was left in Kafka
	reread         prometheus.Counter     // times records fell out of the cache before they were sent
	lost           prometheus.Counter     // gaps found in down logs
	leases         prometheus.Counter     // LEASE records produced
	beatsFailed    prometheus.Counter     // own beats that were not acknowledged
	stalled        prometheus.Gauge       // up partitions whose breaker is open now
	draining       prometheus.Gauge       // 1 while draining
	attachSeconds  prometheus.Histogram   // Hello to Welcome
	persistSeconds prometheus.Histogram   // up frame received to acknowledged by Kafka, sampled
}

func newMetrics(g *Gateway) *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	gauge := func(name, help string) prometheus.Gauge {
		v := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "moorage", Subsystem: "gateway", Name: name, Help: help})
		m.registry.MustRegister(v)
		return v
	}
	counter := func(name, help string) prometheus.Counter {
		v := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "moorage", Subsystem: "gateway", Name: name, Help: help})
		m.registry.MustRegister(v)
		return v
	}
	counters := func(name, help, label string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "moorage", Subsystem: "gateway", Name: name, Help: help}, []string{label})
		m.registry.MustRegister(v)
		return v
	}
	histogram := func(name, help string) prometheus.Histogram {
		v := prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "moorage", Subsystem: "gateway", Name: name, Help: help,
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
		})
		m.registry.MustRegister(v)
		return v
	}
	m.connections = gauge("connections", "Connections open now.")
	m.streams = gauge("streams", "Streams open now, greeted or not.")
	m.sessions = gauge("sessions", "Sessions attached now.")
	m.locals = gauge("local_sessions", "Sessions of the gateway's own, for legacy agents at its door.")
	m.lingering = gauge("lingering", "Sessions whose down log is read on after their stream broke.")
	m.attached = counters("attached_total", "Sessions attached, by how: open, memory, kafka.", "how")
	m.refused = counters("refused_total", "Streams refused before they were welcomed.", "reason")
	m.ended = counters("ended_total", "Streams that ended after they were welcomed.", "reason")
	m.connRefused = counter("connections_refused_total", "Connections closed because there were too many.")
	m.upFrames = counter("up_frames_total", "Frames taken from agent sides.")
	m.upBytes = counter("up_bytes_total", "Payload bytes of frames taken from agent sides.")
	m.downFrames = counter("down_frames_total", "Frames sent to agent sides.")
	m.downBytes = counter("down_bytes_total", "Payload bytes of frames sent to agent sides.")
	m.produceErrors = counter("produce_errors_total", "Records whose produce failed or has an unknown outcome.")
	m.corrupt = counter("corrupt_total", "Records that could not be read, and were passed over.")
	m.parked = counter("parked_total", "Times a slow agent's down log was left in Kafka for later.")
	m.reread = counter("reread_total", "Times records left the cache unsent and were read again.")
	m.lost = counter("lost_total", "Gaps found in down logs; each ends its session with DATA_LOSS.")
	m.leases = counter("leases_total", "LEASE records produced.")
	m.beatsFailed = counter("beats_failed_total", "Own heartbeats that Kafka did not acknowledge.")
	m.stalled = gauge("stalled_partitions", "Up partitions whose breaker is open now.")
	m.draining = gauge("draining", "1 while the gateway drains.")
	m.attachSeconds = histogram("attach_seconds", "Seconds from Hello to Welcome.")
	m.persistSeconds = histogram("persist_seconds", "Seconds from an up frame's receipt to Kafka's acknowledgement, one in 64.")
	m.registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "moorage", Subsystem: "gateway", Name: "cache_bytes", Help: "Bytes charged to the cache of recent down records.",
		}, func() float64 { return float64(g.cache.Bytes()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: "moorage", Subsystem: "gateway", Name: "cache_evicted_total", Help: "Tails evicted from the cache.",
		}, func() float64 { return float64(g.cache.Evicted()) }),
	)
	fetched := func(name, help string, pick func(live, scanned bridge.Traffic) uint64) {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: "moorage", Subsystem: "gateway", Name: name, Help: help,
		}, func() float64 { return float64(pick(g.k.Fetched())) }))
	}
	fetched("fetched_records_total", "Records of down logs read as they came, wanted here or not.",
		func(live, _ bridge.Traffic) uint64 { return live.Records })
	fetched("fetched_bytes_total", "Their keys and values.",
		func(live, _ bridge.Traffic) uint64 { return live.Bytes })
	fetched("replayed_records_total", "Records of down logs read late or again, for sessions that fell behind or came back.",
		func(_, scanned bridge.Traffic) uint64 { return scanned.Records })
	fetched("replayed_bytes_total", "Their keys and values.",
		func(_, scanned bridge.Traffic) uint64 { return scanned.Bytes })
	fetched("foreign_total", "Records of down logs that are not of Moorage; they are handed to nobody.",
		func(live, _ bridge.Traffic) uint64 { return live.Foreign })
	waits := func(name, help string, pick func(queues, scans uint64) uint64) {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: "moorage", Subsystem: "gateway", Name: name, Help: help,
		}, func() float64 { return float64(pick(g.k.Waits())) }))
	}
	waits("queue_full_total", "Times an agent was not read on because an up partition's queue was full.",
		func(queues, _ uint64) uint64 { return queues })
	waits("replay_waits_total", "Times a down log's replay had to wait because as many as allowed were under way.",
		func(_, scans uint64) uint64 { return scans })
	return m
}
