package session

import "slices"

// A flight is what one producer has handed to Kafka and not seen acknowledged
// in order. It decides what counts as persisted: frame n does once n-1 does
// and n's offset is higher, for a reader drops what it meets before its
// predecessor (rows 2 and 3).
//
// News that a frame was delivered takes nothing out of a flight. It may
// concern another producer's copy of the frame, and then says nothing about
// where this producer's next one stands.
type flight struct {
	first uint64 // seq of open[0]
	at    int64  // offset of the last frame acknowledged in order; -1: none yet
	open  []produce
}

type produce struct {
	done   bool
	offset int64
}

// passed stands for a frame that this producer never had to produce.
const passed = -2

func newFlight(next uint64) flight { return flight{first: next, at: -1} }

// add notes that seq is being produced. What it leaves out since the one
// before is in the log already.
func (f *flight) add(seq uint64) {
	if len(f.open) == 0 {
		f.first = seq
	}
	for f.first+uint64(len(f.open)) < seq {
		f.open = append(f.open, produce{true, passed})
	}
	f.open = append(f.open, produce{})
}

// has reports whether an outcome of seq is awaited.
func (f *flight) has(seq uint64) bool {
	return seq >= f.first && seq < f.first+uint64(len(f.open))
}

// done notes that Kafka took seq at offset. ordered is false when a frame
// stands before its predecessor; first is then the one to produce again.
func (f *flight) done(seq uint64, offset int64) (ordered bool) {
	f.open[seq-f.first] = produce{true, offset}
	for len(f.open) > 0 && f.open[0].done {
		if o := f.open[0].offset; o != passed {
			if o <= f.at {
				return false
			}
			f.at = o
		}
		f.open = f.open[1:]
		f.first++
	}
	if len(f.open) == 0 {
		f.open = nil // an idle session keeps no array
	}
	return true
}

// reset forgets what is awaited: frames from next on are produced once more,
// behind everything that was handed over before. So where the last one stood
// matters no more; in a topic created again offsets start anew.
func (f *flight) reset(next uint64) { f.first, f.at, f.open = next, -1, nil }

func (f *flight) clone() flight {
	c := *f
	c.open = slices.Clone(f.open)
	return c
}
