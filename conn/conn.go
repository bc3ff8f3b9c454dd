package conn

import (
	"net"
	"slices"
	"sync"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/seeded"
	"github.com/moorage-dev/moorage/session"
)

// Config joins a Conn to the role whose End it stands over.
type Config struct {
	// End is the role's half that faces the application.
	End *session.End
	// Kick is called with the lock held when the role may have something to
	// send. It must not block, and give the role no input; to pull what is
	// pending is not one.
	Kick func()
	// CloseSession is the role's method of that name; called with the lock held.
	CloseSession func(session.Ending)
	// Ready reports, with the lock held, whether frames may be written yet; a
	// controller side's may only follow ACCEPT. nil: always. Until then, what
	// is written waits, up to one frame; a half-close waits too.
	Ready func() bool
	// Crowded reports, with the lock held, that too much of all sessions waits
	// on the way out. Then a session that has a few frames of its own among it
	// takes no more until one of them is persisted. nil: never.
	Crowded func() bool
	// MaxFrame returns, with the lock held, the largest payload of one frame;
	// 0, or nil: session.MaxFrame.
	MaxFrame func() int
	// Local and Remote are what the methods of net.Conn return; nil: a name.
	Local, Remote net.Addr
}

// A Conn is the application's end of one session.
//
// Its methods may be called concurrently, but for Changed, which is the
// runtime's and needs the lock.
type Conn struct {
	cfg      Config
	mu       sync.Mutex
	readable sync.Cond // something to read, or the reason why nothing will come
	writable sync.Cond // room, persistence, or the reason why nothing can go
	done     chan struct{}

	joined  []byte // written, not yet cut into a frame; never more than the window has room for
	hurry   bool   // joined is to be cut now: someone flushes
	writing bool   // one Write is under way; others take their turn
	fin     bool   // the application half-closed
	closed  bool   // the application closed
	dropped bool   // joined bytes were given up: nobody may be told that they are persisted
	over    bool   // done is closed
	taken   int    // bytes of the head frame already read
	again   func() // WriteReady's, while it waits; nil: nobody does

	readDeadline, writeDeadline deadline
}

// New returns the Conn over a role.
func New(cfg Config) *Conn {
	if cfg.Local == nil {
		cfg.Local = addr("local end")
	}
	if cfg.Remote == nil {
		cfg.Remote = addr("far end")
	}
	c := &Conn{cfg: cfg, done: make(chan struct{})}
	c.readable.L, c.writable.L = &c.mu, &c.mu
	return c
}

// Lock takes the session's lock. Whoever touches the role holds it.
func (c *Conn) Lock() { c.mu.Lock() }

// Unlock gives the session's lock back.
func (c *Conn) Unlock() { c.mu.Unlock() }

// Changed follows every input to the role; the lock is held. It cuts what
// need not wait any longer and wakes who waited for what has come.
func (c *Conn) Changed() {
	before := c.cfg.End.Written()
	c.push()
	if c.cfg.End.Written() != before {
		c.cfg.Kick()
	}
	c.wake()
}

// push moves what was written into the role, as far as that may be done now.
func (c *Conn) push() {
	end := c.cfg.End
	if end.WriteErr() != nil {
		c.drop() // the role has closed the session: nothing may follow
		return
	}
	if !c.ready() {
		return
	}
	if c.fin && seeded.On(seeded.FinOvertakes) {
		end.CloseWrite()
	}
	if c.fin || c.closed || c.hurry || len(c.joined) >= c.maxFrame() || end.Unpersisted() == 0 {
		c.cut()
	}
	if c.fin {
		end.CloseWrite()
	}
}

// cut makes a frame of the joined bytes. There is always room for it: Write
// takes no more than the window does.
func (c *Conn) cut() {
	if len(c.joined) > 0 {
		p := c.joined
		if len(p) < cap(p)/2 {
			p = slices.Clone(p) // the frame may have to be kept for long
		}
		c.cfg.End.Write(p)
	}
	c.joined, c.hurry = nil, false
}

// drop gives the joined bytes up.
func (c *Conn) drop() {
	c.dropped = c.dropped || len(c.joined) > 0
	c.joined = nil
}

func (c *Conn) wake() {
	end := c.cfg.End
	if _, ended := end.Ended(); ended && !c.over {
		c.over = true
		close(c.done)
	}
	if _, ok := end.Next(); ok || c.closed || end.ReadErr() != nil {
		c.wakeReaders()
	}
	c.writable.Broadcast()
}

// wakeReaders wakes whoever waits for something to read.
func (c *Conn) wakeReaders() {
	c.readable.Broadcast()
	if again := c.again; again != nil {
		c.again = nil
		again()
	}
}

func (c *Conn) ready() bool { return c.cfg.Ready == nil || c.cfg.Ready() }

// fewFrames is how many a session may have under way in a crowd. So none has to
// wait for others before it may say anything, and many together stay small.
const fewFrames = 16

// crowded reports whether it is not this session's turn. The outcome of a frame
// under way will have it asked again.
func (c *Conn) crowded() bool {
	return c.cfg.Crowded != nil && c.cfg.End.Unpersisted() >= fewFrames && c.cfg.Crowded()
}

func (c *Conn) maxFrame() int {
	if c.cfg.MaxFrame != nil {
		if n := c.cfg.MaxFrame(); n > 0 {
			return min(n, session.MaxFrame)
		}
	}
	return session.MaxFrame
}

// CloseWrite ends this side's data once everything written was sent; the
// other direction goes on.
func (c *Conn) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch ending, ended := c.cfg.End.Ended(); {
	case c.closed:
		return net.ErrClosed
	case c.fin:
		return nil
	case ended:
		return &session.EndedError{Ending: ending}
	}
	c.fin = true
	c.Changed()
	return nil
}

// Close ends the session in good order. It returns at once; what was written
// goes on its way in the background.
func (c *Conn) Close() error {
	c.CloseWithReason(session.Ending{Reason: linkv1.Reason_REASON_OK})
	return nil
}

// CloseWithReason ends the session and gives the far side the reason, after
// everything that was written. Only the first call counts.
func (c *Conn) CloseWithReason(ending session.Ending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	c.readDeadline.stop()
	c.writeDeadline.stop()
	c.push()
	c.drop() // only what the far side never agreed to hear is left
	c.cfg.CloseSession(ending)
	c.cfg.Kick()
	c.wake()
}

// Done is closed when the session's ending is known.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err returns nil until Done is closed, and then a *session.EndedError,
// whatever the reason, OK included.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ending, ended := c.cfg.End.Ended(); ended {
		return &session.EndedError{Ending: ending}
	}
	return nil
}

// LocalAddr returns what Config says.
func (c *Conn) LocalAddr() net.Addr { return c.cfg.Local }

// RemoteAddr returns what Config says.
func (c *Conn) RemoteAddr() net.Addr { return c.cfg.Remote }

// addr names an end of a session that has no address of its own.
type addr string

func (addr) Network() string  { return "moorage" }
func (a addr) String() string { return string(a) }
