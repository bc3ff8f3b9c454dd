//go:build linux

package loadtest_test

import (
	"context"
	"net"
	"path"
	"strconv"
	"testing"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/moorage-dev/moorage/e2e/rig"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

// The wrongs that a lossy gateway does to the up direction, once per session.
// It counts on as if nothing had been, so that only the applications can know.
const (
	swallows = iota // one message vanishes: lost
	repeats         // one comes twice: repeated
	swaps           // two change places: reordered
	spoils          // one has another bit: corrupted
	stalls          // from one on, nothing comes: stuck
	behaves         // none of it
	wrongs
)

// victim is the frame that a wrong is done to; the first opens the session.
const victim = 6

// A lossy is a gateway's stand-in: it passes an agent's frames to a real
// gateway, but for its wrongs, which an agent's number selects.
type lossy struct {
	linkv1.UnimplementedLinkServiceServer
	real linkv1.LinkServiceClient
}

// serveLossy serves at a free port and returns its address.
func serveLossy(t *testing.T, gateway string) string {
	t.Helper()
	client, err := grpc.NewClient(gateway, grpc.WithTransportCredentials(insecure.NewCredentials()))
	rig.Must(t, err)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	rig.Must(t, err)
	server := grpc.NewServer()
	linkv1.RegisterLinkServiceServer(server, &lossy{real: linkv1.NewLinkServiceClient(client)})
	done := make(chan error, 1)
	go func() { done <- server.Serve(lis) }()
	t.Cleanup(func() {
		server.Stop()
		<-done
		_ = client.Close() // nothing is under way
	})
	return lis.Addr().String()
}

func (l *lossy) Describe(ctx context.Context, r *linkv1.DescribeRequest) (*linkv1.DescribeResponse, error) {
	return l.real.Describe(ctx, r)
}

func (l *lossy) Attach(agent grpc.BidiStreamingServer[linkv1.AttachRequest, linkv1.AttachResponse]) error {
	group, ctx := errgroup.WithContext(agent.Context())
	gateway, err := l.real.Attach(ctx)
	if err != nil {
		return err
	}
	b := new(bender)
	group.Go(func() error {
		for {
			m, err := agent.Recv()
			if err != nil {
				return gateway.CloseSend()
			}
			for _, bent := range b.up(m) {
				if err := gateway.Send(bent); err != nil {
					return err
				}
			}
		}
	})
	group.Go(func() error {
		for {
			m, err := gateway.Recv()
			if err != nil {
				return err
			}
			b.down(m)
			if err := agent.Send(m); err != nil {
				return err
			}
		}
	})
	return group.Wait()
}

// A bender does one wrong to one stream. up and down are called by a goroutine
// each; what they share does not change after the stream's first message, but
// for the counts, which are the same before the victim whatever it says.
type bender struct {
	wrong int
	held  *linkv1.Frame // of swaps
	over  bool          // of stalls
}

// up returns what goes on in a message's place.
func (b *bender) up(m *linkv1.AttachRequest) []*linkv1.AttachRequest {
	if hello := m.GetHello(); hello != nil {
		n, _ := strconv.Atoi(path.Base(hello.GetAgent())) // an agent without a number is the first
		b.wrong = n % wrongs
	}
	f := m.GetFrame()
	if f == nil {
		return []*linkv1.AttachRequest{m}
	}
	frame := func(f *linkv1.Frame) *linkv1.AttachRequest {
		return &linkv1.AttachRequest{Message: &linkv1.AttachRequest_Frame{Frame: f}}
	}
	seq := f.GetSeq()
	switch b.wrong {
	case swallows:
		if seq == victim {
			return nil
		}
		if seq > victim {
			f.Seq--
		}
	case repeats:
		if seq > victim {
			f.Seq++
		}
		if seq == victim {
			again := &linkv1.Frame{Seq: seq + 1, Kind: f.GetKind(), Payload: f.GetPayload(), Delivered: f.GetDelivered(), Persisted: f.GetPersisted()}
			return []*linkv1.AttachRequest{m, frame(again)}
		}
	case swaps:
		if seq == victim {
			b.held = f
			return nil
		}
		if seq == victim+1 {
			f.Payload, b.held.Payload = b.held.GetPayload(), f.GetPayload()
			return []*linkv1.AttachRequest{frame(b.held), m}
		}
	case spoils:
		if seq == victim {
			f.Payload[len(f.GetPayload())-1] ^= 1
		}
	case stalls:
		if b.over = b.over || seq == victim; b.over {
			return nil
		}
	}
	return []*linkv1.AttachRequest{m}
}

// down corrects what is said to be persisted and delivered, so that the agent
// notices nothing.
func (b *bender) down(m *linkv1.AttachResponse) {
	count := func(n uint64) uint64 {
		switch {
		case b.wrong == swallows && n >= victim:
			return n + 1
		case b.wrong == repeats && n > victim:
			return n - 1
		}
		return n
	}
	if f := m.GetFrame(); f != nil {
		f.Delivered, f.Persisted = count(f.GetDelivered()), count(f.GetPersisted())
	}
	if h := m.GetHeartbeat(); h != nil {
		h.Delivered, h.Persisted = count(h.GetDelivered()), count(h.GetPersisted())
	}
}
