package door

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

// errHeld reports that a controller stayed away for as long as an agent is held.
var errHeld = errors.New("door: held for too long")

// What an agent is held for, where no error tells.
var (
	errNoAnswer = errors.New("door: no answer yet")
	errNoPlace  = errors.New("door: no place for another session")
	errCrowd    = errors.New("door: more sessions at once than may be opened in a second")
)

// describe returns what is known of a controller. While nothing is, it waits:
// up to Config.Hold. What was once known it returns at once and for ever,
// whatever happens to the backend.
func (d *Door) describe(ctx context.Context, controller string) (Description, error) {
	last, known := d.known.Load(controller)
	if known {
		brief, cancel := context.WithTimeout(ctx, lookTimeout)
		defer cancel()
		now, err := d.cfg.Backend.Describe(brief, controller)
		if err != nil || now.Jenkins == nil {
			return last.(Description), nil
		}
		d.known.Store(controller, now)
		return now, nil
	}
	var found Description
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Hold)
	defer cancel()
	err := d.hold(ctx, []any{"controller", controller}, func(ctx context.Context) error {
		now, err := d.cfg.Backend.Describe(ctx, controller)
		if err == nil && now.Jenkins == nil {
			err = fmt.Errorf("door: nothing known yet of controller %q", controller)
		}
		found = now
		return err
	})
	if err != nil {
		return Description{}, err
	}
	d.known.Store(controller, found) // as many as are configured, for route knows no others
	return found, nil
}

// open opens a session and waits until the controller side has accepted it.
// While that cannot be, the agent is held: up to Config.Hold. The caller
// closes the session, and sees to it that ctx ends when the agent leaves.
func (d *Door) open(ctx context.Context, r Request) (Session, error) {
	if r.Remoting == nil {
		r.Remoting = new(linkv1.Remoting)
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Hold)
	defer cancel()
	leave, err := d.admit(ctx, &r)
	if err != nil {
		return nil, err
	}
	var opened Session
	err = d.hold(ctx, whose(&r), func(ctx context.Context) error {
		s, err := d.cfg.Backend.Open(ctx, r)
		if err != nil {
			return err
		}
		r.early.send(s)
		if err := s.Accepted(ctx); err != nil {
			s.Abort(err)
			return err
		}
		opened = s
		return nil
	})
	if err != nil {
		leave()
		return nil, err
	}
	return d.enter(opened, leave), nil
}

// hold tries until it works, is refused for good, or ctx ends.
// The log says who waits, and what for: nothing else shows that as long as there
// is no session.
func (d *Door) hold(ctx context.Context, who []any, try func(context.Context) error) error {
	began := time.Now()
	h := d.holding(who)
	defer h.end()
	for pause := retryFirst; ; pause = min(2*pause, retryMost) {
		slow := time.AfterFunc(heldAfter, func() { h.begin(errNoAnswer) })
		err := try(ctx)
		slow.Stop()
		if err == nil || refused(err) {
			return err
		}
		if errors.Is(err, ErrUnknownController) && time.Since(began) >= unknownWait {
			return err
		}
		h.begin(err)
		sleep(ctx, pause)
		switch {
		case errors.Is(ctx.Err(), context.DeadlineExceeded):
			return fmt.Errorf("%w: %w", errHeld, err)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
	}
}

// A holding counts one agent that is held, from when that shows.
type holding struct {
	m    *metrics
	log  *slog.Logger
	mu   sync.Mutex // guards the following: begin may come from a timer
	on   bool
	over bool
}

func (d *Door) holding(who []any) *holding { return &holding{m: d.m, log: d.log.With(who...)} }

// whose says in the log for whom a session is to be opened.
func whose(r *Request) []any {
	return []any{"controller", r.Controller, "agent", r.Remoting.GetAgent(), "remote", r.Remoting.GetAddress()}
}

func (h *holding) begin(why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.on || h.over {
		return
	}
	h.on = true
	h.m.held.Inc()
	h.m.heldTotal.Inc()
	h.log.Info("held", "why", why)
}

func (h *holding) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
	if h.on {
		h.m.held.Dec()
	}
}

// sleep returns after t, or when ctx ends.
func sleep(ctx context.Context, t time.Duration) {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// refused reports whether a session's ending is the controller side's no, and
// not its absence: what another try would meet again. So is what breaks the
// rules of sessions.
func refused(err error) bool {
	if errors.Is(err, session.ErrViolation) {
		return true
	}
	ended, ok := errors.AsType[*session.EndedError](err)
	if !ok {
		return false
	}
	switch ended.Reason {
	case linkv1.Reason_REASON_REFUSED, linkv1.Reason_REASON_OPERATOR, linkv1.Reason_REASON_REPLACED,
		linkv1.Reason_REASON_PROTOCOL_ERROR, linkv1.Reason_REASON_OK, linkv1.Reason_REASON_PEER_RESET:
		return true
	}
	return false
}
