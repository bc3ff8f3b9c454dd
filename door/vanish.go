package door

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

// A peer that vanishes is noticed within 15 s: an idle one by keep-alive,
// after 5 + 3×3 s, one for which bytes are waiting by watching its ACKs.
const (
	vanishAfter = 11 * time.Second
	vanishCheck = 3 * time.Second
)

// lastWords is how long an agent may take to read what was sent to it before
// its session ended in good order.
const lastWords = 2 * time.Minute

// watch breaks connections whose peer has vanished, and those whose session is
// over while their agent does not read.
func (r *room) watch(ctx context.Context) {
	for {
		sleep(ctx, vanishCheck)
		if ctx.Err() != nil {
			return
		}
		for _, one := range r.all() {
			join := one.joined.Load()
			switch {
			case one.raw != nil && vanished(one.raw):
				r.m.vanished.Inc()
				r.log.Info("connection has vanished", "remote", one.RemoteAddr().String())
				one.reset()
			case join != nil && join.outlived(time.Now()):
				one.reset()
			}
		}
	}
}

// outlived reports whether an agent still has to read something although its
// session has ended long ago, or has broken. The watch calls it.
func (j *joining) outlived(now time.Time) bool {
	select {
	case <-j.session.Done():
	default:
		return false
	}
	if j.over.IsZero() {
		j.over = now // most are gone by the next look
		return false
	}
	ended, ok := errors.AsType[*session.EndedError](j.session.Err())
	orderly := ok && ended.Reason == linkv1.Reason_REASON_OK
	return !orderly || now.Sub(j.over) > lastWords
}

// all returns the lines that are open now.
func (r *room) all() []*line {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.AppendSeq(make([]*line, 0, len(r.lines)), maps.Keys(r.lines))
}
