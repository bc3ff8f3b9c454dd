package bridge

import (
	"github.com/IBM/sarama"

	"github.com/moorage-dev/moorage/proto/envelope"
)

// benchBlock is what a fetch brought: n records, the first of session 1, the
// others of as many other sessions.
func benchBlock(n, size int) *block {
	batch := &sarama.RecordBatch{Version: 2, LastOffsetDelta: int32(n - 1)}
	for i := range n {
		r := data(1, uint64(i+1), size)
		if i > 0 {
			r.Session = envelope.SessionID{2, byte(i), byte(i >> 8)}
		}
		batch.Records = append(batch.Records, &sarama.Record{OffsetDelta: int64(i), Value: envelope.Append(nil, r)})
	}
	return &block{next: int64(n), end: int64(n), batches: []*sarama.RecordBatch{batch}}
}
