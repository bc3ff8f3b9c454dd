//go:build unix

package tunnel

import (
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// await returns when there is something to read, if only the end. It takes as
// little stack as can be: goroutines stand here for hours.
func await(c TCP) {
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Read(readable)
	}
	_ = err // the next read says it too
}

func readable(fd uintptr) bool {
	fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds[:], 0)
	return n > 0 || err != nil // a needless read does no harm
}

// A readiness reads a TCP connection into a buffer that is taken only when
// there is something to put into it.
type readiness struct {
	raw  syscall.RawConn
	try  func(fd uintptr) bool // tryRead, bound once
	rest time.Duration         // how long a rest is waited for; see begins

	buf  *[chunk]byte
	n    int
	err  error
	late error // what the next read returns: it came behind bytes
}

// restWithin is how long the rest of what Java's remoting says may take. It
// comes 87 microseconds after its begin at the median, eight tenths within 250.
const restWithin = 250 * time.Microsecond

// begins reports that a read of n bytes looks like the begin of something
// larger. Java's remoting writes blocks of one KiB and their heads through a
// buffer of 8 KiB, so what is larger comes as one write that nearly fills it,
// and then the rest. As two frames these are two produce requests, the second
// of which waits for the first; so the rest is worth waiting for.
func begins(n int) bool { return n > 7<<10-64 && n <= 8<<10 }

// newReadiness returns nil if the connection cannot be had this way.
func newReadiness(c TCP) *readiness {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	r := &readiness{raw: raw, rest: restWithin}
	r.try = r.tryRead
	return r
}

// read returns at least one byte, or an error and no buffer.
func (r *readiness) read() (buf *[chunk]byte, n int, err error) {
	err = r.raw.Read(r.try)
	if err == nil {
		err = r.err
	}
	buf, n = r.buf, r.n
	r.buf, r.n, r.err = nil, 0, nil
	if buf == nil {
		return nil, 0, err
	}
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		buffers.Put(buf)
		return nil, 0, err
	}
	return buf, n, nil
}

// tryRead reads once, and then what belongs to it. False: there is nothing to
// read yet.
func (r *readiness) tryRead(fd uintptr) bool {
	if r.late != nil {
		r.err, r.late = r.late, nil
		return true
	}
	r.buf = buffers.Get().(*[chunk]byte)
	r.n, r.err = readNow(fd, r.buf[:])
	if r.err == nil {
		r.readRest(fd)
		return true
	}
	buffers.Put(r.buf)
	r.buf, r.n = nil, 0
	if r.err == syscall.EAGAIN {
		r.err = nil
		return false
	}
	r.err = readError(r.err)
	return true
}

// readRest reads on as long as what came last looks like a begin.
func (r *readiness) readRest(fd uintptr) {
	for last := r.n; begins(last) && r.n < len(r.buf) && restComes(fd, r.rest); {
		n, err := readNow(fd, r.buf[r.n:])
		if err != nil && err != syscall.EAGAIN {
			r.late = readError(err) // the kernel tells it only once
		}
		if err != nil {
			return
		}
		last = n // 0: the end, which the next read sees again
		r.n += n
	}
}

// readNow reads without waiting, and acknowledges.
func readNow(fd uintptr, p []byte) (n int, err error) {
	for {
		n, err = syscall.Read(int(fd), p)
		if err != syscall.EINTR {
			break
		}
	}
	if err == nil {
		ackNow(fd)
	}
	return n, err
}

func readError(err error) error {
	return &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", err)}
}
