package baseline

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/loadtest/baseline/flow"
	"github.com/moorage-dev/moorage/loadtest/worker"
	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

// Serve is relay's gateway process, for agents at the address listen, with a
// certificate over TLS. The application makes the topics; agents are sent away
// until they are there.
func Serve(ctx context.Context, listen string, certificate *tls.Certificate, kafka []string, prefix string) error {
	options := serverOptions()
	if certificate != nil {
		options = append(options, grpc.Creds(credentials.NewServerTLSFromCert(certificate)))
	}
	lis, err := new(net.ListenConfig).Listen(ctx, "tcp", listen)
	if err != nil {
		return fmt.Errorf("baseline: relay: %w", err)
	}
	return RunGateway(ctx, GatewayConfig{Topics: Topics{Brokers: kafka, Prefix: prefix}, Listen: lis, Options: options})
}

type relayTransport struct{}

func (relayTransport) Agents(_ context.Context, p *worker.Plan) (worker.Agents, error) {
	d, err := newDialer(p, p.Gateways...)
	if err != nil {
		return nil, err
	}
	if d.creds, err = authority(p); err != nil {
		return nil, err
	}
	a := &relayAgents{dialer: d, limit: openLimit(p), controller: p.Controller, stop: make(chan struct{})}
	a.wg.Go(a.beat)
	return a, nil
}

// authority is what gateways must prove themselves by; nil: nothing is asked.
func authority(p *worker.Plan) (credentials.TransportCredentials, error) {
	if p.CAFile == "" {
		return nil, nil
	}
	creds, err := credentials.NewClientTLSFromFile(p.CAFile, "")
	if err != nil {
		return nil, fmt.Errorf("baseline: relay: the gateways' CA: %w", err)
	}
	return creds, nil
}

type relayAgents struct {
	dialer     *dialer
	limit      time.Duration
	controller string
	roll       roll[*relaySession]
	stop       chan struct{}
	once       sync.Once
	wg         sync.WaitGroup
}

// silence is after how many seconds an agent that has nothing to say beats.
const silence = 5

// beat says what each agent took, a second after at the latest, and that it is there.
func (a *relayAgents) beat() {
	tick := time.NewTicker(flow.DeliveredAfter)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			for _, s := range a.roll.all(nil) {
				s.Tell(silence)
			}
		case <-a.stop:
			return
		}
	}
}

// A relaySession is an agent's end.
type relaySession struct {
	*flow.Session
	conn   *connection
	stream grpc.BidiStreamingClient[linkv1.AttachRequest, linkv1.AttachResponse]
	gone   chan struct{} // closed when the receiving half has ended
	forget func()
}

func (a *relayAgents) Open(ctx context.Context, key, kind string) (worker.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, a.limit)
	defer cancel()
	conn, err := connect(ctx, a.dialer)
	if err != nil {
		return nil, fmt.Errorf("baseline: relay: %w", err)
	}
	// The session's partition goes by its agent's name, as moorage's does.
	hello := &linkv1.Hello{Version: 1, SessionId: make([]byte, 16), Agent: path.Dir(key), Controller: a.controller, Attempt: 1}
	rand.Read(hello.SessionId)
	stream, welcome, err := conn.attach(ctx, hello)
	if err != nil {
		conn.cut()
		return nil, fmt.Errorf("baseline: relay: %w", err)
	}
	s := &relaySession{conn: conn, stream: stream, gone: make(chan struct{}), forget: func() { a.roll.remove(key) }}
	s.Session = flow.New(int(welcome.UpWindow), s.push, nil)
	if !a.roll.add(key, s) {
		conn.cut()
		return nil, errClosed
	}
	go s.receive() // until the connection is cut, for which end and Close wait
	open, err := proto.Marshal(&linkv1.Open{Kind: linkv1.ServiceKind_SERVICE_KIND_NATIVE, Agent: key, DownWindow: Window})
	if err == nil {
		err = s.Push(linkv1.FrameKind_FRAME_KIND_OPEN, open)
	}
	if err != nil {
		s.end(flow.Lost)
		return nil, fmt.Errorf("baseline: relay: %w", err)
	}
	return s, nil
}

// push sends a frame, or a word as a heartbeat.
func (s *relaySession) push(f *linkv1.Frame) error {
	if f.Seq == 0 {
		return s.stream.Send(&linkv1.AttachRequest{Message: &linkv1.AttachRequest_Heartbeat{Heartbeat: &linkv1.Heartbeat{Delivered: f.Delivered}}})
	}
	return s.stream.Send(&linkv1.AttachRequest{Message: &linkv1.AttachRequest_Frame{Frame: f}})
}

func (s *relaySession) receive() {
	defer close(s.gone)
	for {
		m, err := s.stream.Recv()
		if err != nil {
			s.Session.End(flow.Lost)
			return
		}
		if f := m.GetFrame(); f != nil {
			s.Take(f)
		}
	}
}

// end breaks the connection without a word.
func (s *relaySession) end(reason string) {
	s.Session.End(reason)
	s.conn.cut()
	<-s.gone
	s.forget()
}

// Kill ends the session without a word.
func (s *relaySession) Kill() { s.end(flow.Cut) }

// Close ends the session, and waits until the gateway has all that was sent.
func (s *relaySession) Close() error {
	limit := time.AfterFunc(closeWait, s.conn.stop)
	defer limit.Stop()
	err := s.Session.Close()
	s.Settle()
	if s.stream.CloseSend() == nil {
		<-s.gone // the gateway has read our end, or the limit has passed
	}
	s.end(flow.Closed)
	return err
}

func (a *relayAgents) Cut(keep func(string) bool) {
	for _, s := range a.roll.all(keep) {
		s.end(flow.Cut)
	}
}

func (a *relayAgents) Close() error {
	a.once.Do(func() { close(a.stop) })
	a.roll.close()
	a.wg.Wait()
	return nil
}

func (relayTransport) Application(ctx context.Context, p *worker.Plan) (worker.Application, error) {
	topics := Topics{Brokers: p.Kafka, Prefix: TopicPrefix(p), Partitions: int32(p.Scenario.Local.Partitions)}
	if err := topics.Create(ctx); err != nil {
		return nil, err
	}
	side, err := newSide(topics)
	if err != nil {
		return nil, err
	}
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	a := &relayApplication{door: newDoor(), side: side, stop: stop, sessions: map[envelope.SessionID]*flow.Session{}}
	ready := make(chan struct{})
	a.wg.Go(func() {
		err := side.run(life, func() { close(ready) }, a.serve)
		if err == nil {
			err = errClosed
		}
		a.close(err)
		for _, s := range a.all() {
			s.End(flow.Closed)
		}
	})
	a.wg.Go(func() { a.tell(life) })
	select {
	case <-ready:
		return a, nil
	case <-a.closed:
		return nil, errors.Join(a.why, a.Close())
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), a.Close())
	}
}

// TopicPrefix is what the names of a run's topics begin with: below the
// deployment's own prefix, the run's name.
func TopicPrefix(p *worker.Plan) string {
	return cmp.Or(p.Prefix, "moorage.") + p.Run + "."
}

type relayApplication struct {
	*door
	side *side
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu       sync.RWMutex // guards the following
	sessions map[envelope.SessionID]*flow.Session
}

func (a *relayApplication) all() []*flow.Session {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return slices.Collect(maps.Values(a.sessions))
}

// tell says what each session took, a second after at the latest.
func (a *relayApplication) tell(ctx context.Context) {
	tick := time.NewTicker(flow.DeliveredAfter)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			for _, s := range a.all() {
				s.Tell(0)
			}
		case <-ctx.Done():
			return
		}
	}
}

func (a *relayApplication) Close() error {
	a.door.close(errClosed)
	a.stop()
	a.wg.Wait()
	if a.why != errClosed {
		return a.why
	}
	return nil
}

// serve is the application's half of one partition.
func (a *relayApplication) serve(_ context.Context, group *errgroup.Group, p int32, pc sarama.PartitionConsumer) error {
	for m := range pc.Messages() {
		if len(m.Key) != len(envelope.SessionID{}) {
			continue
		}
		f := &linkv1.Frame{}
		if err := proto.Unmarshal(m.Value, f); err != nil {
			return fmt.Errorf("baseline: a record that relay did not write, partition %d offset %d: %w", p, m.Offset, err)
		}
		id := envelope.SessionID(m.Key)
		if f.Kind == linkv1.FrameKind_FRAME_KIND_OPEN {
			if err := a.open(id, p, f); err != nil {
				return err
			}
			continue
		}
		a.mu.RLock()
		s := a.sessions[id]
		a.mu.RUnlock()
		if s != nil {
			s.Take(f)
		}
	}
	return nil
}

func (a *relayApplication) open(id envelope.SessionID, p int32, f *linkv1.Frame) error {
	open := &linkv1.Open{}
	if err := proto.Unmarshal(f.Payload, open); err != nil {
		return fmt.Errorf("baseline: an OPEN that relay did not write: %w", err)
	}
	window := int(open.DownWindow)
	if window == 0 {
		window = Window
	}
	s := flow.New(window, func(f *linkv1.Frame) error {
		a.side.produce(p, id, f)
		return nil
	}, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.sessions, id)
	})
	a.mu.Lock()
	a.sessions[id] = s
	a.mu.Unlock()
	s.Take(f)
	if err := s.Push(linkv1.FrameKind_FRAME_KIND_ACCEPT, nil); err != nil {
		return err
	}
	a.enter(open.Agent, s) // false: it is closing, and so are all sessions
	return nil
}
