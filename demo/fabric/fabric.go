// Package fabric is a network in memory whose links can be cut.
//
// Listeners have host:port names like real ones; connections are reliable,
// ordered and buffered, with deadlines. A link can be reset, as when a peer's
// kernel answers RST, or turned into a black hole, as when a cable is pulled:
// then neither side learns anything until it notices the silence by itself.
// Everything works inside a testing/synctest bubble.
package fabric

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// bufferSize is what one direction of a connection holds, in bytes.
const bufferSize = 128 << 10

// A Network holds listeners and the connections between them.
type Network struct {
	mu        sync.Mutex
	listeners map[string]*listener
	links     map[*Link]struct{}
	frozen    map[string]bool // hosts
	port      int
}

// New returns an empty network.
func New() *Network {
	return &Network{listeners: make(map[string]*listener), links: make(map[*Link]struct{}), frozen: make(map[string]bool), port: 30000}
}

// Listen makes a listener. Port 0 picks a free one. The signature is that of
// net.Listen, so that programs can be given it instead.
func (n *Network) Listen(_, addr string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if port == "0" {
		n.port++
		addr = net.JoinHostPort(host, fmt.Sprint(n.port))
	}
	if n.listeners[addr] != nil {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Addr: address(addr), Err: syscall.EADDRINUSE}
	}
	l := &listener{n: n, addr: addr, accept: make(chan *end), closed: make(chan struct{})}
	n.listeners[addr] = l
	return l, nil
}

// Dial connects from a named host to a listener.
func (n *Network) Dial(ctx context.Context, from, addr string) (net.Conn, error) {
	n.mu.Lock()
	l := n.listeners[addr]
	n.mu.Unlock()
	refused := &net.OpError{Op: "dial", Net: "tcp", Addr: address(addr), Err: syscall.ECONNREFUSED}
	if l == nil {
		return nil, refused
	}
	link := &Link{From: from, To: addr, n: n}
	up, down := newPipe(), newPipe()
	link.client = &end{link: link, r: down, w: up, local: address(from), remote: address(addr)}
	link.server = &end{link: link, r: up, w: down, local: address(addr), remote: address(from)}
	select {
	case l.accept <- link.server:
	case <-l.closed:
		return nil, refused
	case <-ctx.Done():
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: address(addr), Err: ctx.Err()}
	}
	n.mu.Lock()
	n.links[link] = struct{}{}
	for host := range n.frozen {
		link.stand(host, true)
	}
	n.mu.Unlock()
	return link.client, nil
}

// Dialer returns a dial function for programs that run on the named host.
func (n *Network) Dialer(from string) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, _, addr string) (net.Conn, error) { return n.Dial(ctx, from, addr) }
}

// Links returns the connections that match and are not closed at both ends.
func (n *Network) Links(match func(*Link) bool) []*Link {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []*Link
	for l := range n.links {
		if match(l) {
			out = append(out, l)
		}
	}
	return out
}

// Freeze makes everything that runs on a host deaf and dumb, as if its
// process were stopped: it reads nothing and writes nothing, while its kernel
// goes on accepting and acknowledging. Nothing is lost; Thaw lets it go on.
func (n *Network) Freeze(host string) { n.stand(host, true) }

// Thaw ends Freeze.
func (n *Network) Thaw(host string) { n.stand(host, false) }

func (n *Network) stand(host string, still bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if still {
		n.frozen[host] = true
	} else {
		delete(n.frozen, host)
	}
	for l := range n.links {
		l.stand(host, still)
	}
}

// Close resets every connection and closes every listener.
func (n *Network) Close() {
	n.mu.Lock()
	listeners := n.listeners
	n.listeners = make(map[string]*listener)
	n.mu.Unlock()
	for _, l := range listeners {
		l.Close()
	}
	for _, l := range n.Links(func(*Link) bool { return true }) {
		l.Reset()
	}
}

type listener struct {
	n      *Network
	addr   string
	accept chan *end
	closed chan struct{}
	once   sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.n.mu.Lock()
		if l.n.listeners[l.addr] == l {
			delete(l.n.listeners, l.addr)
		}
		l.n.mu.Unlock()
	})
	return nil
}

func (l *listener) Addr() net.Addr { return address(l.addr) }

type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

// A Link is one connection.
type Link struct {
	From, To       string
	n              *Network
	client, server *end
	mu             sync.Mutex
	closed         int // ends closed
}

// Reset breaks the connection; both ends learn it at once.
func (l *Link) Reset() {
	for _, p := range []*pipe{l.client.r, l.client.w} {
		p.fail(syscall.ECONNRESET)
	}
	l.forget()
}

// BlackHole makes the connection swallow everything from now on, what is
// under way included. Neither end learns it, not even when the other closes.
func (l *Link) BlackHole() {
	for _, p := range []*pipe{l.client.r, l.client.w} {
		p.swallow()
	}
}

// stand makes the host's ends stand still, or go on.
func (l *Link) stand(host string, still bool) {
	to, _, _ := net.SplitHostPort(l.To)
	for e, at := range map[*end]string{l.client: l.From, l.server: to} {
		if at == host {
			e.r.set(func() { e.r.deaf = still })
			e.w.set(func() { e.w.dumb = still })
		}
	}
}

func (l *Link) forget() {
	l.n.mu.Lock()
	delete(l.n.links, l)
	l.n.mu.Unlock()
}

func (l *Link) endClosed() {
	l.mu.Lock()
	l.closed++
	both := l.closed == 2
	l.mu.Unlock()
	if both {
		l.forget()
	}
}

// An end is one side's net.Conn.
type end struct {
	link          *Link
	r, w          *pipe
	local, remote net.Addr
	once          sync.Once
}

func (e *end) Read(b []byte) (int, error)  { return e.r.read(b) }
func (e *end) Write(b []byte) (int, error) { return e.w.write(b) }

func (e *end) Close() error {
	e.once.Do(func() {
		e.r.closeReader()
		e.w.closeWriter()
		e.link.endClosed()
	})
	return nil
}

func (e *end) CloseWrite() error {
	e.w.closeWriter()
	return nil
}

func (e *end) LocalAddr() net.Addr  { return e.local }
func (e *end) RemoteAddr() net.Addr { return e.remote }

func (e *end) SetDeadline(t time.Time) error {
	e.r.setReadDeadline(t)
	e.w.setWriteDeadline(t)
	return nil
}

func (e *end) SetReadDeadline(t time.Time) error {
	e.r.setReadDeadline(t)
	return nil
}

func (e *end) SetWriteDeadline(t time.Time) error {
	e.w.setWriteDeadline(t)
	return nil
}

// A pipe is one direction of a connection.
type pipe struct {
	mu      sync.Mutex
	changed sync.Cond
	buf     []byte
	err     error // both sides get it
	hole    bool  // swallows what is written; the reader waits for ever
	eof     bool  // the writer closed
	gone    bool  // the reader closed
	deaf    bool  // the reader stands still
	dumb    bool  // the writer does
	wclosed bool

	readBy, writeBy deadline
}

func newPipe() *pipe {
	p := &pipe{}
	p.changed.L = &p.mu
	return p
}

func (p *pipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.gone:
			return 0, net.ErrClosed
		case p.readBy.passed:
			return 0, os.ErrDeadlineExceeded
		case p.deaf:
		case p.err != nil:
			return 0, p.err
		case len(p.buf) > 0 && !p.hole:
			n := copy(b, p.buf)
			p.buf = p.buf[n:]
			if len(p.buf) == 0 {
				p.buf = nil
			}
			p.changed.Broadcast()
			return n, nil
		case p.eof && !p.hole:
			return 0, io.EOF
		case len(b) == 0:
			return 0, nil
		}
		p.changed.Wait()
	}
}

func (p *pipe) write(b []byte) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.wclosed:
			return n, net.ErrClosed
		case p.writeBy.passed:
			return n, os.ErrDeadlineExceeded
		case p.dumb:
		case p.err != nil:
			return n, p.err
		case p.hole:
			return n + len(b), nil
		case p.gone:
			return n, syscall.EPIPE
		case len(b) == 0:
			return n, nil
		}
		if room := bufferSize - len(p.buf); room > 0 && !p.dumb {
			k := min(room, len(b))
			p.buf = append(p.buf, b[:k]...)
			n, b = n+k, b[k:]
			p.changed.Broadcast()
			continue
		}
		p.changed.Wait()
	}
}

func (p *pipe) set(f func()) {
	p.mu.Lock()
	f()
	p.changed.Broadcast()
	p.mu.Unlock()
}

func (p *pipe) fail(err error) {
	p.set(func() {
		if p.err == nil {
			p.err = err
		}
	})
}
func (p *pipe) swallow()     { p.set(func() { p.hole, p.buf = true, nil }) }
func (p *pipe) closeReader() { p.set(func() { p.gone = true; p.readBy.stop() }) }
func (p *pipe) closeWriter() { p.set(func() { p.eof, p.wclosed = true, true; p.writeBy.stop() }) }

func (p *pipe) setReadDeadline(t time.Time)  { p.set(func() { p.readBy.set(t, p) }) }
func (p *pipe) setWriteDeadline(t time.Time) { p.set(func() { p.writeBy.set(t, p) }) }

// A deadline passes once; the pipe's lock guards it.
type deadline struct {
	passed bool
	timer  *time.Timer
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

func (d *deadline) set(t time.Time, p *pipe) {
	d.stop()
	d.passed = false
	if t.IsZero() {
		return
	}
	wait := time.Until(t)
	if wait <= 0 {
		d.passed = true
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(wait, func() {
		p.set(func() {
			if d.timer == timer {
				d.passed = true
			}
		})
	})
	d.timer = timer
}
