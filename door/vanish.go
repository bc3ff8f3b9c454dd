package door

import (
	"context"
	"maps"
	"slices"
	"time"
)

// A peer that vanishes is noticed within 15 s: an idle one by keep-alive,
// after 5 + 3×3 s, one for which bytes are waiting by watching its ACKs.
const (
	vanishAfter = 11 * time.Second
	vanishCheck = 3 * time.Second
)

// watchVanished breaks connections whose peer has vanished.
func (r *room) watchVanished(ctx context.Context) {
	for {
		sleep(ctx, vanishCheck)
		if ctx.Err() != nil {
			return
		}
		for _, one := range r.all() {
			if one.raw != nil && vanished(one.raw) {
				r.m.vanished.Inc()
				r.log.Info("connection has vanished", "remote", one.RemoteAddr().String())
				one.reset()
			}
		}
	}
}

// all returns the lines that are open now.
func (r *room) all() []*line {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.lines))
}
