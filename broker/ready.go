//go:build unix

package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// readyPoll is short against a start of a second, long against one question.
const readyPoll = 25 * time.Millisecond

// waitReady returns when each of the nodes shows all running ones in its
// metadata, or when one of them died.
func (a *Apache) waitReady(ctx context.Context, nodes []*node) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, errors.New("not ready in "+readyTimeout.String()))
	defer cancel()
	for _, n := range nodes {
		if err := a.waitNode(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

func (a *Apache) waitNode(ctx context.Context, n *node) error {
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	var last error
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("broker: node %d: %w (last: %v)", n.id, context.Cause(ctx), last)
		case <-n.proc.done:
			return n.died()
		case <-tick.C:
		}
		seen, err := a.brokersSeenBy(ctx, n)
		if err == nil && seen >= a.runningNodes() {
			return nil
		}
		last = fmt.Errorf("sees %d brokers: %w", seen, err)
	}
}

func (a *Apache) runningNodes() int {
	running := 0
	for _, n := range a.nodes {
		if n.proc.running() {
			running++
		}
	}
	return running
}

// brokersSeenBy asks one node, and no other, for the cluster's brokers.
func (a *Apache) brokersSeenBy(ctx context.Context, n *node) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	// A client retries a refused connection for longer than a start takes.
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", n.client)
	if err != nil {
		return 0, err
	}
	conn.Close()
	client, err := kgo.NewClient(append(a.ClientOpts("admin"), kgo.SeedBrokers(n.client))...)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{}
	resp, err := client.SeedBrokers()[0].Request(ctx, req)
	if err != nil {
		return 0, err
	}
	return len(resp.(*kmsg.MetadataResponse).Brokers), nil
}
