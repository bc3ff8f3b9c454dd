package door

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/moorage-dev/moorage/remoting"
	"github.com/moorage-dev/moorage/tunnel"
)

// A line is one connection. It can be looked at without taking anything from
// it, so that whoever it is handed on to has all of it: a socket is peeked, and
// stays as it was; from any other connection bytes are read ahead.
type line struct {
	net.Conn
	raw           syscall.RawConn // nil: nothing to peek at
	ahead         []byte          // read ahead; always empty where there is raw
	remote, local net.Addr        // as a PROXY header says; nil: the connection's own

	joined atomic.Pointer[joining] // what it is a side of; nil: of nothing

	once sync.Once
	left func() // called when the line is given up: closed, or handed out
}

// errTooLong reports that something did not end within its bound.
var errTooLong = errors.New("door: longer than it may be")

func newLine(c net.Conn) *line {
	l := &line{Conn: c}
	if tcp, ok := c.(*net.TCPConn); ok && canPeek {
		if raw, err := tcp.SyscallConn(); err == nil {
			l.raw = raw
		}
	}
	return l
}

// look shows parse what the peer has said so far, and again whenever there is
// more, until parse returns something else than remoting.ErrShort. It takes
// nothing. parse must not keep what it sees. errTooLong: most bytes were not enough.
func (l *line) look(most int, parse func([]byte) error) error {
	if l.raw != nil {
		return l.peek(most, parse)
	}
	for {
		if len(l.ahead) > 0 {
			if err := parse(l.ahead); !errors.Is(err, remoting.ErrShort) {
				return err
			}
		}
		if len(l.ahead) >= most {
			return errTooLong
		}
		if err := l.readAhead(most); err != nil {
			if err == io.EOF && len(l.ahead) > 0 {
				return io.ErrUnexpectedEOF
			}
			return err
		}
	}
}

// readAhead reads once.
func (l *line) readAhead(most int) error {
	buf := make([]byte, min(512, most-len(l.ahead)))
	n, err := l.Conn.Read(buf)
	l.ahead = append(l.ahead, buf[:n]...)
	return err
}

// skip takes n bytes that were looked at.
func (l *line) skip(n int) error {
	_, err := io.CopyN(io.Discard, l, int64(n))
	return err
}

func (l *line) Read(p []byte) (int, error) {
	if len(l.ahead) > 0 {
		n := copy(p, l.ahead)
		if l.ahead = l.ahead[n:]; len(l.ahead) == 0 {
			l.ahead = nil
		}
		return n, nil
	}
	return l.Conn.Read(p)
}

// Close closes the line; only the first call counts.
func (l *line) Close() error {
	err := l.Conn.Close()
	l.leave()
	return err
}

// leave gives the line's place back.
func (l *line) leave() { l.once.Do(l.left) }

// CloseWrite ends what is said to the peer, where that can be done alone.
func (l *line) CloseWrite() error {
	if half, ok := l.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return l.Close()
}

// Abort breaks the line.
func (l *line) Abort(error) {
	l.reset()
	_ = l.Close() // closed already at worst
}

// reset breaks the connection under whoever has the line, who gives it up then.
func (l *line) reset() {
	if tcp, ok := l.Conn.(*net.TCPConn); ok {
		tunnel.TCP{TCPConn: tcp}.Abort(nil)
	}
}

func (l *line) RemoteAddr() net.Addr {
	if l.remote != nil {
		return l.remote
	}
	return l.Conn.RemoteAddr()
}

func (l *line) LocalAddr() net.Addr {
	if l.local != nil {
		return l.local
	}
	return l.Conn.LocalAddr()
}

// NetConn returns the connection below.
func (l *line) NetConn() net.Conn { return l.Conn }

// side returns the line as a side of a tunnel: as the bare socket if nothing
// was read ahead, for that costs least.
func (l *line) side() tunnel.Conn {
	if tcp, ok := l.Conn.(*net.TCPConn); ok && len(l.ahead) == 0 {
		return tunnel.TCP{TCPConn: tcp}
	}
	return l
}

// bare returns what to hand out to somebody who knows sockets: the socket
// itself where that says everything.
func (l *line) bare() net.Conn {
	if len(l.ahead) == 0 && l.remote == nil {
		return l.Conn
	}
	return l
}

// farewell says a last line and closes. What the peer has said and nobody read
// would make the close a reset, which can overtake the line: it is read, for a
// second at most.
func (l *line) farewell(text string) {
	_ = l.SetDeadline(time.Now().Add(time.Second))
	// Errors mean that nobody listens any more.
	if _, err := io.WriteString(l, text); err == nil {
		if err := l.CloseWrite(); err == nil {
			_, _ = io.CopyN(io.Discard, l, mostUnread)
		}
	}
	_ = l.Close()
}
