// Package balance is a balancer before several gateways that keeps the agents
// of a group together: streams with the same moorage-group header go to the
// same gateway. It is what a production balancer would be told to do, in the
// least code: it forwards messages without reading them, in clear.
//
// A gateway that is down is not replaced by another, for no test that breaks
// gateways needs this.
package balance

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Header names the group of a stream.
const Header = "moorage-group"

// Serve balances what comes in at lis over gateways until ctx ends. It closes lis.
func Serve(ctx context.Context, lis net.Listener, gateways []string) error {
	b := balancer{}
	defer b.close()
	for _, g := range gateways {
		conn, err := grpc.NewClient("passthrough:///"+g, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableServiceConfig())
		if err != nil {
			return errors.Join(fmt.Errorf("balance: gateway %s: %w", g, err), lis.Close())
		}
		b.gateways = append(b.gateways, conn)
	}
	srv := grpc.NewServer(grpc.UnknownServiceHandler(b.forward), grpc.ForceServerCodecV2(opaque{}), grpc.WaitForHandlers(true))
	defer context.AfterFunc(ctx, srv.Stop)()
	if err := srv.Serve(lis); ctx.Err() == nil {
		return fmt.Errorf("balance: %w", err)
	}
	return nil
}

type balancer struct {
	gateways []*grpc.ClientConn
	ways     sync.WaitGroup // up
}

// close is called when there are no streams any more.
func (b *balancer) close() {
	b.ways.Wait()
	for _, c := range b.gateways {
		_ = c.Close() // it fails only when closed before
	}
}

// pick is by the header's hash; streams without one share a gateway.
func (b *balancer) pick(md metadata.MD) *grpc.ClientConn {
	h := fnv.New32a()
	for _, group := range md.Get(Header) {
		_, _ = h.Write([]byte(group)) // a hash takes everything
	}
	return b.gateways[h.Sum32()%uint32(len(b.gateways))]
}

// forward carries one stream, of whatever method, until either end of it ends.
func (b *balancer) forward(_ any, agent grpc.ServerStream) error {
	method, ok := grpc.MethodFromServerStream(agent)
	if !ok {
		return status.Error(codes.Internal, "balance: a stream without a method")
	}
	md, _ := metadata.FromIncomingContext(agent.Context()) // none is empty
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(agent.Context(), md))
	defer cancel()
	desc := &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	gateway, err := b.pick(md).NewStream(ctx, desc, method, grpc.ForceCodecV2(opaque{}))
	if err != nil {
		return err
	}
	b.ways.Go(func() {
		for {
			var m mem.BufferSlice
			if err := agent.RecvMsg(&m); errors.Is(err, io.EOF) {
				_ = gateway.CloseSend() // which never fails
				return
			} else if err != nil || gateway.SendMsg(m) != nil {
				cancel() // the way down learns why
				return
			}
		}
	})
	err = down(gateway, agent)
	agent.SetTrailer(gateway.Trailer())
	return err // with which the way up ends too
}

// down forwards what the gateway says.
func down(gateway grpc.ClientStream, agent grpc.ServerStream) error {
	if header, err := gateway.Header(); err == nil {
		if err := agent.SendHeader(header); err != nil {
			return err
		}
	}
	for {
		var m mem.BufferSlice
		if err := gateway.RecvMsg(&m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := agent.SendMsg(m); err != nil {
			return err
		}
	}
}

// opaque passes messages on as they are.
type opaque struct{}

func (opaque) Name() string { return "proto" } // as the far ends call it

func (opaque) Marshal(v any) (mem.BufferSlice, error) {
	return v.(mem.BufferSlice), nil // the balancer hands over nothing else
}

func (opaque) Unmarshal(data mem.BufferSlice, v any) error {
	data.Ref()
	*v.(*mem.BufferSlice) = data
	return nil
}
