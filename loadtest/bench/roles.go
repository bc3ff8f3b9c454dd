package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/moorage-dev/moorage/loadtest/baseline"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

// readyLine is what a role prints when it serves.
const readyLine = "ready\n"

// roles are the processes that the bench starts beside moorage's own: this
// program, run again.
var roles = map[string]func(ctx context.Context, o roleOptions) error{
	"relay-gateway": func(ctx context.Context, o roleOptions) error {
		lis, err := net.Listen("tcp", o.listen)
		if err != nil {
			return err
		}
		admin, err := net.Listen("tcp", o.admin)
		if err != nil {
			return err
		}
		fmt.Print(readyLine)
		return baseline.RunGateway(ctx, baseline.GatewayConfig{Topics: o.topics(), Listen: lis, Admin: admin})
	},
	"relay-app": func(ctx context.Context, o roleOptions) error {
		return baseline.RunApp(ctx, baseline.AppConfig{Topics: o.topics(), Ready: func() { fmt.Print(readyLine) }})
	},
	"app": runApp,
	"bare": func(ctx context.Context, o roleOptions) error {
		lis, err := net.Listen("tcp", o.listen)
		if err != nil {
			return err
		}
		server := grpc.NewServer()
		linkv1.RegisterLinkServiceServer(server, bare{})
		defer context.AfterFunc(ctx, server.Stop)()
		fmt.Print(readyLine)
		return server.Serve(lis)
	},
}

type roleOptions struct {
	kafka, prefix, listen, admin string
}

func (o roleOptions) topics() baseline.Topics {
	return baseline.Topics{Brokers: []string{o.kafka}, Prefix: o.prefix}
}

// runRole runs one role until its stdin ends, which it does with the bench.
func runRole(ctx context.Context, role func(context.Context, roleOptions) error, args []string) error {
	var o roleOptions
	flags := flag.NewFlagSet("role", flag.ExitOnError)
	flags.StringVar(&o.kafka, "kafka", "", "")
	flags.StringVar(&o.prefix, "prefix", "", "")
	flags.StringVar(&o.listen, "listen", "", "")
	flags.StringVar(&o.admin, "admin", "", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, os.Stdin) // its end, however it comes, is the sign
	}()
	if err := role(ctx, o); ctx.Err() == nil {
		return err
	}
	return nil
}

// bare answers on the stream itself, without any Kafka: the floor under what
// opening connections and streams costs.
type bare struct {
	linkv1.UnimplementedLinkServiceServer
}

func (bare) Attach(s grpc.BidiStreamingServer[linkv1.AttachRequest, linkv1.AttachResponse]) error {
	m, err := s.Recv()
	if err != nil {
		return err
	}
	if m.GetHello() == nil {
		return status.Error(codes.InvalidArgument, "want Hello")
	}
	err = s.Send(&linkv1.AttachResponse{Message: &linkv1.AttachResponse_Welcome{Welcome: &linkv1.Welcome{
		Version: 1, UpWindow: window, MaxFrame: 64 << 10, HeartbeatIntervalMs: 5000,
	}}})
	for seq := uint64(1); err == nil; {
		if m, err = s.Recv(); err != nil {
			break
		}
		f := m.GetFrame()
		if f == nil {
			continue
		}
		kind := linkv1.FrameKind_FRAME_KIND_DATA
		if f.Seq == 1 {
			kind = linkv1.FrameKind_FRAME_KIND_ACCEPT
		}
		err = s.Send(&linkv1.AttachResponse{Message: &linkv1.AttachResponse_Frame{Frame: &linkv1.Frame{
			Seq: seq, Kind: kind, Payload: f.Payload, Delivered: f.Seq, Persisted: f.Seq,
		}}})
		seq++
	}
	if err == io.EOF {
		return nil
	}
	return err
}
