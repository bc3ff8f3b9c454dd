package conn

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"

	"github.com/moorage-dev/moorage/session"
)

// ErrTooLarge reports a message that does not fit into one frame.
var ErrTooLarge = errors.New("conn: message larger than a frame")

// Send writes p as one message: one frame, whose boundaries the far side
// sees. It waits until the window has room, and no crowd
// is before it, or ctx ends; deadlines do not
// concern it. It returns when the session has the message, long before the
// far side does: see Flush.
func (c *Conn) Send(ctx context.Context, p []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(p) > c.maxFrame() {
		return ErrTooLarge
	}
	return c.until(ctx, &c.writable, func() (bool, error) {
		if err := c.sendErr(); err != nil {
			return false, err
		}
		if c.writing || !c.ready() {
			return false, nil
		}
		c.cut() // bytes written before come before
		if !c.cfg.End.CanWrite(len(p)) || c.crowded() {
			return false, nil
		}
		c.cfg.End.Write(slices.Clone(p))
		c.cfg.Kick()
		return true, nil
	})
}

// Receive returns the next message. It counts as delivered when Receive
// returns. The caller owns the bytes. Errors are those of Read, and ctx's.
func (c *Conn) Receive(ctx context.Context) (p []byte, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	err = c.until(ctx, &c.readable, func() (bool, error) {
		if c.closed {
			return false, net.ErrClosed
		}
		head, ok := c.cfg.End.Next()
		if !ok {
			return false, c.cfg.End.ReadErr()
		}
		p = head[c.taken:]
		c.consume()
		return true, nil
	})
	return p, err
}

// Flush returns when everything written before is persisted: it will arrive
// as long as the session lives. It may be called after CloseWrite and Close.
// *session.EndedError: the session ended before that was known.
func (c *Conn) Flush(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hurry = true
	c.Changed()
	var last uint64
	return c.until(ctx, &c.writable, func() (bool, error) {
		end := c.cfg.End
		if last == 0 && len(c.joined) == 0 {
			last = end.Written()
		}
		if len(c.joined) == 0 && end.Persisted() >= last && !c.dropped {
			return true, nil
		}
		if ending, ended := end.Ended(); ended {
			return false, &session.EndedError{Ending: ending}
		}
		return false, nil
	})
}

// until tries each time cond is signalled, and gives up when ctx ends.
func (c *Conn) until(ctx context.Context, cond *sync.Cond, try func() (bool, error)) error {
	var stop func() bool
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if ok, err := try(); ok || err != nil {
			return err
		}
		if stop == nil {
			stop = context.AfterFunc(ctx, func() {
				c.mu.Lock()
				defer c.mu.Unlock()
				cond.Broadcast()
			})
			defer stop()
		}
		cond.Wait()
	}
}
