package demo

import (
	"errors"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

// The faults of this file are struck by an agent by hand. Each begins with a
// session of its own; where that cannot be had, other faults were in the way.

// forge resumes a session with a ticket that no gateway made. Whoever gets in
// speaks in the agent's name.
func (w *World) forge() {
	h, err := w.openHand()
	if err != nil {
		return
	}
	w.struck(TicketForged, 1, w.agents...)
	hello := h.resume()
	hello.Ticket = append([]byte(nil), hello.Ticket...)
	hello.Ticket[len(hello.Ticket)-1]++
	thief, err := w.attachHand(hello, w.node(1).addr)
	if err != nil {
		h.leave()
		return
	}
	w.complain("a session was resumed with a forged ticket")
	thief.utter(opening+1, "words that the agent never said")
	thief.wait(func() bool { return thief.delivered > opening })
	thief.close()
	h.vanish()
}

// attachTwice resumes a session elsewhere while its first stream lives on, and
// takes messages from both: what comes by either is the session's.
func (w *World) attachTwice() {
	h, err := w.openHand()
	if err != nil {
		return
	}
	second, err := w.attachHand(h.resume(), w.node(1).addr)
	if err != nil {
		h.vanish()
		return
	}
	w.struck(StreamTwice, 1, w.agents...)
	second.say(ask)
	answered := second.wait(func() bool { return second.accepted > opening })
	// The answer stands behind the newer stream's attach in the log of both
	// gateways, so the older stream is cut before it.
	served := h.wait(func() bool { return h.accepted > opening })
	if served || answered && !isClosed(h.over) {
		w.complain("a stream is served on while a newer one of its session is attached")
	}
	h.close()
	second.leave()
}

// refuseNews has Kafka refuse what tells an agent side that a message was
// delivered. It must be told all the same, once Kafka takes it: this agent has
// room for one message that is not, and hands the next one over meanwhile.
func (w *World) refuseNews() {
	h, err := w.openHand()
	if err != nil {
		return
	}
	id := h.hello.ID()
	refused := w.broker.ProduceRefusedOf(w.topics.Down, 1, func(value []byte) bool {
		of, kind, ok := envelope.Session(value)
		return ok && of == id && kind == envelope.Delivered
	})
	defer refused.Remove()
	const next = "and now?"
	h.say("heard?")
	seq := h.announce(next)
	w.struck(NewsRefused, 1, w.agents...)
	switch told := h.wait(func() bool { return h.delivered > opening }); {
	case told:
		h.utter(seq, next)
		h.leave()
	case refused.Hits() == 0:
		h.vanish()
	default: // it waits on, and nobody brings what it holds
		w.complain("that a message was delivered is never told after Kafka refused it once")
		h.close()
	}
}

// misplace resumes a session at a position in a log that is not there. Whatever
// stands at that offset now, what the agent missed cannot be told from it, so
// the session must end with DATA_LOSS. Nothing is lost here if it goes on: that
// a log is another one is looked at so that nobody has to rely on luck.
func (w *World) misplace() {
	h, err := w.openHand()
	if err != nil {
		return
	}
	h.close()
	hello := h.resume()
	hello.Start.Topic[0]++
	hello.Position = hello.Start
	w.check.Expect(h.id, session.ReasonName(linkv1.Reason_REASON_DATA_LOSS))
	w.struck(PositionForeign, 1, w.agents...)
	second, err := w.attachHand(hello, w.node(1).addr)
	if _, over := errors.AsType[*session.EndedError](err); over {
		w.ended(h.id, check.Agent, err)
		return
	}
	if err != nil {
		h.vanish()
		return
	}
	var believed bool
	second.wait(func() bool {
		believed = second.accepted >= opening
		return believed || second.ending != nil
	})
	if believed {
		w.complain("a position in a log that is not there was believed")
		second.leave()
		return
	}
	second.close() // so that nobody else looks at ending
	if second.ending != nil {
		second.told()
	} else { // something else was in the way
		second.vanish()
	}
}
