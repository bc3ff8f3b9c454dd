package demo

import (
	"fmt"
	"io"
	"time"

	"github.com/moorage-dev/moorage/check"
)

// A display shows what goes on: one line on a terminal, a line every few
// seconds elsewhere.
type display struct {
	out      io.Writer
	terminal bool
	w        *World
	started  time.Time
	lines    chan string
}

func (d *display) say(format string, args ...any) {
	d.lines <- fmt.Sprintf("%5.1fs  ", time.Since(d.started).Seconds()) + fmt.Sprintf(format, args...)
}

// run shows until the returned function is called.
func (d *display) run() (stop func()) {
	d.lines = make(chan string)
	done := make(chan struct{})
	every := 5 * time.Second
	if d.terminal {
		every = 200 * time.Millisecond
	}
	go func() {
		defer close(done)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case line, ok := <-d.lines:
				if !ok {
					d.clear()
					return
				}
				d.clear()
				fmt.Fprintln(d.out, line)
			case <-tick.C:
				d.status()
			}
		}
	}()
	return func() {
		close(d.lines)
		<-done
	}
}

func (d *display) clear() {
	if d.terminal {
		fmt.Fprint(d.out, "\r\x1b[K")
	}
}

func (d *display) status() {
	r := d.w.Report(false)
	line := fmt.Sprintf("%5.1fs  attached %d/%d  up %d/%d  down %d/%d  lost=%d repeated=%d reordered=%d",
		time.Since(d.started).Seconds(), d.w.Attached(), d.w.cfg.Agents,
		r.Received[check.Agent], r.Sent[check.Agent], r.Received[check.Controller], r.Sent[check.Controller],
		r.Lost, r.Repeated, r.Reordered)
	if d.terminal {
		fmt.Fprint(d.out, "\r\x1b[K\x1b[?7l"+line+"\x1b[?7h") // cut off at the edge, not wrapped
		return
	}
	fmt.Fprintln(d.out, line)
}
