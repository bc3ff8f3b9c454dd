//go:build unix

package door

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"github.com/moorage-dev/moorage/remoting"
)

const canPeek = true

// peekBuffers are for looks; one is held only while there is something to see.
var peekBuffers = sync.Pool{New: func() any { return new([mostHello]byte) }}

// peek is look for a socket.
func (l *line) peek(most int, parse func([]byte) error) error {
	var result error
	err := l.raw.Read(func(fd uintptr) (done bool) {
		result = peekNow(int(fd), most, parse)
		return result != remoting.ErrShort
	})
	if err != nil {
		return err
	}
	return result
}

// peekNow looks without waiting. remoting.ErrShort: more must come.
func peekNow(fd, most int, parse func([]byte) error) error {
	buf := peekBuffers.Get().(*[mostHello]byte)
	defer peekBuffers.Put(buf)
	most = min(most, len(buf))
	for seen := -1; ; {
		n, err := recvPeek(fd, buf[:most])
		switch {
		case err == syscall.EAGAIN:
			return remoting.ErrShort
		case err != nil:
			return &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("recvfrom", err)}
		case n == 0:
			return io.EOF
		}
		if err := parse(buf[:n]); !errors.Is(err, remoting.ErrShort) {
			return err
		}
		switch {
		case n == most:
			return errTooLong
		case !hungUp(fd):
			return remoting.ErrShort
		case n == seen:
			return io.ErrUnexpectedEOF
		}
		seen = n // once more: bytes and the end may have come just now
	}
}

func recvPeek(fd int, buf []byte) (int, error) {
	for {
		n, _, err := syscall.Recvfrom(fd, buf, syscall.MSG_PEEK)
		if err != syscall.EINTR {
			return n, err
		}
	}
}

// copySaid copies the begin of what the peer has said, most bytes of it, and
// leaves it there. It waits for nothing, and may be called while somebody waits
// for the peer to hang up.
func (l *line) copySaid(w io.Writer, most int) (n int, err error) {
	if l.raw == nil {
		return 0, nil // to look would be to read, as who watches does
	}
	buf := peekBuffers.Get().(*[mostHello]byte)
	defer peekBuffers.Put(buf)
	// An error means that the line is closed: nothing is said on it.
	_ = l.raw.Control(func(fd uintptr) { n, _ = recvPeek(int(fd), buf[:most]) })
	if n <= 0 {
		return 0, nil
	}
	return w.Write(buf[:n])
}

// waitHangUp returns when the peer has gone, or when the read deadline passes.
func (l *line) waitHangUp() (gone bool) {
	err := l.raw.Read(func(fd uintptr) bool {
		gone = hungUp(int(fd)) || empty(int(fd))
		return gone
	})
	return gone || err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

// empty reports that the stream has ended and everything before was read.
func empty(fd int) bool {
	var one [1]byte
	n, err := recvPeek(fd, one[:])
	return n == 0 && err == nil || err != nil && err != syscall.EAGAIN
}
