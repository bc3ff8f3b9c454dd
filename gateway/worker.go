package gateway

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

// kick starts a worker if there is none. feed.mu is held.
func (s *stream) kick() {
	if s.welcomed && !s.working && !s.over {
		s.working = true
		s.g.crew.work(s) // finish waits for it
	}
}

// mostIdle is how many goroutines of a crew may wait for work.
const mostIdle = 64

// A crew is the goroutines that streams' workers run in. A fresh goroutine
// begins with a stack far too small for gRPC and protobuf, and growing it cost
// more than the message it sent; so some are kept, with the stacks they have.
type crew struct {
	ctx  context.Context // its end sends the idle home
	wg   *sync.WaitGroup // all of them
	next chan *stream    // for who is idle
	idle atomic.Int32
}

// work has s's work done, by who is idle or else by another.
func (c *crew) work(s *stream) {
	select {
	case c.next <- s:
	default:
		c.wg.Go(func() { c.run(s) })
	}
}

func (c *crew) run(s *stream) {
	defer c.idle.Add(-1)
	for {
		s.work()
		s = nil // it may be over before there is another
		if c.idle.Add(1) > mostIdle {
			return
		}
		select {
		case s = <-c.next:
			c.idle.Add(-1)
		case <-c.ctx.Done():
			return
		}
	}
}

// work sends until there is nothing to send.
func (s *stream) work() {
	f := s.feed
	f.mu.Lock()
	for s.step() {
	}
	s.working = false
	if s.idle != nil {
		close(s.idle)
	}
	f.mu.Unlock()
}

// step sends what is most urgent; false: nothing is, or the stream is over.
// feed.mu is held, but not while anything is sent.
func (s *stream) step() bool {
	f := s.feed
	switch {
	case s.over || f.s != s:
		return false
	case s.final != nil:
		s.closed = true
		if s.send(closeMessage(*s.final)) {
			s.over = true
			s.cut(errOver)
		}
		return false
	case f.failed != nil && !isGap(f.failed):
		s.over = true
		s.cut(f.failed) // the log may be read elsewhere, or later
		return false
	case f.failed != nil:
		if s.losing {
			return s.sendHeartbeat()
		}
		s.lose()
		return true
	case s.drain != nil:
		d := s.drain
		s.drain = nil
		return s.send(&linkv1.AttachResponse{Message: &linkv1.AttachResponse_Drain{Drain: d}})
	case s.losing:
		return s.sendHeartbeat()
	case f.cursor < f.last && s.local.full():
		return s.sendHeartbeat()
	case f.cursor < f.last:
		return s.sendFrames() && (s.sendHeartbeat() || !s.over)
	case f.parked:
		f.parked, f.lag = false, 0
		if f.sub != nil {
			f.sub.Resume(f.end)
		}
		return true
	}
	f.lag = 0
	s.relay.Advanced(f.end)
	if s.local != nil {
		s.g.cache.Trim(f.id, f.cursor) // what was taken nobody asks for again
	}
	return s.sendHeartbeat()
}

// sendFrames sends what waits in the cache. False: the stream is over.
func (s *stream) sendFrames() bool {
	f := s.feed
	if raw := f.single; raw != nil {
		f.single = nil
		f.direct--
		return s.pass(f.cursor, raw)
	}
	frames, next, ok := s.g.cache.After(f.id, f.cursor)
	if !ok {
		f.again(s)
		return true
	}
	for offset, raw := range frames {
		if !s.pass(offset, raw) {
			return false
		}
		if s.final != nil || s.losing || s.local.full() {
			return true
		}
	}
	if f.s == s {
		f.cursor = max(f.cursor, next)
	}
	return f.s == s
}

// pass gives one down record to the Relay and sends what comes of it. False:
// the stream is over. feed.mu is held, but not while anything is sent.
func (s *stream) pass(offset int64, raw []byte) bool {
	f := s.feed
	if s.over || f.s != s {
		return false
	}
	f.lag = max(f.lag-int32(len(raw)), 0)
	f.cursor = offset + 1
	rec, err := envelope.Parse(raw)
	if err != nil {
		// Never delivered. If it was a frame, stable tells of the gap.
		s.g.unreadable(s.p.c.topics.Down, offset, fmt.Errorf("of session %s: %w", f.id, err))
		return true
	}
	d, err := s.relay.Record(time.Now(), offset, &rec)
	switch {
	case err == session.ErrTakenOver:
		s.over = true
		s.cut(err)
		return false
	case err != nil:
		s.lose()
	case d.Close.Reason != 0:
		s.final = &d.Close
	case d.Frame.Seq != 0:
		if d.Frame.Kind == envelope.Close || d.Frame.Kind == envelope.Reject {
			s.closed = true
		}
		return s.sendFrame(d.Frame)
	}
	return true
}

// lose reports a gap in the down log, and when Kafka has the report, ends the
// stream with it. feed.mu is held.
func (s *stream) lose() {
	s.losing = true
	s.g.metrics.lost.Inc()
	rec := s.relay.Lost()
	s.g.cfg.Logger.Warn("the down log has a gap", "session", rec.Session, "attempt", rec.Attempt, "error", s.feed.failed)
	s.g.put(s.p, rec.Session, &rec, func(_ int64, err error) {
		if err != nil {
			s.cut(fmt.Errorf("%w: %w", session.ErrProduce, err))
			return
		}
		s.end(session.Close{Ending: session.LossReason, Incarnation: s.relay.Incarnation()})
	})
}

// A downMessage is a frame message and a heartbeat message, each in one piece,
// used again and again.
type downMessage struct {
	response    linkv1.AttachResponse
	asFrame     linkv1.AttachResponse_Frame
	frame       linkv1.Frame
	asHeartbeat linkv1.AttachResponse_Heartbeat
	heartbeat   linkv1.Heartbeat
	position    linkv1.Position
	topic       envelope.TopicID
}

var downMessages = sync.Pool{New: func() any {
	d := new(downMessage)
	d.asFrame.Frame, d.asHeartbeat.Heartbeat = &d.frame, &d.heartbeat
	d.position.TopicId = d.topic[:]
	return d
}}

func (s *stream) sendFrame(fr session.Frame) bool {
	d := downMessages.Get().(*downMessage)
	d.frame.Seq, d.frame.Kind, d.frame.Payload = fr.Seq, linkv1.FrameKind(fr.Kind), fr.Payload
	d.frame.Delivered, d.frame.Persisted = fr.Delivered, fr.Persisted
	d.response.Message = &d.asFrame
	ok := s.send(&d.response) // encoded when it returns
	d.frame.Payload = nil
	downMessages.Put(d)
	if ok {
		s.g.metrics.downFrames.Inc()
		s.g.metrics.downBytes.Add(float64(len(fr.Payload)))
	}
	return ok
}

// sendHeartbeat sends a heartbeat if one is due. False: none was.
func (s *stream) sendHeartbeat() (sent bool) {
	h, ok := s.relay.PendingHeartbeat(time.Now())
	if !ok {
		return false
	}
	now := s.g.now()
	s.beatAt = now
	h.Paused = s.paused.Load()
	if now-s.ticketAt >= ticketRenew {
		h.Ticket, s.ticketAt = s.ticket(time.Now()), now
	}
	if h.Position.Offset > 0 {
		// The agent side has the heartbeat before this one, in all likelihood,
		// and won't ask for anything below. If it does, Kafka has it.
		s.g.cache.Trim(s.feed.id, s.told)
		s.told = h.Position.Offset
	}
	d := downMessages.Get().(*downMessage)
	d.heartbeat.Persisted, d.heartbeat.Delivered = h.Persisted, h.Delivered
	d.heartbeat.Probe, d.heartbeat.Paused, d.heartbeat.Ticket = h.Probe, h.Paused, h.Ticket
	d.heartbeat.Position = nil
	if h.Position != (envelope.Position{}) {
		d.topic, d.position.Partition, d.position.Offset = h.Position.Topic, h.Position.Partition, h.Position.Offset
		d.heartbeat.Position = &d.position
	}
	d.response.Message = &d.asHeartbeat
	sent = s.send(&d.response)
	d.heartbeat.Ticket = nil
	downMessages.Put(d)
	return sent
}

// send sends m without the lock, which is held before and after. False: the
// stream is over.
func (s *stream) send(m *linkv1.AttachResponse) bool {
	s.feed.mu.Unlock()
	err := s.rpc.Send(m)
	s.feed.mu.Lock()
	if err != nil {
		s.over = true
		s.cut(err)
		return false
	}
	return !s.over
}
