package bridge

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
)

// What one fetch may bring, in bytes. A broker exceeds the first only for a
// single batch that is larger.
const (
	maxPerPartition = 2 << 20
	maxPerFetch     = 8 << 20
)

// rangeFor is how long an offset must stay above the log's end before it is
// out of range: a new leader's end may lag for a moment.
const rangeFor = 5 * time.Second

// emptyAnswers is how many answers must be empty before an offset is passed.
const emptyAnswers = 3

// A feed is the reading of one partition by one fetcher.
type feed struct {
	f         *fetcher
	topic     Topic
	partition int32
	to        taker
	next      atomic.Int64 // the offset to ask for; written by whoever calls to
	issued    atomic.Bool  // next has been asked for at least once

	// The rest is guarded by the fetcher's mutex.
	gone   bool      // removed: nothing more is handed to to
	loop   *loop     // that has it; nil: homeless, tend is to find one
	end    int64     // the log's end as of the last answer; -1: unknown
	empty  int       // so many answers in a row brought nothing although the end is further on
	failed uint64    // when homeless: metadata must be newer than this question
	after  time.Time // when homeless: not to be tried earlier
}

// A taker takes what a feed brings. Its methods are called by one goroutine
// at a time, must not block, and must not be called with a fetcher's lock held.
type taker interface {
	// take takes the answer to one fetch, possibly empty. It returns the
	// offset to go on from.
	take(b *block) (next int64)
	// outside takes the news that the feed's offset is outside the log,
	// which covers [oldest, end). It returns the offset to try next.
	outside(oldest, end int64) (next int64, err error)
	// dead takes the final error. The feed is gone.
	dead(err error)
}

// A block is what one fetch brought of one partition.
type block struct {
	from    int64 // the offset asked for
	next    int64 // the offset to ask for next
	end     int64 // the log's end
	batches []*sarama.RecordBatch
}

// A fetcher reads any number of partitions, over one connection per broker,
// each used by one goroutine: a loop.
type fetcher struct {
	r    *Reader
	name string        // for logs
	wait time.Duration // the broker's long poll
	// behind bounds how many partitions that are behind the log's end are
	// asked for at once; 0: no bound. The others take turns.
	behind int

	records, bytes atomic.Uint64 // fetched
	waits          atomic.Uint64 // of partitions for their turn, behind being reached

	mu    sync.Mutex // guards what follows, and the feeds
	feeds map[*feed]struct{}
	loops map[int32]*loop
}

// add starts a feed at next. It never blocks.
func (f *fetcher) add(t Topic, partition int32, next int64, to taker) *feed {
	fd := &feed{f: f, topic: t, partition: partition, to: to, end: -1}
	fd.next.Store(next)
	f.mu.Lock()
	f.feeds[fd] = struct{}{}
	f.placeLocked(fd, time.Now())
	f.mu.Unlock()
	return fd
}

// remove ends a feed. A call of its taker may still be under way.
func (f *fetcher) remove(fd *feed) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.removeLocked(fd)
}

func (f *fetcher) removeLocked(fd *feed) {
	fd.gone = true
	delete(f.feeds, fd)
	if fd.loop != nil {
		fd.loop.drop(fd)
	}
}

// placeLocked gives a homeless feed to the loop of its leader, if the leader
// is known and metadata are not older than the last failure. Otherwise tend
// is told.
func (f *fetcher) placeLocked(fd *feed, now time.Time) (placed bool) {
	v := f.r.c.cluster.view(fd.topic.Name)
	leader := v.leader(fd.partition)
	addr := f.r.c.cluster.addr(leader)
	known := leader >= 0 && addr != "" && v.ID == fd.topic.ID && v.newerThan(fd.failed) && now.Sub(v.at) < 2*lookEvery
	if !known || now.Before(fd.after) || f.r.life.Err() != nil {
		f.r.kick()
		return false
	}
	l := f.loops[leader]
	if l == nil {
		l = &loop{f: f, broker: leader, wake: make(chan struct{}, 1)}
		f.loops[leader] = l
		if !f.r.start(l.run) {
			return false
		}
	}
	l.addr = addr
	l.feeds = append(l.feeds, fd)
	fd.loop = l
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return true
}

// lose makes feeds homeless: their leader is not one, or out of reach.
func (f *fetcher) lose(feeds []*feed, now time.Time, after time.Duration) {
	failed := f.r.c.cluster.asked()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, fd := range feeds {
		if fd.gone || fd.loop == nil {
			continue
		}
		fd.loop.drop(fd)
		fd.failed, fd.after = failed, now.Add(after)
	}
	f.r.kick()
}

// A loop reads from one broker: what follows a request is decided by its
// answer alone, so there is no state between them but the feeds' offsets.
type loop struct {
	f      *fetcher
	broker int32
	wake   chan struct{} // holds one token when feeds came

	// Guarded by the fetcher's mutex.
	addr   string
	feeds  []*feed
	turn   int // where picking begins
	conn   *conn
	asked  time.Time // when the request under way was sent; zero: none is
	asking []*feed

	used time.Time // when conn last answered; run's own
}

// drop removes a feed from the loop. The fetcher's mutex is held.
func (l *loop) drop(fd *feed) {
	fd.loop = nil
	if i := slices.Index(l.feeds, fd); i >= 0 {
		l.feeds = slices.Delete(l.feeds, i, i+1)
	}
}

func (l *loop) run() {
	defer l.hangUp()
	for l.f.r.life.Err() == nil {
		feeds, wait := l.pick()
		if len(feeds) == 0 {
			select {
			case <-l.wake:
			case <-l.f.r.life.Done():
			}
			continue
		}
		l.step(feeds, wait)
	}
}

// pick chooses what to ask for, and how long the broker may wait when it has
// nothing. No partition is chosen twice; who finds itself left out comes first
// the next time.
func (l *loop) pick() (feeds []*feed, wait time.Duration) {
	l.f.mu.Lock()
	defer l.f.mu.Unlock()
	wait = l.f.wait
	for _, fd := range l.feeds {
		if fd.empty > 0 {
			return []*feed{fd}, wait // alone, to see whether there is nothing, or only was no room
		}
	}
	behind, first := 0, -1
	seen := make(map[partitionOf]bool, len(l.feeds))
	for i := range l.feeds {
		at := (l.turn + i) % len(l.feeds)
		fd := l.feeds[at]
		key := partitionOf{fd.topic.Name, fd.partition}
		late := fd.end < 0 || fd.next.Load() < fd.end
		full := l.f.behind > 0 && late && behind == l.f.behind
		if full && !seen[key] {
			l.f.waits.Add(1)
		}
		if seen[key] || full {
			if first < 0 {
				first = at
			}
			continue
		}
		seen[key] = true
		if late {
			behind++
			if l.f.behind > 0 {
				wait = 0 // others have their turn at once when this one is found idle
			}
		}
		feeds = append(feeds, fd)
	}
	if first >= 0 {
		l.turn = first
		wait = 0
		if l.f.behind == 0 {
			wait = l.f.wait / 8 // two readers of one partition: rare
		}
	}
	return feeds, wait
}

// step asks the broker once and hands out the answer.
func (l *loop) step(feeds []*feed, wait time.Duration) {
	kept, err := l.connect()
	if err != nil {
		l.f.r.c.cfg.Logger.Debug("broker out of reach", "fetcher", l.f.name, "broker", l.broker, "err", err)
		l.f.r.c.cluster.blame(l.broker)
		l.f.lose(feeds, time.Now(), retryAfter)
		return
	}
	req := &sarama.FetchRequest{Version: 11, MaxWaitTime: int32(wait.Milliseconds()), MinBytes: 1, MaxBytes: maxPerFetch, SessionEpoch: -1}
	from := make([]int64, len(feeds))
	for i, fd := range feeds {
		from[i] = fd.next.Load()
		req.AddBlock(fd.topic.Name, fd.partition, from[i], maxPerPartition, -1)
		fd.issued.Store(true)
	}
	l.f.mu.Lock()
	l.asked, l.asking = time.Now(), feeds
	conn := l.conn
	l.f.mu.Unlock()
	resp, err := conn.Fetch(req)
	now := time.Now()
	l.f.mu.Lock()
	l.asked, l.asking = time.Time{}, nil
	l.f.mu.Unlock()
	if err != nil {
		if l.f.r.life.Err() == nil {
			l.f.r.c.cfg.Logger.Debug("fetch without an answer", "fetcher", l.f.name, "broker", l.broker, "err", err)
		}
		l.hangUp()
		if !kept || isTimeout(err) {
			l.f.r.c.cluster.blame(l.broker)
			l.f.lose(feeds, now, retryAfter)
		}
		return // a connection kept idle may just have been closed: at once again
	}
	l.used = now
	for i, fd := range feeds {
		l.hand(fd, from[i], resp.GetBlock(fd.topic.Name, fd.partition), conn, len(feeds) == 1)
	}
}

// hand gives a feed its part of an answer.
func (l *loop) hand(fd *feed, from int64, b *sarama.FetchResponseBlock, conn *conn, alone bool) {
	var err error = sarama.ErrIncompleteResponse
	if b != nil {
		err = b.Err
	}
	l.f.mu.Lock()
	gone := fd.gone || fd.loop != l
	if err == sarama.ErrNoError {
		fd.end = b.HighWaterMarkOffset
	}
	l.f.mu.Unlock()
	if gone {
		return
	}
	switch {
	case err == sarama.ErrNoError && b.HighWaterMarkOffset < from && !l.f.r.looked(fd):
		// A log that became shorter: another leader, or another topic. Nothing
		// is handed on before metadata have been asked which.
		l.f.lose([]*feed{fd}, time.Now(), 0)
	case err == sarama.ErrNoError:
		blk := newBlock(from, b)
		l.f.count(blk)
		fd.next.Store(fd.to.take(l.weigh(fd, blk, alone)))
	case err == sarama.ErrOffsetOutOfRange:
		l.outside(fd, conn)
	case mayPass(err):
		l.f.r.c.cfg.Logger.Debug("fetch to be tried again", "fetcher", l.f.name, "topic", fd.topic.Name, "partition", fd.partition, "err", err)
		l.f.r.c.cluster.blame(l.broker)
		l.f.lose([]*feed{fd}, time.Now(), retryAfter)
	case errors.Is(err, sarama.ErrTopicAuthorizationFailed):
		l.f.kill(fd, mayNotRead(l.f.r.c.cfg.SASL.User, fd.topic.Name))
	default:
		l.f.r.c.cfg.Logger.Warn("fetch failed", "fetcher", l.f.name, "topic", fd.topic.Name, "partition", fd.partition, "err", err)
		l.f.lose([]*feed{fd}, time.Now(), time.Second)
	}
}

// count adds what came of a partition, whoever wants it.
func (f *fetcher) count(blk *block) {
	records, bytes := 0, 0
	for _, batch := range blk.batches {
		records += len(batch.Records)
		for _, rec := range batch.Records {
			bytes += len(rec.Key) + len(rec.Value)
		}
	}
	f.records.Add(uint64(records))
	f.bytes.Add(uint64(bytes))
}

// weigh looks at a block that is empty although the log's end is further on.
// Either other partitions took the room, or compaction left nothing at this
// offset but an empty batch, which sarama does not show: then, asked for alone
// again and again, it stays empty, and the offset can be passed.
func (l *loop) weigh(fd *feed, blk *block, alone bool) *block {
	l.f.mu.Lock()
	defer l.f.mu.Unlock()
	switch {
	case blk.next > blk.from || blk.from >= blk.end:
		fd.empty = 0
	case alone && fd.empty >= emptyAnswers:
		fd.empty = 0
		blk.next++
	default:
		fd.empty++
	}
	return blk
}

// outside asks where the log is and lets the taker decide.
func (l *loop) outside(fd *feed, conn *conn) {
	oldest, end, err := bounds(conn, fd.topic.Name, fd.partition)
	now := time.Now()
	if err != nil || !l.f.r.looked(fd) {
		// Is it still the same topic? Until metadata say so, nobody decides.
		l.f.lose([]*feed{fd}, now, retryAfter)
		return
	}
	was := fd.next.Load()
	next := was
	if next < oldest || next > end {
		if next, err = fd.to.outside(oldest, end); err != nil {
			l.f.kill(fd, err)
			return
		}
		fd.next.Store(next)
	}
	if next == was { // it waits for the end to come, or the broker contradicts itself
		l.f.lose([]*feed{fd}, now, 2*retryAfter)
	}
}

// kill ends a feed with a final error.
func (f *fetcher) kill(fd *feed, err error) {
	f.mu.Lock()
	gone := fd.gone
	f.removeLocked(fd)
	f.mu.Unlock()
	if !gone {
		fd.to.dead(err)
	}
}

// connect makes a connection if there is none to the broker's present
// address. kept says that it was there and has been idle.
func (l *loop) connect() (kept bool, err error) {
	l.f.mu.Lock()
	conn, addr := l.conn, l.addr
	l.f.mu.Unlock()
	if conn != nil && conn.Addr() == addr {
		return time.Since(l.used) > time.Second, nil
	}
	l.hangUp()
	conn, err = l.f.r.c.dial(l.f.r.life, addr, l.f.wait+fetchGrace)
	if err != nil {
		return false, err
	}
	l.f.mu.Lock()
	l.conn = conn
	l.f.mu.Unlock()
	if l.f.r.life.Err() != nil {
		conn.cut() // Close may have looked before the connection was there
	}
	l.used = time.Now()
	return false, nil
}

func (l *loop) hangUp() {
	l.f.mu.Lock()
	conn := l.conn
	l.conn = nil
	l.f.mu.Unlock()
	if conn != nil {
		conn.close()
	}
}

// newBlock makes a block of an answer. Batches may begin below the offset
// asked for, and the last may be cut short; take looks at single offsets.
func newBlock(from int64, b *sarama.FetchResponseBlock) *block {
	blk := &block{from: from, next: from, end: b.HighWaterMarkOffset}
	for _, set := range b.RecordsSet {
		batch := set.RecordBatch
		if batch == nil || batch.PartialTrailingRecord || batch.LastOffset() < from {
			continue
		}
		blk.next = max(blk.next, batch.LastOffset()+1)
		if !batch.Control {
			blk.batches = append(blk.batches, batch)
		}
	}
	return blk
}

// timeOf returns the time of a record: the broker's, where topics are made as
// CreateTopics makes them.
func timeOf(b *sarama.RecordBatch, r *sarama.Record) time.Time {
	if b.LogAppendTime {
		return b.MaxTimestamp
	}
	return b.FirstTimestamp.Add(r.TimestampDelta)
}
