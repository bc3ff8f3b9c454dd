package site

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2/toxics"
	"golang.org/x/sys/unix"
)

// A way is a proxy before a server that sends everything back.
type way struct {
	t    *testing.T
	legs *legs
	addr string
}

func newWay(t *testing.T) *way {
	t.Helper()
	server, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := server.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn) // however it ends
			})
		}
	})
	front, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	w := &way{t, newLegs(slog.New(slog.DiscardHandler)), front.Addr().String()}
	w.legs.open(front, server.Addr().String(), func(net.Conn) origin { return origin{leg: legAgents, gateway: 1} })
	t.Cleanup(func() {
		server.Close()
		w.legs.close()
		wg.Wait()
	})
	return w
}

func (w *way) dial() net.Conn {
	w.t.Helper()
	conn, err := net.Dial("tcp", w.addr)
	must(w.t, err)
	w.t.Cleanup(func() { conn.Close() })
	return conn
}

// echo sends and takes back so many bytes, and returns how long it took.
func (w *way) echo(conn net.Conn, n int) (time.Duration, error) {
	w.t.Helper()
	began := time.Now()
	must(w.t, conn.SetDeadline(began.Add(20*time.Second)))
	sent, got := make([]byte, n), make([]byte, n)
	rand.Read(sent)
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = conn.Write(sent) // the reader learns it
	})
	_, err := io.ReadFull(conn, got)
	wg.Wait()
	if err == nil && !bytes.Equal(sent, got) {
		w.t.Error("other bytes came back")
	}
	return time.Since(began), err
}

func (w *way) wantEcho(conn net.Conn, when string) {
	w.t.Helper()
	if _, err := w.echo(conn, 100_000); err != nil {
		w.t.Errorf("%s: %v", when, err)
	}
}

func everything(origin) bool { return true }

func TestToxicsLoseNothing(t *testing.T) {
	t.Parallel()
	for name, toxic := range map[string]toxics.Toxic{
		"latency":   &toxics.LatencyToxic{Latency: 20, Jitter: 10},
		"bandwidth": throttle{1 << 20},
		"slice":     &toxics.SlicerToxic{AverageSize: 1000},
		"slow":      &toxics.SlowCloseToxic{Delay: 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWay(t)
			conn := w.dial()
			w.wantEcho(conn, "before")
			// They come and go in the middle of what is under way.
			var wg sync.WaitGroup
			wg.Go(func() {
				for range 5 {
					w.wantEcho(conn, "during")
				}
			})
			for range 5 {
				_, undo := w.legs.strike(&legFault{match: everything, toxic: always(toxic)}, false)
				undo()
			}
			_, undo := w.legs.strike(&legFault{match: everything, toxic: always(toxic)}, false)
			w.wantEcho(w.dial(), "of a new connection")
			wg.Wait()
			undo()
			w.wantEcho(conn, "afterwards")
		})
	}
}

func TestLatencyAndBandwidthAreFelt(t *testing.T) {
	t.Parallel()
	w := newWay(t)
	conn := w.dial()
	_, undo := w.legs.strike(&legFault{match: everything, toxic: always(&toxics.LatencyToxic{Latency: 100})}, false)
	if took, err := w.echo(conn, 10); err != nil || took < 200*time.Millisecond {
		t.Errorf("100 ms each way: %v, %v", took, err)
	}
	undo()
	_, undo = w.legs.strike(&legFault{match: everything, toxic: always(throttle{100_000})}, false)
	if took, err := w.echo(conn, 50_000); err != nil || took < 400*time.Millisecond {
		t.Errorf("50 kB at 100 kB/s: %v, %v", took, err)
	}
	undo()
	w.wantEcho(conn, "afterwards")
}

func TestNewestFaultCounts(t *testing.T) {
	t.Parallel()
	w := newWay(t)
	conn := w.dial()
	_, undoLatency := w.legs.strike(&legFault{match: everything, toxic: always(&toxics.LatencyToxic{Latency: 150})}, false)
	_, undoSlice := w.legs.strike(&legFault{match: everything, toxic: always(&toxics.SlicerToxic{AverageSize: 100})}, false)
	undoLatency() // not the newest: nothing changes
	w.wantEcho(conn, "sliced")
	_, undoLatency = w.legs.strike(&legFault{match: everything, toxic: always(&toxics.LatencyToxic{Latency: 150})}, false)
	undoSlice()
	if took, err := w.echo(conn, 10); err != nil || took < 300*time.Millisecond {
		t.Errorf("150 ms each way: %v, %v", took, err)
	}
	undoLatency()
	w.wantEcho(conn, "afterwards")
}

func TestCutClosesAndResetResets(t *testing.T) {
	t.Parallel()
	w := newWay(t)
	for reset, want := range map[bool]error{false: io.EOF, true: syscall.ECONNRESET} {
		conn, idle := w.dial(), w.dial()
		w.wantEcho(conn, "before")
		w.wantEcho(idle, "before")
		if met := w.legs.cutNow(everything, reset); met < 2 {
			t.Errorf("%d connections met, want 2", met)
		}
		for _, c := range []net.Conn{conn, idle} {
			must(t, c.SetDeadline(time.Now().Add(10*time.Second)))
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, want) {
				t.Errorf("reset %v: got %v, want %v", reset, err, want)
			}
		}
		w.wantEcho(w.dial(), "afterwards")
	}
	_, undo := w.legs.strike(&legFault{match: everything}, false)
	if _, err := w.echo(w.dial(), 1); err == nil {
		t.Error("somebody came in while nobody may")
	}
	undo()
	w.wantEcho(w.dial(), "at last")
}

func TestHalfOpenSaysNothing(t *testing.T) {
	t.Parallel()
	w := newWay(t)
	conn := w.dial()
	w.wantEcho(conn, "before")
	_, undo := w.legs.strike(&legFault{match: everything, toxic: always(swallow{}), holes: true}, false)
	fresh := w.dial()
	for _, c := range []net.Conn{conn, fresh} {
		if _, err := c.Write([]byte("into the hole")); err != nil {
			t.Errorf("write: %v", err)
		}
		must(t, c.SetReadDeadline(time.Now().Add(300*time.Millisecond)))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: got %v, want nothing at all", err)
		}
	}
	undo()
	for _, c := range []net.Conn{conn, fresh} {
		must(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("bytes are missing, and the connection goes on: %v", err)
		}
	}
	w.wantEcho(w.dial(), "afterwards")
}

// Another fault that begins while a leg is a hole must not open it again: what
// came out then would lack what was swallowed, as of no TCP.
func TestNothingComesOutOfAHole(t *testing.T) {
	t.Parallel()
	w := newWay(t)
	conn := w.dial()
	w.wantEcho(conn, "before")
	_, undoHole := w.legs.strike(&legFault{match: everything, toxic: always(swallow{}), holes: true}, false)
	_, undoSlice := w.legs.strike(&legFault{match: everything, toxic: always(&toxics.SlicerToxic{AverageSize: 100})}, false)
	if _, err := conn.Write([]byte("into the hole")); err != nil {
		t.Errorf("write: %v", err)
	}
	undoHole()
	must(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("bytes are missing, and the connection goes on: %d bytes, %v", n, err)
	}
	w.wantEcho(w.dial(), "sliced")
	undoSlice()
	w.wantEcho(w.dial(), "afterwards")
}

// A receiver that does not read must not hold up a fault, nor the end.
func TestBlockedReceiverHoldsNothingUp(t *testing.T) {
	t.Parallel()
	w := newWay(t)
	conn := w.dial()
	must(t, conn.SetWriteDeadline(time.Now().Add(2*time.Second)))
	for err := error(nil); err == nil; {
		_, err = conn.Write(make([]byte, 1<<20)) // nobody reads what comes back
	}
	began := time.Now()
	_, undo := w.legs.strike(&legFault{match: everything, toxic: always(swallow{}), holes: true}, false)
	undo()
	w.legs.cutNow(everything, true)
	if took := time.Since(began); took > 10*strikeWithin {
		t.Errorf("%v", took)
	}
	w.wantEcho(w.dial(), "of a new connection")
}

func TestOriginIsTheProcessAtTheOtherEnd(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	defer conn.Close()
	accepted, err := l.Accept()
	must(t, err)
	defer accepted.Close()
	// Another connection from the same port, to another address.
	other, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer other.Close()
	twin, err := (&net.Dialer{LocalAddr: conn.LocalAddr(), Control: reusePort}).Dial("tcp", other.Addr().String())
	if err == nil { // the kernel may refuse what it does by itself
		defer twin.Close()
	}

	inode := socketOf(accepted)
	info, err := conn.(*net.TCPConn).SyscallConn()
	must(t, err)
	var stat unix.Stat_t
	must(t, info.Control(func(fd uintptr) { err = unix.Fstat(int(fd), &stat) }))
	must(t, err)
	if inode != stat.Ino {
		t.Errorf("the other end is inode %d, want %d", inode, stat.Ino)
	}
	if !holds(os.Getpid(), socketName(inode)) || holds(os.Getppid(), socketName(inode)) {
		t.Error("the socket is not found to be ours, and nobody else's")
	}
}

func reusePort(_, _ string, c syscall.RawConn) (err error) {
	if failed := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}); failed != nil {
		return failed
	}
	return err
}
