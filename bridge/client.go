package bridge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/IBM/sarama"

	"github.com/moorage-dev/moorage/proto/envelope"
)

// A Client looks topics up and makes producers and readers. All its methods
// may be called concurrently.
type Client struct {
	cfg     Config
	cluster *cluster
	life    context.Context // ends with Close, whatever the context of Dial does
	end     context.CancelCauseFunc
	wg      sync.WaitGroup

	mu    sync.Mutex
	ends  map[ender]struct{} // producers and readers not yet closed; nil once closed
	spare map[string]*conn   // an idle connection per broker, for questions
}

// An ender is a producer or a reader.
type ender interface{ Close() error }

// dialWithin bounds Dial, whatever its context allows.
const dialWithin = 5 * time.Second

// Dial finds the cluster. It fails within about 5 s, with one line that says
// what, where and how to mend it.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	cfg, err := cfg.resolve()
	if err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, ends: make(map[ender]struct{}), spare: make(map[string]*conn)}
	c.life, c.end = context.WithCancelCause(context.WithoutCancel(ctx))
	c.cluster = &cluster{c: c, topics: make(map[string]*topicView)}
	ctx, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	if _, err := c.cluster.refresh(ctx, false, c.GatewaysTopic()); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("bridge: no Kafka broker of %v answered within %v (%s)", cfg.Brokers, dialWithin, hint(err))
		}
		c.Close()
		return nil, err
	}
	return c, nil
}

// Close ends the client, and every producer and reader made by it.
func (c *Client) Close() error {
	c.mu.Lock()
	ends, spare := c.ends, c.spare
	c.ends, c.spare = nil, nil
	c.mu.Unlock()
	for e := range ends {
		e.Close()
	}
	for _, conn := range spare {
		conn.close()
	}
	c.end(ErrClosed)
	c.cluster.stop()
	c.wg.Wait()
	if c.cluster.conn != nil {
		c.cluster.hangUp()
	}
	return nil
}

// adopt makes Close close e too.
func (c *Client) adopt(e ender) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ends == nil {
		return ErrClosed
	}
	c.ends[e] = struct{}{}
	return nil
}

func (c *Client) disown(e ender) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.ends, e)
}

// A Topic is one life of a topic.
type Topic struct {
	Name       string
	ID         envelope.TopicID
	Partitions int32
}

// Topic asks a broker now. Errors: ErrNoTopic.
func (c *Client) Topic(ctx context.Context, name string) (Topic, error) {
	views, err := c.cluster.refresh(ctx, false, name)
	if err != nil {
		return Topic{}, err
	}
	v := views[name]
	if v == nil {
		return Topic{}, fmt.Errorf("%w: %s", ErrNoTopic, name)
	}
	return v.Topic, v.err
}

// Bounds asks the partition's leader now for its first offset and for the one
// the next record will get. It tries again while the partition has no leader,
// until ctx ends or some seconds have passed.
func (c *Client) Bounds(ctx context.Context, topic string, partition int32) (oldest, next int64, err error) {
	err = c.atLeader(ctx, topic, partition, func(conn *conn) error {
		oldest, next, err = bounds(conn, topic, partition)
		return err
	})
	return oldest, next, err
}

// atLeader calls f with a connection to the partition's leader, again after a
// failure that may pass.
func (c *Client) atLeader(ctx context.Context, topic string, partition int32, f func(*conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*dialWithin)
	defer cancel()
	failed := error(sarama.ErrLeaderNotAvailable)
	for {
		views, err := c.cluster.refresh(ctx, false, topic)
		if err != nil {
			return err
		}
		v := views[topic]
		if v == nil || v.err != nil {
			return fmt.Errorf("%w: %s", ErrNoTopic, topic)
		}
		if partition < 0 || partition >= v.Partitions {
			return fmt.Errorf("%w: %s has no partition %d", ErrNoTopic, topic, partition)
		}
		if addr := c.cluster.addr(v.leader(partition)); addr != "" {
			err = c.at(ctx, addr, f)
			if err == nil {
				return nil
			}
			failed = err
			if !mayPass(err) {
				return fmt.Errorf("bridge: %s/%d at %s: %w", topic, partition, addr, err)
			}
		}
		select {
		case <-time.After(retryAfter):
		case <-ctx.Done():
			return fmt.Errorf("bridge: %s/%d: %w (%w)", topic, partition, failed, context.Cause(ctx))
		}
	}
}

// at calls f with a connection to the broker at addr: the spare one, if there
// is one, and if that turns out to be closed, a new one.
func (c *Client) at(ctx context.Context, addr string, f func(*conn) error) error {
	c.mu.Lock()
	conn := c.spare[addr]
	delete(c.spare, addr)
	c.mu.Unlock()
	if conn != nil {
		err := c.over(ctx, conn, f)
		if _, ok := errors.AsType[sarama.KError](err); err == nil || ok || isTimeout(err) || ctx.Err() != nil {
			return err
		}
	}
	conn, err := c.dial(ctx, addr, ackTimeout+ackGrace)
	if err != nil {
		return err
	}
	return c.over(ctx, conn, f)
}

// over calls f with conn and keeps conn as the spare one if it still works.
func (c *Client) over(ctx context.Context, conn *conn, f func(*conn) error) error {
	stop := context.AfterFunc(ctx, conn.cut)
	err := f(conn)
	_, answered := errors.AsType[sarama.KError](err)
	if stop() && (err == nil || answered) {
		c.mu.Lock()
		_, have := c.spare[conn.Addr()]
		if keep := c.spare != nil && !have; keep {
			c.spare[conn.Addr()] = conn
			conn = nil
		}
		c.mu.Unlock()
	}
	if conn != nil {
		conn.close()
	}
	return err
}

// bounds asks a leader for the first offset and the one after the last.
func bounds(conn *conn, topic string, partition int32) (oldest, next int64, err error) {
	for _, ask := range []struct {
		time int64
		to   *int64
	}{{sarama.OffsetOldest, &oldest}, {sarama.OffsetNewest, &next}} {
		req := &sarama.OffsetRequest{Version: 6}
		req.AddBlock(topic, partition, ask.time, 1)
		resp, err := conn.GetAvailableOffsets(req)
		if err != nil {
			return 0, 0, err
		}
		b := resp.GetBlock(topic, partition)
		if b == nil {
			return 0, 0, sarama.ErrIncompleteResponse
		}
		if b.Err != sarama.ErrNoError {
			return 0, 0, b.Err
		}
		*ask.to = b.Offset
	}
	return oldest, next, nil
}

// retryAfter is how long a leader that is not one is left alone.
const retryAfter = 50 * time.Millisecond

// isTimeout reports whether a broker took too long.
func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout() || errors.Is(err, os.ErrDeadlineExceeded)
}

// mayPass reports whether what failed may work a little later, here or at
// another leader. Whatever is not an answer of a broker may: it is the
// network's.
func mayPass(err error) bool {
	kerr, ok := errors.AsType[sarama.KError](err)
	if !ok {
		auth, ok := errors.AsType[*authError](err)
		return !ok || auth.silent
	}
	switch kerr {
	case sarama.ErrUnknownTopicOrPartition, // a broker that has not heard of it yet
		sarama.ErrLeaderNotAvailable, sarama.ErrNotLeaderForPartition, // an election
		sarama.ErrFencedLeaderEpoch, sarama.ErrUnknownLeaderEpoch,
		sarama.ErrRequestTimedOut, sarama.ErrNetworkException,
		sarama.ErrBrokerNotAvailable, sarama.ErrReplicaNotAvailable,
		sarama.ErrNotEnoughReplicas, sarama.ErrNotEnoughReplicasAfterAppend, // the ISR will grow again
		sarama.ErrOffsetNotAvailable, sarama.ErrPreferredLeaderNotAvailable,
		sarama.ErrKafkaStorageError,
		sarama.ErrNotController, sarama.ErrOffsetsLoadInProgress,
		sarama.ErrConsumerCoordinatorNotAvailable, sarama.ErrNotCoordinatorForConsumer,
		sarama.ErrThrottlingQuotaExceeded,
		sarama.ErrInvalidMessage: // corrupt on its way
		return true
	}
	return false
}
