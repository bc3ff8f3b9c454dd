package door

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// hungUp reports whether the peer has ended its stream, even if there are
// bytes before the end that nobody has read.
func hungUp(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
}

// userTimeout bounds how long bytes may wait for the peer's ACK.
func userTimeout(c *net.TCPConn, t time.Duration) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	// A socket that cannot do it will be seen to break in other ways.
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(t.Milliseconds()))
	})
}
