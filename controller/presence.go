package controller

import (
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	logv1 "github.com/moorage-dev/moorage/proto/moorage/log/v1"
	"github.com/moorage-dev/moorage/session"
)

const (
	// showEvery is how often one session's presence is written at most.
	showEvery = time.Second
	// keepEnded is how long an ended session stays visible.
	keepEnded = 5 * time.Minute
	// maxEnded bounds the ended sessions that stay visible.
	maxEnded = 10_000
	// maxShowing bounds the presence records on their way to Kafka. While it
	// is reached, changes are joined, so nothing grows.
	maxShowing = 1_000
	// maxMarked is how many sessions may wait to be written before those among
	// them that have ended are passed over.
	maxMarked = 5_000
)

// presence is what operators see of sessions: one record each in a compacted
// topic. It is news, not truth: written soon, joined when there is much of it,
// and never waited for.
type presence struct {
	// put writes one record; nil removes the key. done may be called from
	// another goroutine; put never blocks.
	put  func(id envelope.SessionID, value []byte, done func(err error))
	stir func() // there is something to flush

	mu      sync.Mutex // guards what follows
	fresh   []*Session // never written
	waiting []*Session // changed since they were written
	showing int        // records under way
	ended   []epitaph  // to be removed, oldest first
	idle    chan struct{}

	heirlooms []heirloom // of older incarnations, not yet rewritten
}

// An heirloom is the presence of a session that ended with its incarnation.
type heirloom struct {
	epitaph
	value []byte // to be written instead
}

// An epitaph is an ended session that is still visible.
type epitaph struct {
	id    envelope.SessionID
	until time.Time
}

// mark notes that a session's presence has changed. The session's lock is held.
func (p *presence) mark(s *Session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.past = s.past || s.buried
	if s.waiting {
		return
	}
	s.waiting = true
	if s.shown.IsZero() {
		p.fresh = append(p.fresh, s)
		p.stir()
		return
	}
	p.waiting = append(p.waiting, s)
}

// flush writes what may be written now: new sessions whenever it is called,
// the rest when all is true, once per showEvery.
func (p *presence) flush(now time.Time, all bool) {
	p.show(p.due(now, &p.fresh))
	if !all {
		return
	}
	p.show(p.due(now, &p.waiting))
	for _, h := range p.inherited() {
		p.put(h.id, h.value, func(err error) { p.handed(h, err) })
	}
	for _, id := range p.expired(now) {
		p.put(id, nil, func(err error) { p.removed(id, err) })
	}
}

func (p *presence) show(sessions []*Session) {
	for _, s := range sessions {
		id, value, ended := s.presence()
		p.put(id, value, func(err error) { p.landed(s, ended, err) })
	}
}

// due takes the sessions out of a list whose turn it is.
func (p *presence) due(now time.Time, list *[]*Session) (due []*Session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	kept := (*list)[:0]
	for _, s := range *list {
		if p.showing >= maxShowing || now.Sub(s.shown) < showEvery {
			if s.past && len(kept) >= maxMarked {
				s.waiting = false // Kafka takes no news, and this is old
				continue
			}
			kept = append(kept, s)
			continue
		}
		s.waiting, s.shown = false, now
		p.showing++
		due = append(due, s)
	}
	clear((*list)[len(kept):])
	*list = kept
	return due
}

// expired takes out of the list whose time to be seen is over.
func (p *presence) expired(now time.Time) (expired []envelope.SessionID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for n < len(p.ended) && p.showing < maxShowing && (len(p.ended)-n > maxEnded || !now.Before(p.ended[n].until)) {
		expired = append(expired, p.ended[n].id)
		p.showing++
		n++
	}
	p.ended = p.ended[n:]
	return expired
}

// landed takes the outcome of a session's record.
func (p *presence) landed(s *Session, ended bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.doneLocked()
	switch {
	case err != nil && !s.waiting:
		s.waiting = true
		p.waiting = append(p.waiting, s)
	case err == nil && ended:
		p.ended = append(p.ended, epitaph{s.id, time.Now().Add(keepEnded)})
	}
}

// removed takes the outcome of a tombstone.
func (p *presence) removed(id envelope.SessionID, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.doneLocked()
	if err != nil {
		p.ended = append(p.ended, epitaph{id, time.Now()})
	}
}

func (p *presence) doneLocked() {
	p.showing--
	p.restLocked()
}

// restLocked lets those go on who wait until everything has been written.
func (p *presence) restLocked() {
	if p.idle != nil && p.showing+len(p.fresh)+len(p.waiting)+len(p.heirlooms) == 0 {
		close(p.idle)
		p.idle = nil
	}
}

// quiet returns a channel that is closed when everything has been written.
func (p *presence) quiet() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.idle == nil {
		p.idle = make(chan struct{})
	}
	idle := p.idle
	p.restLocked()
	return idle
}

// inherit takes over what an older incarnation has left to be seen. A nil
// value leaves the record as it is until its time is over.
func (p *presence) inherit(h heirloom) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h.value == nil {
		p.ended = append(p.ended, h.epitaph)
		return
	}
	p.heirlooms = append(p.heirlooms, h)
}

// inherited takes the heirlooms out of the list that may be written now.
func (p *presence) inherited() []heirloom {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := min(len(p.heirlooms), maxShowing-min(p.showing, maxShowing))
	now := p.heirlooms[:n]
	p.heirlooms = p.heirlooms[n:]
	p.showing += n
	return now
}

// handed takes the outcome of an heirloom's record.
func (p *presence) handed(h heirloom, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.doneLocked()
	if err != nil {
		p.heirlooms = append(p.heirlooms, h)
		return
	}
	p.ended = append(p.ended, h.epitaph)
}

// presence returns the session's record, and whether it is its last.
func (s *Session) presence() (id envelope.SessionID, value []byte, ended bool) {
	s.Lock()
	defer s.Unlock()
	open := s.role.Open()
	up, down := s.role.Bytes()
	s.told = up + down
	m := &logv1.SessionPresence{
		SessionId: s.id[:], Agent: open.GetAgent(), Labels: open.GetLabels(), Kind: open.GetKind(), Service: open.GetService(),
		Gateway: s.seen.gateway.Name, Attempt: s.seen.attempt, Partition: s.p.index,
		Incarnation: session.IncarnationMessage(s.c.incarnation), OpenedMs: s.opened.UnixMilli(),
		Protocol: open.GetRemoting().GetProtocol(), LegacyAgent: open.GetRemoting().GetAgent(),
		RemoteAddress: s.role.Verified().GetRemoteAddress(), UpBytes: up, DownBytes: down, State: logv1.SessionState_SESSION_STATE_ATTACHED,
	}
	if open.GetKind() == linkv1.ServiceKind_SERVICE_KIND_WEBSOCKET {
		m.Protocol = "WebSocket"
	}
	if !s.seen.attached {
		m.State = logv1.SessionState_SESSION_STATE_DETACHED
	}
	m.Waits = s.waits
	if !s.seen.attached && m.Waits == "" {
		m.Waits = "its agent to come back, " + s.grace.String() + " at most"
	}
	if s.buried {
		why, _ := s.role.Ended()
		m.State, m.Reason, m.Text, m.Waits = logv1.SessionState_SESSION_STATE_ENDED, why.Reason, why.Text, ""
	}
	if !s.seen.since.IsZero() {
		m.SinceMs = s.seen.since.UnixMilli()
	}
	value, err := proto.Marshal(m)
	if err != nil {
		// Only text that is not UTF-8 can do this; OPEN was valid, so it is the ending's.
		m.Text = ""
		value, _ = proto.Marshal(m)
	}
	return s.id, value, s.buried
}
