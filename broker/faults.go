package broker

import (
	"encoding/binary"
	"errors"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A Fault is a misbehaviour under way. Hits tells how many requests met it,
// Wait waits for that, Remove ends it early.
type Fault = kfake.FaultHandle

// ProduceFailed answers the next times produce requests with an error that may
// be tried again, and writes nothing. It ends by itself; a negative number
// goes on until Remove.
func (e *Embedded) ProduceFailed(times int) *Fault {
	return e.fault(times, kmsg.Produce, kerr.NotEnoughReplicas)
}

// ProduceWrittenButFailed writes what the next times produce requests bring,
// and answers that it doesn't know. The records will be read, so whoever sends
// them again under a new sequence number repeats them.
func (e *Embedded) ProduceWrittenButFailed(times int) *Fault {
	return e.fault(times, kmsg.Produce, kerr.RequestTimedOut)
}

// ProduceRefused answers the next times produce requests with an error that no
// retry mends: the producer must report it.
func (e *Embedded) ProduceRefused(times int) *Fault {
	return e.fault(times, kmsg.Produce, kerr.TopicAuthorizationFailed)
}

// ProduceUnknown writes what the next produce request brings to one
// partition and answers that it doesn't know; when the same is brought again,
// it is refused for good. So it is written and its producer is told that it failed.
func (e *Embedded) ProduceUnknown(topic string, partition int32) *Fault {
	f := kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Partitions: []int32{partition}, Count: 1}
	written, refused := f, f
	written.Err, refused.Err = kerr.RequestTimedOut, kerr.TopicAuthorizationFailed
	return e.Cluster.Fault(written, refused)
}

// ProduceLost holds back what is produced to one partition, with an error that
// may be tried again, until lose is called. That refuses for good the one
// request that was held back, and lets go what its producer has lined up behind.
func (e *Embedded) ProduceLost(topic string, partition int32) (lose func()) {
	f := kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Partitions: []int32{partition}}
	held, refused := f, f
	held.Err, held.Count = kerr.NotEnoughReplicas, -1
	refused.Err, refused.Count = kerr.TopicAuthorizationFailed, 1
	holding := e.Cluster.Fault(held)
	return func() {
		e.Cluster.Fault(refused) // the older one wins while it is there
		holding.Remove()
	}
}

// ProduceRefusedOf is ProduceRefused for requests that bring a topic a record
// whose value pick chooses.
func (e *Embedded) ProduceRefusedOf(topic string, times int, pick func(value []byte) bool) *Fault {
	return e.Cluster.Fault(kfake.Fault{
		Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: kerr.TopicAuthorizationFailed, Count: count(times),
		When: func(req kmsg.Request) bool {
			produce, ok := req.(*kmsg.ProduceRequest)
			if !ok {
				return false
			}
			for _, t := range produce.Topics {
				for _, p := range t.Partitions {
					if slices.ContainsFunc(values(p.Records), pick) {
						return true
					}
				}
			}
			return false
		},
	})
}

// values returns the values of a batch that is not compressed; of what cannot
// be read, none.
func values(batch []byte) (out [][]byte) {
	var b kmsg.RecordBatch
	if b.ReadFrom(batch) != nil {
		return nil
	}
	for rest := b.Records; ; {
		size, n := binary.Varint(rest)
		if n <= 0 || size < 1 || size > int64(len(rest)-n) {
			return out
		}
		record := rest[n+1 : n+int(size)] // behind its attributes
		rest = rest[n+int(size):]
		for field := range 4 { // times, offsets, key, value
			v, n := binary.Varint(record)
			if n <= 0 {
				return out
			}
			record = record[n:]
			if field < 2 || v < 0 {
				continue
			}
			if v > int64(len(record)) {
				return out
			}
			if field == 3 {
				out = append(out, record[:v])
			}
			record = record[v:]
		}
	}
}

// TopicStalled answers produce requests for a topic with an error that may be
// tried again, and writes nothing, until Remove.
func (e *Embedded) TopicStalled(topic string) *Fault {
	return e.Cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: kerr.NotEnoughReplicas, Count: -1})
}

// FetchFailed answers the next times fetch requests with an error that may be
// tried again.
func (e *Embedded) FetchFailed(times int) *Fault {
	return e.fault(times, kmsg.Fetch, kerr.UnknownServerError)
}

// NotLeader answers the next times produce and fetch requests as a broker does
// that has just lost the partition: the client asks for fresh metadata and
// comes again.
func (e *Embedded) NotLeader(times int) *Fault {
	keys := []kmsg.Key{kmsg.Produce, kmsg.Fetch}
	return e.Cluster.Fault(kfake.Fault{Keys: keys, Err: kerr.NotLeaderForPartition, Count: count(times)})
}

// PartitionFailed is ProduceFailed for one partition of one topic.
func (e *Embedded) PartitionFailed(topic string, partition int32, times int) *Fault {
	return e.Cluster.Fault(kfake.Fault{
		Keys:  []kmsg.Key{kmsg.Produce},
		Topic: topic, Partitions: []int32{partition},
		Err: kerr.NotEnoughReplicas, Count: count(times),
	})
}

func (e *Embedded) fault(times int, key kmsg.Key, err *kerr.Error) *Fault {
	return e.Cluster.Fault(kfake.Fault{Keys: []kmsg.Key{key}, Err: err, Count: count(times)})
}

// count translates times; kfake reads 0 as one.
func count(times int) int {
	if times < 0 {
		return -1
	}
	return max(times, 1)
}

// ProduceCut drops the connections on which the next times produce requests
// arrive, without an answer; nothing is written, but the producer can't know.
func (e *Embedded) ProduceCut(times int) {
	left := max(times, 1)
	e.Cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		e.Cluster.KeepControl()
		if left--; left <= 0 {
			e.Cluster.DropControl() // wins over having been kept
		}
		return nil, errCut, true
	})
}

var errCut = errors.New("broker: connection cut by a fault")
