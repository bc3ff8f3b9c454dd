package standin

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moorage-dev/moorage/remoting"
	"github.com/moorage-dev/moorage/seeded"
)

// An Ending is a way to end a channel.
type Ending int

// The ways.
const (
	EndFIN     Ending = iota // the raw socket is closed
	EndReset                 // the raw socket is closed by a reset, as when a process is killed with data unread
	EndCommand               // a CloseCommand, then the raw socket: an orderly disconnect
	EndNotify                // a TLS close_notify and then the socket: what nobody must do
)

var (
	errPing      = errors.New("standin: the other end does not answer pings")
	errCommand   = errors.New("standin: the other end closed the channel")
	errHere      = errors.New("standin: closed at this end")
	errReplaced  = errors.New("standin: replaced by a newer connection")
	errTooOld    = errors.New("standin: no Remoting capability that is known")
	errUnordered = fmt.Errorf("%w: a command out of order", ErrCorrupt)
)

// ErrOffline reports that an agent has no channel.
var ErrOffline = errors.New("standin: no such agent is online")

// requestsAtOnce bounds the requests of a channel that are worked on at the
// same time; further ones are not read.
const requestsAtOnce = 64

// A line carries chunks: TLS, a WebSocket, or plain TCP.
type line interface {
	io.Reader
	io.Writer // one chunk in each call

	// hangUp ends it without ceremony; deaf reports whether a Read's io.EOF
	// was a close_notify, after which real peers hear nothing and see no end.
	hangUp(how Ending)
	deaf() bool
}

// A channel is one end of a Remoting channel that has passed its handshake.
// Idle it costs one goroutine and a timer.
type channel struct {
	line     line
	protocol string
	cookie   string
	remote   string
	observe  func(class string, size int) // every command that comes whole
	notified func()                       // a close_notify has come

	interval, timeout time.Duration // of pings; interval < 0: none

	write   sync.Mutex // held for one whole command; guards sent
	sent    uint64
	broken  error // set under write: a command was cut off
	mu      sync.Mutex
	nextID  uint64
	waiting map[uint64]chan command
	pinger  *time.Timer
	stopped bool // no ping begins any more

	ended atomic.Bool
	done  chan struct{} // closed by end
	cause error         // set before done is closed
	busy  chan struct{}
	wg    sync.WaitGroup
}

func newChannel(l line, protocol, cookie, remote string, p Pings) *channel {
	ch := &channel{line: l, protocol: protocol, cookie: cookie, remote: remote, done: make(chan struct{})}
	ch.interval, ch.timeout = p.interval(), p.timeout()
	ch.busy = make(chan struct{}, requestsAtOnce)
	return ch
}

// Pings are the pings that both ends of a channel send, as a stock controller
// sets them up.
type Pings struct {
	Interval time.Duration // zero: 300 s; negative: none
	Timeout  time.Duration // zero: 240 s
}

func (p Pings) interval() time.Duration {
	if p.Interval == 0 {
		return 300 * time.Second
	}
	return p.Interval
}

func (p Pings) timeout() time.Duration {
	if p.Timeout == 0 {
		return 240 * time.Second
	}
	return p.Timeout
}

// run reads commands until the channel ends and returns why it did. It returns
// when all that worked for it has.
func (ch *channel) run() error {
	if ch.interval > 0 {
		ch.wg.Go(ch.ping)
	}
	err := ch.read()
	if errors.Is(err, io.EOF) && ch.line.deaf() {
		if ch.notified != nil {
			ch.notified()
		}
		<-ch.done
	}
	ch.end(err, EndFIN)
	<-ch.done // another may have been faster, and not be through with it
	ch.stopPinging()
	ch.wg.Wait()
	return ch.cause
}

// end ends the channel for a reason, once.
func (ch *channel) end(cause error, how Ending) {
	if ch.ended.Swap(true) {
		return
	}
	ch.cause = cause
	ch.line.hangUp(how)
	close(ch.done)
}

// disconnect ends the channel from this end.
func (ch *channel) disconnect(cause error, how Ending) {
	if how == EndCommand {
		// The other end may have stopped reading: the command gets a second.
		stop := time.AfterFunc(time.Second, func() { ch.end(cause, EndFIN) })
		defer stop.Stop()
		if ch.send(command{class: remoting.ClassCloseCommand}) == nil {
			ch.end(cause, EndCommand)
			return
		}
	}
	ch.end(cause, how)
}

func (ch *channel) read() error {
	r := remoting.Reassembler{Limit: commandLimit}
	var first [2]byte
	for serial := uint64(0); ; {
		// The two bytes of a header are waited for without a buffer.
		n, err := ch.line.Read(first[:])
		if n == 0 && err != nil {
			return err
		}
		b := first[:n]
		buffer := inputs.Get().(*[]byte)
		for len(b) > 0 {
			whole, n, err := r.Feed(b)
			if err == nil && whole != nil {
				err = ch.handle(whole, &serial)
			}
			if err != nil {
				inputs.Put(buffer)
				return err
			}
			b = b[n:]
			if len(b) == 0 && r.Pending() > 0 {
				n, err := ch.line.Read(*buffer)
				if n == 0 && err != nil {
					inputs.Put(buffer)
					return err
				}
				b = (*buffer)[:n]
			}
		}
		inputs.Put(buffer)
	}
}

var inputs = sync.Pool{New: func() any { return new(make([]byte, 32<<10)) }}

func (ch *channel) handle(whole []byte, serial *uint64) error {
	c, err := parseCommand(whole)
	if err != nil {
		return err
	}
	if c.serial != *serial {
		return fmt.Errorf("%w: number %d where %d is due", errUnordered, c.serial, *serial)
	}
	*serial++
	if ch.observe != nil {
		ch.observe(c.class, len(whole))
	}
	switch c.class {
	case remoting.ClassUserRequest:
		select {
		case ch.busy <- struct{}{}:
		case <-ch.done:
			return ch.cause
		}
		ch.wg.Go(func() {
			ch.answer(c)
			<-ch.busy
		})
	case remoting.ClassResponse:
		ch.mu.Lock()
		waiting := ch.waiting[c.id]
		delete(ch.waiting, c.id)
		ch.mu.Unlock()
		if waiting != nil {
			waiting <- c // has room for the one
		}
	case remoting.ClassCloseCommand:
		// Java answers with its own, which may meet a closed socket. It is not
		// sent from here: the other end may be waiting for us to read.
		ch.wg.Go(func() { ch.disconnect(errCommand, EndCommand) })
		<-ch.done
		return errCommand
	}
	return nil
}

func (ch *channel) answer(c command) {
	reply := command{class: remoting.ClassResponse, id: c.id, seed: rand.Uint64(), size: c.want}
	if err := c.check(); err != nil {
		reply.text, reply.size = err.Error(), 0
	}
	c.data = nil
	if err := ch.send(reply); err != nil {
		ch.end(err, EndFIN)
	}
}

// send writes one command; the direction's order is that of the lock.
func (ch *channel) send(c command) error {
	ch.write.Lock()
	defer ch.write.Unlock()
	if ch.broken != nil {
		return ch.broken
	}
	c.serial = ch.sent
	ch.sent++
	ch.broken = c.write(ch.line)
	return ch.broken
}

// call sends a request of down bytes and waits for a response of up bytes.
func (ch *channel) call(ctx context.Context, text string, up, down int) error {
	answered := make(chan command, 1)
	ch.mu.Lock()
	id := ch.nextID
	ch.nextID++
	if ch.waiting == nil {
		ch.waiting = map[uint64]chan command{}
	}
	ch.waiting[id] = answered
	ch.mu.Unlock()
	defer func() {
		ch.mu.Lock()
		delete(ch.waiting, id)
		ch.mu.Unlock()
	}()

	// Half a command would end the channel: one that is begun is written to
	// its end, whatever becomes of ctx.
	request := command{class: remoting.ClassUserRequest, id: id, text: text, want: uint32(up), seed: rand.Uint64(), size: uint32(down)}
	failed := make(chan error, 1)
	go func() {
		if err := ch.send(request); err != nil {
			failed <- err
		}
	}()
	select {
	case c := <-answered:
		switch {
		case c.text != "":
			return fmt.Errorf("%w, says the other end: %s", ErrCorrupt, c.text)
		case int(c.size) != up:
			return fmt.Errorf("%w: a response of %d bytes, not %d", ErrCorrupt, c.size, up)
		}
		return c.check()
	case err := <-failed:
		ch.end(err, EndFIN)
		return err
	case <-ch.done:
		return fmt.Errorf("standin: the channel ended: %w", ch.cause)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// ping pings, and again after the interval; it ends the channel when no answer
// comes in time. Between two pings it is a timer and no goroutine.
func (ch *channel) ping() {
	begun := time.Now()
	ctx, cancel := context.WithTimeoutCause(context.Background(), ch.timeout, errPing)
	defer cancel()
	if err := ch.call(ctx, pingText, 1600, 1700); err != nil {
		ch.end(err, EndFIN)
		return
	}
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.stopped {
		return
	}
	ch.pinger = time.AfterFunc(max(0, ch.interval-time.Since(begun)), func() {
		ch.mu.Lock()
		if ch.stopped {
			ch.mu.Unlock()
			return
		}
		ch.wg.Add(1)
		ch.mu.Unlock()
		defer ch.wg.Done()
		ch.ping()
	})
}

// stopPinging lets no ping begin any more.
func (ch *channel) stopPinging() {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	ch.stopped = true
	if ch.pinger != nil {
		ch.pinger.Stop()
	}
}

// A socket is a raw connection that knows whether its own end has been seen.
type socket struct {
	net.Conn
	over atomic.Bool
}

func (s *socket) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if err != nil {
		s.over.Store(true)
	}
	return n, err
}

func (s *socket) hangUp(how Ending) {
	if tcp, ok := s.Conn.(interface{ SetLinger(int) error }); ok && how == EndReset {
		_ = tcp.SetLinger(0) // then it is a FIN: nothing else could be done
	}
	s.Close()
}

func (s *socket) deaf() bool { return false }

// A secureLine is TLS inside JNLP4. It never says goodbye unless told to.
type secureLine struct {
	*tls.Conn
	raw *socket
}

func (l secureLine) hangUp(how Ending) {
	if how == EndNotify || seeded.On(seeded.CloseNotify) {
		l.Conn.Close() // says close_notify
	}
	l.raw.hangUp(how)
}

func (l secureLine) deaf() bool { return !l.raw.over.Load() }
