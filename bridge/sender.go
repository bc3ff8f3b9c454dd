package bridge

import (
	"sync"
	"time"

	"github.com/IBM/sarama"
)

// maxRequest bounds the batches of one request, in bytes.
const maxRequest = 8 << 20

// A sender writes to one broker: one request at a time, with a batch of each
// partition that has records by then. That is all the batching there is;
// nothing waits for company.
type sender struct {
	p      *Producer
	broker int32
	wake   chan struct{} // holds one token when there may be something to do

	mu     sync.Mutex // guards what follows
	addr   string
	ready  []*Queue
	conn   *conn     // made and closed by run; others may cut it
	asked  time.Time // when the request under way was sent; zero: none is
	asking []*Queue  // whose batches are in it
}

// push puts a ready queue into the list.
func (s *sender) push(q *Queue) {
	s.mu.Lock()
	s.ready = append(s.ready, q)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// stuck returns the queues of a request that has been under way for longer
// than patience.
func (s *sender) stuck(now time.Time, patience time.Duration) []*Queue {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked.IsZero() || now.Sub(s.asked) < patience {
		return nil
	}
	return s.asking
}

// cut fails the request under way.
func (s *sender) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		s.conn.cut()
	}
}

func (s *sender) run() {
	defer s.hangUp()
	for {
		select {
		case <-s.wake:
		case <-s.p.life.Done():
			return
		}
		for s.step() {
		}
	}
}

// step sends one request. It returns false when there is nothing to send.
func (s *sender) step() bool {
	queues := s.take()
	if len(queues) == 0 || s.p.life.Err() != nil {
		return false
	}
	if err := s.connect(); err != nil {
		s.p.c.cfg.Logger.Debug("broker out of reach", "broker", s.broker, "err", err)
		s.p.c.cluster.blame(s.broker)
		loseAll(queues)
		return true
	}
	if err := s.number(queues); err != nil {
		s.p.c.cfg.Logger.Debug("no producer id", "broker", s.broker, "err", err)
		s.hangUp()
		loseAll(queues)
		return true
	}
	req := &sarama.ProduceRequest{Version: 8, RequiredAcks: sarama.WaitForAll, Timeout: int32(ackTimeout.Milliseconds())}
	for _, q := range queues {
		req.AddBatch(q.topic, q.partition, q.seal())
	}
	s.mu.Lock()
	s.asked, s.asking = time.Now(), queues
	conn := s.conn
	s.mu.Unlock()
	resp, err := conn.Produce(req)
	s.mu.Lock()
	s.asked, s.asking = time.Time{}, nil
	s.mu.Unlock()
	if err != nil {
		// Written or not: the same batches under the same numbers will tell.
		s.p.c.cfg.Logger.Debug("produce without an answer", "broker", s.broker, "err", err)
		s.p.c.cluster.blame(s.broker)
		s.hangUp()
		loseAll(queues)
		return true
	}
	for _, q := range queues {
		s.settle(q, resp.GetBlock(q.topic, q.partition))
	}
	return true
}

// take takes ready queues out of the list, each with a batch, up to maxRequest.
func (s *sender) take() []*Queue {
	s.mu.Lock()
	queues := s.ready
	s.ready = nil
	s.mu.Unlock()
	now := time.Now()
	size := 0
	for i, q := range queues {
		if size >= maxRequest {
			s.mu.Lock()
			s.ready = append(queues[i:len(queues):len(queues)], s.ready...)
			s.mu.Unlock()
			return queues[:i]
		}
		q.mu.Lock()
		q.state = sent
		if q.batch == nil {
			q.batch = q.fillLocked(q.limitLocked(now), now)
		}
		size += q.batch.bytes
		q.mu.Unlock()
	}
	return queues
}

// connect makes a connection if there is none to the broker's present address.
func (s *sender) connect() error {
	s.mu.Lock()
	conn, addr := s.conn, s.addr
	s.mu.Unlock()
	if conn != nil && conn.Addr() == addr {
		return nil
	}
	s.hangUp()
	conn, err := s.p.c.dial(s.p.life, addr, ackTimeout+ackGrace)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.conn = conn
	s.mu.Unlock()
	if s.p.life.Err() != nil {
		conn.cut() // Close may have looked before the connection was there
	}
	return nil
}

func (s *sender) hangUp() {
	s.mu.Lock()
	conn := s.conn
	s.conn = nil
	s.mu.Unlock()
	if conn != nil {
		conn.close()
	}
}

// number sees to it that each queue has a producer id for its batch.
func (s *sender) number(queues []*Queue) error {
	for _, q := range queues {
		q.mu.Lock()
		need, fresh := q.id == producerID{}, q.counts.failed > 0
		q.mu.Unlock()
		if !need {
			continue
		}
		id, err := s.p.producerID(s.conn, fresh)
		if err != nil {
			return err
		}
		q.mu.Lock()
		q.id, q.seq = id, 0
		q.mu.Unlock()
	}
	return nil
}

// seal returns the batch as sarama wants it, the same at each try.
func (q *Queue) seal() *sarama.RecordBatch {
	q.mu.Lock()
	defer q.mu.Unlock()
	b := q.batch
	if b.records != nil {
		return b.records
	}
	now := time.Now()
	records := make([]sarama.Record, len(b.items))
	list := make([]*sarama.Record, len(b.items))
	for i := range b.items {
		records[i] = sarama.Record{OffsetDelta: int64(i), Key: b.items[i].key, Value: b.items[i].value}
		list[i] = &records[i]
	}
	b.records = &sarama.RecordBatch{
		Version:         2,
		LastOffsetDelta: int32(len(list) - 1),
		FirstTimestamp:  now,
		MaxTimestamp:    now,
		ProducerID:      q.id.id,
		ProducerEpoch:   q.id.epoch,
		FirstSequence:   q.seq,
		Records:         list,
	}
	return b.records
}

// settle acts on the broker's answer about one batch.
func (s *sender) settle(q *Queue, b *sarama.ProduceResponseBlock) {
	var err error = sarama.ErrIncompleteResponse
	if b != nil {
		err = b.Err
	}
	switch {
	case err == sarama.ErrNoError:
		q.settled(b.Offset, nil)
	case mayPass(err):
		s.p.c.cfg.Logger.Debug("produce to be tried again", "partition", q.String(), "err", err)
		s.p.c.cluster.blame(s.broker)
		q.lose(time.Now())
	default:
		// That includes ErrDuplicateSequenceNumber: written, nobody knows
		// where, so nobody can tell whether in order.
		s.p.c.cfg.Logger.Warn("produce failed", "partition", q.String(), "records", len(q.batch.items), "err", err)
		q.settled(-1, err)
	}
}

func loseAll(queues []*Queue) {
	now := time.Now()
	for _, q := range queues {
		q.lose(now)
	}
}
