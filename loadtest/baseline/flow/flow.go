// Package flow is one end of a session over something that carries frames in
// order, such as relay's gateway and topics: a window of bytes that the far
// application has not taken, a queue of what came, and the word of what was
// taken, by bytes and by time. Nothing is kept to be sent again.
package flow

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/moorage-dev/moorage/loadtest/worker"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

// Bounds, those of moorage's sessions.
const (
	Window   = 1 << 20  // bytes that either side may have sent and not yet delivered
	MaxFrame = 64 << 10 // payload bytes of one message
)

// How far behind the word of what was taken may be: as throttled as moorage's,
// by bytes and by time.
const (
	DeliveredEvery = 256 << 10
	DeliveredAfter = time.Second
)

// Reasons with which a session ends otherwise than in order.
const (
	Cut       = "CUT"       // this process broke the connection, as it was told to
	Lost      = "LOST"      // the connection broke, or the far process is gone
	Closed    = "CLOSED"    // one end closed before all was sent and received
	Cancelled = "CANCELLED" // the context of a Send or Receive ended: a message may be half sent
	Overrun   = "OVERRUN"   // the far end sent more than the window
	Gap       = "GAP"       // a frame is missing
)

// Ended is the error of a session that is over.
func Ended(reason string) error { return &worker.EndedError{Reason: reason} }

// A Session is one end. Both ends are alike.
type Session struct {
	out    func(*linkv1.Frame) error
	forget func()
	window int

	sending sync.Mutex    // held around out, so that frames go in the order of their numbers
	room    chan struct{} // the window has moved
	came    chan struct{} // something is in queue, or it is over
	done    chan struct{} // closed when it is over

	mu       sync.Mutex // guards the following
	seq      uint64     // last sent
	flying   sizes      // payloads sent and not yet delivered
	got      uint64     // last received
	taken    uint64     // last taken
	owed     int        // bytes taken that nobody was told of
	quiet    int        // visits since the last frame or word
	queue    []received // at most a window of bytes; queue[:head] is taken
	head     int
	queued   int
	finSent  bool
	finTaken bool
	reason   string // why it is over; "": it is not
}

type received struct {
	payload []byte
	seq     uint64
	fin     bool
}

// New returns an end. window is what the far end bears: bytes that it has not
// taken. out hands a frame over, in order; it may wait, and the payload is the
// caller's again when it returns. One without a number is a word of what was
// taken. forget, which may be nil, is called once when the session is over,
// with its lock held.
func New(window int, out func(*linkv1.Frame) error, forget func()) *Session {
	return &Session{
		out: out, forget: forget, window: window,
		room: make(chan struct{}, 1), came: make(chan struct{}, 1), done: make(chan struct{}),
	}
}

// sizes remembers how large each frame after the last delivered one is.
type sizes struct {
	of    []uint32
	head  int
	first uint64 // seq of of[head]
	bytes int
}

func (s *sizes) push(seq uint64, n int) {
	if s.head == len(s.of) {
		s.of, s.head, s.first = s.of[:0], 0, seq
	} else if s.head > 1024 && s.head > len(s.of)/2 {
		s.of, s.head = s.of[:copy(s.of, s.of[s.head:])], 0
	}
	s.of = append(s.of, uint32(n))
	s.bytes += n
}

// delivered forgets frames up to seq and reports whether there were any.
func (s *sizes) delivered(seq uint64) (any bool) {
	for s.head < len(s.of) && s.first <= seq {
		s.bytes -= int(s.of[s.head])
		s.head++
		s.first++
		any = true
	}
	return any
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Send waits for room in the window and for whoever takes the frame.
func (s *Session) Send(ctx context.Context, payload []byte) error {
	if len(payload) > MaxFrame {
		return fmt.Errorf("baseline: a message of %d bytes: at most %d", len(payload), MaxFrame)
	}
	s.mu.Lock()
	for s.reason == "" && s.flying.bytes > 0 && s.flying.bytes+len(payload) > s.window {
		s.mu.Unlock()
		select {
		case <-s.room:
		case <-s.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		s.mu.Lock()
	}
	s.mu.Unlock()
	return s.Push(linkv1.FrameKind_FRAME_KIND_DATA, payload)
}

// Push sends a frame past the window: OPEN, ACCEPT and the like.
func (s *Session) Push(kind linkv1.FrameKind, payload []byte) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	s.mu.Lock()
	if s.reason != "" {
		s.mu.Unlock()
		return Ended(s.reason)
	}
	s.seq++
	s.flying.push(s.seq, len(payload))
	frame := &linkv1.Frame{Seq: s.seq, Kind: kind, Payload: payload, Delivered: s.taken}
	s.owed, s.quiet = 0, 0
	s.mu.Unlock()
	if err := s.out(frame); err != nil {
		s.End(Lost)
		return s.Err()
	}
	return nil
}

// Tell says what was taken, if it is due. idle makes a word due after so many
// visits of silence; 0 makes it due only if something is owed.
func (s *Session) Tell(idle int) {
	s.mu.Lock()
	s.quiet++
	due := s.reason == "" && (s.owed > 0 || idle > 0 && s.quiet >= idle)
	s.mu.Unlock()
	if due {
		s.word()
	}
}

// word is a frame without a number.
func (s *Session) word() {
	s.sending.Lock()
	defer s.sending.Unlock()
	s.mu.Lock()
	if s.reason != "" {
		s.mu.Unlock()
		return
	}
	frame := &linkv1.Frame{Delivered: s.taken}
	s.owed, s.quiet = 0, 0
	s.mu.Unlock()
	if err := s.out(frame); err != nil {
		s.End(Lost)
	}
}

// Take puts in what came from the other side. It never waits.
func (s *Session) Take(frame *linkv1.Frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason != "" {
		return
	}
	if s.flying.delivered(frame.Delivered) {
		wake(s.room)
	}
	if frame.Seq == 0 {
		return
	}
	if frame.Seq != s.got+1 {
		s.endLocked(Gap)
		return
	}
	s.got = frame.Seq
	switch frame.Kind {
	case linkv1.FrameKind_FRAME_KIND_DATA:
		if s.queued > 0 && s.queued+len(frame.Payload) > s.window {
			s.endLocked(Overrun)
			return
		}
		s.queued += len(frame.Payload)
		s.put(received{payload: frame.Payload, seq: frame.Seq})
	case linkv1.FrameKind_FRAME_KIND_FIN:
		s.put(received{seq: frame.Seq, fin: true})
	case linkv1.FrameKind_FRAME_KIND_CLOSE:
		reason := Lost
		if string(frame.Payload) == Closed {
			reason = Closed
		}
		s.endLocked(reason)
	default: // OPEN and ACCEPT
		s.taken = frame.Seq
	}
}

func (s *Session) put(r received) {
	if s.head > 1024 && s.head > len(s.queue)/2 {
		n := copy(s.queue, s.queue[s.head:])
		clear(s.queue[n:])
		s.queue, s.head = s.queue[:n], 0
	}
	s.queue = append(s.queue, r)
	wake(s.came)
}

// Receive returns the next message. What came before the end of the session
// is still returned.
func (s *Session) Receive(ctx context.Context) ([]byte, error) {
	for {
		s.mu.Lock()
		if s.head < len(s.queue) && s.queue[s.head].fin {
			s.taken = s.queue[s.head].seq
			s.finTaken = true
			s.mu.Unlock()
			return nil, io.EOF // and so at the next call
		}
		if s.head < len(s.queue) {
			r := s.queue[s.head]
			s.queue[s.head] = received{}
			if s.head++; s.head == len(s.queue) {
				s.queue, s.head = s.queue[:0], 0
			}
			s.queued -= len(r.payload)
			s.taken = r.seq
			s.owed += len(r.payload)
			due := s.owed >= DeliveredEvery && s.reason == ""
			s.mu.Unlock()
			if due {
				s.word()
			}
			return r.payload, nil
		}
		reason := s.reason
		s.mu.Unlock()
		if reason != "" {
			return nil, Ended(reason)
		}
		select {
		case <-s.came:
		case <-s.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// CloseSend sends FIN.
func (s *Session) CloseSend() error {
	if err := s.Push(linkv1.FrameKind_FRAME_KIND_FIN, nil); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finSent = true
	return nil
}

// Close tells the other end, unless it knows already.
func (s *Session) Close() error {
	s.mu.Lock()
	tell := s.reason == "" && !(s.finSent && s.finTaken)
	s.mu.Unlock()
	if tell {
		_ = s.Push(linkv1.FrameKind_FRAME_KIND_CLOSE, []byte(Closed)) // it may have ended meanwhile
	}
	s.End(Closed)
	return nil
}

// Err is why the session is over; nil: it is not.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason == "" {
		return nil
	}
	return Ended(s.reason)
}

// Sent is the number of the last frame that was handed over.
func (s *Session) Sent() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seq
}

// Settle waits until out is not running. Once the session is over it does not run again.
func (s *Session) Settle() {
	s.sending.Lock()
	defer s.sending.Unlock()
}

// Kill ends the session without a word, as a process that dies does.
func (s *Session) Kill() { s.End(Cut) }

// End ends the session here. The first reason stays.
func (s *Session) End(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endLocked(reason)
}

func (s *Session) endLocked(reason string) {
	if s.reason != "" {
		return
	}
	s.reason = reason
	close(s.done)
	if s.forget != nil {
		s.forget()
	}
}

var _ worker.Session = (*Session)(nil)
