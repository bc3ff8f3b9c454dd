package conn

import (
	"errors"
	"net"
	"time"
)

// A deadline is one direction's. The session's lock guards it.
type deadline struct {
	expired bool
	timer   *time.Timer
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline makes Reads fail with os.ErrDeadlineExceeded from t on,
// those that wait already included. Zero: never.
func (c *Conn) SetReadDeadline(t time.Time) error {
	return c.setDeadline(&c.readDeadline, c.wakeReaders, t)
}

// SetWriteDeadline makes Writes fail with os.ErrDeadlineExceeded from t on,
// those that wait already included. Zero: never.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	return c.setDeadline(&c.writeDeadline, c.writable.Broadcast, t)
}

func (c *Conn) setDeadline(d *deadline, wake func(), t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	d.stop()
	d.expired = false
	if t.IsZero() {
		return nil
	}
	left := time.Until(t)
	if left <= 0 {
		d.expired = true
		wake()
		return nil
	}
	var timer *time.Timer
	timer = time.AfterFunc(left, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if d.timer == timer { // else it was set anew while this one fired
			d.expired = true
			wake()
		}
	})
	d.timer = timer
	return nil
}
