package gateway

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/proto/envelope"
	"github.com/moorage-dev/moorage/session"
)

// A partition is one index of a controller's up and down topics, as long as
// the controller is followed.
type partition struct {
	c     *controller
	index int32
	queue queue
	open  atomic.Bool  // the breaker is: Kafka does not acknowledge
	lent  atomic.Int32 // LEASE records without an outcome

	mu      sync.Mutex // guards the following
	streams map[*stream]struct{}
	leased  time.Duration // when the last lease was written
	healed  chan struct{} // closed when the breaker closes; nil while it is closed
	end     int64         // of the down partition, as read at ended
	endOf   envelope.TopicID
	ended   time.Duration
	asking  *asking
	closed  bool // the controller is forgotten
}

// An asking is one question for the partition's end, and who waits for it.
type asking struct {
	done chan struct{}
	end  int64
	err  error
}

// tail returns the shared reading of the down partition.
func (p *partition) tail(topic envelope.TopicID) tail {
	return p.c.g.k.Tail(bridge.Topic{Name: p.c.topics.Down, ID: topic}, p.index)
}

func (p *partition) add(s *stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.streams[s] = struct{}{}
}

func (p *partition) remove(s *stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.streams, s)
}

func (p *partition) appendStreams(all []*stream) []*stream {
	p.mu.Lock()
	defer p.mu.Unlock()
	for s := range p.streams {
		all = append(all, s)
	}
	return all
}

// start returns where a session that opens now starts: an end of the down
// partition that was true a moment ago, at the latest now. An older end is as
// good, for nothing of the session can stand before its OPEN; so a thousand
// agents that come at once cost one question, and none while the partition is
// followed.
func (p *partition) start(ctx context.Context, down envelope.TopicID) (int64, error) {
	if next, ok := p.tail(down).Next(); ok {
		return next, nil
	}
	p.mu.Lock()
	if p.endOf == down && p.c.g.now()-p.ended < endFor {
		defer p.mu.Unlock()
		return p.end, nil
	}
	a := p.asking
	if a == nil {
		a = &asking{done: make(chan struct{})}
		p.asking = a
		p.c.g.wg.Go(func() { p.ask(a, down) })
	}
	p.mu.Unlock()
	select {
	case <-a.done:
		return a.end, a.err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

func (p *partition) ask(a *asking, down envelope.TopicID) {
	at := p.c.g.now()
	_, a.end, a.err = p.c.g.k.Bounds(p.c.g.ctx, p.c.topics.Down, p.index)
	p.mu.Lock()
	defer p.mu.Unlock()
	if a.err == nil {
		p.end, p.endOf, p.ended = a.end, down, at
	}
	p.asking = nil
	close(a.done)
}

// lease writes what is attached here, as often as the controller side needs
// it: that is what proves a session attached. While Kafka takes none, one
// round of them waits: more would prove no more.
func (p *partition) lease(now time.Duration) {
	if p.lent.Load() > 0 {
		return
	}
	p.mu.Lock()
	if now-p.leased < session.LeaseInterval {
		p.mu.Unlock()
		return
	}
	p.leased = now
	p.mu.Unlock()
	streams := p.appendStreams(nil)
	for len(streams) > 0 {
		n := min(len(streams), leaseEntries)
		payload := envelope.AppendGateway(make([]byte, 0, 300+n*envelope.LeaseEntrySize), p.c.g.self)
		head := len(payload)
		for _, s := range streams[:n] {
			if e, ok := s.lease(); ok {
				payload = envelope.AppendLeaseEntry(payload, e)
			}
		}
		streams = streams[n:]
		if len(payload) > head {
			p.c.g.metrics.leases.Inc()
			p.lent.Add(1)
			p.c.g.put(p, envelope.SessionID{}, &envelope.Record{Kind: envelope.Lease, Payload: payload},
				func(int64, error) { p.lent.Add(-1) })
		}
	}
}

// check asks the breaker, and wakes those who wait for it to close.
func (p *partition) check() {
	_, open := p.c.g.k.Stalled(p.c.topics.Up, p.index)
	if open == p.open.Load() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.setOpen(open)
	}
}

// close takes back what the breaker's state has set outside.
func (p *partition) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.open.Load() {
		p.setOpen(false)
	}
}

func (p *partition) setOpen(open bool) {
	p.open.Store(open)
	if open {
		p.healed = make(chan struct{})
		p.c.g.metrics.stalled.Inc()
	} else {
		close(p.healed)
		p.healed = nil
		p.c.g.metrics.stalled.Dec()
	}
	p.c.g.cfg.Logger.Warn("breaker", "controller", p.c.name, "partition", p.index, "open", open)
}

// roomy reports whether ready would not wait.
func (p *partition) roomy() bool { return !p.open.Load() && !p.queue.Full() }

// ready waits until the breaker is closed and the queue has room.
func (p *partition) ready(ctx context.Context) error {
	for p.open.Load() {
		p.mu.Lock()
		healed := p.healed
		p.mu.Unlock()
		if healed == nil {
			break
		}
		select {
		case <-healed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return p.queue.Wait(ctx)
}
