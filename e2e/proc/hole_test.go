package proc_test

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/moorage-dev/moorage/e2e/rig"
)

// A hole is a relay before a gateway that can become a black hole: it takes
// bytes from both sides, passes none on, and closes nothing. A connection that
// was in the hole stays there when the hole is gone, half-open for whoever
// still believes in it.
type hole struct {
	target string
	l      net.Listener
	wg     sync.WaitGroup

	mu    sync.Mutex
	black bool // newcomers are swallowed too
	lines []*line
}

// A line is one connection through the hole.
type line struct {
	near, far net.Conn // far is nil in a line that was swallowed from its start
	swallowed atomic.Bool
}

func newHole(t *testing.T, target string) *hole {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	rig.Must(t, err)
	h := &hole{target: target, l: l}
	h.wg.Go(h.accept)
	t.Cleanup(func() {
		_ = h.l.Close()
		h.mu.Lock()
		for _, line := range h.lines {
			line.close()
		}
		h.mu.Unlock()
		h.wg.Wait()
	})
	return h
}

func (h *hole) address() string { return h.l.Addr().String() }

// swallow makes it black for all lines there are, and for newcomers until heal.
func (h *hole) swallow() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.black = true
	for _, line := range h.lines {
		line.swallowed.Store(true)
	}
}

func (h *hole) heal() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.black = false
}

func (h *hole) accept() {
	for {
		near, err := h.l.Accept()
		if err != nil {
			return // the test is over
		}
		h.mu.Lock()
		line := &line{near: near}
		line.swallowed.Store(h.black)
		h.lines = append(h.lines, line)
		if !h.black {
			if line.far, err = net.Dial("tcp", h.target); err != nil {
				line.close() // as the dead gateway's host would
			}
		}
		h.mu.Unlock()
		switch {
		case line.far != nil:
			h.wg.Go(func() { line.pass(line.far, near) })
			h.wg.Go(func() { line.pass(near, line.far) })
		default:
			h.wg.Go(func() { line.pass(io.Discard, near) })
		}
	}
}

// pass carries one direction until it breaks or ends.
func (l *line) pass(dst io.Writer, src net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if err == nil && !l.swallowed.Load() {
			_, err = dst.Write(buf[:n])
		}
		if err == nil {
			continue
		}
		if !l.swallowed.Load() { // the far side of a black hole never hears of an end
			l.close()
		}
		return
	}
}

func (l *line) close() {
	_ = l.near.Close() // either may be closed already, or be broken: that is why
	if l.far != nil {
		_ = l.far.Close()
	}
}
