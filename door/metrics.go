package door

import "github.com/prometheus/client_golang/prometheus"

// metrics are what a door counts. No agent, controller or address is a label.
type metrics struct {
	connections prometheus.Gauge       // open now, gRPC's that were handed on not counted
	came        *prometheus.CounterVec // connections, by what they speak: the words of sorts
	refused     *prometheus.CounterVec // connections, by reason: the words of refusals
	held        prometheus.Gauge       // agents and look-ups that wait silently now
	heldTotal   prometheus.Counter     // that ever did
	slowed      prometheus.Counter     // sessions that had to wait because their agent comes again and again
	vanished    prometheus.Counter     // connections broken because their peer answered nothing any more
	sessions    prometheus.Gauge       // open now, all kinds
	opened      prometheus.Counter     // accepted by a controller side, all kinds
	upBytes     prometheus.Counter     // from agents, on raw connections and WebSockets
	downBytes   prometheus.Counter     // to agents, the same
	jars        prometheus.Counter     // asked for by agents
	pulled      prometheus.Counter     // asked for at controllers: the others were kept, or on their way already
}

// What a connection turns out to speak.
const (
	sortProbe   = "probe" // nothing: it was closed again without a byte
	sortGRPC    = "grpc"
	sortHTTP    = "http"
	sortHTTPS   = "https"
	sortJNLP4   = "jnlp4"
	sortProxied = "jnlp4-proxy"
	sortJNLP2   = "jnlp2"
	sortJNLP1   = "jnlp1"
	sortPing    = "ping"
)

// Why a connection was closed without being served.
const (
	refusedFull       = "full"       // too many connections
	refusedAddress    = "address"    // too many of its address that have not greeted
	refusedSlow       = "slow"       // it did not say in time what it wants
	refusedHeader     = "header"     // the head of an HTTP request that is too long, too slow, or none
	refusedGarbage    = "garbage"    // it says nothing that is known here
	refusedProxy      = "proxy"      // no PROXY header where one must be, or a wrong one
	refusedTLS        = "tls"        // no TLS here, or its handshake failed
	refusedGRPC       = "grpc"       // gRPC at a shim's door, or one that nobody takes
	refusedProtocol   = "protocol"   // of a name that is not known here
	refusedCleartext  = "cleartext"  // a protocol whose secret travels in clear
	refusedACK        = "ack"        // wrong or missing in JNLP4
	refusedUnknown    = "controller" // that there is not
	refusedHeld       = "held"       // for too long
	refusedController = "rejected"   // by the controller side
)

func newMetrics(registerer prometheus.Registerer) *metrics {
	m := new(metrics)
	register := func(c prometheus.Collector) {
		if registerer != nil {
			registerer.MustRegister(c)
		}
	}
	gauge := func(name, help string) prometheus.Gauge {
		v := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "moorage", Subsystem: "door", Name: name, Help: help})
		register(v)
		return v
	}
	counter := func(name, help string) prometheus.Counter {
		v := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "moorage", Subsystem: "door", Name: name, Help: help})
		register(v)
		return v
	}
	counters := func(name, help, label string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "moorage", Subsystem: "door", Name: name, Help: help}, []string{label})
		register(v)
		return v
	}
	m.connections = gauge("connections", "Connections open now; gRPC's are the gateway's.")
	m.came = counters("connections_total", "Connections by what they speak.", "sort")
	m.refused = counters("refused_total", "Connections closed without being served.", "reason")
	m.held = gauge("held", "Agents and look-ups that wait silently for their controller now.")
	m.heldTotal = counter("held_total", "Agents and look-ups that had to wait for their controller.")
	m.slowed = counter("slowed_total", "Sessions that had to wait because their agent comes again and again.")
	m.vanished = counter("vanished_total", "Connections broken because their peer answered nothing any more.")
	m.sessions = gauge("sessions", "Sessions open now, of all kinds.")
	m.opened = counter("sessions_total", "Sessions that a controller side accepted, of all kinds.")
	m.upBytes = counter("up_bytes_total", "Bytes from agents on raw connections and WebSockets.")
	m.downBytes = counter("down_bytes_total", "Bytes to agents on raw connections and WebSockets.")
	m.jars = counter("jars_total", "Jars that agents asked for.")
	m.pulled = counter("jars_pulled_total", "Jars that controllers were asked for; the others were kept, or on their way already.")
	return m
}
