package tunnel

import "golang.org/x/sys/unix"

// ackNow has the kernel acknowledge what was read at once. Java's remoting
// leaves Nagle's algorithm on: the rest of what it writes waits for the
// acknowledgement of the beginning, and the kernel would keep that back for
// 40 ms in the hope of something to send with it. Over loopback, where a
// segment takes 64 KiB, nearly every large command is such a rest. The option
// does not last; so it is set after each read. An error means that the
// connection is over, and the next read says so.
func ackNow(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) }
