package baseline

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/moorage-dev/moorage/loadtest/baseline/flow"
	"github.com/moorage-dev/moorage/loadtest/worker"
)

// Direct TCP: one connection per session, from the agent to the application.
// The agent says its key, the application answers one byte, and then there are
// messages, each behind its length. A half-close is TCP's own. The window is
// the kernel's buffers, as it sizes them.

const (
	helloWait  = 10 * time.Second // for a new connection's key
	maxKey     = 16 << 10
	maxMessage = 4 << 20 // so that a wrong length costs no memory
)

type tcpTransport struct{}

func (tcpTransport) Agents(_ context.Context, p *worker.Plan) (worker.Agents, error) {
	d, err := newDialer(p, direct(p)...)
	if err != nil {
		return nil, err
	}
	return &tcpAgents{dialer: d, limit: openLimit(p)}, nil
}

type tcpAgents struct {
	dialer *dialer
	limit  time.Duration
	roll   roll[*tcpSession]
}

func (a *tcpAgents) Open(ctx context.Context, key, _ string) (worker.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, a.limit)
	defer cancel()
	conn, err := a.dialer.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("baseline: tcp: %w", err)
	}
	s := newTCPSession(conn)
	s.forget = func() { a.roll.remove(key) }
	stop := context.AfterFunc(ctx, func() { s.end(flow.Cancelled) })
	defer stop()
	if err := s.write([]byte(key)); err != nil {
		return nil, s.failed(err)
	}
	if _, err := s.in.ReadByte(); err != nil {
		return nil, s.failed(err)
	}
	if !a.roll.add(key, s) {
		s.end(flow.Closed)
		return nil, errClosed
	}
	return s, nil
}

func (a *tcpAgents) Cut(keep func(string) bool) {
	for _, s := range a.roll.all(keep) {
		s.end(flow.Cut)
	}
}

func (a *tcpAgents) Close() error {
	a.roll.close()
	return nil
}

func (tcpTransport) Application(ctx context.Context, p *worker.Plan) (worker.Application, error) {
	lis, err := listen(ctx, p)
	if err != nil {
		return nil, err
	}
	a := &tcpApplication{door: newDoor(), lis: lis}
	a.wg.Go(a.listen)
	return a, nil
}

type tcpApplication struct {
	*door
	lis  net.Listener
	roll roll[*tcpSession]
	wg   sync.WaitGroup
}

// Addr is where agents reach it.
func (a *tcpApplication) Addr() string { return a.lis.Addr().String() }

func (a *tcpApplication) listen() {
	for {
		conn, err := a.lis.Accept()
		if err != nil {
			a.close(fmt.Errorf("baseline: tcp: %w", err))
			return
		}
		a.wg.Go(func() { a.greet(newTCPSession(conn)) })
	}
}

// greet takes a new connection's key. A connection that says none is dropped:
// its agent sees that.
func (a *tcpApplication) greet(s *tcpSession) {
	_ = s.conn.SetDeadline(time.Now().Add(helloWait))
	hello, err := s.read()
	if err != nil || len(hello) > maxKey {
		s.end(flow.Lost)
		return
	}
	key := string(hello)
	s.forget = func() { a.roll.remove(key) }
	if !a.roll.add(key, s) {
		s.forget = nil // it is another's key
		s.end(flow.Closed)
		return
	}
	if _, err := s.conn.Write([]byte{1}); err != nil {
		s.end(flow.Lost)
		return
	}
	_ = s.conn.SetDeadline(time.Time{}) // on a connection in use: it fails only when that is over
	if !a.enter(key, s) {
		s.end(flow.Closed)
	}
}

func (a *tcpApplication) Close() error {
	a.door.close(errClosed)
	err := a.lis.Close()
	a.roll.close()
	a.wg.Wait()
	a.roll.close() // who was being greeted
	return err
}

// A tcpSession is one end of a connection.
type tcpSession struct {
	conn   net.Conn
	in     *bufio.Reader // owned by Receive
	buf    []byte        // owned by Receive: the last message
	out    []byte        // owned by Send
	forget func()        // set before anybody else knows the session; nil: nobody keeps it

	mu     sync.Mutex // guards the following
	sent   bool       // all of it: our half is closed
	got    bool       // all of it
	reason string     // why it is over; "": it is not
}

func newTCPSession(conn net.Conn) *tcpSession {
	// Small: a long message is read past it into its own place.
	return &tcpSession{conn: conn, in: bufio.NewReaderSize(conn, 4<<10)}
}

// Send writes the message. A ctx that ends before it is written ends the session.
func (s *tcpSession) Send(ctx context.Context, payload []byte) error {
	if len(payload) > maxMessage {
		return fmt.Errorf("baseline: tcp: a message of %d bytes: at most %d", len(payload), maxMessage)
	}
	stop := context.AfterFunc(ctx, func() { s.end(flow.Cancelled) })
	err := s.write(payload)
	stop()
	if err != nil {
		return s.failed(err)
	}
	return nil
}

// write joins length and message, which costs less than a second system call.
func (s *tcpSession) write(payload []byte) error {
	s.out = append(binary.BigEndian.AppendUint32(s.out[:0], uint32(len(payload))), payload...)
	_, err := s.conn.Write(s.out)
	return err
}

// Receive reads the next message. A ctx that ends before ends the session.
func (s *tcpSession) Receive(ctx context.Context) ([]byte, error) {
	stop := context.AfterFunc(ctx, func() { s.end(flow.Cancelled) })
	m, err := s.read()
	stop()
	switch {
	case err == nil:
		return m, nil
	case err == io.EOF:
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.reason != "" {
			return nil, flow.Ended(s.reason)
		}
		s.got = true
		return nil, io.EOF
	}
	return nil, s.failed(err)
}

func (s *tcpSession) read() ([]byte, error) {
	head, err := s.in.Peek(4)
	if err != nil {
		if err == io.EOF && len(head) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(head))
	if n > maxMessage {
		return nil, errors.New("baseline: tcp: a length that nobody sends")
	}
	if _, err := s.in.Discard(4); err != nil {
		return nil, err
	}
	if cap(s.buf) < n {
		s.buf = make([]byte, n)
	}
	s.buf = s.buf[:n]
	if _, err := io.ReadFull(s.in, s.buf); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return s.buf, nil
}

// failed ends the session for an error of its connection, and says why it is over.
func (s *tcpSession) failed(error) error {
	s.end(flow.Lost)
	s.mu.Lock()
	defer s.mu.Unlock()
	return flow.Ended(s.reason)
}

// end breaks the connection without a word, unless it is over already.
func (s *tcpSession) end(reason string) {
	s.mu.Lock()
	over := s.reason != ""
	if !over {
		s.reason = reason
	}
	s.mu.Unlock()
	if over {
		return
	}
	if tcp, ok := s.conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // the other end sees a reset, not the end of the messages
	}
	_ = s.conn.Close()
	if s.forget != nil {
		s.forget()
	}
}

// Kill ends the session without a word.
func (s *tcpSession) Kill() { s.end(flow.Cut) }

func (s *tcpSession) CloseSend() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason != "" {
		return flow.Ended(s.reason)
	}
	s.sent = true
	if tcp, ok := s.conn.(interface{ CloseWrite() error }); ok {
		return tcp.CloseWrite()
	}
	return nil
}

func (s *tcpSession) Close() error {
	s.mu.Lock()
	orderly := s.sent && s.got && s.reason == ""
	if orderly {
		s.reason = flow.Closed
	}
	s.mu.Unlock()
	if !orderly {
		s.end(flow.Closed)
		return nil
	}
	if s.forget != nil {
		s.forget()
	}
	return s.conn.Close()
}
