package bridge

import (
	"context"
	"time"

	"github.com/moorage-dev/moorage/proto/envelope"
)

// A Producer writes records. It has connections of its own.
type Producer struct{}

func (c *Client) NewProducer() (*Producer, error) { return nil, errTODO }

// Close gives up at once what is not acknowledged: each such record's done
// gets ErrClosed, which says nothing of whether it was written.
func (p *Producer) Close() error { return errTODO }

// Queue returns the queue of one partition, always the same one.
func (p *Producer) Queue(topic string, partition int32) *Queue { return nil }

// A Queue holds the records that wait to be written to one partition.
type Queue struct{}

// Put queues a record; it never blocks. done is called exactly once, from a
// goroutine of the bridge, and must not block. An err other than nil means
// that the outcome is unknown.
func (q *Queue) Put(flow envelope.SessionID, r *envelope.Record, done func(offset int64, err error)) {}

// Wait returns when the queue holds less than QueueBytes.
func (q *Queue) Wait(ctx context.Context) error { return errTODO }

// Send queues a record of a state topic. A nil value is a tombstone.
func (p *Producer) Send(topic string, partition int32, key, value []byte, done func(offset int64, err error)) {
}

// Stalled returns the age of the partition's oldest record without an
// outcome, and whether its breaker is open.
func (p *Producer) Stalled(topic string, partition int32) (since time.Duration, open bool) {
	return 0, false
}
