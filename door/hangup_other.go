//go:build !linux

package door

import (
	"net"
	"time"
)

// hungUp would report that the peer has ended its stream behind bytes that
// nobody has read. It cannot be told here: it shows once they are read.
func hungUp(int) bool { return false }

// userTimeout is left to the system here.
func userTimeout(*net.TCPConn, time.Duration) {}
