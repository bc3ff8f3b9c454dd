package baseline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/moorage-dev/moorage/loadtest/baseline/flow"
	"github.com/moorage-dev/moorage/loadtest/worker"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

// Bare grpc-go: the agent's stream goes straight to a server in the
// application's process, one connection per agent's session. The messages are
// the link's, so that a message costs as many bytes: Hello with the key,
// Welcome, then DATA and at last FIN. The window is HTTP/2's, as large as a
// session's.

// closeWait bounds how long the end of a stream is waited for, by Close.
const closeWait = 5 * time.Second

// A grpcStream is the half of a stream that both ends have in common.
type grpcStream interface {
	send(f *linkv1.Frame) error
	receive() (*linkv1.Frame, error)
}

// A grpcSession is one end of a stream.
type grpcSession struct {
	stream grpcStream
	cancel func() // of an agent: breaks the connection; may be called again. A server's handler waits for done
	last   func() // of an agent: waits for the server to have everything
	forget func()
	frame  linkv1.Frame // owned by Send: it is marshalled when send returns

	done chan struct{} // closed with the session: the server's handler waits for it

	mu        sync.Mutex // guards the following
	sent, got bool       // all of it
	reason    string     // why it is over; "": it is not
}

// Send hands the message to the stream. A ctx that ends before ends the session.
func (s *grpcSession) Send(ctx context.Context, payload []byte) error {
	stop := context.AfterFunc(ctx, func() { s.end(flow.Cancelled) })
	s.frame.Kind, s.frame.Payload = linkv1.FrameKind_FRAME_KIND_DATA, payload
	s.frame.Seq++
	err := s.stream.send(&s.frame)
	s.frame.Payload = nil
	stop()
	if err != nil {
		return s.failed()
	}
	return nil
}

// Receive takes the next message. A ctx that ends before ends the session.
func (s *grpcSession) Receive(ctx context.Context) ([]byte, error) {
	s.mu.Lock()
	got := s.got
	s.mu.Unlock()
	if got {
		return nil, io.EOF
	}
	stop := context.AfterFunc(ctx, func() { s.end(flow.Cancelled) })
	f, err := s.stream.receive()
	stop()
	if err != nil {
		return nil, s.failed()
	}
	if f.Kind == linkv1.FrameKind_FRAME_KIND_FIN {
		s.half(&s.got)
		return nil, io.EOF
	}
	return f.Payload, nil
}

func (s *grpcSession) CloseSend() error {
	s.frame.Kind, s.frame.Payload = linkv1.FrameKind_FRAME_KIND_FIN, nil
	s.frame.Seq++
	if err := s.stream.send(&s.frame); err != nil {
		return s.failed()
	}
	s.half(&s.sent)
	return nil
}

// half notes that one direction is done. With both, the session is.
func (s *grpcSession) half(which *bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*which = true
	if s.sent && s.got && s.reason == "" {
		s.reason = flow.Closed
		close(s.done)
	}
}

// end breaks the stream. The first reason stays.
func (s *grpcSession) end(reason string) {
	s.mu.Lock()
	if s.reason == "" {
		s.reason = reason
		close(s.done)
	}
	s.mu.Unlock()
	s.cancel()
	s.forget()
}

// Kill ends the session without a word.
func (s *grpcSession) Kill() { s.end(flow.Cut) }

// failed ends the session for an error of its stream, and says why it is over.
func (s *grpcSession) failed() error {
	s.end(flow.Lost)
	s.mu.Lock()
	defer s.mu.Unlock()
	return flow.Ended(s.reason)
}

func (s *grpcSession) Close() error {
	s.mu.Lock()
	orderly := s.sent && s.got
	s.mu.Unlock()
	if orderly {
		s.last()
	}
	s.end(flow.Closed)
	return nil
}

type grpcTransport struct{}

func (grpcTransport) Agents(_ context.Context, p *worker.Plan) (worker.Agents, error) {
	d, err := newDialer(p, direct(p)...)
	if err != nil {
		return nil, err
	}
	return &grpcAgents{dialer: d, limit: openLimit(p)}, nil
}

type grpcAgents struct {
	dialer *dialer
	limit  time.Duration
	roll   roll[*grpcSession]
}

// A grpcUp is the agent's half.
type grpcUp struct {
	grpc.BidiStreamingClient[linkv1.AttachRequest, linkv1.AttachResponse]
	request linkv1.AttachRequest
	carried linkv1.AttachRequest_Frame
}

func (u *grpcUp) send(f *linkv1.Frame) error {
	u.carried.Frame = f
	u.request.Message = &u.carried
	return u.Send(&u.request)
}

func (u *grpcUp) receive() (*linkv1.Frame, error) {
	for {
		m, err := u.Recv()
		if err != nil {
			return nil, err
		}
		if f := m.GetFrame(); f != nil {
			return f, nil
		}
	}
}

func (a *grpcAgents) Open(ctx context.Context, key, _ string) (worker.Session, error) {
	ctx, stopOpening := context.WithTimeout(ctx, a.limit)
	defer stopOpening()
	c, err := connect(ctx, a.dialer)
	if err != nil {
		return nil, fmt.Errorf("baseline: grpc: %w", err)
	}
	hello := &linkv1.Hello{Version: 1, Agent: key}
	stream, _, err := c.attach(ctx, hello)
	if err != nil {
		c.cut()
		return nil, fmt.Errorf("baseline: grpc: %w", err)
	}
	up := &grpcUp{BidiStreamingClient: stream}
	s := &grpcSession{
		stream: up, cancel: c.cut, forget: func() { a.roll.remove(key) },
		last: func() { c.leave(stream) }, done: make(chan struct{}),
	}
	if !a.roll.add(key, s) {
		c.cut()
		return nil, errClosed
	}
	return s, nil
}

func (a *grpcAgents) Cut(keep func(string) bool) {
	for _, s := range a.roll.all(keep) {
		s.end(flow.Cut)
	}
}

func (a *grpcAgents) Close() error {
	a.roll.close()
	return nil
}

func (grpcTransport) Application(ctx context.Context, p *worker.Plan) (worker.Application, error) {
	lis, err := listen(ctx, p)
	if err != nil {
		return nil, err
	}
	a := &grpcApplication{door: newDoor(), lis: lis, server: grpc.NewServer(serverOptions()...)}
	linkv1.RegisterLinkServiceServer(a.server, a)
	a.wg.Go(func() {
		if err := a.server.Serve(lis); err != nil {
			a.close(fmt.Errorf("baseline: grpc: %w", err))
		}
	})
	return a, nil
}

type grpcApplication struct {
	linkv1.UnimplementedLinkServiceServer
	*door
	lis    net.Listener
	server *grpc.Server
	roll   roll[*grpcSession]
	wg     sync.WaitGroup
}

// Addr is where agents reach it.
func (a *grpcApplication) Addr() string { return a.lis.Addr().String() }

// A grpcDown is the application's half.
type grpcDown struct {
	grpc.BidiStreamingServer[linkv1.AttachRequest, linkv1.AttachResponse]
	response linkv1.AttachResponse
	carried  linkv1.AttachResponse_Frame
}

func (d *grpcDown) send(f *linkv1.Frame) error {
	d.carried.Frame = f
	d.response.Message = &d.carried
	return d.Send(&d.response)
}

func (d *grpcDown) receive() (*linkv1.Frame, error) {
	for {
		m, err := d.Recv()
		if err != nil {
			return nil, err
		}
		if f := m.GetFrame(); f != nil {
			return f, nil
		}
	}
}

// Attach is one agent's stream. It stays until the session is over.
func (a *grpcApplication) Attach(stream grpc.BidiStreamingServer[linkv1.AttachRequest, linkv1.AttachResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	key := first.GetHello().GetAgent()
	if key == "" {
		return status.Error(codes.InvalidArgument, "want Hello with a key")
	}
	s := &grpcSession{
		stream: &grpcDown{BidiStreamingServer: stream}, done: make(chan struct{}),
		cancel: func() {}, last: func() {}, forget: func() { a.roll.remove(key) },
	}
	if !a.roll.add(key, s) {
		return status.Error(codes.AlreadyExists, "the key is in use")
	}
	defer a.roll.remove(key)
	err = stream.Send(&linkv1.AttachResponse{Message: &linkv1.AttachResponse_Welcome{Welcome: &linkv1.Welcome{
		Version: 1, UpWindow: Window, MaxFrame: MaxFrame,
	}}})
	if err != nil {
		return err
	}
	if !a.enter(key, s) {
		return status.Error(codes.Unavailable, "closing")
	}
	// When the handler returns, calls that wait on the stream fail.
	select {
	case <-s.done:
	case <-stream.Context().Done():
		s.end(flow.Lost)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sent && s.got {
		return nil
	}
	return status.Error(codes.Aborted, s.reason)
}

func (a *grpcApplication) Close() error {
	a.door.close(errClosed)
	a.roll.close()
	a.server.Stop()
	a.wg.Wait()
	return nil
}

// serverOptions are those of the gateway, as far as they concern speed: fixed
// windows instead of grpc-go's estimate.
func serverOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.StaticStreamWindowSize(Window), grpc.StaticConnWindowSize(Window),
		grpc.WaitForHandlers(true),
	}
}

// A connection carries one stream.
type connection struct {
	*grpc.ClientConn
	ctx  context.Context // of the stream; ends with the connection
	stop context.CancelFunc

	mu  sync.Mutex // guards the following
	raw net.Conn   // the latest
	off bool       // nothing is dialled any more
}

// connect makes a connection; it is dialled with the stream.
func connect(ctx context.Context, d *dialer) (*connection, error) {
	c := &connection{}
	c.ctx, c.stop = context.WithCancel(context.WithoutCancel(ctx))
	creds, name := d.creds, "baseline"
	if creds == nil {
		creds = insecure.NewCredentials()
	} else {
		name = d.to[0] // a certificate is for all gateways
	}
	conn, err := grpc.NewClient("passthrough:///"+name,
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			raw, err := d.dial(ctx)
			if err != nil {
				return nil, err
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.off {
				return nil, errors.Join(errClosed, raw.Close())
			}
			c.raw = raw
			return raw, nil
		}),
		grpc.WithStaticStreamWindowSize(Window), grpc.WithStaticConnWindowSize(Window),
		grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
	)
	if err != nil {
		c.stop()
		return nil, err
	}
	c.ClientConn = conn
	return c, nil
}

// attach opens the stream and waits for its Welcome.
func (c *connection) attach(ctx context.Context, hello *linkv1.Hello) (grpc.BidiStreamingClient[linkv1.AttachRequest, linkv1.AttachResponse], *linkv1.Welcome, error) {
	stop := context.AfterFunc(ctx, c.stop)
	defer stop()
	stream, err := linkv1.NewLinkServiceClient(c).Attach(c.ctx, grpc.WaitForReady(true))
	if err != nil {
		return nil, nil, err
	}
	if err := stream.Send(&linkv1.AttachRequest{Message: &linkv1.AttachRequest_Hello{Hello: hello}}); err != nil && err != io.EOF {
		return nil, nil, err // of io.EOF the answer says more
	}
	m, err := stream.Recv()
	if err != nil {
		return nil, nil, err
	}
	w := m.GetWelcome()
	if w == nil {
		return nil, nil, fmt.Errorf("first message is %v, want Welcome", m)
	}
	return stream, w, nil
}

// cut breaks the connection without a word.
func (c *connection) cut() {
	c.mu.Lock()
	c.off = true
	raw := c.raw
	c.mu.Unlock()
	if raw != nil {
		_ = raw.Close()
	}
	c.stop()
	_ = c.ClientConn.Close()
}

// leave ends the stream in order, after which cut loses nothing. Its receiving half must not be in use.
func (c *connection) leave(stream grpc.BidiStreamingClient[linkv1.AttachRequest, linkv1.AttachResponse]) {
	limit := time.AfterFunc(closeWait, c.stop)
	defer limit.Stop()
	if stream.CloseSend() == nil {
		for {
			if _, err := stream.Recv(); err != nil {
				break
			}
		}
	}
}
