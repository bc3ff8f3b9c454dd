package baseline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"

	"github.com/IBM/sarama"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

// GatewayConfig says what RunGateway serves.
type GatewayConfig struct {
	Topics  Topics
	Listen  net.Listener        // gRPC
	Admin   net.Listener        // /metrics, for its memory figures; nil: none
	Options []grpc.ServerOption // nil: grpc's defaults
}

// RunGateway is relay's gateway process. It returns when ctx ends.
func RunGateway(ctx context.Context, cfg GatewayConfig) error {
	ends, err := dial(cfg.Topics.Brokers)
	if err != nil {
		return err
	}
	g := &gateway{
		topics: cfg.Topics, ends: ends,
		streams: map[envelope.SessionID]*stream{},
	}
	server := grpc.NewServer(cfg.Options...)
	linkv1.RegisterLinkServiceServer(server, g)
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.Handler())
	admin := &http.Server{Handler: mux}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return server.Serve(cfg.Listen) })
	if cfg.Admin != nil {
		group.Go(func() error {
			if err := admin.Serve(cfg.Admin); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	group.Go(func() error { return g.acknowledge(cancel) })
	group.Go(func() error {
		<-ctx.Done()
		server.Stop()
		return errors.Join(admin.Close(), g.stop())
	})
	return group.Wait()
}

var errStopping = errors.New("baseline: stopping")

type gateway struct {
	linkv1.UnimplementedLinkServiceServer
	topics Topics
	ends   *ends

	following sync.Mutex                 // held while partitions are looked for
	followed  []sarama.PartitionConsumer // guarded by both

	mu        sync.RWMutex // guards the following
	stopped   bool
	streams   map[envelope.SessionID]*stream
	followers sync.WaitGroup
}

// A stream is one agent's; grpc wants its sends one at a time.
type stream struct {
	grpc.BidiStreamingServer[linkv1.AttachRequest, linkv1.AttachResponse]
	mu sync.Mutex
}

func (s *stream) send(m *linkv1.AttachResponse) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Send(m)
}

// An ack is what a produced record remembers, to be told when Kafka has it.
type ack struct {
	stream *stream
	seq    uint64 // 0: nobody waits
}

// Attach passes one agent's frames on.
func (g *gateway) Attach(grpcStream grpc.BidiStreamingServer[linkv1.AttachRequest, linkv1.AttachResponse]) error {
	first, err := grpcStream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil || len(hello.SessionId) != len(envelope.SessionID{}) {
		return status.Error(codes.InvalidArgument, "want Hello with a session id of 16 bytes")
	}
	id := envelope.SessionID(hello.SessionId)
	of, err := g.follow()
	if err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	p := partition(hello.Agent, id, of)
	s := &stream{BidiStreamingServer: grpcStream}
	if err := g.attach(id, s); err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	defer g.detach(id, s)

	err = s.send(&linkv1.AttachResponse{Message: &linkv1.AttachResponse_Welcome{Welcome: &linkv1.Welcome{
		Version: 1, UpWindow: Window, MaxFrame: MaxFrame, HeartbeatIntervalMs: 5000,
		StartPosition: &linkv1.Position{Partition: p},
	}}})
	told, last := uint64(0), uint64(0)
	for err == nil {
		var m *linkv1.AttachRequest
		if m, err = s.Recv(); err != nil {
			break
		}
		f := m.GetFrame()
		if h := m.GetHeartbeat(); h.GetDelivered() > told {
			f = &linkv1.Frame{Delivered: h.Delivered}
		}
		told = max(told, f.GetDelivered())
		if f != nil {
			last = max(last, f.Seq)
			err = g.produce(id, p, f, ack{s, f.Seq})
		}
	}
	if err == io.EOF {
		return nil
	}
	// The session does not outlive its stream. Who reads it has to know.
	return errors.Join(err, g.produce(id, p, &linkv1.Frame{Seq: last + 1, Kind: linkv1.FrameKind_FRAME_KIND_CLOSE}, ack{s, 0}))
}

func (g *gateway) produce(id envelope.SessionID, p int32, f *linkv1.Frame, a ack) error {
	value, err := proto.Marshal(f)
	if err != nil {
		return err
	}
	g.ends.producer.Input() <- &sarama.ProducerMessage{
		Topic: g.topics.up(), Partition: p,
		Key: sarama.ByteEncoder(id[:]), Value: sarama.ByteEncoder(value), Metadata: a,
	}
	return nil
}

// attach makes the stream the session's.
func (g *gateway) attach(id envelope.SessionID, s *stream) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped {
		return errStopping
	}
	g.streams[id] = s
	return nil
}

// follow follows all partitions, at the first attach: the topics may not be
// there before. It returns how many there are. Whoever comes meanwhile waits:
// a partition that is not followed loses what is sent to it.
func (g *gateway) follow() (int32, error) {
	g.following.Lock()
	defer g.following.Unlock()
	if len(g.followed) > 0 {
		return int32(len(g.followed)), nil
	}
	followed, err := g.ends.follow(g.topics.down())
	if err != nil {
		for _, pc := range followed {
			_ = pc.Close() // its messages, if any, are nobody's yet
		}
		return 0, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped {
		for _, pc := range followed {
			pc.AsyncClose()
		}
		return 0, errStopping
	}
	g.followed = followed
	for _, pc := range followed {
		g.followers.Go(func() { g.deliver(pc) })
	}
	return int32(len(followed)), nil
}

func (g *gateway) detach(id envelope.SessionID, s *stream) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.streams[id] == s {
		delete(g.streams, id)
	}
}

// deliver passes one down partition on to the streams it concerns. A slow agent
// holds the whole partition back: that is what bare means.
func (g *gateway) deliver(pc sarama.PartitionConsumer) {
	for m := range pc.Messages() {
		if len(m.Key) != len(envelope.SessionID{}) {
			continue
		}
		g.mu.RLock()
		s := g.streams[envelope.SessionID(m.Key)]
		g.mu.RUnlock()
		if s == nil {
			continue
		}
		f := &linkv1.Frame{}
		if err := proto.Unmarshal(m.Value, f); err != nil {
			continue
		}
		// A send fails when the stream is over, which its handler learns too.
		_ = s.send(&linkv1.AttachResponse{Message: &linkv1.AttachResponse_Frame{Frame: f}})
	}
}

// acknowledge tells agents what Kafka has. It takes all that is known at a
// time and tells each agent its highest: one message per frame would cost more
// than the frames do.
//
// A record that fails ends the relay: it has no way to mend it.
func (g *gateway) acknowledge(fail func()) (first error) {
	highest := map[*stream]uint64{}
	successes, failures := g.ends.producer.Successes(), g.ends.producer.Errors()
	for successes != nil || failures != nil {
		select {
		case m, ok := <-successes:
			if !ok {
				successes = nil
				continue
			}
			for more := true; more; {
				if a := m.Metadata.(ack); a.seq > 0 {
					highest[a.stream] = max(highest[a.stream], a.seq)
				}
				select {
				case m, more = <-successes:
				default:
					more = false
				}
			}
			for s, seq := range highest {
				_ = s.send(&linkv1.AttachResponse{Message: &linkv1.AttachResponse_Heartbeat{
					Heartbeat: &linkv1.Heartbeat{Persisted: seq},
				}})
			}
			clear(highest)
		case failed, ok := <-failures:
			if !ok {
				failures = nil
				continue
			}
			if first == nil {
				first = fmt.Errorf("baseline: produce: %w", failed)
				fail()
			}
		}
	}
	return first
}

// stop ends followers and producer; the handlers have ended already.
func (g *gateway) stop() error {
	g.mu.Lock()
	g.stopped = true
	for _, pc := range g.followed {
		pc.AsyncClose()
	}
	g.mu.Unlock()
	g.followers.Wait()
	g.ends.producer.AsyncClose()
	return g.ends.consumer.Close()
}
