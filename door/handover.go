package door

import (
	"context"
	"net"
	"sync"
)

// A handover is a listener whose connections come from within. It holds none:
// who gives one waits until it is taken.
type handover struct {
	conns chan net.Conn
	once  sync.Once
	shut  chan struct{}
}

func newHandover() *handover {
	return &handover{conns: make(chan net.Conn), shut: make(chan struct{})}
}

// give hands c on. False: nobody took it before ctx ended, or the listener is closed.
func (h *handover) give(ctx context.Context, c net.Conn) bool {
	select {
	case h.conns <- c:
		return true
	case <-h.shut:
	case <-ctx.Done():
	}
	return false
}

func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.shut:
		return nil, net.ErrClosed
	}
}

func (h *handover) Close() error {
	h.once.Do(func() { close(h.shut) })
	return nil
}

func (h *handover) Addr() net.Addr { return doorAddr{} }

// doorAddr is the address of what stands behind a door.
type doorAddr struct{}

func (doorAddr) Network() string { return "door" }
func (doorAddr) String() string  { return "door" }

// GRPC returns where connections that speak gRPC come out: HTTP/2 in clear, and
// TLS that asks for h2 and not for HTTP/1.1 too. Nothing was read from them;
// behind a PROXY header they tell the address that it says, otherwise they are
// the bare sockets. They are the taker's: the door forgets them. A door that
// is not Tier0 gives none.
func (d *Door) GRPC() net.Listener { return d.grpc }
