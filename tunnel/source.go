package tunnel

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"
)

// chunk is how much is read at once: the payload of one frame at most.
const chunk = 64 << 10

var buffers = sync.Pool{New: func() any { return new([chunk]byte) }}

// A source is a Conn that is read. While there is nothing to read it holds no
// buffer worth mentioning: most connections are idle most of the time.
type source struct {
	c     Conn
	ready *readiness // nil: one has to read to see whether there is something
	small []byte
	big   *[chunk]byte // held from next to done, and while reads are large

	// patience is how long nothing may come until it gives up, with errCalm; it
	// may take twice as long. 0: for ever.
	patience time.Duration
	moved    bool // something has come since that was asked last
}

var errCalm = errors.New("tunnel: nothing has come for a while")

func newSource(c Conn) *source {
	s := &source{c: c}
	if tcp, ok := c.(TCP); ok {
		s.ready = newReadiness(tcp)
	}
	return s
}

// next returns what can be read, once there is something. It is good until done.
func (s *source) next() ([]byte, error) {
	if s.ready != nil {
		buf, n, err := s.ready.read()
		for s.patience > 0 && errors.Is(err, os.ErrDeadlineExceeded) {
			if s.calm() {
				return nil, errCalm
			}
			buf, n, err = s.ready.read()
		}
		s.big, s.moved = buf, true
		if buf == nil {
			return nil, err
		}
		return buf[:n], err
	}
	if s.big != nil {
		n, err := s.c.Read(s.big[:])
		return s.big[:n], err
	}
	if s.small == nil {
		s.small = make([]byte, 512)
	}
	n, err := s.c.Read(s.small)
	return s.small[:n], err
}

// calm reports whether nothing has come for a while, and looks again later if
// something has. That the deadline cannot be set the next read says too.
func (s *source) calm() bool {
	tcp := s.c.(TCP)
	if s.moved {
		s.moved = false
		_ = tcp.SetReadDeadline(time.Now().Add(s.patience))
		return false
	}
	_ = tcp.SetReadDeadline(time.Time{})
	return true
}

// done gives back what next returned.
func (s *source) done(n int) {
	switch {
	case s.big != nil && (s.ready != nil || n < len(s.small)):
		buffers.Put(s.big)
		s.big = nil
	case s.big == nil && s.small != nil && n == len(s.small):
		s.big = buffers.Get().(*[chunk]byte) // there seems to be more
	}
}

// copyTo copies until the end of the source, which is no error.
func (s *source) copyTo(dst io.Writer) error {
	defer s.done(0)
	if s.patience > 0 {
		s.moved = true
		_ = s.calm()
		defer func() { s.moved = false; _ = s.calm() }() // who reads next has no deadline
	}
	for {
		p, err := s.next()
		if len(p) > 0 {
			if _, err := dst.Write(p); err != nil {
				return err
			}
		}
		s.done(len(p))
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// A sink is a Conn that is written. It counts, and knows whose fault an error was.
type sink struct {
	c     Conn
	count func(n int) // nil: nobody wants to know
	err   error       // of Write
}

func (s *sink) Write(p []byte) (int, error) {
	n, err := s.c.Write(p)
	if s.count != nil {
		s.count(n)
	}
	if err != nil {
		s.err = err
	}
	return n, err
}

// flow copies one stream up to its end, which is no error. written tells that
// the error is dst's.
func flow(dst, src Conn, count func(int)) (written bool, err error) {
	to := &sink{c: dst, count: count}
	if from, ok := src.(io.WriterTo); ok && !isTCP(src) {
		_, err = from.WriteTo(to) // a session: it has its bytes in memory already
	} else {
		err = newSource(src).copyTo(to)
	}
	return to.err != nil, err
}

func isTCP(c Conn) bool { _, ok := c.(TCP); return ok }
