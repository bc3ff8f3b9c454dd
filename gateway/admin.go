package gateway

import (
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// readyFor is how old the last acknowledged heartbeat may be.
const readyFor = 10 * time.Second

// Admin serves /healthz (the process works), /readyz (agents may be sent
// here: it is not draining and Kafka acknowledges) and /metrics.
func (g *Gateway) Admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if why := g.unready(); why != "" {
			http.Error(w, why, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(g.metrics.registry, promhttp.HandlerOpts{}))
	return mux
}

// Registerer is where others in the process may have counted what they count;
// Admin's /metrics shows it.
func (g *Gateway) Registerer() prometheus.Registerer { return g.metrics.registry }

// unready says why no agent should be sent here; "" if any may.
func (g *Gateway) unready() string {
	acked := time.Duration(g.beats.acked.Load())
	switch {
	case g.closing.Load():
		return "ending"
	case g.draining.Load():
		return "draining"
	case acked == 0:
		return "Kafka has not acknowledged anything yet"
	case g.now()-acked > readyFor:
		return fmt.Sprintf("Kafka has acknowledged nothing for %v", (g.now() - acked).Round(time.Second))
	}
	return ""
}
