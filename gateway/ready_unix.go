//go:build unix

package gateway

import (
	"io"
	"net"
	"syscall"

	"google.golang.org/grpc/mem"
)

// A readyConn is a TCP connection that is given a buffer only when there is
// something to read. gRPC does that by itself for a bare *net.TCPConn; in any
// other it looks for ReadOnReady, and without that an idle connection holds
// its read buffer. Under TLS it does, for TLS reads what stands below it.
type readyConn struct {
	*socket
	raw syscall.RawConn
	try func(fd uintptr) bool // tryRead, bound once

	// One goroutine reads; these are its own.
	pool mem.BufferPool
	size int
	buf  *[]byte
	n    int
	err  error
}

// ready returns what gRPC is to be given in place of c.
func (c *socket) ready() net.Conn {
	tcp, ok := c.Conn.(*net.TCPConn)
	if !ok {
		return c
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return c
	}
	r := &readyConn{socket: c, raw: raw}
	r.try = r.tryRead
	return r
}

// ReadOnReady waits until there is something to read, and reads it into a
// buffer of the pool.
func (c *readyConn) ReadOnReady(size int, pool mem.BufferPool) (buf *[]byte, n int, err error) {
	c.size, c.pool = size, pool
	err = c.raw.Read(c.try)
	if err == nil {
		err = c.err
	}
	buf, n = c.buf, c.n
	c.pool, c.buf, c.n, c.err = nil, nil, 0, nil
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil && buf != nil {
		pool.Put(buf)
		buf = nil
	}
	return buf, n, err
}

// tryRead reads once. False: there is nothing to read yet.
func (c *readyConn) tryRead(fd uintptr) bool {
	c.buf = c.pool.Get(c.size)
	for {
		c.n, c.err = syscall.Read(int(fd), *c.buf)
		if c.err != syscall.EINTR {
			break
		}
	}
	if c.err != nil {
		c.pool.Put(c.buf)
		c.buf, c.n = nil, 0
	}
	return c.err != syscall.EAGAIN
}
