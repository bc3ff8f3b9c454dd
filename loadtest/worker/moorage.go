package worker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/conn"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

// Moorage is the transport under test: agents attach to gateways by package
// link, the application serves them by package controller.
type Moorage struct{}

const (
	// keyLabel is the label that carries a session's key.
	keyLabel = "load"
	// tunnelService is the TCP service that tunnel agents ask for. The
	// application serves it itself, without a socket.
	tunnelService = "load"
)

// An end is what both kinds of sessions have of one end, whichever it is.
type end struct {
	*conn.Conn
	over func(kill bool) // lets go of what the session stood on
}

// A messages is a native session. Its contexts are not used: to wait for one
// costs more than a message, and Kill ends what waits.
type messages struct{ end }

func (s *messages) Send(_ context.Context, payload []byte) error {
	return ended(s.Conn.Send(context.Background(), payload))
}

func (s *messages) Receive(context.Context) ([]byte, error) {
	p, err := s.Conn.Receive(context.Background())
	return p, ended(err)
}

// A stream is a tunnel's session: messages cut out of bytes.
type stream struct {
	end
	in  *bufio.Reader
	buf []byte
}

// streamBuffer is what a tunnel reads at once; a session has it as long as it lives.
const streamBuffer = 4 << 10

func (s *stream) Send(_ context.Context, payload []byte) error {
	_, err := s.Write(payload)
	return ended(err)
}

func (s *stream) Receive(context.Context) ([]byte, error) {
	p, err := check.ReadFrom(s.in, s.buf)
	if err != nil {
		return nil, ended(err)
	}
	s.buf = p[:0]
	return p, nil
}

// newEnd is a session of a kind over one end.
func newEnd(kind linkv1.ServiceKind, e end) Session {
	if kind == linkv1.ServiceKind_SERVICE_KIND_TCP {
		return &stream{end: e, in: bufio.NewReaderSize(e.Conn, streamBuffer)}
	}
	return &messages{e}
}

func (e *end) CloseSend() error { return ended(e.CloseWrite()) }

// Close ends the session and waits for the reason of record: package link gives
// up after 30 s, the application's side knows at once.
func (e *end) Close() error {
	_ = e.Conn.Close() // it returns nil always
	<-e.Done()
	err := ended(e.Err())
	e.over(false)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// Kill ends the session on this side only, so that nothing waits here.
func (e *end) Kill() {
	e.over(true)
	_ = e.Conn.Close()
}

// ended turns an end into what a Session says of it.
func ended(err error) error {
	why, ok := errors.AsType[*session.EndedError](err)
	switch {
	case !ok:
		return err
	case why.Reason == linkv1.Reason_REASON_OK:
		return io.EOF
	default:
		return &EndedError{Reason: session.ReasonName(why.Reason)}
	}
}

// dialer dials from the plan's addresses in turn.
func (p *Plan) dialer(number int) (*net.Dialer, error) {
	d := &net.Dialer{}
	if len(p.Sources) == 0 {
		return d, nil
	}
	source := p.Sources[number%len(p.Sources)]
	ip := net.ParseIP(source)
	if ip == nil {
		return nil, fmt.Errorf("worker: %q is no address to dial from", source)
	}
	d.LocalAddr = &net.TCPAddr{IP: ip}
	return d, nil
}
