package gateway

import (
	"net"
	"sync"
)

// conns are the connections that are open.
type conns struct {
	mu   sync.Mutex
	open map[*socket]struct{}
	over bool // closeAll was called
}

// A socket is one of them.
type socket struct {
	net.Conn
	all *conns
	m   *metrics
}

// bound returns lis with a bound on how many connections are open. One above
// it is closed as soon as it comes: if it waited to be accepted, it would wait
// for others to leave.
func (c *conns) bound(lis net.Listener, most int, m *metrics) net.Listener {
	return &boundedListener{lis, c, most, m}
}

type boundedListener struct {
	net.Listener
	all  *conns
	most int
	m    *metrics
}

func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &socket{raw, l.all, l.m}
		if l.all.add(c, l.most) {
			return c.ready(), nil
		}
		l.m.connRefused.Inc()
		raw.Close()
	}
}

func (c *conns) add(one *socket, most int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over || len(c.open) >= most {
		return false
	}
	if c.open == nil {
		c.open = make(map[*socket]struct{})
	}
	c.open[one] = struct{}{}
	one.m.connections.Set(float64(len(c.open)))
	return true
}

// Close is called by gRPC, at least once.
func (c *socket) Close() error {
	c.all.mu.Lock()
	delete(c.all.open, c)
	c.m.connections.Set(float64(len(c.all.open)))
	c.all.mu.Unlock()
	return c.Conn.Close()
}

// closeAll closes every connection there is or will be.
func (c *conns) closeAll() {
	c.mu.Lock()
	c.over = true
	var all []*socket
	for one := range c.open {
		all = append(all, one)
	}
	c.mu.Unlock()
	for _, one := range all {
		one.Close()
	}
}
