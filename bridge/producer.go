package bridge

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"

	"github.com/moorage-dev/moorage/proto/envelope"
)

const (
	// tendEvery is how often a producer or reader looks for what hangs.
	tendEvery = 250 * time.Millisecond
	// patience is how long a request may take before metadata are asked
	// whether the leader is still one.
	patience = time.Second
	// missingFor is how long metadata must say that a partition does not
	// exist before its records are given up.
	missingFor = 10 * time.Second
)

// A Producer writes records, idempotently and with acks=all. It has
// connections of its own. All its methods may be called concurrently.
//
// A failed try is tried again for as long as it takes: an election, a frozen
// broker and a missing replica pass. Given up are records that a broker
// refuses for good, those of a partition that does not exist, and what is
// left at Close.
type Producer struct {
	c    *Client
	life context.Context // ends with Close
	end  context.CancelCauseFunc
	wg   sync.WaitGroup
	wake chan struct{} // holds one token when there may be lost queues

	waits atomic.Uint64 // of whom a full queue held up

	mu      sync.Mutex // guards what follows
	closed  bool
	queues  map[partitionOf]*Queue
	senders map[int32]*sender
	asking  bool       // metadata are being asked for
	id      producerID // of all partitions to which nothing has happened
}

// partitionOf names one partition.
type partitionOf struct {
	topic     string
	partition int32
}

// A producerID is what Kafka knows a producer by, so as to tell a repeated
// batch from a new one.
type producerID struct {
	id    int64
	epoch int16
	taken bool // Kafka's ids begin at 0
}

// NewProducer makes a producer. It connects when there is something to write.
func (c *Client) NewProducer() (*Producer, error) {
	p := &Producer{
		c:       c,
		wake:    make(chan struct{}, 1),
		queues:  make(map[partitionOf]*Queue),
		senders: make(map[int32]*sender),
	}
	p.life, p.end = context.WithCancelCause(c.life)
	if err := c.adopt(p); err != nil {
		return nil, err
	}
	p.wg.Go(p.warm)
	p.wg.Go(p.tend)
	return p, nil
}

// Close gives up at once what has no outcome yet: each such record's done
// gets ErrClosed, which says nothing of whether it was written.
func (p *Producer) Close() error {
	p.c.disown(p)
	p.mu.Lock()
	p.closed = true
	for _, s := range p.senders {
		s.cut()
	}
	p.end(ErrClosed)
	p.mu.Unlock()
	p.wg.Wait()
	for _, q := range p.all() {
		q.abandon(ErrClosed, true)
	}
	return nil
}

// Queue returns the queue of one partition, always the same one.
func (p *Producer) Queue(topic string, partition int32) *Queue {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := partitionOf{topic, partition}
	q := p.queues[key]
	if q == nil {
		q = &Queue{p: p, topic: topic, partition: partition, closed: p.closed, flows: make(map[envelope.SessionID]*flow)}
		q.breaker = newBreaker(q.String(), p.c.cfg.StallAfter, p.c.cfg.Logger)
		p.queues[key] = q
	}
	return q
}

// Send queues a record of a state topic. A nil value is a tombstone. done is
// as in Queue.Put. Records of one partition are written in the order of Send.
func (p *Producer) Send(topic string, partition int32, key, value []byte, done func(offset int64, err error)) {
	p.Queue(topic, partition).put(envelope.SessionID{}, item{key: key, value: value, done: done})
}

// Stalled returns for how long the partition has had records without any
// outcome, and whether its breaker is open. A partition never written to is
// not stalled.
func (p *Producer) Stalled(topic string, partition int32) (since time.Duration, open bool) {
	p.mu.Lock()
	q := p.queues[partitionOf{topic, partition}]
	p.mu.Unlock()
	if q == nil {
		return 0, false
	}
	return q.stalled(time.Now())
}

func (q *Queue) stalled(now time.Time) (since time.Duration, open bool) {
	q.mu.Lock()
	since = q.stalledLocked(now)
	q.mu.Unlock()
	return since, q.breaker.feed(since).String() == "open"
}

// QueueStats is what is to be seen of one partition from outside.
type QueueStats struct {
	Topic     string
	Partition int32
	Queued    int           // bytes without an outcome, those under way included
	Unacked   int           // bytes under way
	Stalled   time.Duration // how long nothing has moved; 0: nothing waits
	Produced  uint64        // records acknowledged
	Failed    uint64        // records given up
	Retried   uint64        // batches tried again
	Breaker   string        // closed, half-open or open
}

// Stats returns the present state of every partition ever written to, by name.
func (p *Producer) Stats() []QueueStats {
	now := time.Now()
	var stats []QueueStats
	for _, q := range p.all() {
		q.mu.Lock()
		s := QueueStats{
			Topic: q.topic, Partition: q.partition, Queued: q.bytes, Stalled: q.stalledLocked(now),
			Produced: q.counts.produced, Failed: q.counts.failed, Retried: q.counts.retried,
		}
		if q.batch != nil {
			s.Unacked = q.batch.bytes
		}
		q.mu.Unlock()
		s.Breaker = q.breaker.feed(s.Stalled).String()
		stats = append(stats, s)
	}
	slices.SortFunc(stats, func(a, b QueueStats) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return stats
}

func (p *Producer) all() []*Queue {
	p.mu.Lock()
	defer p.mu.Unlock()
	queues := make([]*Queue, 0, len(p.queues))
	for _, q := range p.queues {
		queues = append(queues, q)
	}
	return queues
}

// kick makes tend look.
func (p *Producer) kick() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// warm gets a producer id before one is needed: the first takes a new cluster
// up to a second.
func (p *Producer) warm() {
	for _, addr := range p.c.cfg.Brokers {
		err := p.c.at(p.life, addr, func(conn *conn) error {
			_, err := p.producerID(conn, false)
			return err
		})
		if err == nil {
			return
		}
	}
}

// producerID returns the common producer id, or one that nobody has used.
func (p *Producer) producerID(conn *conn, fresh bool) (producerID, error) {
	p.mu.Lock()
	id := p.id
	p.mu.Unlock()
	if id.taken && !fresh {
		return id, nil
	}
	resp, err := conn.InitProducerID(&sarama.InitProducerIDRequest{Version: 4, ProducerID: -1, ProducerEpoch: -1})
	if err != nil {
		return producerID{}, err
	}
	if resp.Err != sarama.ErrNoError {
		return producerID{}, resp.Err
	}
	id = producerID{resp.ProducerID, resp.ProducerEpoch, true}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.id.taken {
		p.id = id
	}
	return id, nil
}

// senderOf returns the sender of the queue's partition, as far as anybody
// knows; nil: nobody does.
func (p *Producer) senderOf(q *Queue) *sender {
	id := p.c.cluster.view(q.topic).leader(q.partition)
	addr := p.c.cluster.addr(id)
	if id < 0 || addr == "" {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	s := p.senders[id]
	if s == nil {
		s = &sender{p: p, broker: id, wake: make(chan struct{}, 1)}
		p.senders[id] = s
		p.wg.Go(s.run)
	}
	s.mu.Lock()
	s.addr = addr
	s.mu.Unlock()
	return s
}

// tend finds senders for lost queues and frees senders from brokers that hang.
func (p *Producer) tend() {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for {
		var soon <-chan time.Time
		if wait := p.place(); wait > 0 {
			soon = time.After(wait)
		}
		select {
		case <-p.wake:
		case <-soon:
		case <-tick.C:
			p.unstick()
		case <-p.life.Done():
			return
		}
	}
}

// place looks for the leaders of lost queues. It returns when to look again;
// 0: when kicked.
func (p *Producer) place() (again time.Duration) {
	now := time.Now()
	var ask []string
	for _, q := range p.all() {
		wait, stale, gone := q.place(now)
		if gone != nil {
			q.abandon(gone, false)
			continue
		}
		if stale {
			ask = append(ask, q.topic)
		}
		if wait > 0 && (again == 0 || wait < again) {
			again = wait
		}
	}
	p.ask(ask)
	return again
}

// place hands a lost queue to its leader's sender. If it cannot: wait says
// when to try, stale that metadata must be asked for first, gone that there
// is no such partition, for long.
func (q *Queue) place(now time.Time) (wait time.Duration, stale bool, gone error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.state != lost {
		return 0, false, nil
	}
	v := q.p.c.cluster.view(q.topic)
	// A leader without an address has left since, as an answer about another
	// topic has told.
	led := q.p.c.cluster.addr(v.leader(q.partition)) != ""
	if !v.newerThan(q.failed) || !led && now.Sub(v.at) >= retryAfter {
		return 0, true, nil
	}
	if wait = q.after.Sub(now); wait > 0 {
		return wait, false, nil
	}
	if v.err == nil && q.partition < v.Partitions {
		q.missing = time.Time{}
		if led {
			q.goLocked()
			return 0, false, nil
		}
		return retryAfter, false, nil
	}
	if q.missing.IsZero() {
		q.missing = now
	}
	if now.Sub(q.missing) >= missingFor {
		q.missing = time.Time{}
		if v.err == nil {
			return 0, false, fmt.Errorf("%w: %s has no partition %d", ErrNoTopic, q.topic, q.partition)
		}
		return 0, false, v.err
	}
	return retryAfter, false, nil
}

// unstick feeds the breakers, and cuts the connection of a sender that waits
// for a broker which has lost the leadership of what it waits for.
func (p *Producer) unstick() {
	now := time.Now()
	for _, q := range p.all() {
		q.stalled(now)
	}
	p.mu.Lock()
	senders := make([]*sender, 0, len(p.senders))
	for _, s := range p.senders {
		senders = append(senders, s)
	}
	p.mu.Unlock()
	var ask []string
	for _, s := range senders {
		for _, q := range s.stuck(now, patience) {
			if leader := p.c.cluster.view(q.topic).leader(q.partition); leader >= 0 && leader != s.broker {
				s.cut()
			}
			ask = append(ask, q.topic)
		}
	}
	p.ask(ask)
}

// ask has metadata asked for, one question at a time, and place look afterwards.
func (p *Producer) ask(topics []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(topics) == 0 || p.asking || p.closed {
		return
	}
	p.asking = true
	p.wg.Go(func() {
		_, err := p.c.cluster.refresh(p.life, false, topics...)
		if err != nil {
			p.c.cfg.Logger.Debug("no metadata", "err", err)
			select {
			case <-time.After(retryAfter):
			case <-p.life.Done():
			}
		}
		p.mu.Lock()
		p.asking = false
		p.mu.Unlock()
		p.kick()
	})
}
