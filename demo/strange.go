package demo

import (
	"context"
	"time"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/proto/envelope"
)

// strange carries out a fault of Strange.
func (w *World) strange(f Fault) {
	a := w.agent(f.Target)
	switch f.Kind {
	case ProduceLost:
		a = w.agent(f.Target / 2)
		w.struck(f.Kind, 1, a)
		lose := w.broker.ProduceLost(w.updown(f.Target), w.partition(a))
		w.restart.Go(func() {
			w.sleep(f.For)
			lose()
		})
	case CloseRefused:
		refused := w.broker.ProduceRefusedOf(w.topics.Down, 1, func(value []byte) bool {
			_, kind, ok := envelope.Session(value)
			return ok && kind == envelope.Close
		})
		w.struck(f.Kind, 1, w.agents...)
		w.restart.Go(func() {
			w.sleep(f.For)
			refused.Remove()
		})
	case KafkaStalled:
		w.struck(f.Kind, 1, w.agents...)
		up, down := w.broker.TopicStalled(w.topics.Up), w.broker.TopicStalled(w.topics.Down)
		w.restart.Go(func() {
			w.sleep(f.For)
			up.Remove()
			down.Remove()
		})
	case AgentFrozen:
		w.struck(f.Kind, 1, a)
		w.freeze(a.host(), min(f.For, 2*w.cfg.Heartbeat)) // not so long that its stream is given up
	case RecordLate:
		w.late(a)
	case TicketForged:
		w.restart.Go(w.forge)
	case StreamTwice:
		w.restart.Go(w.attachTwice)
	case NewsRefused:
		w.restart.Go(w.refuseNews)
	case PositionForeign:
		w.restart.Go(w.misplace)
	}
}

// lateWithin bounds the writing of a late record.
const lateWithin = 5 * time.Second

// late writes OPENs of the agent's partition again whose sessions are over.
func (w *World) late(a *agent) {
	held := make(map[envelope.SessionID]bool)
	for _, s := range w.sessions() {
		held[s.ID] = true
	}
	over := func(value []byte) bool {
		id, kind, ok := envelope.Session(value)
		w.mu.Lock()
		defer w.mu.Unlock()
		return ok && kind == envelope.Open && !held[id] && w.known[check.Session(id.String())]
	}
	ctx, cancel := context.WithTimeout(w.ctx, lateWithin)
	defer cancel()
	n, err := w.broker.WriteAgain(ctx, w.net.Dialer("thawed"), w.topics.Up, w.partition(a), over)
	if err != nil {
		w.complain("writing late records: %v", err)
	}
	w.struck(RecordLate, n, a)
}
