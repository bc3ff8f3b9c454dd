package link

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

// groupHeader lets a balancer keep the agents of a group together.
const groupHeader = "moorage-group"

// helloWait is how long the Welcome may take. It doubles with each attach in
// a row that got none: behind a slow Kafka, patience is what is needed.
const (
	helloWait = 10 * time.Second
	helloMost = 40 * time.Second
)

// Why a stream was left.
var (
	errUnanswered = errors.New("link: no Welcome in time")
	errDead       = errors.New("link: three heartbeats missed")
	errDrained    = errors.New("link: the gateway is draining")
	errEnded      = errors.New("link: the session has ended")
	errNotFinal   = errors.New("link: a Close of an older incarnation")
)

// An outcome is how an attach ended.
type outcome struct {
	err      error     // never nil
	attempt  uint32    // 0: no Hello was sent
	welcomed time.Time // zero: never
	drain    *linkv1.Drain
	better   []string
	useful   bool // something got on: a frame came, or one of ours was persisted
}

// A stream is one attach of a session. Its messages are received by a
// goroutine of its own and sent by the session's; the session's lock guards
// the fields below rpc.
type stream struct {
	*Session
	name   string // the gateway's address
	cancel context.CancelCauseFunc
	rpc    grpc.BidiStreamingClient[linkv1.AttachRequest, linkv1.AttachResponse]

	out      outcome
	gone     bool        // detached: timers that fire late find nothing to do
	hello    *time.Timer // until Welcome
	watchdog *time.Timer // from Welcome on: three heartbeats
	leave    *time.Timer // drained: when to go
	silence  time.Duration
	heard    time.Time
	before   uint64 // persisted when it was welcomed
}

// attach opens a stream and serves the session on it until one of them ends.
func (s *Session) attach(ctx context.Context, gateway string) outcome {
	link, err := s.client.pool.take(gateway)
	if err != nil {
		return outcome{err: err}
	}
	defer s.client.pool.give(link)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(errEnded)
	st := &stream{Session: s, name: gateway, cancel: cancel}
	st.hello = time.AfterFunc(s.patience(), func() { cancel(errUnanswered) })
	defer st.hello.Stop()

	ctx = metadata.AppendToOutgoingContext(ctx, groupHeader, s.group)
	st.rpc, err = linkv1.NewLinkServiceClient(link.conn).Attach(ctx)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		if silent(err) {
			s.client.pool.retire(link)
			s.client.pool.doubt()
		}
		return outcome{err: err}
	}
	received := make(chan struct{})
	if st.greet() {
		go func() {
			defer close(received)
			cancel(st.receive()) // the first cause stays; a blocked send ends
		}()
		st.send(received)
		<-received
	}
	st.out.err = context.Cause(ctx)
	if st.elsewhere(link.conn.GetState()) {
		s.client.pool.retire(link)
	}
	if silent(st.out.err) {
		s.client.pool.doubt()
	}
	st.detach()
	return st.out
}

// elsewhere reports whether the next stream should not take this one's
// connection: it may be half-open, or end at a gateway that is leaving, while
// a new one to the same address may be led to another by a balancer.
func (st *stream) elsewhere(state connectivity.State) bool {
	switch err := st.out.err; {
	case silent(err), st.out.drain != nil:
		return true
	default:
		return st.out.welcomed.IsZero() && state == connectivity.Ready &&
			status.Code(err) == codes.Unavailable && retryHint(err) == 0
	}
}

// silent reports whether a stream ended because nothing was heard.
func silent(err error) bool { return errors.Is(err, errUnanswered) || errors.Is(err, errDead) }

// patience returns how long to wait for the Welcome now.
func (s *Session) patience() time.Duration {
	s.Lock()
	defer s.Unlock()
	if errors.Is(s.last, errUnanswered) {
		s.waited = min(2*s.waited, helloMost)
	} else {
		s.waited = helloWait
	}
	return s.waited
}

// greet sends Hello.
func (st *stream) greet() bool {
	st.Lock()
	hello := st.agent.Attach(time.Now())
	st.out.attempt = hello.Attempt
	st.gateway = st.name
	st.Unlock()
	err := st.rpc.Send(&linkv1.AttachRequest{Message: &linkv1.AttachRequest_Hello{Hello: session.HelloMessage(&hello)}})
	if err != nil {
		_, why := st.rpc.Recv() // Send says only that the stream is over
		st.cancel(why)
	}
	return err == nil
}

// send sends what the role has pending until the stream is over.
func (st *stream) send(received <-chan struct{}) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		st.Lock()
		now := time.Now()
		up, ok := st.agent.Pending(now)
		wake := st.agent.Wake()
		st.Unlock()
		if ok {
			if st.rpc.Send(upMessage(up)) != nil {
				<-received // which learns why
				return
			}
			continue
		}
		timer.Stop()
		if !wake.IsZero() {
			timer.Reset(max(wake.Sub(now), time.Millisecond))
		}
		select {
		case <-st.wake:
		case <-timer.C:
		case <-received:
			return
		}
	}
}

func upMessage(up session.Up) *linkv1.AttachRequest {
	if up.Frame.Seq == 0 {
		return &linkv1.AttachRequest{Message: &linkv1.AttachRequest_Heartbeat{Heartbeat: session.HeartbeatMessage(up.Heartbeat)}}
	}
	return &linkv1.AttachRequest{Message: &linkv1.AttachRequest_Frame{Frame: session.FrameMessage(up.Frame)}}
}

// receive takes messages until the stream is over, and returns why it is.
func (st *stream) receive() error {
	for {
		m, err := st.rpc.Recv()
		if err != nil {
			return err
		}
		if err := st.take(m); err != nil {
			return err
		}
	}
}

// take gives one message to the role. An error ends the stream.
func (st *stream) take(m *linkv1.AttachResponse) error {
	st.Lock()
	defer st.Unlock()
	if st.agent.State() == session.AgentEnded {
		return errEnded // on this side alone, and the gateway cannot know
	}
	now := time.Now()
	st.heard = now
	var err error
	switch m := m.GetMessage().(type) {
	case *linkv1.AttachResponse_Frame:
		f := session.ParseFrame(m.Frame)
		err = st.agent.Frame(now, f)
		st.out.useful = st.out.useful || err == nil
		if err == nil && f.Kind == envelope.Accept {
			closeOnce(st.accepted)
		}
	case *linkv1.AttachResponse_Heartbeat:
		var h session.Heartbeat
		if h, err = session.ParseHeartbeat(m.Heartbeat); err == nil {
			err = st.agent.Heartbeat(now, h)
		}
		if h.Probe {
			st.kick()
		}
	case *linkv1.AttachResponse_Welcome:
		err = st.welcome(now, m.Welcome)
	case *linkv1.AttachResponse_Close:
		if !st.agent.Close(session.ParseClose(m.Close)) {
			err = errNotFinal
		}
	case *linkv1.AttachResponse_Drain:
		st.drained(m.Drain)
	}
	if errors.Is(err, session.ErrViolation) {
		st.violated(err)
	}
	st.Changed()
	if err == nil && st.agent.State() == session.AgentEnded {
		err = errEnded
	}
	return err
}

func (st *stream) welcome(now time.Time, m *linkv1.Welcome) error {
	w, err := session.ParseWelcome(m)
	if err != nil {
		return err
	}
	if err := st.agent.Welcome(now, w); err != nil {
		return err
	}
	st.hello.Stop()
	st.before = st.agent.Persisted()
	st.silence = 3 * w.Heartbeat // as the role counts
	st.watchdog = time.AfterFunc(st.silence, st.watch)
	st.out.welcomed, st.out.better = now, w.Better
	st.attached, st.since = true, now
	if st.giveUp != nil {
		st.giveUp.Stop()
		st.giveUp = nil
	}
	st.client.stats.attached.Add(1)
	st.client.answered(st.name)
	st.log.Info("link: attached", "gateway", st.name, "attempt", st.out.attempt)
	closeOnce(st.welcomed)
	st.kick()
	return nil
}

// watch leaves a stream that has been silent for too long. It is a timer of
// its own because the sender may be blocked by that very silence.
func (st *stream) watch() {
	st.Lock()
	defer st.Unlock()
	now := time.Now()
	switch {
	case st.gone:
		return
	case st.agent.Dead(now):
		st.cancel(errDead)
		return
	}
	st.watchdog.Reset(max(st.heard.Add(st.silence).Sub(now), time.Millisecond))
}

// drained leaves the stream at a random time of those the gateway allows. A
// session that cannot move stays as long as it may.
func (st *stream) drained(d *linkv1.Drain) {
	if st.final || st.out.drain != nil {
		return
	}
	st.out.drain = d
	st.client.failed(st.name)
	within := time.Duration(min(d.GetAfterMs(), uint64(mostHint.Milliseconds()))) * time.Millisecond
	st.leave = time.AfterFunc(st.client.fraction(within), func() { st.cancel(errDrained) })
}

// violated ends the session because the gateway, or the controller side
// behind it, breaks the rules: coming again would only repeat it.
func (st *stream) violated(err error) {
	st.client.stats.violations.Add(1)
	st.log.Error("link: protocol violation", "gateway", st.name, "attempt", st.out.attempt, "error", err)
	st.closeRole(session.Ending{Reason: linkv1.Reason_REASON_PROTOCOL_ERROR, Text: err.Error()})
}

// detach notes that the stream is gone, and starts the time after which the
// session is given up.
func (st *stream) detach() {
	st.Lock()
	defer st.Unlock()
	for _, t := range []*time.Timer{st.watchdog, st.leave} {
		if t != nil {
			t.Stop()
		}
	}
	st.gone = true
	st.out.useful = st.out.useful || !st.out.welcomed.IsZero() && st.agent.Persisted() > st.before
	st.agent.Detach(time.Now())
	if st.attached {
		st.attached, st.since = false, time.Now()
	}
	if st.giveUp != nil || st.agent.State() != session.AgentDetached {
		return
	}
	after := st.client.cfg.GiveUp
	if after == 0 {
		after = st.agent.Grace() + time.Minute
	}
	var timer *time.Timer
	timer = time.AfterFunc(after, func() {
		st.Lock()
		defer st.Unlock()
		if st.giveUp == timer { // else it fired while Welcome came
			st.abandon(session.Ending{Reason: linkv1.Reason_REASON_GRACE, Text: "no gateway could be reached for " + after.String()})
		}
	})
	st.giveUp = timer
}

// closeOnce closes a channel that a later stream may close again; the lock is held.
func closeOnce(ch chan struct{}) {
	select {
	case <-ch:
	default:
		close(ch)
	}
}
