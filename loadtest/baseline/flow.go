package baseline

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/moorage-dev/moorage/loadtest/worker"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

// A flow is one end of a session through relay, the same at both: a window of
// bytes that the far application has not taken, a queue of what came, and the
// word of what was taken, by bytes and by time.
type flow struct {
	out    func(*linkv1.Frame) error // hands a frame over, in order; may wait. The payload is the caller's again
	forget func()                    // called once, with the lock held, when the session is over; nil: nobody keeps it
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

func newFlow(window int) *flow {
	return &flow{
		window: window,
		room:   make(chan struct{}, 1), came: make(chan struct{}, 1), done: make(chan struct{}),
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
func (f *flow) Send(ctx context.Context, payload []byte) error {
	if len(payload) > MaxFrame {
		return fmt.Errorf("baseline: relay: a message of %d bytes: at most %d", len(payload), MaxFrame)
	}
	f.mu.Lock()
	for f.reason == "" && f.flying.bytes > 0 && f.flying.bytes+len(payload) > f.window {
		f.mu.Unlock()
		select {
		case <-f.room:
		case <-f.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		f.mu.Lock()
	}
	f.mu.Unlock()
	return f.send(linkv1.FrameKind_FRAME_KIND_DATA, payload)
}

func (f *flow) send(kind linkv1.FrameKind, payload []byte) error {
	f.sending.Lock()
	defer f.sending.Unlock()
	f.mu.Lock()
	if f.reason != "" {
		f.mu.Unlock()
		return ended(f.reason)
	}
	f.seq++
	f.flying.push(f.seq, len(payload))
	frame := &linkv1.Frame{Seq: f.seq, Kind: kind, Payload: payload, Delivered: f.taken}
	f.owed, f.quiet = 0, 0
	f.mu.Unlock()
	if err := f.out(frame); err != nil {
		f.end(Lost)
		return f.Err()
	}
	return nil
}

// tell says what was taken, if it is due. idle makes a word due after so many
// visits of silence; 0 makes it due only if something is owed.
func (f *flow) tell(idle int) {
	f.mu.Lock()
	f.quiet++
	due := f.reason == "" && (f.owed > 0 || idle > 0 && f.quiet >= idle)
	f.mu.Unlock()
	if due {
		f.word()
	}
}

// word is a frame without a number.
func (f *flow) word() {
	f.sending.Lock()
	defer f.sending.Unlock()
	f.mu.Lock()
	frame := &linkv1.Frame{Delivered: f.taken}
	f.owed, f.quiet = 0, 0
	f.mu.Unlock()
	if err := f.out(frame); err != nil {
		f.end(Lost)
	}
}

// take puts in what came from the other side. It never waits.
func (f *flow) take(frame *linkv1.Frame) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reason != "" {
		return
	}
	if f.flying.delivered(frame.Delivered) {
		wake(f.room)
	}
	if frame.Seq == 0 {
		return
	}
	if frame.Seq != f.got+1 {
		f.endLocked(Gap)
		return
	}
	f.got = frame.Seq
	switch frame.Kind {
	case linkv1.FrameKind_FRAME_KIND_DATA:
		if f.queued > 0 && f.queued+len(frame.Payload) > f.window {
			f.endLocked(Overrun)
			return
		}
		f.queued += len(frame.Payload)
		f.put(received{payload: frame.Payload, seq: frame.Seq})
	case linkv1.FrameKind_FRAME_KIND_FIN:
		f.put(received{seq: frame.Seq, fin: true})
	case linkv1.FrameKind_FRAME_KIND_CLOSE:
		reason := Lost
		if string(frame.Payload) == Closed {
			reason = Closed
		}
		f.endLocked(reason)
	default: // OPEN and ACCEPT
		f.taken = frame.Seq
	}
}

func (f *flow) put(r received) {
	if f.head > 1024 && f.head > len(f.queue)/2 {
		n := copy(f.queue, f.queue[f.head:])
		clear(f.queue[n:])
		f.queue, f.head = f.queue[:n], 0
	}
	f.queue = append(f.queue, r)
	wake(f.came)
}

// Receive returns the next message. What came before the end of the session
// is still returned.
func (f *flow) Receive(ctx context.Context) ([]byte, error) {
	for {
		f.mu.Lock()
		if f.head < len(f.queue) && f.queue[f.head].fin {
			f.taken = f.queue[f.head].seq
			f.finTaken = true
			f.mu.Unlock()
			return nil, io.EOF // and so at the next call
		}
		if f.head < len(f.queue) {
			r := f.queue[f.head]
			f.queue[f.head] = received{}
			if f.head++; f.head == len(f.queue) {
				f.queue, f.head = f.queue[:0], 0
			}
			f.queued -= len(r.payload)
			f.taken = r.seq
			f.owed += len(r.payload)
			due := f.owed >= deliveredEvery && f.reason == ""
			f.mu.Unlock()
			if due {
				f.word()
			}
			return r.payload, nil
		}
		reason := f.reason
		f.mu.Unlock()
		if reason != "" {
			return nil, ended(reason)
		}
		select {
		case <-f.came:
		case <-f.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// CloseSend sends FIN.
func (f *flow) CloseSend() error {
	if err := f.send(linkv1.FrameKind_FRAME_KIND_FIN, nil); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.finSent = true
	return nil
}

// Close tells the other end, unless it knows already.
func (f *flow) Close() error {
	f.mu.Lock()
	tell := f.reason == "" && !(f.finSent && f.finTaken)
	f.mu.Unlock()
	if tell {
		_ = f.send(linkv1.FrameKind_FRAME_KIND_CLOSE, []byte(Closed)) // it may have ended meanwhile
	}
	f.end(Closed)
	return nil
}

// Err is why the session is over; nil: it is not.
func (f *flow) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reason == "" {
		return nil
	}
	return ended(f.reason)
}

func (f *flow) end(reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.endLocked(reason)
}

func (f *flow) endLocked(reason string) {
	if f.reason != "" {
		return
	}
	f.reason = reason
	close(f.done)
	if f.forget != nil {
		f.forget()
	}
}

var _ worker.Session = (*flow)(nil)
