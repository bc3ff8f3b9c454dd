package bridge

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// lookEvery is how often metadata of what is read are asked for: a topic
	// created again may show by nothing else.
	lookEvery = 5 * time.Second
	// scanWait is a scan's long poll at the log's end, while the follower has
	// not taken over.
	scanWait = 10 * time.Millisecond
	// goneFor is how long metadata must say that a topic does not exist before
	// that is final.
	goneFor = 5 * time.Second
	// alienEvery is how long no foreign record must be met before the next one
	// is logged again.
	alienEvery = 10 * time.Second
)

// A Reader reads partitions. It has connections of its own: to each broker
// one for what is followed and one for what is behind. All its methods may be
// called concurrently.
type Reader struct {
	c    *Client
	life context.Context // ends with Close
	end  context.CancelCauseFunc
	wg   sync.WaitGroup
	wake chan struct{} // holds one token when there may be homeless feeds

	live, scan *fetcher

	foreign atomic.Uint64 // records that are no envelopes
	alienAt atomic.Int64  // when the last of them was met, Unix nanoseconds

	mu     sync.Mutex // guards what follows; taken last of all
	closed bool
	tails  map[tailOf]*Tail
	asking bool                 // metadata are being asked for
	since  map[string]time.Time // since when metadata deny a topic
}

// tailOf names one life of one partition.
type tailOf struct {
	topic     Topic
	partition int32
}

// NewReader makes a reader. It connects when there is something to read.
func (c *Client) NewReader() (*Reader, error) {
	r := &Reader{
		c:     c,
		wake:  make(chan struct{}, 1),
		tails: make(map[tailOf]*Tail),
		since: make(map[string]time.Time),
	}
	r.life, r.end = context.WithCancelCause(c.life)
	r.live = r.newFetcher("live", c.cfg.FetchWait, 0)
	r.scan = r.newFetcher("scan", scanWait, c.cfg.Scans)
	if err := c.adopt(r); err != nil {
		return nil, err
	}
	r.wg.Go(r.tend)
	return r, nil
}

func (r *Reader) newFetcher(name string, wait time.Duration, behind int) *fetcher {
	return &fetcher{r: r, name: name, wait: wait, behind: behind, feeds: make(map[*feed]struct{}), loops: make(map[int32]*loop)}
}

// Close ends the reader. Subscriptions and followers that are left are told
// ErrClosed.
func (r *Reader) Close() error {
	r.c.disown(r)
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.end(ErrClosed)
	for _, f := range []*fetcher{r.live, r.scan} {
		f.mu.Lock()
		for _, l := range f.loops {
			if l.conn != nil {
				l.conn.cut()
			}
		}
		f.mu.Unlock()
	}
	r.wg.Wait()
	for _, f := range []*fetcher{r.live, r.scan} {
		for _, fd := range f.all() {
			f.kill(fd, ErrClosed)
		}
	}
	r.mu.Lock()
	tails := make([]*Tail, 0, len(r.tails))
	for _, t := range r.tails {
		tails = append(tails, t)
	}
	r.mu.Unlock()
	for _, t := range tails {
		t.dead(ErrClosed)
	}
	return nil
}

// Traffic is what a reader fetched, in keys and values, since it was made, and
// how many of the records that tails read as they came are no envelopes: those
// are handed to nobody.
type Traffic struct{ Records, Bytes, Foreign uint64 }

// Fetched tells what was read as it came, and what was read again or late, by
// scans. Records that no subscription wants count too.
func (r *Reader) Fetched() (live, scanned Traffic) {
	live = Traffic{r.live.records.Load(), r.live.bytes.Load(), r.foreign.Load()}
	return live, Traffic{Records: r.scan.records.Load(), Bytes: r.scan.bytes.Load()}
}

// alien notes a record that is no envelope. A burst of them is one line.
func (r *Reader) alien(t Topic, partition int32, offset int64) {
	n := r.foreign.Add(1)
	now := time.Now().UnixNano()
	if last := r.alienAt.Swap(now); last == 0 || now-last >= int64(alienEvery) {
		r.c.cfg.Logger.Warn("a record that is not of Moorage; who else writes here?", "topic", t.Name, "partition", partition, "offset", offset, "so far", n)
	}
}

// ScanWaits returns how often a partition's backlog had to wait while as many
// others as allowed were read, once for each request without it.
func (r *Reader) ScanWaits() uint64 { return r.scan.waits.Load() }

// start runs f in a goroutine that Close waits for. False: it is too late.
func (r *Reader) start(f func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.wg.Go(f)
	return true
}

// kick makes tend look.
func (r *Reader) kick() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// tend finds loops for homeless feeds, moves feeds after their leaders, frees
// loops from brokers that hang, and watches the topics' ids.
func (r *Reader) tend() {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for {
		var soon <-chan time.Time
		if wait := r.place(); wait > 0 {
			soon = time.After(wait)
		}
		select {
		case <-r.wake:
		case <-soon:
		case <-tick.C:
			r.unstick()
		case <-r.life.Done():
			return
		}
	}
}

// place looks at every feed. It returns when to look again; 0: when kicked.
func (r *Reader) place() (again time.Duration) {
	now := time.Now()
	ask := make(map[string]bool)
	sooner := func(d time.Duration) {
		if again == 0 || d < again {
			again = d
		}
	}
	for _, f := range []*fetcher{r.live, r.scan} {
		for _, fd := range f.all() {
			v := r.c.cluster.view(fd.topic.Name)
			f.mu.Lock()
			failed, after, home := fd.failed, fd.after, fd.loop != nil
			f.mu.Unlock()
			if !v.newerThan(failed) || now.Sub(v.at) >= lookEvery {
				ask[fd.topic.Name] = true
			}
			if !v.newerThan(failed) {
				continue
			}
			switch {
			case r.denied(fd.topic.Name, v, now):
				f.kill(fd, fmt.Errorf("%w: %s is gone", ErrTopicChanged, fd.topic.Name))
			case v.err == nil && v.ID != fd.topic.ID:
				f.kill(fd, fmt.Errorf("%w: %s has the id %v, not %v", ErrTopicChanged, fd.topic.Name, v.ID, fd.topic.ID))
			case home:
				f.follow(fd, v, now)
			case now.Before(after):
				sooner(after.Sub(now))
			case r.c.cluster.addr(v.leader(fd.partition)) == "": // there is none, or it has left since
				if now.Sub(v.at) >= retryAfter {
					ask[fd.topic.Name] = true
				}
				sooner(retryAfter)
			default:
				f.mu.Lock()
				if !fd.gone && fd.loop == nil {
					f.placeLocked(fd, now)
				}
				f.mu.Unlock()
			}
		}
	}
	r.ask(ask)
	return again
}

// denied reports whether metadata have denied the topic for long enough.
func (r *Reader) denied(topic string, v *topicView, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v.err == nil {
		delete(r.since, topic)
		return false
	}
	if r.since[topic].IsZero() {
		r.since[topic] = now
	}
	return now.Sub(r.since[topic]) >= goneFor
}

// looked reports whether metadata have been asked since the feed last failed,
// and lately, and still show the feed's topic.
func (r *Reader) looked(fd *feed) bool {
	v := r.c.cluster.view(fd.topic.Name)
	return v != nil && v.err == nil && v.ID == fd.topic.ID && time.Since(v.at) < time.Second
}

// follow moves a feed whose leader is another than its loop's broker, so that
// nobody waits for a former leader to say so.
func (f *fetcher) follow(fd *feed, v *topicView, now time.Time) {
	leader := v.leader(fd.partition)
	f.mu.Lock()
	defer f.mu.Unlock()
	if fd.gone || fd.loop == nil || leader < 0 || leader == fd.loop.broker {
		return
	}
	fd.loop.drop(fd)
	f.placeLocked(fd, now)
}

// unstick cuts the connection of a loop that waits for a broker which has
// lost the leadership of all it waits for.
func (r *Reader) unstick() {
	now := time.Now()
	ask := make(map[string]bool)
	for _, f := range []*fetcher{r.live, r.scan} {
		f.mu.Lock()
		for _, l := range f.loops {
			if l.asked.IsZero() || now.Sub(l.asked) < f.wait+patience {
				continue
			}
			moved := true
			for _, fd := range l.asking {
				ask[fd.topic.Name] = true
				moved = moved && fd.loop != l
			}
			if moved && l.conn != nil {
				l.conn.cut()
			}
		}
		f.mu.Unlock()
	}
	r.ask(ask)
}

// ask has metadata asked for, one question at a time, and place look afterwards.
func (r *Reader) ask(topics map[string]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(topics) == 0 || r.asking || r.closed {
		return
	}
	r.asking = true
	r.wg.Go(func() {
		names := make([]string, 0, len(topics))
		for t := range topics {
			names = append(names, t)
		}
		if _, err := r.c.cluster.refresh(r.life, false, names...); err != nil {
			r.c.cfg.Logger.Debug("no metadata", "err", err)
			select {
			case <-time.After(retryAfter):
			case <-r.life.Done():
			}
		}
		r.mu.Lock()
		r.asking = false
		r.mu.Unlock()
		r.kick()
	})
}

func (f *fetcher) all() []*feed {
	f.mu.Lock()
	defer f.mu.Unlock()
	feeds := make([]*feed, 0, len(f.feeds))
	for fd := range f.feeds {
		feeds = append(feeds, fd)
	}
	return feeds
}

func mayNotRead(user, topic string) error {
	return fmt.Errorf("bridge: user %q may not read topic %s: grant Read on it", user, topic)
}
