package bridge

import (
	"context"
	"time"
)

// A TopicSpec says how a controller's topics are made.
type TopicSpec struct {
	Partitions   int32         // of up and down; 0: 16
	Replication  int16         // 0: 3, or 1 with SingleBroker
	SingleBroker bool          // allows what one broker can offer: no durability
	Retention    time.Duration // of up and down; 0: 1 h
	AllowSmall   bool          // allows fewer than 16 partitions, for tests
}

// CheckOptions say what CheckTopics demands.
type CheckOptions struct {
	SingleBroker bool
	AllowSmall   bool
	Grace        time.Duration // retention must be well above it; 0: 240 s
}

// A Problem is one line: what is wrong, where, and how to mend it.
type Problem struct {
	Topic string
	Text  string
}

func (p Problem) String() string { return p.Topic + ": " + p.Text }

// CreateTopics makes what is missing of a controller's topics and the
// gateways topic, and waits for leaders. What exists is left as it is.
func (c *Client) CreateTopics(ctx context.Context, controller string, spec TopicSpec) error {
	return errTODO
}

// CheckTopics returns what durability can't stand on.
func (c *Client) CheckTopics(ctx context.Context, controller string, opts CheckOptions) ([]Problem, error) {
	return nil, errTODO
}

// ListTopics returns all topics under the prefix, by name.
func (c *Client) ListTopics(ctx context.Context) ([]Topic, error) { return nil, errTODO }

// DeleteRecords moves the partition's start to before, as retention does.
func (c *Client) DeleteRecords(ctx context.Context, topic string, partition int32, before int64) error {
	return errTODO
}
