package worker

import (
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A fdAlarm is a timer of the kernel that the runtime's poller waits for like
// for a connection, so it wakes within microseconds.
type fdAlarm struct {
	fd    int
	file  *os.File // of fd
	poked atomic.Bool
	buf   [8]byte
}

// newAlarm returns the finest alarm there is.
func newAlarm() alarm {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return newTimerAlarm()
	}
	return &fdAlarm{fd: fd, file: os.NewFile(uintptr(fd), "timerfd")}
}

func (a *fdAlarm) set(d time.Duration) {
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(max(d.Nanoseconds(), 1))}
	_ = unix.TimerfdSettime(a.fd, 0, &spec, nil) // it refuses only what is no timer and no time
}

// sleep sets the timer before it looks whether it was poked: a poke after that
// look finds the timer set, and sets it again. A poke while sleep returns is
// forgotten: whoever slept looks for news anyway.
func (a *fdAlarm) sleep(d time.Duration) {
	a.set(d)
	if a.poked.Swap(false) {
		return
	}
	_, _ = a.file.Read(a.buf[:]) // closed: whoever sleeps sees its context ended
	a.poked.Store(false)
}

func (a *fdAlarm) poke() {
	a.poked.Store(true)
	a.set(1)
}

func (a *fdAlarm) close() { a.file.Close() }
