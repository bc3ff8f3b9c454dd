package tunnel

import (
	"time"

	"golang.org/x/sys/unix"
)

// restWaiters bounds how many wait for a rest at once, for each of them keeps
// a thread. Where it is reached, the others read on as if no rest was to come.
var restWaiters = make(chan struct{}, 8)

// restComes waits until there is something to read, for so long at most, or
// a little longer where signals come.
func restComes(fd uintptr, within time.Duration) bool {
	select {
	case restWaiters <- struct{}{}:
	default:
		return false
	}
	defer func() { <-restWaiters }()
	fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		wait := unix.NsecToTimespec(within.Nanoseconds())
		if n, err := unix.Ppoll(fds[:], &wait, nil); err != unix.EINTR {
			return n > 0 && err == nil
		}
	}
}
