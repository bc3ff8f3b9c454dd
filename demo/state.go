package demo

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moorage-dev/moorage/controller"
	"github.com/moorage-dev/moorage/proto/envelope"
	"github.com/moorage-dev/moorage/session"
)

// A State is where one side of a session stands, in the words of
// docs/protocol.md.
type State string

// The states of the agent side, and of the controller side.
const (
	Opening    State = "opening"     // no Welcome was ever received
	Attached   State = "attached"    // frames flow
	HalfClosed State = "half-closed" // attached, and one side has written its last
	Detached   State = "detached"    // no stream
	Attaching  State = "attaching"   // a resume is not answered yet
	Closing    State = "closing"     // CLOSE was written, and its answer is awaited

	CtlOpening  State = "c:opening"  // the application has not accepted yet
	CtlAttached State = "c:attached" // a gateway holds the session
	CtlDetached State = "c:detached" // none does
	CtlClosing  State = "c:closing"  // the ending of record is not in Kafka yet
)

// States lists them in the order of a session's life.
var States = []State{
	Opening, Attached, HalfClosed, Detached, Attaching, Closing,
	CtlOpening, CtlAttached, CtlDetached, CtlClosing,
}

// state returns where the agent's side stands; "": it has no session.
func (a *agent) state() State {
	a.mu.Lock()
	s, closing, half := a.session, a.closing, a.half
	opening := a.opening
	a.mu.Unlock()
	if s == nil {
		if opening {
			return Opening
		}
		return ""
	}
	switch st := s.State(); {
	case st == session.AgentEnded:
		return ""
	case closing:
		return Closing
	case st == session.Attaching:
		return Attaching
	case st != session.AgentAttached:
		return Detached
	case half:
		return HalfClosed
	}
	return Attached
}

// at returns the gateway that holds the agent's session, or did last, or is
// asked to.
func (a *agent) at() string {
	a.mu.Lock()
	s, dialed := a.session, a.dialed
	a.mu.Unlock()
	if s != nil {
		if gateway, _, _, _ := s.Status(); gateway != "" {
			return gateway
		}
	}
	return dialed
}

// id returns the session's id; false: there is no session.
func (a *agent) id() (id envelope.SessionID, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.session == nil {
		return id, false
	}
	return a.session.ID(), true
}

// across returns where the controller side's end of the session stands; "":
// it knows of none.
func (a *agent) across(all []controller.Info) State {
	id, ok := a.id()
	i := slices.IndexFunc(all, func(i controller.Info) bool { return i.ID == id })
	if !ok || i < 0 {
		// The agent side may not know yet that it has one.
		i = slices.IndexFunc(all, func(i controller.Info) bool { return !ok && i.Agent == a.name && i.State == session.Opening })
		if i < 0 {
			return ""
		}
	}
	switch info := all[i]; {
	case info.State == session.Opening:
		return CtlOpening
	case info.State == session.Closing:
		return CtlClosing
	case info.State == session.Over:
		return ""
	case info.Attached:
		return CtlAttached
	}
	return CtlDetached
}

// sessions returns the sessions that the controller side holds now.
func (w *World) sessions() []controller.Info {
	b := w.brain()
	if b == nil {
		return nil
	}
	return b.Sessions()
}

// FaultTable tells how often each kind of fault struck a session in each state.
func FaultTable(states map[FaultKind]map[State]int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-20s", "fault")
	for _, s := range States {
		fmt.Fprintf(&b, "%12s", s)
	}
	for _, k := range All {
		if row, ok := states[k]; ok {
			fmt.Fprintf(&b, "\n%-20s", k)
			for _, s := range States {
				fmt.Fprintf(&b, "%12d", row[s])
			}
		}
	}
	return b.String() + "\n"
}
