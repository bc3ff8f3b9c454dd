package bridge

import (
	"context"
	"errors"

	"github.com/moorage-dev/moorage/proto/envelope"
)

var errTODO = errors.New("bridge: not there yet")

// A Client looks topics up and makes producers and readers. All its methods
// may be called concurrently.
type Client struct{ cfg Config }

// Dial finds the cluster. It fails within about 5 s, with one line that says
// what, where and how to mend it.
func Dial(ctx context.Context, cfg Config) (*Client, error) { return nil, errTODO }

// Close ends the client, and every producer and reader made by it.
func (c *Client) Close() error { return errTODO }

// A Topic is one life of a topic.
type Topic struct {
	Name       string
	ID         envelope.TopicID
	Partitions int32
}

// Topic asks a broker now. Errors: ErrNoTopic.
func (c *Client) Topic(ctx context.Context, name string) (Topic, error) { return Topic{}, errTODO }

// Bounds asks the partition's leader now for its first offset and for the one
// the next record will get.
func (c *Client) Bounds(ctx context.Context, topic string, partition int32) (oldest, next int64, err error) {
	return 0, 0, errTODO
}
