package shim

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/moorage-dev/moorage/door"
	"github.com/moorage-dev/moorage/link"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
	"github.com/moorage-dev/moorage/tunnel"
)

const (
	// patience is how long a look-up waits for news when there is something
	// older to tell: agents that poll give up after 5 s.
	patience = 1500 * time.Millisecond
	// askFor bounds the asking itself, which goes on behind an answer.
	askFor = time.Minute
)

// A Link is what a door needs of the gateways: sessions that outlive them, and
// what they know of the controller, which it remembers.
type Link struct {
	client     *link.Client
	controller string
	store      *store // nil: nothing is kept on disk
	log        *slog.Logger

	ctx    context.Context // of asking, which is nobody's call alone
	stop   context.CancelFunc
	asking sync.WaitGroup

	mu     sync.Mutex // guards the following
	known  *knowledge // nil: nothing is known yet
	asked  *question  // under way; nil: none
	legacy map[*link.Session]*watched
	said   string    // the last refusal that was logged
	saidAt time.Time // and when
}

// A question is one asking of the gateways that any number of look-ups wait for.
type question struct {
	done chan struct{} // closed when err is set
	err  error
}

// NewLink returns a link to one controller. What it learns of the controller
// it keeps in file and reads from there at the start; "": only in memory.
// Whoever calls it closes client after it.
func NewLink(client *link.Client, controller, file string, log *slog.Logger) *Link {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	l := &Link{client: client, controller: controller, log: log, legacy: make(map[*link.Session]*watched)}
	l.ctx, l.stop = context.WithCancel(context.Background())
	if file != "" {
		l.store = &store{file: file, controller: controller}
		known, err := l.store.read()
		if err != nil {
			log.Warn("shim: what was known of the controller cannot be read; it is asked for again", "err", err)
		}
		l.known = known
	}
	return l
}

// Close ends what the link does by itself. Sessions are the client's.
func (l *Link) Close() {
	l.stop()
	l.asking.Wait()
}

// Describe implements [door.Backend]. When gateways do not answer soon it
// tells what was known last, and goes on asking for the next look-up.
func (l *Link) Describe(ctx context.Context, controller string) (door.Description, error) {
	if controller != l.controller {
		return door.Description{}, door.ErrUnknownController
	}
	q, known := l.ask()
	var late <-chan time.Time
	if known {
		t := time.NewTimer(patience)
		defer t.Stop()
		late = t.C
	}
	select {
	case <-q.done:
	case <-late:
		return l.remembered(), nil
	case <-ctx.Done():
		if known {
			return l.remembered(), nil
		}
		return door.Description{}, context.Cause(ctx)
	}
	d := l.remembered()
	if d.Jenkins == nil && q.err != nil {
		return door.Description{}, l.refused(q.err)
	}
	return d, nil
}

// ask joins the question under way, or asks one.
func (l *Link) ask() (q *question, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	known = l.known != nil
	if l.asked != nil {
		return l.asked, known
	}
	q = &question{done: make(chan struct{})}
	if l.ctx.Err() != nil { // closed
		q.err = context.Cause(l.ctx)
		close(q.done)
		return q, known
	}
	l.asked = q
	l.asking.Go(func() {
		ctx, cancel := context.WithTimeout(l.ctx, askFor)
		defer cancel()
		d, err := l.client.Describe(ctx)
		l.learn(q, d, err)
	})
	return q, known
}

// learn notes the answer. A gateway that knows nothing of a Jenkins takes
// nothing away: its connector may only have started, and not looked yet.
func (l *Link) learn(q *question, d link.Description, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer close(q.done)
	l.asked, q.err = nil, err
	if err != nil || d.Jenkins == nil {
		return
	}
	changed := !l.known.same(d.Jenkins)
	l.known = &knowledge{d.Jenkins, time.Now().Add(-d.Age)}
	if changed && l.store != nil {
		if err := l.store.write(l.known); err != nil {
			l.log.Warn("shim: what is known of the controller cannot be kept on disk", "err", err)
		}
	}
}

func (l *Link) remembered() door.Description {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known == nil {
		return door.Description{}
	}
	return door.Description{Jenkins: l.known.jenkins, Age: time.Since(l.known.at)}
}

// sayAgain is how long a refusal that repeats itself is not logged.
const sayAgain = time.Minute

// refused puts an error into the door's words. A gateway's no is logged, for
// the agent only sees that it has to wait.
func (l *Link) refused(err error) error {
	no, ok := errors.AsType[*link.RefusedError](err)
	if !ok {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if text := no.Error(); text != l.said || time.Since(l.saidAt) >= sayAgain {
		l.said, l.saidAt = text, time.Now()
		l.log.Warn("shim: refused by a gateway", "gateway", no.Gateway, "code", no.Code.String(), "text", no.Text)
	}
	if no.Code == codes.NotFound {
		return errors.Join(door.ErrUnknownController, err)
	}
	return err
}

// Open implements [door.Backend].
func (l *Link) Open(ctx context.Context, r door.Request) (door.Session, error) {
	if r.Controller != l.controller {
		return nil, door.ErrUnknownController
	}
	s, err := l.client.Open(ctx, link.Target{Kind: r.Kind, Remoting: r.Remoting})
	if err != nil {
		return nil, l.refused(err)
	}
	if r.Kind != linkv1.ServiceKind_SERVICE_KIND_HTTP { // a look-up is soon over
		l.watch(s, r.Remoting.GetAgent())
	}
	return doorSession{tunnel.Session{Conn: s.Conn}, s}, nil
}

// doorSession is a session in the door's words.
type doorSession struct {
	tunnel.Session
	link *link.Session
}

func (s doorSession) Accepted(ctx context.Context) error { return s.link.Accepted(ctx) }
func (s doorSession) Answer() *linkv1.Accept             { return s.link.Answer() }

// watched is what was said last of a session.
type watched struct {
	agent string
	away  time.Time // since when it is detached, and that was said; zero: nothing is to be taken back
}

// watch has Watch look after a session until it has ended.
func (l *Link) watch(s *link.Session, agent string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.legacy[s] = &watched{agent: agent}
}

// sayAway is how long a session is detached before it is worth a line: a
// gateway's restart is not.
const sayAway = 5 * time.Second

// Watch tells in the log of sessions that are detached for longer, of their
// return and of their end, until ctx ends.
func (l *Link) Watch(ctx context.Context) {
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for {
		select {
		case <-again.C:
			l.look(time.Now())
		case <-ctx.Done():
			return
		}
	}
}

func (l *Link) look(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s, w := range l.legacy {
		log := l.log.With("session", s.ID().String(), "agent", w.agent)
		if err := s.Err(); err != nil {
			delete(l.legacy, s)
			if e, ok := errors.AsType[*session.EndedError](err); ok && e.Reason != linkv1.Reason_REASON_OK {
				log.Warn("shim: the agent's session has ended; its connection is closed", "reason", session.ReasonName(e.Reason), "text", e.Text)
			}
			continue
		}
		switch gateway, _, attached, since := s.Status(); {
		case !attached && w.away.IsZero() && now.Sub(since) >= sayAway:
			w.away = since
			log.Warn("shim: detached; up to 200 s are hidden from a stock Jenkins, from 240 s its pings may fail, from 540 s they always do",
				"since", since.Format(time.RFC3339), "gateway", gateway)
		case attached && !w.away.IsZero():
			log.Info("shim: attached again", "gateway", gateway, "after", since.Sub(w.away).Round(time.Second).String())
			w.away = time.Time{}
		}
	}
}
