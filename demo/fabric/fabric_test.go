package fabric

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"
)

func TestConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		n := New()
		c1, c2 = pair(t, n)
		return c1, c2, n.Close, nil
	})
}

func TestResetIsLearntByBothEnds(t *testing.T) {
	n := New()
	c1, c2 := pair(t, n)
	n.Links(func(l *Link) bool { return l.From == "agent" })[0].Reset()
	for _, c := range []net.Conn{c1, c2} {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read after a reset: %v", err)
		}
	}
	if left := n.Links(func(*Link) bool { return true }); len(left) != 0 {
		t.Errorf("%d links left", len(left))
	}
}

func TestBlackHoleTellsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		defer n.Close()
		c1, c2 := pair(t, n)
		if _, err := c1.Write([]byte("under way")); err != nil {
			t.Fatal(err)
		}
		n.Links(func(*Link) bool { return true })[0].BlackHole()
		if _, err := c1.Write(make([]byte, 4*bufferSize)); err != nil {
			t.Errorf("write into a black hole: %v", err)
		}
		c1.Close()
		c2.SetReadDeadline(time.Now().Add(time.Hour))
		if _, err := c2.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read behind a black hole: %v, want nothing for an hour", err)
		}
	})
}

func TestFrozenHostLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		defer n.Close()
		c1, c2 := pair(t, n)
		n.Freeze("gateway")
		if _, err := c1.Write([]byte("waits")); err != nil {
			t.Errorf("write to a frozen host: %v", err)
		}
		time.AfterFunc(time.Minute, func() { n.Thaw("gateway") })
		began := time.Now()
		b := make([]byte, 5)
		if _, err := io.ReadFull(c2, b); err != nil || string(b) != "waits" || time.Since(began) != time.Minute {
			t.Errorf("got %q, %v after %v", b, err, time.Since(began))
		}
		n.Freeze("gateway")
		c2.SetWriteDeadline(time.Now().Add(time.Second))
		if _, err := c2.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a frozen host wrote: %v", err)
		}
	})
}

func TestCloseIsEOF(t *testing.T) {
	n := New()
	c1, c2 := pair(t, n)
	if _, err := c1.Write([]byte("bye")); err != nil {
		t.Fatal(err)
	}
	c1.Close()
	if b, err := io.ReadAll(c2); err != nil || string(b) != "bye" {
		t.Errorf("got %q, %v", b, err)
	}
	if _, err := n.Dial(context.Background(), "agent", "nobody:1"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial to nobody: %v", err)
	}
}

func pair(t *testing.T, n *Network) (client, server net.Conn) {
	t.Helper()
	l, err := n.Listen("tcp", "gateway:0")
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn)
	go func() {
		c, _ := l.Accept()
		accepted <- c
	}()
	client, err = n.Dial(t.Context(), "agent", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return client, <-accepted
}
