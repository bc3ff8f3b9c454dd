package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/moorage-dev/moorage/bridge"
)

// readState passes every record that a compacted topic holds now to h. Later
// records of a key replace earlier ones; a nil value removes the key.
func readState(ctx context.Context, client *bridge.Client, name string, h func(bridge.Message)) error {
	topic, err := client.Topic(ctx, name)
	if errors.Is(err, bridge.ErrNoTopic) {
		return fmt.Errorf("no such topic: %s; check --controller and --topic-prefix, or create it with: moorage topics create", name)
	}
	if err != nil {
		return fmt.Errorf("topic %s: %w", name, err)
	}
	reader, err := client.NewReader()
	if err != nil {
		return err
	}
	defer reader.Close()
	for partition := range topic.Partitions {
		if err := readPartition(ctx, client, reader, topic, partition, h); err != nil {
			return fmt.Errorf("topic %s, partition %d: %w", name, partition, err)
		}
	}
	return nil
}

func readPartition(ctx context.Context, client *bridge.Client, reader *bridge.Reader, topic bridge.Topic, partition int32, h func(bridge.Message)) error {
	oldest, next, err := client.Bounds(ctx, topic.Name, partition)
	if err != nil || oldest == next {
		return err
	}
	failed := make(chan error, 1)
	f := reader.Follow(topic, partition, oldest, h, func(err error) { failed <- err })
	defer f.Stop()
	// The last offset may be of a record that compaction took away, so its
	// arrival is nothing to wait for; the follower's place is.
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for f.Next() < next {
		select {
		case <-poll.C:
		case err := <-failed:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
