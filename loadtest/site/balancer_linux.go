package site

import (
	"context"
	"fmt"
	"net"

	"github.com/moorage-dev/moorage/loadtest/balance"
)

// A balancer stands before all gateways, in this process.
type balancer struct {
	address string
	end     context.CancelFunc
	served  chan error
}

// startBalancer begins to balance over addresses until close.
func startBalancer(host string, addresses []string) (*balancer, error) {
	lis, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, fmt.Errorf("site: balancer: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background()) // it lives as long as the site
	b := &balancer{address: lis.Addr().String(), end: cancel, served: make(chan error, 1)}
	go func() { b.served <- balance.Serve(ctx, lis, addresses) }()
	return b, nil
}

func (b *balancer) close() error {
	b.end()
	return <-b.served
}
