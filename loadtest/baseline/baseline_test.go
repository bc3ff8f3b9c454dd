package baseline

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

func TestMain(m *testing.M) {
	if system := os.Getenv(farEnd); system != "" {
		if err := playFarEnd(system); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// A relayTest is a relay on an in-memory broker and one agent's stream.
type relayTest struct {
	*testing.T
	stream grpc.BidiStreamingClient[linkv1.AttachRequest, linkv1.AttachResponse]
	down   []*linkv1.Frame // received so far
	saved  uint64          // persisted, as reported
}

func newRelayTest(t *testing.T, mode Mode) *relayTest {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	topics := Topics{Brokers: cluster.ListenAddrs()}
	if err := topics.Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	ready := make(chan struct{})
	go func() { done <- RunGateway(ctx, GatewayConfig{Topics: topics, Listen: lis}) }()
	go func() { done <- RunApp(ctx, AppConfig{Topics: topics, Ready: func() { close(ready) }}) }()
	<-ready

	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		cancel()
		for range 2 {
			if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
	})
	streamCtx, stop := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(stop)
	stream, err := linkv1.NewLinkServiceClient(conn).Attach(streamCtx)
	if err != nil {
		t.Fatal(err)
	}
	rt := &relayTest{T: t, stream: stream}
	rt.send(&linkv1.AttachRequest{Message: &linkv1.AttachRequest_Hello{Hello: &linkv1.Hello{
		Version: 1, SessionId: make([]byte, 16), Agent: "a", Controller: "c", Attempt: 1,
	}}})
	if m, err := stream.Recv(); err != nil || m.GetWelcome().GetUpWindow() != Window {
		t.Fatalf("first answer %v, %v; want Welcome", m, err)
	}
	open, err := proto.Marshal(&linkv1.Open{Kind: linkv1.ServiceKind_SERVICE_KIND_NATIVE, Labels: mode.Labels()})
	if err != nil {
		t.Fatal(err)
	}
	rt.frame(1, linkv1.FrameKind_FRAME_KIND_OPEN, open)
	return rt
}

func (rt *relayTest) send(m *linkv1.AttachRequest) {
	rt.Helper()
	if err := rt.stream.Send(m); err != nil {
		rt.Fatal(err)
	}
}

func (rt *relayTest) frame(seq uint64, kind linkv1.FrameKind, payload []byte) {
	rt.Helper()
	rt.send(&linkv1.AttachRequest{Message: &linkv1.AttachRequest_Frame{Frame: &linkv1.Frame{Seq: seq, Kind: kind, Payload: payload}}})
}

// until receives until enough is true.
func (rt *relayTest) until(enough func() bool) {
	rt.Helper()
	for !enough() {
		m, err := rt.stream.Recv()
		if err != nil {
			rt.Fatal(err)
		}
		rt.saved = max(rt.saved, m.GetHeartbeat().GetPersisted())
		if f := m.GetFrame(); f != nil && f.Seq > 0 {
			rt.down = append(rt.down, f)
		}
	}
}

func TestEcho(t *testing.T) {
	rt := newRelayTest(t, Mode{Do: "echo"})
	for i := range 10 {
		rt.frame(uint64(i+2), linkv1.FrameKind_FRAME_KIND_DATA, fmt.Append(nil, i))
	}
	rt.until(func() bool { return len(rt.down) == 11 && rt.saved == 11 })
	if rt.down[0].Kind != linkv1.FrameKind_FRAME_KIND_ACCEPT {
		t.Errorf("first down frame %v, want ACCEPT", rt.down[0])
	}
	for i, f := range rt.down[1:] {
		if f.Seq != uint64(i+2) || string(f.Payload) != fmt.Sprint(i) {
			t.Errorf("frame %d: %v", i, f)
		}
	}
}

func TestSourceKeepsItsWindow(t *testing.T) {
	const count, size = 100, 64 << 10
	rt := newRelayTest(t, Mode{Do: "source", Size: size, Count: count})
	rt.until(func() bool { return len(rt.down) == Window/size })
	delivered := &linkv1.AttachRequest_Heartbeat{Heartbeat: &linkv1.Heartbeat{}}
	for n := Window / size; n < count+1; n++ {
		delivered.Heartbeat.Delivered = uint64(n)
		rt.send(&linkv1.AttachRequest{Message: delivered})
		rt.until(func() bool { return len(rt.down) == n+1 })
	}
}

func TestModeSurvivesItsLabels(t *testing.T) {
	for _, m := range []Mode{
		{Do: "echo", Size: 8},
		{Do: "source", Size: 256, Count: 7, Rate: 12.5, Wait: time.Second},
	} {
		if got, err := ParseMode(m.Labels()); err != nil || got != m {
			t.Errorf("%+v became %+v, %v", m, got, err)
		}
	}
	if _, err := ParseMode(map[string]string{"rate": "fast"}); err == nil {
		t.Error("a rate that is no number is accepted")
	}
}
