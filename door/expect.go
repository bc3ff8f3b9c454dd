package door

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"sync"
	"time"
)

const (
	// expectFor bounds the asking ahead. An agent that has come meanwhile asks
	// for itself.
	expectFor = 10 * time.Second
	// freshFor is how old an answer may be that was asked for ahead: about what
	// Java takes to begin on a slow host.
	freshFor = 10 * time.Second
)

// Expect makes ready for an agent that is being started: it asks for what is
// known of the controller, and so connects to whoever knows; and then, as the
// agent will, for its file, the address of one at this door; "": it will ask
// for none. Java takes longer to begin than all of that.
//
// Nothing depends on it: what cannot be had now is had when the agent comes.
func (d *Door) Expect(ctx context.Context, controller, file string) {
	ctx, cancel := context.WithTimeout(ctx, expectFor)
	defer cancel()
	now, err := d.cfg.Backend.Describe(ctx, controller)
	if err != nil || now.Jenkins == nil {
		return
	}
	d.known.Store(controller, now)
	if file == "" {
		return
	}
	d.web.ahead.drop() // of an agent that never asked
	if a := d.web.askAhead(ctx, file); a != nil {
		d.web.ahead.keep(a)
	}
}

// aheadKey is of the context in which something is asked for ahead. A transport
// opens connections in contexts with the values of their request's, and without
// its end.
type aheadKey struct{}

// isAhead reports that nobody has asked yet: what cannot be had at once is not
// waited for, and not refused to anybody.
func isAhead(ctx context.Context) bool { return ctx.Value(aheadKey{}) != nil }

// askAhead asks for a file as an agent would. nil: it is not to be had.
func (w *web) askAhead(ctx context.Context, file string) *answer {
	r, err := http.NewRequestWithContext(context.WithValue(ctx, aheadKey{}, ctx), http.MethodGet, file, nil)
	if err != nil {
		return nil
	}
	a := &answer{host: r.Host, uri: r.URL.RequestURI(), head: make(http.Header)}
	defer func() {
		if why := recover(); why != nil && why != http.ErrAbortHandler { // which says that there is no answer
			panic(why)
		}
	}()
	w.ServeHTTP(a, r)
	if a.status != http.StatusOK || a.cut {
		return nil
	}
	return a
}

// An answer is the whole answer to a request that no agent has made yet. It is
// its own http.ResponseWriter.
type answer struct {
	host, uri string // what was asked for
	head      http.Header
	status    int // 0: none yet
	body      []byte
	cut       bool // there was more than a file may have
}

func (a *answer) Header() http.Header { return a.head }

func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= http.StatusOK {
		a.status = status
	}
}

func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	if len(a.body)+len(p) > largestJNLP {
		a.cut = true
		return 0, errors.New("door: more than is kept")
	}
	a.body = append(a.body, p...)
	return len(p), nil
}

// An ahead keeps one answer for an agent that is about to ask.
type ahead struct {
	mu     sync.Mutex // guards the following
	answer *answer    // nil: there is none
	late   *time.Timer
}

func (h *ahead) keep(a *answer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dropLocked()
	h.answer = a
	h.late = time.AfterFunc(freshFor, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.answer == a {
			h.dropLocked()
		}
	})
}

func (h *ahead) drop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dropLocked()
}

func (h *ahead) dropLocked() {
	if h.answer != nil {
		h.late.Stop()
		h.answer = nil
	}
}

// take returns the answer, once, if r asks for nothing else.
func (h *ahead) take(r *http.Request) *answer {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.answer
	if a == nil || r.Method != http.MethodGet || r.Host != a.host || r.URL.RequestURI() != a.uri || !plain(r.Header) {
		return nil
	}
	h.dropLocked()
	return a
}

// plain reports that a head says nothing by which an answer could be another
// than to one that says nothing: no credentials, no conditions.
func plain(head http.Header) bool {
	for name := range head {
		switch name {
		case "Accept", "Cache-Control", "Connection", "Pragma", "User-Agent":
		default:
			return false
		}
	}
	return true
}

// fromAhead answers a request whose answer is there already. False: it is not.
func (w *web) fromAhead(rw http.ResponseWriter, r *http.Request) bool {
	a := w.ahead.take(r)
	if a == nil {
		return false
	}
	maps.Copy(rw.Header(), a.head)
	rw.WriteHeader(a.status)
	_, _ = rw.Write(a.body) // an error means that the agent has left
	return true
}

// openAhead opens a session for what nobody waits for yet: it tries once, as
// long as that is asked for.
func (d *Door) openAhead(ctx context.Context, r Request) (Session, error) {
	ctx = ctx.Value(aheadKey{}).(context.Context)
	leave, err := d.admit(ctx, &r)
	if err != nil {
		return nil, err
	}
	s, err := d.cfg.Backend.Open(ctx, r)
	if err != nil {
		leave()
		return nil, err
	}
	if err := s.Accepted(ctx); err != nil {
		s.Abort(err)
		leave()
		return nil, err
	}
	return d.enter(s, leave), nil
}
