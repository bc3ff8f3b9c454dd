package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/conn"
	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
	"github.com/moorage-dev/moorage/tunnel"
)

const (
	// localLinger is how long a local session that was closed here waits for
	// the controller side's answer.
	localLinger = 30 * time.Second
	// localUnread is how much of a local session waits in it to be read, in
	// bytes. What comes above it stays in the cache, or in Kafka.
	localUnread = 128 << 10
	// localWrite is how much is written before the partition is asked again
	// whether it can take more.
	localWrite = 64 << 10
	// localQuiet is after which silence a look-up's connection is taken for one
	// that is only kept for the next look-up.
	localQuiet = 2 * time.Second
	// mostRemoting is how much a legacy agent may have shown of itself, in
	// bytes: controller sides refuse an OPEN of more than 16 KiB.
	mostRemoting = 15 << 10
)

// Local says what a local session is for.
type Local struct {
	Controller string
	Kind       linkv1.ServiceKind
	// Agent is the name that the agent claims; it decides the session's slot.
	// "": the session's id does.
	Agent    string
	Remoting *linkv1.Remoting // what a legacy agent showed; nil: none is concerned
	// RemoteAddr is the agent's address, host:port, which the gateway vouches for.
	RemoteAddr string
}

// A LocalSession is a session whose agent side is this gateway itself, on
// behalf of an agent that speaks no protocol of ours (tier 0). It is bytes both
// ways.
//
// It is not resumable: with its stream, that is with this gateway, it ends, at
// the latest with GATEWAY_GONE. Nobody proved who it is for: its identity is "".
//
// It has no goroutine. What is written is queued for Kafka by who writes it;
// what comes is put in by the worker that would otherwise send it; the wheel
// sees to its timers.
type LocalSession struct {
	*conn.Conn
	g          *Gateway
	s          *stream
	remote     string
	ctx        context.Context // its stream's
	cancel     context.CancelCauseFunc
	writes     context.Context // ends with ctx, or when the session is closed here
	stopWrites context.CancelFunc
	accepted   chan struct{}
	lookUps    bool         // it carries look-ups, one after the other
	moved      atomic.Int64 // when bytes last came or went, as Gateway.now
	unread     atomic.Int64 // bytes that came and were not read; changes under the Conn's lock

	// Guarded by the Conn's lock, which comes before the feed's.
	agent   *session.Agent
	passed  uint64      // payload bytes given to agent
	lingers *time.Timer // runs once closed
}

// OpenLocal opens a local session. It returns when the session is welcomed;
// whether the controller side accepts it is still open, see Accepted. It does
// not wait for a controller or a Kafka that is away: that is an error, and the
// caller may come again.
func (g *Gateway) OpenLocal(ctx context.Context, want Local) (*LocalSession, error) {
	l, err := g.openLocal(ctx, want)
	if err != nil {
		g.metrics.refused.WithLabelValues(judge(err).word).Inc()
		return nil, fmt.Errorf("gateway: open a session with controller %s: %w", want.Controller, err)
	}
	return l, nil
}

func (g *Gateway) openLocal(ctx context.Context, want Local) (*LocalSession, error) {
	began := time.Now()
	l, err := g.newLocal(want)
	if err != nil {
		return nil, err
	}
	if err := g.locals.add(l); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { l.cancel(context.Cause(ctx)) })
	how, err := l.attach(began)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		if l.s != nil {
			l.s.finish(err)
		}
		l.ended(err)
		return nil, causeOf(l.ctx, err)
	}
	g.metrics.attached.WithLabelValues(how).Inc()
	g.metrics.attachSeconds.Observe(time.Since(began).Seconds())
	g.cfg.Logger.Info("attach", "session", l.ID(), "agent", want.Agent, "controller", want.Controller, "remote", l.remote, "how", "local")
	context.AfterFunc(l.ctx, l.over)
	return l, nil
}

// newLocal checks what came from outside and returns a session that nobody
// knows of yet.
func (g *Gateway) newLocal(want Local) (*LocalSession, error) {
	open := &linkv1.Open{Agent: want.Agent, Remoting: want.Remoting}
	if b, err := proto.Marshal(open); err != nil { // it refuses strings that are not UTF-8
		return nil, fmt.Errorf("%w: %w", session.ErrViolation, err)
	} else if len(b) > mostRemoting {
		return nil, fmt.Errorf("%w: an agent that shows %d bytes of itself, at most %d", session.ErrViolation, len(b), mostRemoting)
	}
	cfg := session.AgentConfig{Agent: want.Agent, Controller: want.Controller, Kind: want.Kind, Remoting: want.Remoting}
	rand.Read(cfg.Secret[:]) // never fails
	l := &LocalSession{
		g: g, agent: session.NewAgent(cfg), remote: want.RemoteAddr, accepted: make(chan struct{}),
		lookUps: want.Kind == linkv1.ServiceKind_SERVICE_KIND_HTTP,
	}
	l.moved.Store(int64(g.now()))
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	l.writes, l.stopWrites = context.WithCancel(l.ctx)
	l.Conn = conn.New(conn.Config{
		End: &l.agent.End, Kick: l.pull, CloseSession: l.closeRole, MaxFrame: l.agent.MaxFrame,
		Local: localAddr(want.RemoteAddr), Remote: localAddr("controller " + want.Controller),
	})
	return l, nil
}

// localAddr names an end of a local session, for humans.
type localAddr string

func (localAddr) Network() string  { return "moorage" }
func (a localAddr) String() string { return string(a) }

// attach binds the session and takes it to Welcome.
func (l *LocalSession) attach(began time.Time) (how string, err error) {
	g := l.g
	if g.draining.Load() {
		return "", errDraining
	}
	if g.streams.Load() > int64(g.cfg.MaxStreams) {
		return "", fmt.Errorf("%w: streams", errTooMany)
	}
	l.Lock()
	h := l.agent.Attach(began)
	l.Unlock()
	b, _, err := g.bind(l.ctx, &h, "")
	if err != nil {
		return "", err
	}
	if g.sessions.Add(1) > int64(g.cfg.MaxSessions) {
		g.sessions.Add(-1)
		return "", fmt.Errorf("%w: sessions", errTooMany)
	}
	g.metrics.sessions.Inc()
	l.s = &stream{
		g: g, p: b.p, rpc: l, local: l, cancel: l.cancel,
		relay: *session.NewRelay(began, &h, b.start, b.incarnation, g.cfg.Heartbeat),
	}
	if how, err = l.s.attach(&h, &b); err != nil {
		return "", err
	}
	return how, l.s.greet(&b)
}

// ID returns the session's id, as it stands in the log and in presence.
func (l *LocalSession) ID() envelope.SessionID { return l.agent.ID() }

// Accepted waits until the controller side has accepted the session: nil.
// *session.EndedError: it ended without.
func (l *LocalSession) Accepted(ctx context.Context) error {
	select {
	case <-l.accepted:
		return nil
	case <-l.Done():
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-l.accepted: // accepted first, then ended
		return nil
	default:
		return l.Err()
	}
}

// Answer returns what the controller side said beside its yes; never nil. It
// is there once Accepted has returned nil.
func (l *LocalSession) Answer() *linkv1.Accept {
	l.Lock()
	defer l.Unlock()
	return l.agent.Answer()
}

// Write writes bytes. It blocks while the window has no room for more of them,
// and while the session's partition cannot take more.
func (l *LocalSession) Write(p []byte) (n int, err error) {
	for {
		if err := l.s.p.ready(l.writes); err != nil && l.writes.Err() == nil {
			return n, err
		}
		l.moved.Store(int64(l.g.now()))
		// If the wait was ended, the Conn knows why, or is about to.
		k, err := l.Conn.Write(p[n:min(len(p), n+localWrite)])
		if n += k; err != nil || n == len(p) {
			return n, err
		}
	}
}

// Abort ends the session with PEER_RESET, after what was written.
func (l *LocalSession) Abort(why error) { tunnel.Session{Conn: l.Conn}.Abort(why) }

// pull hands what the role wants to send to the stream. It is the Conn's Kick:
// its lock is held.
func (l *LocalSession) pull() {
	now := time.Now()
	for l.ctx.Err() == nil {
		up, ok := l.agent.Pending(now)
		if !ok {
			break
		}
		var err error
		if up.Frame.Seq != 0 {
			err = l.s.takeFrame(now, up.Frame)
		} else {
			err = l.s.takeHeartbeat(now, up.Heartbeat)
		}
		if err != nil {
			l.s.cut(err)
		}
	}
	l.count()
}

// count notes how much is unread, and wakes the worker that stopped for it.
// The Conn's lock is held.
func (l *LocalSession) count() {
	took, _ := l.agent.Bytes()
	unread := int64(l.passed - took)
	if l.lingers != nil {
		unread = 0 // nobody reads any more; the window bounds what still comes
	}
	if l.unread.Swap(unread) >= localUnread && unread < localUnread {
		l.s.feed.mu.Lock()
		l.s.kick()
		l.s.feed.mu.Unlock()
	}
}

// full reports whether nothing more is to be put in before some is read.
func (l *LocalSession) full() bool { return l != nil && l.unread.Load() >= localUnread }

// tick lets time pass for the role.
func (l *LocalSession) tick() {
	if l == nil {
		return
	}
	l.Lock()
	defer l.Unlock()
	l.pull()
}

// Context is the stream's; with it the session ends.
func (l *LocalSession) Context() context.Context { return l.ctx }

// SetTrailer is for those who are elsewhere.
func (l *LocalSession) SetTrailer(metadata.MD) {}

// Send takes a message for the agent side; it never waits for the agent.
func (l *LocalSession) Send(m *linkv1.AttachResponse) error {
	l.Lock()
	defer l.Unlock()
	if l.agent.State() == session.AgentEnded {
		return errOver
	}
	now := time.Now()
	var err error
	switch m := m.GetMessage().(type) {
	case *linkv1.AttachResponse_Frame:
		err = l.frame(now, session.ParseFrame(m.Frame))
	case *linkv1.AttachResponse_Heartbeat:
		var h session.Heartbeat
		if h, err = session.ParseHeartbeat(m.Heartbeat); err == nil {
			err = l.agent.Heartbeat(now, h)
		}
	case *linkv1.AttachResponse_Welcome:
		var w session.Welcome
		if w, err = session.ParseWelcome(m.Welcome); err == nil {
			err = l.agent.Welcome(now, w)
		}
	case *linkv1.AttachResponse_Close:
		if c := session.ParseClose(m.Close); !l.agent.Close(c) {
			l.agent.Abandon(c.Ending)
		}
	}
	l.Changed()
	if errors.Is(err, session.ErrViolation) {
		ending := session.Ending{Reason: linkv1.Reason_REASON_PROTOCOL_ERROR, Text: err.Error()}
		l.agent.CloseSession(ending)
		defer l.abandon(ending) // when the controller side is told
	}
	l.pull() // a probe's answer
	if err == nil && l.agent.State() == session.AgentEnded {
		l.cancel(errOver)
	}
	return err
}

func (l *LocalSession) frame(now time.Time, f session.Frame) error {
	if err := l.agent.Frame(now, f); err != nil {
		return err
	}
	switch f.Kind {
	case envelope.Data:
		l.passed += uint64(len(f.Payload))
		l.moved.Store(int64(l.g.now()))
	case envelope.Accept:
		close(l.accepted) // the Relay passes each frame once
	}
	return nil
}

// closeRole is the role's CloseSession, with a bound on how long its answer is
// waited for. The lock is held.
func (l *LocalSession) closeRole(ending session.Ending) {
	l.agent.CloseSession(ending)
	l.stopWrites()
	if l.agent.State() == session.AgentEnded || l.lingers != nil {
		return
	}
	if ending.Reason == linkv1.Reason_REASON_OK {
		ending.Reason = linkv1.Reason_REASON_GRACE
	}
	ending.Text = "closed here; the controller side did not answer within " + localLinger.String()
	l.lingers = time.AfterFunc(localLinger, func() {
		l.Lock()
		l.abandon(ending)
		l.Unlock()
		l.cancel(errLeft)
	})
}

// abandon ends the session on this side alone. The lock is held.
func (l *LocalSession) abandon(ending session.Ending) {
	if l.agent.State() == session.AgentEnded {
		return
	}
	l.agent.Abandon(ending)
	l.Changed()
}

// gatewayGone is the ending of a session whose gateway leaves it.
func (l *LocalSession) gatewayGone(why string) session.Ending {
	return session.Ending{Reason: linkv1.Reason_REASON_GATEWAY_GONE, Text: "gateway " + l.g.cfg.Name + ": " + why}
}

// leave ends the session because the gateway ends, and says so in the log.
func (l *LocalSession) leave() {
	ending := l.gatewayGone(errClosing.Error())
	l.Lock()
	l.agent.CloseSession(ending)
	l.pull()
	l.abandon(ending)
	l.Unlock()
	l.cancel(errClosing)
}

// over runs when the stream has ended, for whatever reason.
func (l *LocalSession) over() {
	err := context.Cause(l.ctx)
	l.s.finish(err)
	l.ended(err)
	l.g.metrics.ended.WithLabelValues(judge(err).word).Inc()
	why, _ := l.agent.Ended()
	l.g.cfg.Logger.Info("local session ended", "session", l.ID(), "remote", l.remote,
		"reason", session.ReasonName(why.Reason), "text", why.Text)
}

// ended leaves the session in its final state, however it came there.
func (l *LocalSession) ended(err error) {
	l.cancel(err)
	l.Lock()
	l.abandon(l.gatewayGone(judge(err).word))
	if l.lingers != nil {
		l.lingers.Stop()
	}
	l.Unlock()
	l.g.locals.remove(l)
}

// locals are the local sessions there are, those that are being opened
// included.
type locals struct {
	mu   sync.Mutex // guards the following
	open map[*LocalSession]struct{}
	over bool // no more are taken

	running sync.WaitGroup // Add is called under mu, and not once over
}

func (all *locals) add(l *LocalSession) error {
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.over {
		return errClosing
	}
	if all.open == nil {
		all.open = make(map[*LocalSession]struct{})
	}
	all.open[l] = struct{}{}
	all.running.Add(1)
	l.g.streams.Add(1)
	l.g.metrics.streams.Inc()
	l.g.metrics.locals.Inc()
	return nil
}

func (all *locals) remove(l *LocalSession) {
	all.mu.Lock()
	defer all.mu.Unlock()
	delete(all.open, l)
	l.g.streams.Add(-1)
	l.g.metrics.streams.Dec()
	l.g.metrics.locals.Dec()
	all.running.Done()
}

// end takes no more, and returns those there are.
func (all *locals) end() []*LocalSession {
	all.mu.Lock()
	defer all.mu.Unlock()
	all.over = true
	list := make([]*LocalSession, 0, len(all.open))
	for l := range all.open {
		list = append(list, l)
	}
	return list
}

// spare returns how many carry look-ups and none now: a door keeps them for the
// next, and nobody loses anything by their end.
func (all *locals) spare(now time.Duration) (n int64) {
	all.mu.Lock()
	defer all.mu.Unlock()
	for l := range all.open {
		if l.lookUps && l.unread.Load() == 0 && now-time.Duration(l.moved.Load()) > localQuiet {
			n++
		}
	}
	return n
}

// wait returns when all have ended.
func (all *locals) wait() { all.running.Wait() }
