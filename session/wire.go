package session

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

// Limits on what a Hello may carry.
const (
	maxName       = 255
	maxLabels     = 16
	maxLabel      = 256
	maxCredential = 4096
	maxTicket     = 1024
)

// ParseHello checks a Hello that came from outside. Errors wrap ErrViolation.
func ParseHello(m *linkv1.Hello) (Hello, error) {
	var h Hello
	switch {
	case m == nil:
		return h, violation("the first message is not a Hello")
	case m.GetVersion() < 1:
		return h, violation("version %d is not spoken here; %d is", m.GetVersion(), Version)
	case len(m.GetSessionId()) != len(h.Secret):
		return h, violation("session id of %d bytes, want %d", len(m.GetSessionId()), len(h.Secret))
	case len(m.GetAgent()) > maxName:
		return h, violation("agent name of %d bytes, at most %d", len(m.GetAgent()), maxName)
	case m.GetAttempt() == 0:
		return h, violation("attempt 0; attempts count from 1")
	case len(m.GetCredential()) > maxCredential:
		return h, violation("credential of %d bytes, at most %d", len(m.GetCredential()), maxCredential)
	case len(m.GetTicket()) > maxTicket:
		return h, violation("ticket of %d bytes, at most %d", len(m.GetTicket()), maxTicket)
	case len(m.GetLabels()) > maxLabels:
		return h, violation("%d labels, at most %d", len(m.GetLabels()), maxLabels)
	}
	for k, v := range m.GetLabels() {
		if len(k) > maxLabel || len(v) > maxLabel {
			return h, violation("a label longer than %d bytes", maxLabel)
		}
	}
	copy(h.Secret[:], m.GetSessionId())
	h.Agent, h.Controller = m.GetAgent(), m.GetController()
	h.Attempt, h.Credential, h.Labels = m.GetAttempt(), m.GetCredential(), m.GetLabels()
	if m.GetIncarnation() == nil {
		return h, nil
	}
	var err error
	if h.Incarnation, err = ParseIncarnation(m.GetIncarnation()); err != nil {
		return h, err
	}
	if h.Start, err = ParsePosition(m.GetStartPosition()); err != nil {
		return h, fmt.Errorf("start position: %w", err)
	}
	if h.Position, err = ParsePosition(m.GetPosition()); err != nil {
		return h, fmt.Errorf("position: %w", err)
	}
	if h.Start.Topic != h.Position.Topic || h.Start.Partition != h.Position.Partition || h.Position.Offset < h.Start.Offset {
		return h, violation("position %v does not follow the start position %v", h.Position, h.Start)
	}
	h.Ticket = m.GetTicket()
	h.LastDown, h.Delivered, h.Persisted = m.GetLastDownReceived(), m.GetDownDelivered(), m.GetUpPersisted()
	if h.Delivered > h.LastDown {
		return h, violation("delivered %d beyond received %d", h.Delivered, h.LastDown)
	}
	return h, nil
}

// HelloMessage returns h as it goes on the wire.
func HelloMessage(h *Hello) *linkv1.Hello {
	m := &linkv1.Hello{
		Version: Version, SessionId: h.Secret[:], Agent: h.Agent, Controller: h.Controller,
		Attempt: h.Attempt, Credential: h.Credential, Labels: h.Labels,
	}
	if h.Resume() {
		m.Ticket, m.Incarnation = h.Ticket, IncarnationMessage(h.Incarnation)
		m.StartPosition, m.Position = PositionMessage(h.Start), PositionMessage(h.Position)
		m.LastDownReceived, m.DownDelivered, m.UpPersisted = h.LastDown, h.Delivered, h.Persisted
	}
	return m
}

// ParseWelcome checks a Welcome. Errors wrap ErrViolation.
func ParseWelcome(m *linkv1.Welcome) (Welcome, error) {
	var w Welcome
	if m == nil {
		return w, violation("the first message is not a Welcome")
	}
	var err error
	if w.Start, err = ParsePosition(m.GetStartPosition()); err != nil {
		return w, err
	}
	if w.Incarnation, err = ParseIncarnation(m.GetIncarnation()); err != nil {
		return w, err
	}
	w.Ticket = m.GetTicket()
	w.UpWindow, w.MaxFrame = int(m.GetUpWindow()), int(m.GetMaxFrame())
	if w.UpWindow <= 0 || w.MaxFrame <= 0 {
		return w, violation("window of %d bytes, frames of %d", w.UpWindow, w.MaxFrame)
	}
	w.Grace = duration(m.GetGraceMs(), mostGrace)
	w.Heartbeat = max(duration(m.GetHeartbeatIntervalMs(), MostHeartbeat), 100*time.Millisecond)
	w.Persisted, w.Delivered, w.Better = m.GetUpPersisted(), m.GetUpDelivered(), m.GetBetterGateways()
	return w, nil
}

// duration returns so many milliseconds, at most `most`: what is multiplied
// first may overflow.
func duration(ms uint64, most time.Duration) time.Duration {
	return time.Duration(min(ms, uint64(most.Milliseconds()))) * time.Millisecond
}

// WelcomeMessage returns w as it goes on the wire.
func WelcomeMessage(w *Welcome) *linkv1.Welcome {
	return &linkv1.Welcome{
		Version: Version, StartPosition: PositionMessage(w.Start), Incarnation: IncarnationMessage(w.Incarnation),
		Ticket: w.Ticket, UpWindow: uint32(w.UpWindow), MaxFrame: uint32(w.MaxFrame),
		GraceMs: uint64(w.Grace.Milliseconds()), HeartbeatIntervalMs: uint64(w.Heartbeat.Milliseconds()),
		UpPersisted: w.Persisted, UpDelivered: w.Delivered, BetterGateways: w.Better,
	}
}

// ParseFrame reads a frame; the role it is given to judges it.
func ParseFrame(m *linkv1.Frame) Frame {
	kind := envelope.Kind(m.GetKind())
	if int32(kind) != int32(m.GetKind()) {
		kind = 0 // nobody's: a kind is a byte, and 260 is not 4
	}
	return Frame{
		Seq: m.GetSeq(), Kind: kind, Payload: m.GetPayload(),
		Delivered: m.GetDelivered(), Persisted: m.GetPersisted(),
	}
}

// FrameMessage returns f as it goes on the wire; it aliases the payload.
func FrameMessage(f Frame) *linkv1.Frame {
	return &linkv1.Frame{
		Seq: f.Seq, Kind: linkv1.FrameKind(f.Kind), Payload: f.Payload,
		Delivered: f.Delivered, Persisted: f.Persisted,
	}
}

// ParseHeartbeat reads a heartbeat. Errors wrap ErrViolation.
func ParseHeartbeat(m *linkv1.Heartbeat) (Heartbeat, error) {
	h := Heartbeat{
		Persisted: m.GetPersisted(), Delivered: m.GetDelivered(),
		Probe: m.GetProbe(), Ticket: m.GetTicket(), Paused: m.GetPaused(),
	}
	if m.GetPosition() == nil {
		return h, nil
	}
	var err error
	h.Position, err = ParsePosition(m.GetPosition())
	return h, err
}

// HeartbeatMessage returns h as it goes on the wire.
func HeartbeatMessage(h Heartbeat) *linkv1.Heartbeat {
	m := &linkv1.Heartbeat{
		Persisted: h.Persisted, Delivered: h.Delivered, Probe: h.Probe, Ticket: h.Ticket, Paused: h.Paused,
	}
	if h.Position != (envelope.Position{}) {
		m.Position = PositionMessage(h.Position)
	}
	return m
}

// ParseClose reads a Close. A reason this version does not know counts as PROTOCOL_ERROR.
func ParseClose(m *linkv1.Close) Close {
	c := Close{Ending: Ending{Reason: knownReason(m.GetReason()), Text: m.GetText()}}
	if inc, err := ParseIncarnation(m.GetIncarnation()); err == nil {
		c.Incarnation = inc
	}
	return c
}

// CloseMessage returns c as it goes on the wire.
func CloseMessage(c Close) *linkv1.Close {
	m := &linkv1.Close{Reason: c.Reason, Text: c.Text}
	if !c.Incarnation.IsZero() {
		m.Incarnation = IncarnationMessage(c.Incarnation)
	}
	return m
}

// MarshalEnding returns the payload of CLOSE, REJECT and ENDED.
func MarshalEnding(e Ending) []byte {
	b, err := proto.Marshal(&linkv1.Close{Reason: e.Reason, Text: e.Text})
	if err != nil { // only text that is not UTF-8 can do this
		b, _ = proto.Marshal(&linkv1.Close{Reason: e.Reason})
	}
	return b
}

// ParseEnding reads what MarshalEnding wrote; what it cannot read is PROTOCOL_ERROR.
func ParseEnding(b []byte) Ending {
	var m linkv1.Close
	if err := proto.Unmarshal(b, &m); err != nil {
		return Ending{linkv1.Reason_REASON_PROTOCOL_ERROR, "unreadable reason"}
	}
	return Ending{knownReason(m.GetReason()), m.GetText()}
}

func knownReason(r linkv1.Reason) linkv1.Reason {
	if _, ok := linkv1.Reason_name[int32(r)]; !ok || r == linkv1.Reason_REASON_UNSPECIFIED {
		return linkv1.Reason_REASON_PROTOCOL_ERROR
	}
	return r
}

// ParsePosition checks a position. Errors wrap ErrViolation.
func ParsePosition(m *linkv1.Position) (envelope.Position, error) {
	var p envelope.Position
	if len(m.GetTopicId()) != len(p.Topic) || m.GetPartition() < 0 || m.GetOffset() < 0 {
		return p, violation("malformed position")
	}
	copy(p.Topic[:], m.GetTopicId())
	p.Partition, p.Offset = m.GetPartition(), m.GetOffset()
	return p, nil
}

// PositionMessage returns p as it goes on the wire.
func PositionMessage(p envelope.Position) *linkv1.Position {
	return &linkv1.Position{TopicId: p.Topic[:], Partition: p.Partition, Offset: p.Offset}
}

// ParseIncarnation checks an incarnation. Errors wrap ErrViolation.
func ParseIncarnation(m *linkv1.Incarnation) (envelope.Incarnation, error) {
	var i envelope.Incarnation
	if len(m.GetTopicId()) != len(i.Topic) || m.GetOffset() < 0 {
		return i, violation("malformed incarnation")
	}
	copy(i.Topic[:], m.GetTopicId())
	i.Offset = m.GetOffset()
	if i.IsZero() {
		return i, violation("malformed incarnation")
	}
	return i, nil
}

// IncarnationMessage returns i as it goes on the wire.
func IncarnationMessage(i envelope.Incarnation) *linkv1.Incarnation {
	return &linkv1.Incarnation{TopicId: i.Topic[:], Offset: i.Offset}
}
