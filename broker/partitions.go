package broker

import (
	"context"
	"fmt"
	"net"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// AddPartitions raises topics to n partitions each. dial reaches the brokers;
// nil: TCP.
func (e *Embedded) AddPartitions(ctx context.Context, dial func(ctx context.Context, network, addr string) (net.Conn, error), n int32, topics ...string) error {
	opts := []kgo.Opt{kgo.SeedBrokers(e.Addrs()...)}
	if dial != nil {
		opts = append(opts, kgo.Dialer(dial))
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return fmt.Errorf("broker: add partitions: %w", err)
	}
	defer client.Close()
	req := kmsg.NewCreatePartitionsRequest()
	for _, topic := range topics {
		t := kmsg.NewCreatePartitionsRequestTopic()
		t.Topic, t.Count = topic, n
		req.Topics = append(req.Topics, t)
	}
	resp, err := req.RequestWith(ctx, client)
	if err != nil {
		return fmt.Errorf("broker: add partitions: %w", err)
	}
	for _, t := range resp.Topics {
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
			return fmt.Errorf("broker: add partitions to %s: %w", t.Topic, err)
		}
	}
	return nil
}
