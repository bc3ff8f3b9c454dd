package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/status"

	"github.com/moorage-dev/moorage/conn"
	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

// linger is how long a session that was closed here waits for the controller
// side's answer.
const linger = 30 * time.Second

// A Session is the agent side of one session. The embedded Conn is what
// applications use; closing it lets what was written, and the close, go on
// their way in the background for up to 30 s.
type Session struct {
	*conn.Conn
	client *Client
	log    *slog.Logger
	group  string // of the session's slot, for balancers
	final  bool   // not resumable: ends with its first stream

	stop     context.CancelCauseFunc // gives the session up on this side
	stopped  chan struct{}           // the session's goroutine is done
	wake     chan struct{}           // the role may have something to send
	welcomed chan struct{}
	accepted chan struct{}

	// Guarded by the Conn's lock.
	agent    *session.Agent
	gateway  string    // of the current or the last stream
	since    time.Time // of the last attach or detach
	attached bool
	last     error         // how the last attach ended
	lastAt   string        // the gateway it was tried at
	failed   error         // why Open failed
	giveUp   *time.Timer   // runs while detached
	lingers  *time.Timer   // runs once closed
	waited   time.Duration // for the last Welcome
}

func newSession(c *Client, cfg session.AgentConfig, stop context.CancelCauseFunc) *Session {
	agent := session.NewAgent(cfg)
	slot := envelope.SlotOf(cfg.Agent, agent.ID())
	s := &Session{
		client: c, agent: agent, stop: stop, final: !cfg.Resumable,
		log:     c.log.With("session", agent.ID().String()),
		group:   strconv.Itoa(int(envelope.GroupOf(slot))),
		stopped: make(chan struct{}), wake: make(chan struct{}, 1),
		welcomed: make(chan struct{}), accepted: make(chan struct{}),
		since: time.Now(),
	}
	s.Conn = conn.New(conn.Config{
		End: &agent.End, Kick: s.kick, CloseSession: s.closeRole, MaxFrame: agent.MaxFrame,
		Local: address("agent " + cfg.Agent), Remote: address("controller " + cfg.Controller + " " + cfg.Service),
	})
	return s
}

// address is an end of a session, for humans.
type address string

func (address) Network() string  { return "moorage" }
func (a address) String() string { return string(a) }

var _ net.Addr = address("")

// ID returns the session's id, as it stands in the log and in presence.
func (s *Session) ID() envelope.SessionID { return s.agent.ID() }

// Accepted waits until the controller side has accepted the session: nil.
// *session.EndedError: it ended without.
func (s *Session) Accepted(ctx context.Context) error {
	select {
	case <-s.accepted:
		return nil
	case <-s.Done():
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-s.accepted: // accepted first, then ended
		return nil
	default:
		return s.Err()
	}
}

// Answer returns what the controller side said beside its yes; never nil. It
// is there once Accepted has returned nil.
func (s *Session) Answer() *linkv1.Accept {
	s.Lock()
	defer s.Unlock()
	return s.agent.Answer()
}

// Status returns the gateway that holds the session, or did last; the number
// of the last attach; whether the session is attached, and since when it is
// or is not.
func (s *Session) Status() (gateway string, attempt uint32, attached bool, since time.Time) {
	s.Lock()
	defer s.Unlock()
	return s.gateway, s.agent.Attempt(), s.attached, s.since
}

// State returns where the agent side stands, in the words of docs/protocol.md.
func (s *Session) State() session.AgentState {
	s.Lock()
	defer s.Unlock()
	return s.agent.State()
}

// kick tells the sender that there may be work. It never blocks.
func (s *Session) kick() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// closeRole is the role's CloseSession, with a bound on how long its answer
// is waited for. The lock is held.
func (s *Session) closeRole(ending session.Ending) {
	s.agent.CloseSession(ending)
	if s.agent.State() == session.AgentEnded || s.lingers != nil {
		return
	}
	if ending.Reason == linkv1.Reason_REASON_OK {
		ending.Reason = linkv1.Reason_REASON_GRACE
	}
	ending.Text = "closed here; the controller side did not answer within " + linger.String()
	s.lingers = time.AfterFunc(linger, func() {
		s.Lock()
		defer s.Unlock()
		s.abandon(ending)
	})
}

// abandon ends the session on this side alone. The lock is held.
func (s *Session) abandon(ending session.Ending) {
	if s.agent.State() == session.AgentEnded {
		return
	}
	s.agent.Abandon(ending)
	s.Changed()
	s.stop(&session.EndedError{Ending: ending})
}

// cancelOpen gives up a session that was not welcomed yet, of which nobody
// knows. nil: it was welcomed.
func (s *Session) cancelOpen(cause error) error {
	s.Lock()
	defer s.Unlock()
	select {
	case <-s.welcomed:
		return nil
	default:
	}
	if s.failed == nil {
		s.failed = fmt.Errorf("link: open a session with controller %s: %w%s", s.client.cfg.Controller, cause, because(s.lastAt, s.last))
		s.abandon(session.Ending{Reason: linkv1.Reason_REASON_PEER_RESET, Text: "given up before the first Welcome"})
	}
	return s.failed
}

func because(gateway string, err error) string {
	if err == nil {
		return ""
	}
	why := "; the last attach failed, at " + gateway + ": " + statusText(err)
	if strings.Contains(why, "connection error:") { // gRPC's words for what never became a connection
		why += "; check that a gateway listens there, and that both sides agree on TLS"
	}
	return why
}

// run attaches the session again and again until it has ended.
func (s *Session) run(ctx context.Context) {
	defer close(s.stopped)
	w := &walk{list: s.client.nearFirst(s.client.rotated(s.client.cfg.Gateways))}
	wait := time.Duration(0)
	for {
		gateway, in := w.next(time.Now(), wait)
		if sleep(ctx, in) != nil {
			break
		}
		o := s.attach(ctx, gateway)
		if s.over(ctx, gateway, o) {
			break
		}
		wait = s.judge(w, gateway, o)
	}
	s.end()
}

// over reports whether the session has ended, or has to now.
func (s *Session) over(ctx context.Context, gateway string, o outcome) bool {
	s.Lock()
	defer s.Unlock()
	switch bound := !s.agent.Incarnation().IsZero(); {
	case s.agent.State() == session.AgentEnded || ctx.Err() != nil:
		return true
	case !bound && final(o.err):
		s.client.stats.refused.Add(1)
		st := status.Convert(o.err)
		s.failed = &RefusedError{gateway, st.Code(), st.Message()}
		return true
	case bound && s.final:
		s.abandon(session.Ending{Reason: linkv1.Reason_REASON_GATEWAY_GONE, Text: "the stream to " + gateway + " broke: " + statusText(o.err)})
		return true
	}
	s.last, s.lastAt = o.err, gateway
	return false
}

// lasted is how long a stream must have lived to show that things work, if
// nothing got on meanwhile.
const lasted = time.Second

// proved reports whether the stream showed that things work.
func (o *outcome) proved(now time.Time) bool {
	return o.useful || !o.welcomed.IsZero() && now.Sub(o.welcomed) >= lasted
}

// judge learns from how an attach ended. It returns how long to wait before the next.
func (s *Session) judge(w *walk, gateway string, o outcome) (wait time.Duration) {
	c, now := s.client, time.Now()
	level := slog.LevelInfo
	switch {
	case o.welcomed.IsZero():
		level = slog.LevelWarn
		c.failed(gateway)
		w.last(gateway)
		if hint := retryHint(o.err); hint > 0 {
			w.leave(gateway, now.Add(hint))
		}
		if errors.Is(o.err, errUnanswered) {
			c.stats.unanswered.Add(1)
		} else {
			c.stats.refused.Add(1)
		}
	case o.drain != nil:
		c.stats.lost.Add(1)
		c.stats.drained.Add(1)
		w.last(gateway)
		w.hints = slices.DeleteFunc(c.shuffled(o.drain.GetReconnectTo()), func(g string) bool { return g == gateway })
	default:
		c.stats.lost.Add(1)
		if o.proved(now) {
			w.first(gateway)
		} else {
			w.last(gateway) // it welcomes and cannot serve: another may
			c.failed(gateway)
		}
		w.hints = o.better
		if hint := retryHint(o.err); hint > 0 {
			w.leave(gateway, now.Add(hint))
		}
		if errors.Is(o.err, errDead) {
			c.stats.dead.Add(1)
			w.last(gateway)
			c.failed(gateway)
		}
	}
	if o.proved(now) {
		w.failures = 0
	}
	if o.drain == nil || w.failures > 0 {
		wait = c.fraction(w.bound())
		w.failures++
	}
	s.log.Log(context.Background(), level, "link: detached", "gateway", gateway, "attempt", o.attempt,
		"welcomed", !o.welcomed.IsZero(), "drained", o.drain != nil, "reason", statusText(o.err))
	return wait
}

// end leaves the session in its final state, however it came there.
func (s *Session) end() {
	s.Lock()
	defer s.Unlock()
	for _, t := range []*time.Timer{s.giveUp, s.lingers} {
		if t != nil {
			t.Stop()
		}
	}
	if s.agent.State() != session.AgentEnded {
		s.agent.Abandon(session.Ending{Reason: linkv1.Reason_REASON_PEER_RESET, Text: "given up by the agent side"})
		s.Changed()
	}
	ending, _ := s.agent.Ended()
	if s.failed == nil {
		s.failed = &session.EndedError{Ending: ending}
	}
	s.log.Info("link: session ended", "reason", session.ReasonName(ending.Reason), "text", ending.Text)
}

// sleep waits, or returns why not.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
