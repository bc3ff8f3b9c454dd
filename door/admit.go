package door

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

// admit waits until a session may be opened: until its agent has had its pause,
// there is a place, and not too many are opened at once. The agent sees
// silence. leave gives the place back, and remembers how short the session was.
func (d *Door) admit(ctx context.Context, r *Request) (leave func(), err error) {
	key := paceKey(r)
	if pause := d.pace.pause(key, time.Now()); pause > 0 {
		d.m.slowed.Inc()
		if sleep(ctx, pause); ctx.Err() != nil {
			return nil, admitErr(ctx)
		}
	}
	select {
	case d.places <- struct{}{}:
	default:
		h := d.holding(whose(r))
		h.begin(errNoPlace)
		defer h.end()
		select {
		case d.places <- struct{}{}:
		case <-ctx.Done():
			return nil, admitErr(ctx)
		}
	}
	if err := d.takeTurn(ctx, r); err != nil {
		<-d.places
		return nil, admitErr(ctx)
	}
	began := time.Now()
	return sync.OnceFunc(func() {
		<-d.places
		d.pace.ended(key, time.Now(), time.Since(began))
	}), nil
}

// takeTurn waits while too many sessions are opened at once.
func (d *Door) takeTurn(ctx context.Context, r *Request) error {
	if d.opens.Allow() {
		return nil
	}
	h := d.holding(whose(r))
	defer h.end()
	slow := time.AfterFunc(heldAfter, func() { h.begin(errCrowd) })
	defer slow.Stop()
	return d.opens.Wait(ctx)
}

func admitErr(ctx context.Context) error {
	if ctx.Err() == context.DeadlineExceeded || ctx.Err() == nil { // nil: the limiter saw that it would be too late
		return fmt.Errorf("%w: no place for another session", errHeld)
	}
	return context.Cause(ctx)
}

// paceKey names who is in a hurry: the agent, else its address. Look-ups and
// jars come as often as they like: they go over few connections that are kept.
func paceKey(r *Request) string {
	if r.Kind == linkv1.ServiceKind_SERVICE_KIND_HTTP {
		return ""
	}
	if r.Remoting.Agent != "" {
		return r.Controller + "/" + r.Remoting.Agent
	}
	if host, _, err := net.SplitHostPort(r.Remoting.Address); err == nil {
		return r.Controller + "@" + host
	}
	return ""
}

// A pace slows down who comes again and again: an agent that reconnects
// without delay would otherwise hammer its controller.
type pace struct {
	again time.Duration // a session that ends sooner is a strike

	mu   sync.Mutex // guards the following
	seen map[string]*paced
}

type paced struct {
	strikes int
	last    time.Time // of the strikes
}

// Pauses double from the first to the most.
const (
	firstPause = time.Second
	mostPause  = 10 * time.Second
)

// pause returns how long key must wait before its next session.
func (p *pace) pause(key string, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	one := p.seen[key]
	if one == nil {
		return 0
	}
	whole := min(firstPause<<(one.strikes-1), mostPause)
	return max(0, whole-now.Sub(one.last))
}

// ended notes the end of a session, or of the attempt at one.
func (p *pace) ended(key string, now time.Time, lived time.Duration) {
	if key == "" || p.again < 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if lived >= p.again {
		delete(p.seen, key)
		return
	}
	one := p.seen[key]
	if one == nil {
		if len(p.seen) >= mostPaced && !p.forget(now) {
			return // more in a hurry than can be remembered: this one is not slowed down
		}
		one = new(paced)
		p.seen[key] = one
	}
	if now.Sub(one.last) > time.Minute {
		one.strikes = 0
	}
	one.strikes, one.last = min(one.strikes+1, 10), now
}

// forget drops who has been quiet for a while; it reports whether there is room now.
func (p *pace) forget(now time.Time) bool {
	for key, one := range p.seen {
		if now.Sub(one.last) > time.Minute {
			delete(p.seen, key)
		}
	}
	return len(p.seen) < mostPaced
}
