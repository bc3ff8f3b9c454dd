package conn

import (
	"io"
	"net"
	"os"
	"slices"

	"github.com/moorage-dev/moorage/seeded"
	"github.com/moorage-dev/moorage/session"
)

// Read reads bytes in the order they were written, whatever frames they came
// in. A frame counts as delivered when its last byte was read. io.EOF: the
// far side half-closed, or the session ended in good order. *session.EndedError:
// it ended otherwise. net.ErrClosed: Close was called.
func (c *Conn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, net.ErrClosed
		case c.readDeadline.expired:
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		}
		head, ok := c.cfg.End.Next()
		if !ok {
			if err := c.cfg.End.ReadErr(); err != nil {
				return 0, err
			}
			c.readable.Wait()
			continue
		}
		n := copy(p, head[c.taken:])
		if c.taken += n; c.taken == len(head) {
			c.consume()
		}
		if n > 0 {
			return n, nil
		}
	}
}

// WriteTo writes what comes in to w, without a copy of its own, until the far
// side half-closes or the session ends in good order. A frame counts as
// delivered when w has taken it. Nobody else may read meanwhile. Errors are
// those of w and of Read.
func (c *Conn) WriteTo(w io.Writer) (written int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		n, waits, err := c.writeHead(w)
		written += int64(n)
		switch {
		case waits:
			c.readable.Wait()
		case err == io.EOF:
			return written, nil
		case err != nil:
			return written, err
		}
	}
}

// WriteReady is WriteTo for who would rather not wait, since a goroutine that
// waits takes memory: it writes what is there. If the stream goes on then, it
// waits for more: again is called, once, as soon as WriteReady would do
// anything. That happens with the lock held, so again must not block and must
// not touch the Conn; it starts or wakes who does. Of several calls that wait
// only the last counts.
func (c *Conn) WriteReady(w io.Writer, again func()) (waits bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch _, waits, err := c.writeHead(w); {
		case waits:
			c.again = again
			return true, nil
		case err == io.EOF:
			return false, nil
		case err != nil:
			return false, err
		}
	}
}

// writeHead writes what is left of the head frame to w. If there is none it
// waits, or the error tells that none will come: io.EOF at the stream's end.
func (c *Conn) writeHead(w io.Writer) (n int, waits bool, err error) {
	switch {
	case c.closed:
		return 0, false, net.ErrClosed
	case c.readDeadline.expired:
		return 0, false, os.ErrDeadlineExceeded
	}
	head, ok := c.cfg.End.Next()
	if !ok {
		err = c.cfg.End.ReadErr()
		return 0, err == nil, err
	}
	n, err = c.pass(w, head[c.taken:])
	if c.taken += n; c.taken == len(head) {
		c.consume()
	}
	return n, false, err
}

// pass writes p, a part of the head frame, without the lock. The frame stays
// where it is until it is consumed, and its bytes never change.
func (c *Conn) pass(w io.Writer, p []byte) (n int, err error) {
	c.mu.Unlock()
	defer c.mu.Lock()
	if len(p) == 0 {
		return 0, nil
	}
	return w.Write(p)
}

// consume gives the head frame back to the role, which may have news to tell of it.
func (c *Conn) consume() {
	c.cfg.End.Consume()
	c.taken = 0
	c.cfg.Kick()
}

// Write writes bytes, and blocks while the window has no room for more of
// them. p may be used again when it returns. Concurrent Writes are not mixed.
func (c *Conn) Write(p []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.writing {
		if err := c.writeErr(); err != nil {
			return 0, err
		}
		c.writable.Wait()
	}
	c.writing = true
	defer c.written()
	for {
		if err := c.writeErr(); err != nil {
			return n, err
		}
		if k := min(len(p)-n, c.room()); k > 0 {
			c.join(p[n : n+k])
			n += k
		} else if n < len(p) {
			c.writable.Wait()
		}
		if n == len(p) {
			return n, nil
		}
	}
}

func (c *Conn) written() {
	c.writing = false
	c.writable.Broadcast()
}

// writeErr says why no bytes can be written now; nil while they can.
func (c *Conn) writeErr() error {
	switch {
	case c.closed:
		return net.ErrClosed
	case c.writeDeadline.expired:
		return os.ErrDeadlineExceeded
	}
	return c.sendErr()
}

// sendErr is writeErr without the deadline.
func (c *Conn) sendErr() error {
	switch err := c.cfg.End.WriteErr(); {
	case c.closed:
		return net.ErrClosed
	case err != nil:
		return err
	case c.fin:
		return io.ErrClosedPipe
	}
	return nil
}

// room returns how many bytes may be joined now.
func (c *Conn) room() int {
	if c.crowded() {
		return 0
	}
	return min(c.maxFrame(), c.cfg.End.Room()) - len(c.joined)
}

// smallest is what is allocated for joined bytes at least.
const smallest = 512

// join adds bytes for which there is room, and cuts a frame if it is time.
func (c *Conn) join(p []byte) {
	if c.joined == nil {
		size := len(p)
		if c.cfg.End.Unpersisted() > 0 { // more will come before it is cut
			size = max(size, min(2*size, session.MaxFrame), smallest)
		}
		c.joined = make([]byte, 0, size)
	}
	c.joined = append(c.joined, p...)
	if seeded.On(seeded.ReplyOvertakes) {
		c.joined = append(slices.Clone(p), c.joined[:len(c.joined)-len(p)]...)
	}
	before := c.cfg.End.Written()
	c.push()
	if c.cfg.End.Written() != before {
		c.cfg.Kick()
	}
}
