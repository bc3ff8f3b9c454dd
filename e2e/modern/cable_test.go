package modern_test

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

var errCut = errors.New("the cable is cut")

// A cable is somebody's way to others: all connections that he makes run
// through it. The zero value is whole.
type cable struct {
	from net.IP // the host's address, of 127.0.0.0/8; nil: any

	mu      sync.Mutex // guards the following
	strands map[*strand]bool
	gone    bool // nothing can be dialled
	hole    bool // whatever passes is lost, and nobody is told
}

// A strand is one connection.
type strand struct {
	net.Conn
	cable  *cable
	closed chan struct{}
	once   sync.Once

	mu       sync.Mutex // guards the following
	lost     bool       // it has been in the hole, and never comes out of it
	deadline time.Time  // for reading
}

func (c *cable) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if c.down() {
		return nil, errCut
	}
	var dialer net.Dialer
	if c.from != nil {
		dialer.LocalAddr = &net.TCPAddr{IP: c.from}
	}
	conn, err := dialer.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	s := &strand{Conn: conn, cable: c, closed: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		_ = conn.Close() // nothing was on it
		return nil, errCut
	}
	if c.strands == nil {
		c.strands = make(map[*strand]bool)
	}
	c.strands[s], s.lost = true, c.hole
	return s, nil
}

func (c *cable) dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	return c.dial(ctx, "tcp", addr)
}

func (c *cable) down() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone
}

func (c *cable) all() []*strand {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]*strand, 0, len(c.strands))
	for s := range c.strands {
		all = append(all, s)
	}
	return all
}

// reset breaks all connections: both ends are told so at once.
func (c *cable) reset() {
	for _, s := range c.all() {
		_ = s.SetLinger(0) // closed meanwhile, else
		_ = s.Close()
	}
}

// cut breaks all connections, and lets none be made until mend.
func (c *cable) cut() {
	c.mu.Lock()
	c.gone = true
	c.mu.Unlock()
	c.reset()
}

// swallow loses all that passes until mend, and tells neither end.
func (c *cable) swallow() {
	c.mu.Lock()
	c.hole = true
	c.mu.Unlock()
	for _, s := range c.all() {
		s.mu.Lock()
		s.lost = true
		s.mu.Unlock()
		_ = s.Conn.SetReadDeadline(time.Unix(1, 0)) // wakes who reads
	}
}

// mend undoes both. A connection that was in the hole is of no use any more:
// it is reset.
func (c *cable) mend() {
	c.mu.Lock()
	c.gone, c.hole = false, false
	c.mu.Unlock()
	for _, s := range c.all() {
		if s.isLost() {
			_ = s.SetLinger(0) // closed meanwhile, else
			_ = s.Close()
		}
	}
}

// SetLinger is what a stand-in resets its connection by.
func (s *strand) SetLinger(sec int) error { return s.Conn.(*net.TCPConn).SetLinger(sec) }

func (s *strand) isLost() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}

func (s *strand) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if !s.isLost() {
		return n, err
	}
	// As long as the deadline that the reader has set, or until somebody closes it.
	s.mu.Lock()
	deadline := s.deadline
	s.mu.Unlock()
	var late <-chan time.Time
	if !deadline.IsZero() {
		timer := time.NewTimer(time.Until(deadline))
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-s.closed:
		return 0, net.ErrClosed
	case <-late:
		return 0, os.ErrDeadlineExceeded
	}
}

func (s *strand) Write(p []byte) (int, error) {
	if s.isLost() {
		select {
		case <-s.closed:
			return 0, net.ErrClosed
		default:
			return len(p), nil
		}
	}
	return s.Conn.Write(p)
}

func (s *strand) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline = t
	if s.lost {
		return nil
	}
	return s.Conn.SetReadDeadline(t)
}

func (s *strand) SetDeadline(t time.Time) error {
	if err := s.Conn.SetWriteDeadline(t); err != nil {
		return err
	}
	return s.SetReadDeadline(t)
}

func (s *strand) Close() error {
	s.once.Do(func() { close(s.closed) })
	s.cable.mu.Lock()
	delete(s.cable.strands, s)
	s.cable.mu.Unlock()
	return s.Conn.Close()
}
