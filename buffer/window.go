package buffer

import (
	"errors"
	"slices"
)

// ErrBeyond reports an acknowledgement of a frame that was never pushed.
var ErrBeyond = errors.New("buffer: acknowledged beyond what was sent")

// A Frame is one numbered message of one direction.
type Frame struct {
	Seq     uint64
	Kind    uint8
	Payload []byte // nil once persisted
	counted int    // bytes it takes of the window
}

// A Window holds the frames that were sent and not yet delivered.
//
// A frame's payload is kept until it is persisted, because until then it may
// have to be sent again, the same bytes under the same seq. Its size is kept
// until it is delivered, because until then it takes room. Only counted
// frames take room: control frames are never held back by a full window.
//
// It is not safe for concurrent use: the session's owner owns it. The zero
// Window is empty and has no room.
type Window struct {
	Limit     int     // bytes that may be undelivered
	frames    []Frame // frames[i].Seq == delivered+1+i
	persisted uint64  // highest contiguous persisted seq; at least delivered
	delivered uint64
	bytes     int    // counted bytes in frames
	total     uint64 // counted bytes ever delivered
}

// Room reports whether a counted frame of n bytes may be pushed. A frame
// larger than the whole window may go when nothing is outstanding.
func (w *Window) Room(n int) bool {
	return w.Limit > 0 && (w.bytes+n <= w.Limit || w.bytes == 0)
}

// Free returns how many bytes may be pushed at once; 0 when there is no room.
func (w *Window) Free() int { return max(0, w.Limit-w.bytes) }

// Push appends a frame and returns its seq. The caller has asked Room for
// counted frames, and never changes payload again.
func (w *Window) Push(kind uint8, payload []byte, counted int) uint64 {
	seq := w.Last() + 1
	w.frames = append(w.frames, Frame{Seq: seq, Kind: kind, Payload: payload, counted: counted})
	w.bytes += counted
	return seq
}

// Last returns the highest seq pushed; 0 when none was.
func (w *Window) Last() uint64 { return w.delivered + uint64(len(w.frames)) }

// Persisted returns the highest seq known persisted.
func (w *Window) Persisted() uint64 { return w.persisted }

// Delivered returns the highest seq known delivered.
func (w *Window) Delivered() uint64 { return w.delivered }

// DeliveredBytes returns the counted bytes of all frames known delivered.
func (w *Window) DeliveredBytes() uint64 { return w.total }

// Outstanding returns the counted bytes pushed and not yet delivered.
func (w *Window) Outstanding() int { return w.bytes }

// Frame returns the frame with the given seq, which is above Persisted and at most Last.
func (w *Window) Frame(seq uint64) Frame { return w.frames[seq-w.delivered-1] }

// Persist notes that every frame up to seq is persisted; it need not be sent
// again. Older news is ignored. ErrBeyond: seq was never pushed.
func (w *Window) Persist(seq uint64) error {
	if seq > w.Last() {
		return ErrBeyond
	}
	for ; w.persisted < seq; w.persisted++ {
		w.frames[w.persisted-w.delivered].Payload = nil
	}
	return nil
}

// Deliver notes that every frame up to seq reached the far application, and
// so is persisted too. It reports whether that was news. ErrBeyond: seq was
// never pushed.
func (w *Window) Deliver(seq uint64) (news bool, err error) {
	if seq > w.Last() {
		return false, ErrBeyond
	}
	if seq <= w.delivered {
		return false, nil
	}
	n := int(seq - w.delivered)
	for i := range w.frames[:n] {
		w.bytes -= w.frames[i].counted
		w.total += uint64(w.frames[i].counted)
		w.frames[i] = Frame{}
	}
	w.frames = w.frames[n:]
	if len(w.frames) == 0 {
		w.frames = nil // an idle session keeps no array
	}
	w.delivered = seq
	w.persisted = max(w.persisted, seq)
	return true, nil
}

// Clone returns a copy that shares nothing but payloads, which never change.
func (w *Window) Clone() Window {
	c := *w
	c.frames = slices.Clone(w.frames)
	return c
}
