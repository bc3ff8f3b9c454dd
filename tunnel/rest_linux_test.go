package tunnel

import (
	"errors"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// A class that a Java peer sends in two writes, the first of them a buffer's
// worth, becomes one frame: the second would wait until Kafka has the first.
func TestTheRestOfAClassGoesWithItsBegin(t *testing.T) {
	peer, r := newPatientReader(t, time.Minute)
	read := reading(r)
	mustWrite(t, peer, string(make([]byte, 7680)))
	waitForWaiter(t)
	mustWrite(t, peer, string(make([]byte, 2173)))
	wantRead(t, read, 7680+2173, nil)
}

// What is as large as may be, or clearly the end of something, waits for nothing.
func TestOtherReadsDoNotWait(t *testing.T) {
	peer, r := newPatientReader(t, time.Hour)
	for _, n := range []int{1, 151, 7000, 8193} {
		mustWrite(t, peer, string(make([]byte, n)))
		wantRead(t, reading(r), n, nil)
	}
}

// With no rest to come, the begin goes alone.
func TestABeginWithoutARestIsNotKept(t *testing.T) {
	peer, r := newPatientReader(t, time.Millisecond)
	mustWrite(t, peer, string(make([]byte, 8<<10)))
	wantRead(t, reading(r), 8<<10, nil)
}

// A reset that is seen while a rest is waited for is still a reset.
func TestAResetBehindABeginIsTold(t *testing.T) {
	peer, r := newPatientReader(t, time.Minute)
	read := reading(r)
	mustWrite(t, peer, string(make([]byte, 8000)))
	waitForWaiter(t)
	TCP{peer}.Abort(nil)
	wantRead(t, read, 8000, nil)
	wantRead(t, reading(r), 0, syscall.ECONNRESET)
}

// Waiting takes threads: there are only so many for it.
func TestFewWaitForARest(t *testing.T) {
	peer, r := newPatientReader(t, time.Hour)
	for range cap(restWaiters) {
		restWaiters <- struct{}{}
		defer func() { <-restWaiters }()
	}
	mustWrite(t, peer, string(make([]byte, 8000)))
	wantRead(t, reading(r), 8000, nil)
}

func newPatientReader(t *testing.T, rest time.Duration) (peer *net.TCPConn, r *readiness) {
	t.Helper()
	peer, near := tcpPair(t)
	r = newReadiness(TCP{near})
	r.rest = rest
	return peer, r
}

type aRead struct {
	n   int
	err error
}

// reading reads once, meanwhile.
func reading(r *readiness) <-chan aRead {
	done := make(chan aRead, 1)
	go func() {
		buf, n, err := r.read()
		if buf != nil {
			buffers.Put(buf)
		}
		done <- aRead{n, err}
	}()
	return done
}

func wantRead(t *testing.T, read <-chan aRead, n int, err error) {
	t.Helper()
	select {
	case got := <-read:
		if got.n != n || !errors.Is(got.err, err) {
			t.Fatalf("read %d bytes, %v; want %d, %v", got.n, got.err, n, err)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("no read of %d bytes in time", n)
	}
}

// waitForWaiter waits until somebody waits for a rest.
func waitForWaiter(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); len(restWaiters) == 0; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("nobody waits for the rest")
		}
	}
}
