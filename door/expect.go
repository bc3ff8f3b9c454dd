package door

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

const (
	// expectFor bounds the asking ahead. An agent that has come meanwhile asks
	// for itself.
	expectFor = 10 * time.Second
	// spareFor is how long a session waits for the first request. Then it is
	// closed: web servers close what stays silent.
	spareFor = 3 * time.Second
)

// Expect makes ready for an agent that is being started: it asks for what is
// known of the controller, and so connects to whoever knows; with page it also
// opens the session over which the agent's file will be asked for. Java takes
// longer to begin than all of that.
//
// Nothing depends on it: what cannot be had now is had when the agent comes.
func (d *Door) Expect(ctx context.Context, controller string, page bool) {
	ctx, cancel := context.WithTimeout(ctx, expectFor)
	defer cancel()
	now, err := d.cfg.Backend.Describe(ctx, controller)
	if err != nil || now.Jenkins == nil {
		return
	}
	d.known.Store(controller, now)
	if !page {
		return
	}
	r := Request{Controller: controller, Kind: linkv1.ServiceKind_SERVICE_KIND_HTTP, Remoting: &linkv1.Remoting{}}
	leave, err := d.admit(ctx, &r)
	if err != nil {
		return
	}
	s, err := d.cfg.Backend.Open(ctx, r)
	if err != nil {
		leave()
		return
	}
	if err := s.Accepted(ctx); err != nil {
		s.Abort(err)
		leave()
		return
	}
	d.web.spare.keep(controller, d.enter(s, leave))
}

// A spare is a session with a controller's HTTP port that nothing was asked
// over yet; one at most.
type spare struct {
	mu         sync.Mutex // guards the following
	controller string
	session    Session // nil: there is none
	late       *time.Timer
}

func (s *spare) keep(controller string, session Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropLocked()
	s.controller, s.session = controller, session
	s.late = time.AfterFunc(spareFor, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.session == session {
			s.dropLocked()
		}
	})
}

// take returns the session, if there is one with the controller that lives.
func (s *spare) take(controller string) Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == nil || s.controller != controller {
		return nil
	}
	select {
	case <-s.session.Done():
		s.dropLocked()
		return nil
	default:
	}
	session := s.session
	s.session = nil
	s.late.Stop()
	return session
}

func (s *spare) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropLocked()
}

func (s *spare) dropLocked() {
	if s.session == nil {
		return
	}
	s.late.Stop()
	_ = s.session.Close() // nothing was said
	s.session = nil
}

// A willing transport asks again when it was the spare that failed: a
// controller may close it just as it is taken, which is no answer.
type willing struct{ http.RoundTripper }

func (w willing) RoundTrip(r *http.Request) (*http.Response, error) {
	spared := false
	ctx := httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		c, ok := i.Conn.(sessionConn)
		spared = ok && c.spare && !i.Reused
	}})
	resp, err := w.RoundTripper.RoundTrip(r.WithContext(ctx))
	if err != nil && spared && r.Context().Err() == nil {
		return w.RoundTripper.RoundTrip(r)
	}
	return resp, err
}
