package gateway

import (
	"context"
	"time"
)

// sleep returns after d, or when ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// after runs f after d unless the gateway ends before.
func (g *Gateway) after(d time.Duration, f func()) {
	g.wg.Go(func() {
		sleep(g.ctx, d)
		if g.ctx.Err() == nil {
			f()
		}
	})
}

// every runs f every d until the gateway ends.
func (g *Gateway) every(d time.Duration, f func()) {
	t := time.NewTicker(d)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			f()
		case <-g.ctx.Done():
			return
		}
	}
}
