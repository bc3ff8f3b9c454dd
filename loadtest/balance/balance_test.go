package balance_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/moorage-dev/moorage/loadtest/balance"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAGroupStaysTogether(t *testing.T) {
	client := balanced(t, 4)
	at := map[string]string{}
	used := map[string]bool{}
	for round := range 3 {
		for group := range 16 {
			group := strconv.Itoa(group)
			s := open(t, client, group)
			send(t, s, "who")
			gateway := receive(t, s)
			if round > 0 && at[group] != gateway {
				t.Errorf("group %s at gateway %s, before at %s", group, gateway, at[group])
			}
			at[group], used[gateway] = gateway, true
			send(t, s, "end")
			if err := s.RecvMsg(&wrapperspb.StringValue{}); !errors.Is(err, io.EOF) {
				t.Errorf("at the end: %v", err)
			}
			if got := s.Trailer().Get("said"); len(got) != 1 || got[0] != "goodbye" {
				t.Errorf("trailer %q", got)
			}
		}
	}
	if len(used) != 4 {
		t.Errorf("of 4 gateways %d are used", len(used))
	}
}

func TestErrorsAndEndsPass(t *testing.T) {
	client := balanced(t, 2)
	s := open(t, client, "1")
	send(t, s, "fail")
	if err := s.RecvMsg(&wrapperspb.StringValue{}); status.Code(err) != codes.FailedPrecondition || status.Convert(err).Message() != "as asked" {
		t.Errorf("got %v", err)
	}
	s = open(t, client, "2")
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, s); got != "half closed" {
		t.Errorf("got %q", got)
	}
	if err := s.RecvMsg(&wrapperspb.StringValue{}); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

// gateway does what it is told.
func gateway(name string) grpc.StreamHandler {
	return func(_ any, s grpc.ServerStream) error {
		for {
			var m wrapperspb.StringValue
			if err := s.RecvMsg(&m); errors.Is(err, io.EOF) {
				return s.SendMsg(wrapperspb.String("half closed"))
			} else if err != nil {
				return err
			}
			switch m.GetValue() {
			case "who":
				if err := s.SendMsg(wrapperspb.String(name)); err != nil {
					return err
				}
			case "end":
				s.SetTrailer(metadata.Pairs("said", "goodbye"))
				return nil
			case "fail":
				return status.Error(codes.FailedPrecondition, "as asked")
			}
		}
	}
}

// balanced returns a client of a balancer before so many gateways.
func balanced(t *testing.T, gateways int) *grpc.ClientConn {
	t.Helper()
	var addresses []string
	for i := range gateways {
		lis := listen(t)
		srv := grpc.NewServer(grpc.UnknownServiceHandler(gateway(strconv.Itoa(i))), grpc.WaitForHandlers(true))
		addresses = append(addresses, lis.Addr().String())
		served := make(chan error, 1)
		go func() { served <- srv.Serve(lis) }()
		t.Cleanup(func() {
			srv.Stop()
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
	}
	lis := listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- balance.Serve(ctx, lis, addresses) }()
	client, err := grpc.NewClient("passthrough:///"+lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return client
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return lis
}

func open(t *testing.T, client *grpc.ClientConn, group string) grpc.ClientStream {
	t.Helper()
	ctx := metadata.AppendToOutgoingContext(t.Context(), balance.Header, group)
	s, err := client.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/some.Service/Method")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func send(t *testing.T, s grpc.ClientStream, text string) {
	t.Helper()
	if err := s.SendMsg(wrapperspb.String(text)); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, s grpc.ClientStream) string {
	t.Helper()
	var m wrapperspb.StringValue
	if err := s.RecvMsg(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetValue()
}
