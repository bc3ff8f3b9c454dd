package baseline

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/IBM/sarama"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

// A side is an application process's connection to Kafka: it reads all of the
// up topic and writes the down topic.
type side struct {
	topics Topics
	ends   *ends

	producing sync.RWMutex // guards stopped, and Input against being closed
	stopped   bool
}

func newSide(topics Topics) (*side, error) {
	ends, err := dial(topics.Brokers)
	if err != nil {
		return nil, err
	}
	return &side{topics: topics, ends: ends}, nil
}

// run calls serve for every partition, and ready once all are followed. It
// returns when ctx ends or a record cannot be produced. The group is for what
// serve starts; serve returns when pc's messages end.
func (s *side) run(ctx context.Context, ready func(), serve func(ctx context.Context, group *errgroup.Group, p int32, pc sarama.PartitionConsumer) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (first error) {
		for failed := range s.ends.producer.Errors() {
			if first == nil {
				first = fmt.Errorf("baseline: produce: %w", failed)
				cancel()
			}
		}
		return first
	})
	group.Go(func() error {
		for range s.ends.producer.Successes() {
		}
		return nil
	})
	followed, err := s.ends.follow(s.topics.up())
	for p, pc := range followed {
		group.Go(func() error { return serve(ctx, group, int32(p), pc) })
	}
	switch {
	case err != nil:
		cancel()
	case ready != nil:
		ready()
	}
	group.Go(func() error {
		<-ctx.Done()
		for _, pc := range followed {
			pc.AsyncClose()
		}
		s.producing.Lock()
		s.stopped = true
		s.producing.Unlock()
		s.ends.producer.AsyncClose()
		return nil
	})
	return errors.Join(err, group.Wait(), s.ends.consumer.Close())
}

// produce hands a frame to the producer and waits for its room. After the end
// it does nothing.
func (s *side) produce(p int32, id envelope.SessionID, f *linkv1.Frame) {
	value, err := proto.Marshal(f)
	if err != nil {
		panic("baseline: " + err.Error()) // bytes and numbers always marshal
	}
	s.producing.RLock()
	defer s.producing.RUnlock()
	if s.stopped {
		return
	}
	s.ends.producer.Input() <- &sarama.ProducerMessage{
		Topic: s.topics.down(), Partition: p,
		Key: sarama.ByteEncoder(id[:]), Value: sarama.ByteEncoder(value),
	}
}
