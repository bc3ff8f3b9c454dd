package bridge

import "errors"

// What callers branch on.
var (
	// ErrNoTopic reports that Kafka has no topic of that name.
	ErrNoTopic = errors.New("bridge: no such topic")
	// ErrOutOfRange reports an offset below the log's start, or one above its
	// end that stayed there. What was to be read at it is gone.
	ErrOutOfRange = errors.New("bridge: offset out of range")
	// ErrTopicChanged reports that a topic was removed or created again since
	// it was looked up: its offsets mean something else now.
	ErrTopicChanged = errors.New("bridge: topic removed or created again")
	// ErrClosed reports use of something closed, or a record given up by Close.
	ErrClosed = errors.New("bridge: closed")
)
