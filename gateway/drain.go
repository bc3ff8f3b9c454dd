package gateway

import (
	"context"
	"slices"
	"time"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

// drainStep is how often a batch of agents is asked to leave.
const drainStep = 50 * time.Millisecond

// Drain takes no new streams, asks every agent side to attach elsewhere, a
// batch at a time over half the time there is, waits until they have left or
// ctx ends, but not for connections that a door only keeps for the next
// look-up, and closes the gateway: who is still here is DETACHED, or, if it is
// a local session, ended with GATEWAY_GONE. Without a deadline in ctx there is
// Config.DrainTimeout.
func (g *Gateway) Drain(ctx context.Context) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, g.cfg.DrainTimeout)
		defer cancel()
	}
	g.draining.Store(true)
	g.metrics.draining.Set(1)
	g.health.SetServingStatus("", healthv1.HealthCheckResponse_NOT_SERVING)
	g.health.SetServingStatus(linkv1.LinkService_ServiceDesc.ServiceName, healthv1.HealthCheckResponse_NOT_SERVING)
	// Local sessions cannot move: they stay until they end, or time is up.
	streams := slices.DeleteFunc(g.attached(), func(s *stream) bool { return s.local != nil })
	g.cfg.Logger.Info("drain", "sessions", len(streams))
	deadline, _ := ctx.Deadline()
	steps := max(int(time.Until(deadline)/2/drainStep), 1)
	batch := max((len(streams)+steps-1)/steps, 20) // few need not be metered
	for len(streams) > 0 && ctx.Err() == nil {
		n := min(batch, len(streams))
		for _, s := range streams[:n] {
			s.leave(drainStep)
		}
		streams = streams[n:]
		sleep(ctx, drainStep)
	}
	for ctx.Err() == nil && g.sessions.Load() > g.locals.spare(g.now()) {
		sleep(ctx, drainStep)
	}
	g.cfg.Logger.Info("drained", "left", g.sessions.Load())
	return g.Close()
}

// flush waits until every record has its outcome, at most so long.
func (g *Gateway) flush(most time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), most)
	defer cancel()
	for ctx.Err() == nil && g.inFlight.Load() > 0 {
		sleep(ctx, 5*time.Millisecond)
	}
}
