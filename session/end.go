package session

import (
	"io"
	"slices"

	"github.com/moorage-dev/moorage/buffer"
	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/seeded"
)

// An End is the half of a session that faces an application: what it has
// written and the far side has not taken, and what has come in and it has not
// taken itself.
//
// Agent and Controller embed it. After any call that changes it, the owner
// asks the role's Pending for what there is to send now.
type End struct {
	out buffer.Window

	in       []Frame // accepted, not consumed; in[0] is a DATA frame
	accepted uint64  // last seq accepted; in ends with it
	consumed uint64  // last seq consumed by the application: our "delivered"
	inBytes  int     // payload bytes in in
	inLimit  int     // the window this side gave the other

	reported   uint64 // last consumed that was sent to the other side
	unreported int    // payload bytes consumed since

	took uint64 // payload bytes consumed in the session's life

	finIn, finOut bool // FIN accepted; FIN or CLOSE pushed
	closeOut      bool // CLOSE or REJECT pushed: nothing may follow
	closeIn       bool // CLOSE or REJECT accepted: nothing can follow
	ended         bool // the ending of record is known
	ending        Ending
}

// mostFrames returns how many frames may be undelivered within a window of so
// many bytes. Bytes alone would let frames without payload pile up for ever.
func mostFrames(window int) int { return max(window/64, 16) }

// CanWrite reports whether a data frame of n payload bytes may be written now.
func (e *End) CanWrite(n int) bool {
	return e.Undelivered() < mostFrames(e.out.Limit) && e.out.Room(n)
}

// Room returns how many payload bytes may be written now, in one frame.
func (e *End) Room() int {
	if e.Undelivered() >= mostFrames(e.out.Limit) {
		return 0
	}
	return e.out.Free()
}

// Unpersisted returns the number of frames written and not known persisted.
// While it is above zero, small writes are better joined than sent.
func (e *End) Unpersisted() int { return int(e.out.Last() - e.out.Persisted()) }

// Undelivered returns the number of frames written and not known delivered.
func (e *End) Undelivered() int { return int(e.out.Last() - e.out.Delivered()) }

// Written returns the seq of the last frame written.
func (e *End) Written() uint64 { return e.out.Last() }

// Persisted returns the highest seq of this side's frames known persisted.
func (e *End) Persisted() uint64 { return e.out.Persisted() }

// Write appends a data frame; the caller has asked CanWrite and WriteErr and
// never changes p again.
func (e *End) Write(p []byte) {
	n := len(p)
	if seeded.On(seeded.WindowCountsItems) {
		n = min(n, 1)
	}
	e.out.Push(uint8(envelope.Data), p, n)
}

// CloseWrite ends this side's data; the other direction goes on.
func (e *End) CloseWrite() {
	if !e.finOut {
		e.finOut = true
		e.out.Push(uint8(envelope.Fin), nil, 0)
	}
}

// Bytes returns the payload bytes that reached the applications in the
// session's life: this side's (in) and, as far as it is known here, the other's
// (out). After this side's own end in good order that is all it wrote: who
// learns of the end has read what stands before it.
func (e *End) Bytes() (in, out uint64) {
	out = e.out.DeliveredBytes()
	if e.closeOut && !e.closeIn && e.ending.Reason == linkv1.Reason_REASON_OK {
		out += uint64(e.out.Outstanding())
	}
	return e.took, out
}

// WriteErr says why nothing can be written any more; nil while it can.
func (e *End) WriteErr() error {
	switch {
	case e.ended:
		return &EndedError{e.ending}
	case e.finOut:
		return io.ErrClosedPipe
	}
	return nil
}

// Next returns the payload of the oldest data frame that the application has
// not consumed.
func (e *End) Next() (p []byte, ok bool) {
	if len(e.in) == 0 {
		return nil, false
	}
	return e.in[0].Payload, true
}

// Consume notes that the application has taken the frame that Next returns.
func (e *End) Consume() {
	n := len(e.in[0].Payload)
	e.inBytes -= n
	e.unreported += n
	e.took += uint64(n)
	e.consumed = e.in[0].Seq
	e.in[0] = Frame{}
	e.in = e.in[1:]
	e.passControl()
}

// passControl consumes what no application sees: control frames at the head.
func (e *End) passControl() {
	for len(e.in) > 0 && e.in[0].Kind != envelope.Data {
		e.consumed = e.in[0].Seq
		e.in = e.in[1:]
	}
	if len(e.in) == 0 {
		e.in = nil // an idle session keeps no array
	}
}

// ReadErr says what the application gets once Next has nothing: nil while
// more may come, io.EOF after a half-close or an end in good order,
// *EndedError after any other.
func (e *End) ReadErr() error {
	switch {
	case len(e.in) > 0:
		return nil
	case e.ended && e.ending.Reason != linkv1.Reason_REASON_OK:
		return &EndedError{e.ending}
	case e.ended, e.finIn:
		return io.EOF
	}
	return nil
}

// Ended returns the ending of record once it is known.
func (e *End) Ended() (Ending, bool) { return e.ending, e.ended }

// end notes the ending; the first one stays.
func (e *End) end(ending Ending) {
	if !e.ended {
		e.ended, e.ending = true, ending
	}
}

// accept takes f if it is exactly the next one. fresh is false for a repeat.
// ErrHole: a predecessor is missing and will come again (row 7).
func (e *End) accept(f Frame) (fresh bool, err error) {
	switch {
	case f.Seq <= e.accepted || e.closeIn:
		return false, nil
	case f.Seq > e.accepted+1 && !seeded.On(seeded.HigherAccepted):
		return false, ErrHole
	}
	switch f.Kind {
	case envelope.Data:
		if e.finIn {
			return false, violation("data after the half-close")
		}
		if e.inBytes > 0 && e.inBytes+len(f.Payload) > e.inLimit {
			return false, violation("window of %d bytes overrun", e.inLimit)
		}
		if len(e.in) > mostFrames(e.inLimit) {
			return false, violation("more than %d frames undelivered", mostFrames(e.inLimit))
		}
		e.inBytes += len(f.Payload)
	case envelope.Fin:
		e.finIn = true
	case envelope.Close, envelope.Reject:
		e.closeIn = true
	case envelope.Open, envelope.Accept:
	default:
		return false, violation("frame of unknown kind %v", f.Kind)
	}
	e.accepted = f.Seq
	e.in = append(e.in, Frame{Seq: f.Seq, Kind: f.Kind, Payload: f.Payload})
	e.passControl()
	return true, nil
}

// mustReport reports whether enough was consumed to tell the other side
// without waiting for something to carry the news.
func (e *End) mustReport() bool {
	return e.consumed > e.reported && e.unreported*4 >= e.inLimit
}

// report returns delivered and notes that it is being told.
func (e *End) report() uint64 {
	e.reported, e.unreported = e.consumed, 0
	return e.consumed
}

func (e *End) clone() End {
	c := *e
	c.out = e.out.Clone()
	c.in = slices.Clone(e.in)
	return c
}
