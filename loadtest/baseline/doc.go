// Package baseline is relay, the program that moorage is measured against:
// agent ⇄ bare gRPC handler ⇄ sarama ⇄ Kafka ⇄ sarama ⇄ application.
//
// It has the shape of moorage and none of its promises. The payloads, the
// topics (up and down, as many partitions and replicas), the split into a gateway process and an
// application process, the messages on the wire and the pattern of
// acknowledgements are the same: an up frame is reported persisted when Kafka
// has acknowledged it, and both directions report what was delivered. There are no sessions
// that outlive a stream, no cache, no replay, no breaker, no fairness and no
// checks. What moorage costs beyond relay is the price of those.
//
// It is meant to be as fast as such a program can be: windows of the same size,
// nothing waits for company, records that wait anyway go together, sarama's meters are
// off, and nobody is told of single frames where one word will do.
//
// A record's key is the session id, its value the marshalled frame.
//
// Beside it stand two floors, without Kafka: bare grpc-go and direct TCP from
// the agent to the application. [Transports] has all three as load tests drive them.
package baseline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/rcrowley/go-metrics"
	"golang.org/x/sync/errgroup"

	"github.com/moorage-dev/moorage/loadtest/baseline/flow"
	"github.com/moorage-dev/moorage/proto/envelope"
)

// Partitions is P of relay's topics where nothing else is asked for, as of moorage's.
const Partitions = 16

// Window is how many bytes either side may have sent and not yet delivered.
const Window = flow.Window

// MaxFrame is the largest payload in bytes.
const MaxFrame = flow.MaxFrame

// Topics are relay's two topics. A Prefix of their own keeps two runs on one
// broker apart.
type Topics struct {
	Brokers []string
	Prefix  string // zero: "relay."

	Partitions  int32 // of both, where Create makes them; 0: 16
	Replication int16 // so too; 0: 3 where there are as many brokers, else 1. From 3 on, two must have a record, as of moorage's
}

func (t Topics) up() string   { return t.prefix() + "up" }
func (t Topics) down() string { return t.prefix() + "down" }

func (t Topics) prefix() string {
	if t.Prefix == "" {
		return "relay."
	}
	return t.Prefix
}

// Create makes both topics and returns when every partition's leader answers.
// What exists stays, but for partitions that are missing.
func (t Topics) Create(ctx context.Context) error {
	client, err := sarama.NewClient(t.Brokers, config())
	if err != nil {
		return fmt.Errorf("baseline: %w", err)
	}
	defer client.Close()
	admin, err := sarama.NewClusterAdminFromClient(client)
	if err != nil {
		return fmt.Errorf("baseline: %w", err)
	}
	detail := &sarama.TopicDetail{NumPartitions: t.Partitions, ReplicationFactor: t.Replication}
	if t.Partitions == 0 {
		detail.NumPartitions = Partitions
	}
	if t.Replication == 0 {
		brokers, _, err := admin.DescribeCluster()
		if err != nil {
			return fmt.Errorf("baseline: %w", err)
		}
		if detail.ReplicationFactor = 1; len(brokers) >= 3 {
			detail.ReplicationFactor = 3
		}
	}
	if detail.ReplicationFactor >= 3 {
		detail.ConfigEntries = map[string]*string{"min.insync.replicas": new("2")}
	}
	for _, name := range []string{t.up(), t.down()} {
		err := admin.CreateTopic(name, detail, false)
		if errors.Is(err, sarama.ErrTopicAlreadyExists) && t.Partitions > 0 {
			if err = admin.CreatePartitions(name, t.Partitions, nil, false); errors.Is(err, sarama.ErrInvalidPartitions) {
				err = nil // there are as many, or more
			}
		}
		if err != nil && !errors.Is(err, sarama.ErrTopicAlreadyExists) {
			return fmt.Errorf("baseline: topic %s: %w", name, err)
		}
	}
	for _, name := range []string{t.up(), t.down()} {
		if err := awaitLeaders(ctx, client, name, detail.NumPartitions); err != nil {
			return fmt.Errorf("baseline: topic %s: %w", name, err)
		}
	}
	return nil
}

// awaitLeaders returns when every partition's leader says where its log
// begins. Metadata name a leader before it has a log, and sarama gives up a
// batch for good that is refused then. It waits half a minute at most.
func awaitLeaders(ctx context.Context, client sarama.Client, topic string, partitions int32) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for p := int32(0); p < partitions; {
		if _, err := client.GetOffset(topic, p, sarama.OffsetOldest); err == nil {
			p++
			continue
		} else if ctx.Err() != nil {
			return errors.Join(context.Cause(ctx), err)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return nil
}

// partition is moorage's own choice, so that both spread agents alike.
func partition(agent string, id envelope.SessionID, of int32) int32 {
	return envelope.PartitionOf(envelope.SlotOf(agent, id), of)
}

// quiet turns sarama's meters off, which nobody reads here: they cost per
// record, and moorage turns them off too.
var quiet = sync.OnceFunc(func() { metrics.UseNilMetrics = true })

// config is sarama as we would advise anyone to use it: idempotent, acks from
// all, nothing waits for company, queues long enough for throughput.
func config() *sarama.Config {
	quiet()
	c := sarama.NewConfig()
	c.ClientID = "relay"
	c.Version = sarama.V3_6_0_0
	c.ChannelBufferSize = 8192
	c.Net.MaxOpenRequests = 1
	c.Metadata.AllowAutoTopicCreation = false
	c.Producer.Idempotent = true
	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Producer.Return.Successes = true
	c.Producer.Partitioner = sarama.NewManualPartitioner
	c.Producer.Retry.Max = 1000
	c.Consumer.Fetch.Default = 2 << 20
	return c
}

// ends holds the two sarama clients of one process. They are two because a
// broker answers a connection's requests in order: on a shared one every
// produce would wait behind a fetch's long poll.
type ends struct {
	producer sarama.AsyncProducer
	consumer sarama.Consumer
}

func dial(brokers []string) (*ends, error) {
	producer, err := sarama.NewAsyncProducer(brokers, config())
	if err != nil {
		return nil, fmt.Errorf("baseline: produce: %w", err)
	}
	reading := config()
	reading.Producer.Idempotent, reading.Net.MaxOpenRequests = false, 64 // it produces nothing
	reading.Consumer.MaxWaitTime = 250 * time.Millisecond
	consumer, err := sarama.NewConsumer(brokers, reading)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("baseline: consume: %w", err), producer.Close())
	}
	return &ends{producer, consumer}, nil
}

// follow returns a consumer for each of the topic's partitions, at its end;
// after an error those that it got. They are looked for all at once: the
// questions share the consumer's connection, where each would otherwise wait
// for the long poll of those before it.
func (e *ends) follow(topic string) ([]sarama.PartitionConsumer, error) {
	partitions, err := e.consumer.Partitions(topic)
	if err != nil {
		return nil, fmt.Errorf("baseline: topic %s: %w", topic, err)
	}
	all := make([]sarama.PartitionConsumer, len(partitions))
	var group errgroup.Group
	for i, p := range partitions {
		group.Go(func() (err error) {
			if all[i], err = e.consumer.ConsumePartition(topic, p, sarama.OffsetNewest); err != nil {
				return fmt.Errorf("baseline: topic %s partition %d: %w", topic, p, err)
			}
			return nil
		})
	}
	err = group.Wait()
	return slices.DeleteFunc(all, func(pc sarama.PartitionConsumer) bool { return pc == nil }), err
}
