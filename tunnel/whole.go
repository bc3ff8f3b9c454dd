package tunnel

import (
	"fmt"
	"sync"
	"time"
)

// linger is how long a connection that is told its end may take to say its
// own, and how long a stream whose target broke may take to say why.
const linger = 700 * time.Millisecond

// JoinWhole joins what lives or dies as a whole, as a legacy agent's
// connection does: when one side ends its stream, what it said before is passed
// on, and then both are closed, for nothing can come of the other half. When
// one side breaks, both are aborted; the error says which, and why.
func JoinWhole(a, b Conn) error { return Whole{}.Join(a, b) }

// A Whole is JoinWhole with somebody who counts.
type Whole struct {
	Forth, Back func(n int) // are told of bytes passed on from a to b, and from b to a; nil: nobody
}

// Join is JoinWhole.
func (w Whole) Join(a, b Conn) error {
	j := &joint{a: a, b: b, decided: make(chan struct{})}
	var wg sync.WaitGroup
	wg.Go(func() { j.oneWay(a, b, w.Back) })
	j.oneWay(b, a, w.Forth)
	wg.Wait()
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, t := range j.timers {
		t.Stop()
	}
	// Whatever stands open still, nothing more is to be said there. An error
	// means that it was closed before.
	_, _ = a.Close(), b.Close()
	return j.broken
}

// A joint is two connections joined by JoinWhole.
type joint struct {
	a, b Conn

	decided chan struct{} // closed when over is set

	mu     sync.Mutex // guards the following
	over   bool       // how it ends is decided
	broken error      // nil: in good order
	timers []*time.Timer
}

// oneWay passes on one stream, and ends both when it ends.
func (j *joint) oneWay(dst, src Conn, count func(int)) {
	written, err := flow(dst, src, count)
	switch {
	case err == nil:
		j.end(dst, src)
	case written:
		// Whatever closed dst says so in the other direction too, and better: a
		// session that ended has its last bytes and its reason there.
		j.after(linger, func() { j.breakOff(fmt.Errorf("tunnel: write: %w", err)) })
		j.drain(src)
	default:
		j.breakOff(fmt.Errorf("tunnel: read: %w", err))
	}
}

// end ends both sides in good order: src has said its end, and dst has all
// that came before it.
func (j *joint) end(dst, src Conn) {
	if !j.decide(nil) {
		return
	}
	// An error means that it is closed or broken already, and there is nobody
	// left to be told.
	if tcp, ok := dst.(TCP); ok {
		// To close it with bytes unread would be a reset, which can overtake what
		// was written. So its own end is awaited; oneWay's twin reads.
		_ = tcp.CloseWrite()
		j.after(linger, func() { _ = tcp.Close() })
	} else {
		_ = dst.Close()
	}
	_ = src.Close()
}

// breakOff aborts both sides.
func (j *joint) breakOff(err error) {
	if j.decide(err) {
		j.a.Abort(err)
		j.b.Abort(err)
	}
}

// decide sets how it ends. The first one does.
func (j *joint) decide(broken error) (first bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.over {
		return false
	}
	j.over, j.broken = true, broken
	close(j.decided)
	return true
}

func (j *joint) after(t time.Duration, f func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.timers = append(j.timers, time.AfterFunc(t, f))
}

// drain waits until the joint's end is decided, and reads a TCP connection to
// its end if that is to come in good order.
func (j *joint) drain(src Conn) {
	<-j.decided // soon, by after
	if tcp, ok := src.(TCP); ok && j.broken == nil {
		_ = newSource(tcp).copyTo(nowhere{}) // ends when it is closed, at the latest
	}
}

type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
