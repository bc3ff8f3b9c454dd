//go:build unix

package tunnel

import (
	"io"
	"net"
	"os"
	"syscall"

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
	raw syscall.RawConn
	try func(fd uintptr) bool // tryRead, bound once

	buf *[chunk]byte
	n   int
	err error
}

// newReadiness returns nil if the connection cannot be had this way.
func newReadiness(c TCP) *readiness {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	r := &readiness{raw: raw}
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

// tryRead reads once. False: there is nothing to read yet.
func (r *readiness) tryRead(fd uintptr) bool {
	r.buf = buffers.Get().(*[chunk]byte)
	for {
		r.n, r.err = syscall.Read(int(fd), r.buf[:])
		if r.err != syscall.EINTR {
			break
		}
	}
	if r.err == nil {
		ackNow(fd)
		return true
	}
	buffers.Put(r.buf)
	r.buf, r.n = nil, 0
	if r.err == syscall.EAGAIN {
		r.err = nil
		return false
	}
	r.err = &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", r.err)}
	return true
}
