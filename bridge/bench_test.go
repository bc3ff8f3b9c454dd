package bridge

import (
	"sync"
	"testing"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kfake"

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

// BenchmarkPut writes records of 64 sessions to a broker that throws them
// away, so that what is measured is ours and sarama's.
func BenchmarkPut(b *testing.B) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, testTopic), kfake.BlackholeProduce())
	if err != nil {
		b.Fatal(err)
	}
	defer cluster.Close()
	c, err := Dial(b.Context(), Config{Brokers: cluster.ListenAddrs()})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	p, err := c.NewProducer()
	if err != nil {
		b.Fatal(err)
	}
	q := p.Queue(testTopic, 0)
	r := data(1, 1, 256)
	var wg sync.WaitGroup
	done := func(_ int64, err error) {
		if err != nil {
			b.Error(err)
		}
		wg.Done()
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		if n%64 == 0 {
			if err := q.Wait(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		wg.Add(1)
		q.Put(sessionID(byte(n%64)), r, done)
	}
	wg.Wait()
}
