package tunnel

import (
	"cmp"
	"fmt"
	"io"
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

	// Calm is after which silence of a TCP connection another goroutine waits
	// for it, with less stack; it takes up to twice as long. 0: 3 s.
	Calm time.Duration
}

// Join is JoinWhole.
func (w Whole) Join(a, b Conn) error {
	over := make(chan error, 1)
	w.Start(a, b, func(err error) { over <- err })
	return <-over
}

// Start is Join for who does not wait: over is called once, with what Join
// would return. Most joined connections are idle most of the time, and then a
// TCP connection has one goroutine with the smallest stack there is, and a
// session, see [Patient], has none. A TCP connection's read deadline is Start's.
func (w Whole) Start(a, b Conn, over func(error)) {
	j := &joint{a: a, b: b, finished: over, calm: cmp.Or(w.Calm, 3*time.Second), running: 2}
	j.forth = stream{j: j, src: a, to: sink{c: b, count: w.Forth}}
	j.back = stream{j: j, src: b, to: sink{c: a, count: w.Back}}
	j.forth.again = func() { go j.forth.run() }
	j.back.again = func() { go j.back.run() }
	go j.forth.begin()
	go j.back.begin()
}

// A Patient Conn is one that need not be waited for. A session is, see [conn.Conn.WriteReady].
type Patient interface {
	// WriteReady writes what came in to w, until there is no more for now. If
	// the stream goes on it waits: again is called, once, when there is more or
	// the stream has ended. Errors are w's and Read's, but for io.EOF: nil.
	WriteReady(w io.Writer, again func()) (waits bool, err error)
}

// A joint is two connections joined by JoinWhole.
type joint struct {
	a, b        Conn
	forth, back stream
	finished    func(error)
	calm        time.Duration

	mu      sync.Mutex    // guards the following
	running int           // streams that have not ended
	over    bool          // how it ends is decided
	broken  error         // nil: in good order
	decided chan struct{} // closed when over is set; nil: nobody waits for it
	timers  []*time.Timer
}

// A stream is one direction of a joint.
type stream struct {
	j   *joint
	src Conn
	to  sink

	again func() // starts run
}

// begin is where a stream's first goroutine stands, and each that relieves
// another: until something comes it has called nothing that needs much stack.
func (s *stream) begin() {
	if tcp, ok := s.src.(TCP); ok {
		await(tcp)
	}
	s.run()
}

// run passes on what comes. It leaves when the stream has ended, or when there
// is nothing to do and somebody else sees to what comes next.
func (s *stream) run() {
	waits, err := s.pass()
	switch {
	case err == errCalm:
		go s.begin()
	case !waits:
		s.j.ended(s, err)
	}
}

// pass passes on what comes: up to the end of the stream, which is no error,
// or until it is calm, or waits for run to be called again.
func (s *stream) pass() (waits bool, err error) {
	switch from := s.src.(type) {
	case TCP:
	case Patient:
		return from.WriteReady(&s.to, s.again)
	case io.WriterTo:
		_, err := from.WriteTo(&s.to)
		return false, err
	}
	from := newSource(s.src)
	if from.ready != nil {
		from.patience = s.j.calm
	}
	return false, from.copyTo(&s.to)
}

// ended ends both sides after a stream, whose end is no error.
func (j *joint) ended(s *stream, err error) {
	switch {
	case err == nil:
		j.end(s.to.c, s.src)
	case s.to.err != nil:
		// Whatever closed dst says so in the other direction too, and better: a
		// session that ended has its last bytes and its reason there.
		j.after(linger, func() { j.breakOff(fmt.Errorf("tunnel: write: %w", err)) })
		j.drain(s.src)
	default:
		j.breakOff(fmt.Errorf("tunnel: read: %w", err))
	}
	j.leave()
}

// leave counts a stream that has ended. The last one finishes the joint.
func (j *joint) leave() {
	j.mu.Lock()
	j.running--
	last := j.running == 0
	j.mu.Unlock()
	if !last {
		return
	}
	for _, t := range j.timers { // nobody is left to add one
		t.Stop()
	}
	// Whatever stands open still, nothing more is to be said there. An error
	// means that it was closed before.
	_, _ = j.a.Close(), j.b.Close()
	j.finished(j.broken)
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
		// was written. So its own end is awaited; the other stream reads it.
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
	if j.decided != nil {
		close(j.decided)
	}
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
	j.mu.Lock()
	if !j.over && j.decided == nil {
		j.decided = make(chan struct{})
	}
	decided, over := j.decided, j.over
	j.mu.Unlock()
	if !over {
		<-decided // soon, by after
	}
	if tcp, ok := src.(TCP); ok && j.broken == nil {
		_ = newSource(tcp).copyTo(nowhere{}) // ends when it is closed, at the latest
	}
}

type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
