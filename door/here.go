package door

import (
	"context"
	"errors"
	"time"
)

// errLeft reports that the agent closed its connection while it was held.
var errLeft = errors.New("door: the agent has left")

// mostUnread is what is read ahead of a connection that cannot be peeked, and
// what is thrown away behind a last word.
const mostUnread = 64 << 10

// whileHere returns a context that ends when the peer leaves, and what stops
// watching. Nothing may be read in between: what the peer says meanwhile stays
// in the line.
func (l *line) whileHere(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	_ = l.SetReadDeadline(time.Time{}) // on a closed line the wait says so
	over := make(chan struct{})
	go func() {
		defer close(over)
		if l.waitGone() {
			cancel(errLeft)
		}
	}()
	return ctx, func() {
		_ = l.SetReadDeadline(time.Unix(1, 0)) // wakes the watch
		<-over
		_ = l.SetReadDeadline(time.Time{})
		cancel(nil)
	}
}

func (l *line) waitGone() bool {
	if l.raw != nil {
		return l.waitHangUp()
	}
	for len(l.ahead) < mostUnread {
		if err := l.readAhead(mostUnread); err != nil {
			return !isTimeout(err)
		}
	}
	return false // it has said so much that its end cannot be seen
}
