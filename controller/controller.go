package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

// Why a controller stops by itself.
var (
	// ErrSuperseded: a newer process took over this controller's name.
	ErrSuperseded = errors.New("controller: superseded")
	// ErrTopicChanged: a topic was removed or created again. A new process
	// binds to what is there then.
	ErrTopicChanged = errors.New("controller: topic removed or created again")
)

// A Controller is one process under a controller name. Its methods may be
// called concurrently.
type Controller struct {
	cfg         Config
	log         *slog.Logger
	boot        uint64                         // names this process in its heartbeats
	process     string                         // the same, for humans
	jenkins     atomic.Pointer[linkv1.Jenkins] // what this controller stands beside; nil: none
	incarnation envelope.Incarnation
	topics      topics

	client  *bridge.Client
	records *bridge.Producer // sessions' records
	state   *bridge.Producer // heartbeats and presence
	ups     *bridge.Reader   // up partitions
	views   *bridge.Reader   // meta, gateways, sessions

	clock    logClock
	gateways *gateways
	wakes    wakes
	presence *presence
	beats    beats
	counts   counts

	inUse    atomic.Int32 // P, as the heartbeat says
	held     atomic.Int64 // sessions not Over
	leaving  atomic.Bool  // Close was called, or a topic is gone: nothing new is accepted
	stopping atomic.Bool  // nothing is produced any more
	opened   chan *Session
	stirred  chan struct{} // holds one token when loop should look
	empty    chan struct{} // holds one token when held may have become 0
	troubles chan trouble  // what watch is to see to

	mu    sync.Mutex // guards what follows
	parts []*partition

	life context.Context
	end  context.CancelCauseFunc
	wg   sync.WaitGroup // loop and watch
	done chan struct{}
}

// topics is what the controller's topics were when it started.
type topics struct {
	up, down, meta, sessions, gateways bridge.Topic
}

// errLeft is the cause of an end that was asked for.
var errLeft = errors.New("controller: closed")

func newController(cfg Config) *Controller {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	c := &Controller{
		cfg: cfg, log: cfg.Logger, boot: rand.Uint64(), process: fmt.Sprintf("%s, pid %d", host, os.Getpid()),
		gateways: newGateways(),
		opened:   make(chan *Session, cfg.AcceptQueue),
		stirred:  make(chan struct{}, 1),
		empty:    make(chan struct{}, 1),
		troubles: make(chan trouble, maxTroubles),
		done:     make(chan struct{}),
	}
	c.presence = &presence{stir: c.stir, put: c.putPresence}
	// A controller outlives the call that started it.
	c.life, c.end = context.WithCancelCause(context.Background())
	return c
}

// Accept returns the next session that an agent has opened. The application
// answers with its Accept or Reject. Errors are ctx's, Err's, or net.ErrClosed.
func (c *Controller) Accept(ctx context.Context) (*Session, error) {
	for {
		select {
		case s := <-c.opened:
			if s.Err() == nil { // or the agent gave up meanwhile
				return s, nil
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-c.life.Done():
			if err := c.Err(); err != nil {
				return nil, err
			}
			return nil, net.ErrClosed
		}
	}
}

// Done is closed when the controller has stopped, by itself or by Close.
func (c *Controller) Done() <-chan struct{} { return c.done }

// Err says why the controller stopped by itself: ErrSuperseded,
// ErrTopicChanged, or what Kafka refused. nil while it runs and after Close.
func (c *Controller) Err() error {
	if err := context.Cause(c.life); err != errLeft {
		return err
	}
	return nil
}

// Name returns the controller's name.
func (c *Controller) Name() string { return c.cfg.Name }

// Incarnation returns what names this process's life.
func (c *Controller) Incarnation() envelope.Incarnation { return c.incarnation }

// Sessions returns all sessions that are held now, by id.
func (c *Controller) Sessions() []Info {
	var all []Info
	for _, p := range c.partitions() {
		for _, s := range p.all() {
			all = append(all, s.Info())
		}
	}
	slices.SortFunc(all, func(a, b Info) int { return a.ID.Compare(b.ID) })
	return all
}

// End ends a session with a reason, after everything that was written to it.
// It reports whether there is such a session.
func (c *Controller) End(id envelope.SessionID, why session.Ending) bool {
	for _, p := range c.partitions() {
		if s := p.find(id); s != nil {
			s.CloseWithReason(why)
			return true
		}
	}
	return false
}

func (c *Controller) partitions() []*partition {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.parts)
}

// loop is the one timer of all sessions: it beats, wakes and shows.
func (c *Controller) loop() {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	timer := time.NewTimer(beatEvery)
	defer timer.Stop()
	for {
		ticked := false
		select {
		case <-c.life.Done():
			return
		case <-tick.C:
			ticked = true
			c.beat()
			now := c.clock.now()
			for _, p := range c.partitions() {
				p.tick(now)
			}
		case <-timer.C:
		case <-c.stirred:
		}
		if wait := c.wakeDue(); wait > 0 {
			timer.Reset(wait)
		} else {
			timer.Stop()
		}
		c.presence.flush(time.Now(), ticked)
	}
}

// wakeDue wakes the sessions that are due and returns when to come again; 0:
// when stirred.
func (c *Controller) wakeDue() time.Duration {
	for {
		now, runs := c.clock.read(time.Now())
		s, next := c.wakes.pop(now)
		switch {
		case s != nil:
			s.wake(now)
		case next.IsZero() || !runs: // the next own beat stirs
			return 0
		default:
			return next.Sub(now)
		}
	}
}

// stir makes loop look.
func (c *Controller) stir() {
	select {
	case c.stirred <- struct{}{}:
	default:
	}
}

// emptied notes that the last session is over.
func (c *Controller) emptied() {
	select {
	case c.empty <- struct{}{}:
	default:
	}
}

// Close ends the controller in order: nothing new is accepted, every session
// ends with CONTROLLER_GONE, and the heartbeat says that this life is over. It
// waits until all that is in Kafka, ctx ends, or 10 s have passed; the error
// says what could not be written. Sessions whose end could not be written
// learn it from the next process of this name, or from its absence.
func (c *Controller) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, closeWithin)
	defer cancel()
	c.leaving.Store(true)
	err := c.endAll(ctx, ending(linkv1.Reason_REASON_CONTROLLER_GONE, "controller "+c.cfg.Name+" is shutting down"))
	if c.life.Err() == nil {
		if lerr := c.leave(ctx); err == nil {
			err = lerr
		}
		select {
		case <-c.presence.quiet(): // news: not worth an error
		case <-ctx.Done():
		}
	}
	c.end(errLeft)
	<-c.done
	return err
}

// closeWithin bounds Close.
const closeWithin = 10 * time.Second

// endAll ends every session and waits until their last frames are persisted.
func (c *Controller) endAll(ctx context.Context, why session.Ending) error {
	for _, p := range c.partitions() {
		for _, s := range p.all() {
			s.CloseWithReason(why)
		}
	}
	for c.held.Load() > 0 {
		select {
		case <-c.empty:
		case <-ctx.Done():
			return fmt.Errorf("controller: the end of %d sessions is not in Kafka yet: %w", c.held.Load(), context.Cause(ctx))
		case <-c.life.Done():
			return c.Err()
		}
	}
	return nil
}

// Kill stops the controller at once, as if its process had died: nothing more
// is written. For tests and demonstrations.
func (c *Controller) Kill() {
	c.end(errLeft)
	<-c.done
}

// stop tears everything down once life has ended.
func (c *Controller) stop() {
	<-c.life.Done()
	c.stopping.Store(true)
	c.wg.Wait()
	// Nothing comes in once the client is closed; only then does every
	// application learn that nothing will.
	if err := c.client.Close(); err != nil {
		c.log.Warn("closing Kafka", "err", err)
	}
	why := "controller " + c.cfg.Name + " has stopped"
	if err := c.Err(); err != nil {
		why = err.Error()
	}
	for _, p := range c.partitions() {
		for _, s := range p.all() {
			s.abandon(ending(linkv1.Reason_REASON_CONTROLLER_GONE, why))
		}
	}
	close(c.done)
}
