package broker

import (
	"context"
	"fmt"
	"net"

	"github.com/twmb/franz-go/pkg/kgo"
)

// WriteAgain writes a second copy of the records of a partition that pick
// chooses by their value, behind all that is there: so does a producer that was
// stopped on the way and goes on much later. It returns how many there were.
// dial reaches the brokers; nil: TCP.
func (e *Embedded) WriteAgain(ctx context.Context, dial func(ctx context.Context, network, addr string) (net.Conn, error), topic string, partition int32, pick func(value []byte) bool) (n int, err error) {
	opts := []kgo.Opt{
		kgo.SeedBrokers(e.Addrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {partition: kgo.NewOffset().AtStart()}}),
	}
	if dial != nil {
		opts = append(opts, kgo.Dialer(dial))
	}
	info := e.Cluster.PartitionInfo(topic, partition)
	if info == nil || info.HighWatermark == info.LogStartOffset {
		return 0, nil
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return 0, fmt.Errorf("broker: write again: %w", err)
	}
	defer client.Close()
	var late []*kgo.Record
	for next := info.LogStartOffset; next < info.HighWatermark; {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return 0, fmt.Errorf("broker: write again: %w", context.Cause(ctx))
		}
		fetches.EachRecord(func(r *kgo.Record) {
			next = r.Offset + 1
			if r.Offset < info.HighWatermark && pick(r.Value) {
				late = append(late, &kgo.Record{Topic: topic, Partition: partition, Key: r.Key, Value: r.Value, Headers: r.Headers})
			}
		})
	}
	if err := client.ProduceSync(ctx, late...).FirstErr(); err != nil {
		return 0, fmt.Errorf("broker: write again: %w", err)
	}
	return len(late), nil
}
