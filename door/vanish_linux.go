package door

import (
	"net"
	"syscall"
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

// keepAlive makes the system ask a silent peer whether it is there. Where it
// is busy with sending it asks by that, at least as often.
//
// TCP_USER_TIMEOUT is not used: it also ends connections to a peer that is
// there and only does not read for so long, as an agent may whose JVM pauses.
func keepAlive(c net.Conn) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	// A socket that takes no options will be seen to break in other ways.
	_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 3 * time.Second, Count: 3})
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		// Unknown before Linux 6.15; there a peer that is full is asked more rarely.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_RTO_MAX_MS, 3000)
	})
}

// vanished reports whether a peer has answered nothing for so long that it is
// taken for gone, while something was sent to it. Else keep-alive sees to it.
func vanished(raw syscall.RawConn) (gone bool) {
	// A closed connection gives an error: it needs no looking after.
	_ = raw.Control(func(fd uintptr) {
		// Most connections are idle, and this costs far less than to ask for all.
		if waiting, err := unix.IoctlGetInt(int(fd), unix.TIOCOUTQ); err == nil && waiting == 0 {
			return
		}
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		gone = err == nil && unanswered(info)
	})
	return gone
}

// unanswered tells a peer that is gone from one that does not read: that one
// acknowledges what is sent, and probes of its full window. A lone probe may
// have been lost.
func unanswered(info *unix.TCPInfo) bool {
	silent := time.Duration(min(info.Last_ack_recv, info.Last_data_recv)) * time.Millisecond
	return silent > vanishAfter && (info.Unacked > 0 || info.Probes >= 2)
}
