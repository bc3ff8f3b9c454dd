package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/proto/envelope"
	"github.com/moorage-dev/moorage/seeded"
	"github.com/moorage-dev/moorage/session"
)

// A feed is the down log of one session as it is read here. Records go from
// its subscription into the gateway's cache, from where the worker of the
// session's stream takes them.
//
//	position ... cursor ........ last ....... end
//	             taken up to     in the       all of the session's records
//	             here            cache to     below are known
//	                             here
//
// Between cursor and last there are records to take; between last and end
// there are none. A record that finds too much waiting is refused: the feed is
// parked until all that waits is taken.
type feed struct {
	id envelope.SessionID
	p  *partition

	turn sync.Mutex // held over every change of sub

	mu     sync.Mutex       // the session's lock: guards the following, s's state and s's Relay
	s      *stream          // the stream that is served; nil: none, the feed lingers
	sub    subscription     // nil: nothing is read
	topic  envelope.TopicID // of the down log
	cursor int64
	last   int64
	end    int64
	failed error         // the subscription's end
	until  time.Duration // lingers until then
	single []byte        // the record at cursor, if direct
	lag    int32         // bytes between cursor and last, about
	direct int8          // so many records go past the cache, one at a time
	parked bool          // the subscription waits for Resume
	gone   bool          // dropped: no longer among the gateway's feeds
}

// A lingering is a feed without a stream. It is over if the feed's until is another.
type lingering struct {
	f     *feed
	until time.Duration
}

func (f *feed) gateway() *Gateway { return f.p.c.g }

// claim makes s the session's stream, and cuts an older one.
func (s *stream) claim() error {
	g, id := s.g, s.relay.ID()
	for {
		g.mu.Lock()
		f := g.feeds[id]
		if f == nil {
			f = &feed{id: id, p: s.p}
			g.feeds[id] = f
		}
		g.mu.Unlock()
		f.mu.Lock()
		if f.gone {
			f.mu.Unlock()
			continue
		}
		if f.p != s.p { // the ticket says which, so only an insecure gateway gets here
			f.mu.Unlock()
			return fmt.Errorf("%w: the session is in another partition", session.ErrViolation)
		}
		if old := f.s; old != nil {
			if old.relay.Attempt() >= s.relay.Attempt() {
				f.mu.Unlock()
				return session.ErrTakenOver
			}
			old.over = true
			old.cut(session.ErrTakenOver)
		}
		f.s, s.feed = s, f
		f.until = 0
		f.mu.Unlock()
		return nil
	}
}

// follow lets s take everything of the session from `from` on: out of the
// cache if it is all there ("memory"), else read from Kafka.
func (f *feed) follow(s *stream, topic envelope.TopicID, from int64) (how string, err error) {
	f.turn.Lock()
	defer f.turn.Unlock()
	f.mu.Lock()
	if f.s != s {
		f.mu.Unlock()
		return "", session.ErrTakenOver
	}
	if f.sub != nil && f.failed == nil && f.topic == topic && f.covers(from) {
		f.cursor, f.lag = from, 0
		f.mu.Unlock()
		return "memory", nil
	}
	f.direct = 0
	f.topic = topic
	f.subscribe(from)
	return "kafka", nil
}

// covers reports whether all from `from` on is known. f.mu is held.
func (f *feed) covers(from int64) bool {
	if f.single != nil {
		return false
	}
	if f.last <= from && from <= f.end {
		return true
	}
	_, _, ok := f.gateway().cache.After(f.id, from)
	return ok
}

// subscribe reads from Kafka from `from` on. f.turn and f.mu are held; it
// releases mu, for a call into the sink may be under way.
func (f *feed) subscribe(from int64) {
	old := f.sub
	f.sub = nil
	f.mu.Unlock()
	if old != nil {
		old.Cancel()
	}
	f.mu.Lock()
	if f.gone {
		f.mu.Unlock()
		return
	}
	f.cursor, f.last, f.end = from, from, from
	f.lag, f.parked, f.failed, f.single = 0, false, nil, nil
	f.gateway().cache.Start(f.id, from)
	f.mu.Unlock()
	sub := f.p.tail(f.topic).Subscribe(f.id, from, f)
	f.mu.Lock()
	f.sub = sub
	f.mu.Unlock()
}

// again reads from Kafka what the cache has lost. The first records go past
// the cache, one at a time: however small or crowded it is, the session gets
// on. f.mu is held, and held again
// at return.
func (f *feed) again(s *stream) {
	f.gateway().metrics.reread.Inc()
	if seeded.On(seeded.EvictedNotReread) {
		f.cursor, f.lag = f.last, 0
		return
	}
	f.mu.Unlock()
	f.turn.Lock()
	f.mu.Lock()
	if f.s == s {
		f.direct = directly
		f.subscribe(f.cursor)
	} else {
		f.mu.Unlock()
	}
	f.turn.Unlock()
	f.mu.Lock()
}

// restart is the seeded defect of a start position taken too late.
func (f *feed) restart(s *stream) {
	_, end, err := f.gateway().k.Bounds(f.gateway().ctx, f.p.c.topics.Down, f.p.index)
	if err != nil {
		return
	}
	f.turn.Lock()
	defer f.turn.Unlock()
	f.mu.Lock()
	if f.s != s {
		f.mu.Unlock()
		return
	}
	f.subscribe(end)
}

// Record is called by the bridge, for a whole broker's partitions by one
// goroutine: it only puts the record where the worker finds it.
func (f *feed) Record(offset int64, value []byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gone || f.parked {
		return false
	}
	if s := f.s; s != nil {
		if inc, attempt := envelope.Attempt(value); inc == s.relay.Incarnation() && s.relay.TakenOver(attempt) {
			s.over = true
			s.cut(session.ErrTakenOver) // at once, not behind what waits for a slow agent
		}
	}
	if int(f.lag) > f.gateway().lagLimit() {
		f.parked = true
		f.gateway().metrics.parked.Inc()
		return false
	}
	if f.direct > 0 {
		if f.single != nil {
			f.parked = true
			return false
		}
		f.single = slices.Clone(value)
		f.cursor, f.last, f.end = offset, offset+1, offset+1
		f.gateway().cache.Start(f.id, f.end)
		if f.s != nil {
			f.s.kick()
		}
		return true
	}
	if f.cursor >= f.last {
		// Nothing stands in between, whether or not the cache still knows.
		f.cursor = max(f.cursor, offset)
	}
	f.gateway().cache.Append(f.id, offset, value)
	f.last = offset + 1
	f.end = max(f.end, f.last)
	f.lag += int32(len(value))
	if f.s != nil {
		f.s.kick()
	}
	return true
}

// lagLimit is how many bytes of one session may wait for its agent: with what
// was sent and not yet trimmed, less than the share of the cache above which a
// session's tail is evicted.
func (g *Gateway) lagLimit() int { return min(g.cfg.CacheBytes/16, maxLag) }

// Advanced is called by the bridge when others' records went by.
func (f *feed) Advanced(next int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gone || f.parked || next <= f.end {
		return
	}
	f.end = next
	f.gateway().cache.Advance(f.id, next)
}

// Failed is called by the bridge when the log cannot be read on.
func (f *feed) Failed(err error) { f.fail(err) }

func (f *feed) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failed = err
	if f.s == nil {
		return
	}
	if errors.Is(err, bridge.ErrClosed) || errors.Is(err, context.Canceled) {
		f.s.cut(errClosing)
		return
	}
	f.s.kick()
}

// isGap reports whether a subscription ended because the log is not what it
// was. Whatever else ended it, nothing is known to be lost.
func isGap(err error) bool {
	return errors.Is(err, bridge.ErrOutOfRange) || errors.Is(err, bridge.ErrTopicChanged)
}

// drop forgets a feed whose session is over or that lingered long enough. One
// with a stream stays.
func (g *Gateway) drop(f *feed) {
	g.mu.Lock()
	f.mu.Lock()
	if f.s != nil || f.gone {
		f.mu.Unlock()
		g.mu.Unlock()
		return
	}
	f.gone = true // the sink takes nothing more, so the cache's tail may be a later feed's
	delete(g.feeds, f.id)
	f.mu.Unlock()
	g.mu.Unlock()
	g.cache.Drop(f.id)
	f.turn.Lock()
	defer f.turn.Unlock()
	f.mu.Lock()
	sub := f.sub
	f.sub = nil
	f.mu.Unlock()
	if sub != nil {
		sub.Cancel()
	}
}

// linger keeps a feed for an agent that comes straight back.
func (g *Gateway) linger(f *feed) {
	until := g.now() + g.cfg.Linger
	f.mu.Lock()
	if f.s != nil || f.gone {
		f.mu.Unlock()
		return
	}
	f.until = until
	f.mu.Unlock()
	g.mu.Lock()
	g.lingering = append(g.lingering, lingering{f, until})
	g.metrics.lingering.Set(float64(len(g.lingering)))
	var first *feed
	if len(g.lingering) > g.cfg.MaxSessions {
		first = g.lingering[0].f
		g.lingering = g.lingering[1:]
	}
	g.mu.Unlock()
	if first != nil {
		g.drop(first)
	}
}

// sweep drops the feeds that have lingered long enough.
func (g *Gateway) sweep() {
	now := g.now()
	var over []lingering
	g.mu.Lock()
	for len(g.lingering) > 0 && g.lingering[0].until <= now {
		over = append(over, g.lingering[0])
		g.lingering = g.lingering[1:]
	}
	if len(g.lingering) == 0 {
		g.lingering = nil
	}
	g.metrics.lingering.Set(float64(len(g.lingering)))
	g.mu.Unlock()
	for _, l := range over {
		l.f.mu.Lock()
		stale := l.f.until != l.until
		l.f.mu.Unlock()
		if !stale {
			g.drop(l.f)
		}
	}
}
