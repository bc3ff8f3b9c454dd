//go:build !linux

package door

import (
	"net"
	"syscall"
	"time"
)

// hungUp would report that the peer has ended its stream behind bytes that
// nobody has read. It cannot be told here: it shows once they are read.
func hungUp(int) bool { return false }

// keepAlive makes the system ask a silent peer whether it is there.
func keepAlive(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		// A socket that takes no options will be seen to break in other ways.
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 3 * time.Second, Count: 3})
	}
}

// vanished is left to the system here.
func vanished(syscall.RawConn) bool { return false }
