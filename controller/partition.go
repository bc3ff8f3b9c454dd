package controller

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

// A queue takes records for one down partition; a *bridge.Queue is one.
type queue interface {
	Put(flow envelope.SessionID, r *envelope.Record, done func(offset int64, err error))
	Full() bool
}

// A partition is one index of the up and the down topic, and the sessions on
// it. Its records are taken by one goroutine at a time, the follower's.
type partition struct {
	c        *Controller
	index    int32
	down     queue
	follower *bridge.Follower          // of the up partition; watch owns it
	stalled  atomic.Pointer[time.Time] // when a gateway last said that it can't write here; nil: never

	mu       sync.Mutex // guards what follows
	sessions map[envelope.SessionID]*Session
	registry *session.Registry
}

func newPartition(c *Controller, index int32, down queue) *partition {
	return &partition{
		c: c, index: index, down: down,
		sessions: make(map[envelope.SessionID]*Session), registry: session.NewRegistry(c.incarnation),
	}
}

// take is given every record of the up partition, in order.
func (p *partition) take(m bridge.Message) {
	rec, err := envelope.Parse(m.Value)
	if err != nil {
		p.c.unreadable(p.c.topics.up.Name, p.index, m.Offset, err)
		return
	}
	p.c.counts.records.Add(1)
	now := p.c.clock.now()
	if rec.Kind == envelope.Lease {
		p.lease(now, m.Offset, &rec)
		return
	}
	if s := p.find(rec.Session); s == nil || !s.take(now, &rec) {
		p.unknown(now, &rec)
	}
}

func (p *partition) find(id envelope.SessionID) *Session {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sessions[id]
}

// all returns the sessions held now.
func (p *partition) all() []*Session {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*Session, 0, len(p.sessions))
	for _, s := range p.sessions {
		all = append(all, s)
	}
	return all
}

// lease takes a gateway's word for all the sessions that are attached to it.
func (p *partition) lease(now time.Time, offset int64, rec *envelope.Record) {
	gateway, entries, err := envelope.ParseLease(rec.Payload)
	if err != nil {
		p.c.unreadable(p.c.topics.up.Name, p.index, offset, err)
		return
	}
	for i := range entries {
		e := &entries[i]
		if s := p.find(e.Session); s != nil && s.lease(now, gateway, e) {
			continue
		}
		p.mu.Lock()
		answer := p.registry.UnknownLease(now, e)
		p.mu.Unlock()
		p.answer(answer)
	}
}

// unknown takes a record of a session that is not held.
func (p *partition) unknown(now time.Time, rec *envelope.Record) {
	p.mu.Lock()
	open, answer := p.registry.Unknown(now, rec)
	p.mu.Unlock()
	p.answer(answer)
	if open {
		p.open(now, rec)
	}
}

// answer produces an ENDED, once: what becomes of it does not matter, for it
// is asked for again.
func (p *partition) answer(rec *envelope.Record) {
	if rec != nil && !p.c.stopping.Load() {
		p.c.counts.answered.Add(1)
		p.down.Put(rec.Session, rec, func(int64, error) {})
	}
}

// open begins the session that an OPEN asks for, if only to reject it.
func (p *partition) open(now time.Time, rec *envelope.Record) {
	c := p.c
	if c.held.Load() >= 2*int64(c.cfg.SessionLimit) {
		// Not even rejections get through to Kafka. The gateway's lease will
		// ask for this session again, and the answer is UNKNOWN_SESSION.
		c.counts.rejected.Add(1)
		return
	}
	role, err := session.NewController(now, rec, c.cfg.Window, c.cfg.Grace)
	if err == nil && len(rec.Payload) > maxOpen {
		err = fmt.Errorf("controller: OPEN of %d bytes, at most %d", len(rec.Payload), maxOpen)
	}
	if err != nil {
		c.log.Warn("unreadable OPEN", "session", rec.Session, "err", err)
		p.answer(&envelope.Record{
			Kind: envelope.Ended, Session: rec.Session, Incarnation: rec.Incarnation, Attempt: rec.Attempt,
			Payload: session.MarshalEnding(session.Ending{Reason: linkv1.Reason_REASON_PROTOCOL_ERROR, Text: "unreadable OPEN, or one of more than 16 KiB"}),
		})
		return
	}
	refusal, refused := p.refusal(role)
	s := newSession(p, role)
	c.held.Add(1)
	p.mu.Lock()
	p.sessions[s.id] = s
	p.mu.Unlock()
	s.begin(now)
	if !refused {
		c.counts.opened.Add(1)
		select {
		case c.opened <- s:
			return
		default:
			refusal = ending(linkv1.Reason_REASON_REFUSED, "the controller has too many sessions waiting to be accepted")
		}
	}
	c.counts.rejected.Add(1)
	s.Reject(refusal)
}

// refusal says why a session is not even shown to the application.
func (p *partition) refusal(role *session.Controller) (session.Ending, bool) {
	c, open := p.c, role.Open()
	start, err := session.ParsePosition(open.GetStartPosition())
	switch {
	case c.leaving.Load():
		return ending(linkv1.Reason_REASON_CONTROLLER_GONE, "controller "+c.cfg.Name+" is shutting down"), true
	case c.held.Load() >= int64(c.cfg.SessionLimit):
		return ending(linkv1.Reason_REASON_REFUSED, "the controller holds as many sessions as it may"), true
	case err != nil || start.Topic != c.topics.down.ID || start.Partition != p.index:
		return ending(linkv1.Reason_REASON_DATA_LOSS, "the session starts in another log than the controller writes"), true
	case open.GetDownWindow() > session.MaxWindow:
		return ending(linkv1.Reason_REASON_REFUSED, "down window too large"), true
	}
	return session.Ending{}, false
}

// stalls notes that at now a gateway could not write here. The sessions look
// at it before anything of theirs runs out.
func (p *partition) stalls(now time.Time, gw envelope.Gateway) {
	last := p.stalled.Swap(&now)
	if last == nil || now.Sub(*last) > session.LeaseFresh {
		p.c.log.Warn("up partition can't be written, grace stands", "topic", p.c.topics.up.Name, "partition", p.index, "gateway", gw.Name)
	}
}

// gatewayGone tells every session that a gateway process is dead.
func (p *partition) gatewayGone(now time.Time, gateway envelope.Gateway) {
	for _, s := range p.all() {
		s.gatewayGone(now, gateway)
	}
}

// tick lets the memory of ended sessions fade.
func (p *partition) tick(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.registry.Tick(now)
}

func ending(reason linkv1.Reason, text string) session.Ending {
	return session.Ending{Reason: reason, Text: text}
}
