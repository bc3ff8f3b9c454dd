// Package tunnel joins two byte streams into one: what a shim and a connector
// do with a local TCP connection and a session.
//
// The end of one stream is passed on as exactly what it was. A half-close
// stays a half-close, and whatever broke is not made to look like an orderly
// end: a download cut short must not pass for a complete one.
package tunnel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// A Conn is one side of a tunnel. Read and Write may be called concurrently
// with each other and with Abort.
type Conn interface {
	io.ReadWriteCloser

	// CloseWrite tells the peer that nothing more will come.
	CloseWrite() error

	// Abort ends the connection at once, in both directions, such that the peer
	// sees it broken. It unblocks Read and Write.
	Abort(why error)
}

// TCP is a TCP connection as a side of a tunnel.
type TCP struct{ *net.TCPConn }

// Abort resets the connection.
func (c TCP) Abort(error) {
	// Only what is unsent is lost by it, and that is the purpose. An error
	// means that the connection is closed already.
	_ = c.SetLinger(0)
	_ = c.Close()
}

// Join copies both ways until both streams have ended, and closes both sides.
// When one breaks, both are aborted; the error says which, and why.
func Join(a, b Conn) error {
	var (
		wg     sync.WaitGroup
		once   sync.Once
		broken error
	)
	oneWay := func(dst, src Conn) {
		err := pass(dst, src)
		if err == nil {
			return
		}
		once.Do(func() {
			broken = err
			a.Abort(err)
			b.Abort(err)
		})
	}
	wg.Go(func() { oneWay(a, b) })
	wg.Go(func() { oneWay(b, a) })
	wg.Wait()
	if broken != nil {
		return broken
	}
	// Everything has been passed on. If somebody closed a side in this very
	// moment, nothing was lost by it.
	if err := errors.Join(a.Close(), b.Close()); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// pass copies one stream and its end.
func pass(dst, src Conn) error {
	written, err := flow(dst, src, nil)
	switch {
	case written:
		return fmt.Errorf("tunnel: write: %w", err)
	case err != nil:
		return fmt.Errorf("tunnel: read: %w", err)
	}
	if err := dst.CloseWrite(); err != nil {
		return fmt.Errorf("tunnel: half-close: %w", err)
	}
	return nil
}
