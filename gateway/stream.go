package gateway

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/seeded"
	"github.com/moorage-dev/moorage/session"
)

// A wire carries a stream's messages down to its agent side: gRPC's, or the
// one to an agent side in this very process.
type wire interface {
	Context() context.Context
	Send(*linkv1.AttachResponse) error
	SetTrailer(metadata.MD)
}

// A stream is one stream of one session. Its handler's goroutine receives, or,
// for a local one, whoever holds the lock of its Conn; its worker, while there
// is one, is the only sender after Welcome.
type stream struct {
	g        *Gateway
	p        *partition
	feed     *feed
	rpc      wire
	local    *LocalSession           // nil: the agent side is elsewhere
	cancel   context.CancelCauseFunc // see cut
	identity string                  // what the credential proved
	said     bool                    // ATTACHED was queued; the handler's own
	paused   atomic.Bool             // the agent side is not read now

	spoke wheelLink // guarded by the wheel

	// Guarded by feed.mu.
	relay    session.Relay
	welcomed bool
	working  bool          // a worker runs
	idle     chan struct{} // closed when it ends; made by who waits for that
	over     bool          // the stream ends; nothing is sent any more
	closed   bool          // the agent side has been told that the session is over
	losing   bool          // LOST is being produced
	final    *session.Close
	drain    *linkv1.Drain
	beatAt   time.Duration // when the last heartbeat was sent
	ticketAt time.Duration // when the last ticket was
	told     int64         // the position in the last heartbeat
}

// cut ends the stream from outside its handler: handler and worker wake, for
// good. gRPC then ends it with CANCELLED before the handler can say more, so
// the reason travels in a trailer.
func (s *stream) cut(err error) {
	s.rpc.SetTrailer(because(err))
	s.cancel(err)
}

// receive takes messages until the stream ends.
func (s *stream) receive(rpc grpc.BidiStreamingServer[linkv1.AttachRequest, linkv1.AttachResponse]) error {
	ctx := rpc.Context()
	for {
		m, err := rpc.Recv()
		if err == io.EOF {
			return errLeft
		}
		if err != nil {
			return causeOf(ctx, err)
		}
		if err := s.take(m); err != nil {
			return err
		}
		// Backpressure: while its partition cannot take more, an agent is not
		// read, and HTTP/2 stops it. It is told, and counts no misses. That
		// holds for heartbeats too, for each may bring a record.
		s.paused.Store(true)
		if err := s.p.ready(ctx); err != nil {
			return causeOf(ctx, err)
		}
		s.paused.Store(false)
	}
}

// word is what the metrics call the stream's end. An agent side that was told
// of its session's end leaves as it likes, mostly by dropping the stream.
func (s *stream) word(err error) string {
	s.feed.mu.Lock()
	told := s.closed
	s.feed.mu.Unlock()
	if v := judge(err); !told || v.code != codes.Canceled {
		return v.word
	}
	return judge(errOver).word
}

// take takes one message.
func (s *stream) take(m *linkv1.AttachRequest) error {
	now := time.Now()
	switch m := m.GetMessage().(type) {
	case *linkv1.AttachRequest_Frame:
		return s.takeFrame(now, session.ParseFrame(m.Frame))
	case *linkv1.AttachRequest_Heartbeat:
		h, err := session.ParseHeartbeat(m.Heartbeat)
		if err != nil {
			return err
		}
		return s.takeHeartbeat(now, h)
	}
	return fmt.Errorf("%w: a message that is neither frame nor heartbeat", session.ErrViolation)
}

func (s *stream) takeFrame(now time.Time, frame session.Frame) error {
	f := s.feed
	f.mu.Lock()
	if f.s != s {
		f.mu.Unlock()
		return session.ErrTakenOver
	}
	rec, ok, err := s.relay.Frame(now, frame)
	f.mu.Unlock()
	if err != nil {
		return err
	}
	s.g.metrics.upFrames.Inc()
	s.g.metrics.upBytes.Add(float64(len(rec.Payload)))
	if ok {
		s.produce(now, &rec)
	}
	return s.produceNews()
}

func (s *stream) takeHeartbeat(now time.Time, h session.Heartbeat) error {
	s.feed.mu.Lock()
	err := s.relay.Heartbeat(now, h)
	s.feed.mu.Unlock()
	if err != nil {
		return err
	}
	return s.produceNews()
}

// An upFrame is one up frame on its way to Kafka, used again and again.
type upFrame struct {
	s     *stream
	rec   envelope.Record
	seq   uint64
	began time.Time                     // zero: not sampled
	done  func(offset int64, err error) // outcome, bound once
}

var upFrames sync.Pool // of *upFrame

// sampleEvery is how many frames share one measurement of their way.
const sampleEvery = 64

// produce queues an up frame. Frames come from one goroutine, so they are
// queued in order.
func (s *stream) produce(now time.Time, rec *envelope.Record) {
	u, ok := upFrames.Get().(*upFrame)
	if !ok {
		u = new(upFrame)
		u.done = u.outcome
	}
	u.s, u.rec, u.seq, u.began = s, *rec, rec.Seq, time.Time{}
	if rec.Kind == envelope.Open {
		u.rec.Appendix = s.verified()
	}
	if rec.Seq%sampleEvery == 0 {
		u.began = now
	}
	s.g.inFlight.Add(1)
	s.p.queue.Put(rec.Session, &u.rec, u.done) // which has encoded it when it returns
}

func (u *upFrame) outcome(offset int64, err error) {
	s, seq, began := u.s, u.seq, u.began
	u.s, u.rec = nil, envelope.Record{}
	upFrames.Put(u)
	s.g.inFlight.Add(-1)
	if err != nil {
		s.g.metrics.produceErrors.Inc()
	} else if !began.IsZero() {
		s.g.metrics.persistSeconds.Observe(time.Since(began).Seconds())
	}
	s.produced(seq, offset, err)
}

// produced takes Kafka's answer for an up frame.
func (s *stream) produced(seq uint64, offset int64, err error) {
	f := s.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.over {
		return
	}
	if err := s.relay.Produced(seq, offset, err); err != nil {
		s.cut(err)
		return
	}
	if seeded.On(seeded.StartAfterOpen) && seq == 1 {
		s.g.wg.Go(func() { f.restart(s) })
	}
	if s.relay.HasNews() {
		s.kick()
	}
}

// produceNews queues what is to be told to the controller side and no frame carries.
func (s *stream) produceNews() error {
	for {
		s.feed.mu.Lock()
		pending, ok := s.relay.PendingRecord()
		s.feed.mu.Unlock()
		if !ok {
			return nil
		}
		rec := pending // which goes to the heap: not with each heartbeat
		s.g.put(s.p, rec.Session, &rec, func(_ int64, err error) {
			if err != nil { // the next attach says it again (row 16)
				s.cut(fmt.Errorf("%w: %w", session.ErrProduce, err))
			}
		})
	}
}

// verified is what the gateway vouches for, behind OPEN.
func (s *stream) verified() []byte {
	v := &linkv1.Verified{Identity: s.identity, Gateway: s.g.self.Name, Boot: s.g.self.Boot}
	if s.local != nil {
		v.RemoteAddress = s.local.remote
	} else if from, ok := peer.FromContext(s.rpc.Context()); ok {
		v.RemoteAddress = from.Addr.String()
	}
	b, err := proto.Marshal(v)
	if err != nil { // a name that is not UTF-8, and proto refused it in Hello
		return nil
	}
	return b
}

// ticket is what the session may be resumed with; nil for one that cannot be.
func (s *stream) ticket(now time.Time) []byte {
	if s.local != nil {
		return nil
	}
	return s.g.cfg.Keys.ticket(&claim{
		s.relay.ID(), s.identity, s.p.c.name, s.p.index, s.relay.Incarnation(),
	}, now.Add(s.p.c.current().grace)) // who comes back within grace has a ticket that lives
}

// lease returns what the partition's lease says of the stream's session.
func (s *stream) lease() (e envelope.LeaseEntry, ok bool) {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	if s.feed.s != s || s.over || s.closed {
		return e, false
	}
	return s.relay.Lease(), true
}

// end tells the agent side that its session is over, and ends the stream.
func (s *stream) end(c session.Close) {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	if s.final == nil {
		s.final = &c
		s.kick()
	}
}

// leave asks the agent side to go elsewhere.
func (s *stream) leave(after time.Duration) {
	elsewhere := s.g.peers.elsewhere(s.g.now())
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	s.drain = &linkv1.Drain{ReconnectTo: elsewhere, AfterMs: uint64(after.Milliseconds())}
	s.kick()
}

// finish ends the stream: nothing of it is sent or produced after it returns,
// but a DETACHED if the session goes on and is not somewhere else already.
func (s *stream) finish(err error) {
	defer s.cancel(err)
	g, f := s.g, s.feed
	g.sessions.Add(-1)
	g.metrics.sessions.Dec()
	if f == nil {
		return
	}
	f.mu.Lock()
	s.over = true
	mine := f.s == s
	if mine {
		f.s = nil
	}
	var idle chan struct{}
	if s.working {
		idle = make(chan struct{})
		s.idle = idle
	}
	closed, detached := s.closed, s.relay.Detached()
	f.mu.Unlock()
	if idle != nil {
		// What is being sent may wait for an agent that does not read. Ended at
		// once it would be with CANCELLED, not with err.
		late := time.AfterFunc(time.Second, func() { s.cut(err) })
		<-idle
		late.Stop()
	}
	s.p.remove(s)
	g.wheel.remove(s)
	if !mine || g.killed.Load() {
		return
	}
	if !closed && s.said && !s.p.open.Load() { // a hint, which a lapsing lease makes up for
		g.put(s.p, detached.Session, &detached, nil)
	}
	if closed || s.local != nil { // nobody comes back
		g.drop(f)
	} else {
		g.linger(f)
	}
	if closed {
		return
	}
	g.cfg.Logger.Info("detach", "session", f.id, "attempt", s.relay.Attempt(), "why", judge(err).word)
}
