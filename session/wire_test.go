package session

import (
	"errors"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

var (
	someTopic = envelope.TopicID{7, 15: 9}
	someHello = Hello{
		Secret: [16]byte{1, 2, 3}, Agent: "build-7", Controller: "ci", Attempt: 3, Credential: "v1.x",
		Labels: map[string]string{"os": "linux"}, Ticket: []byte("ticket"),
		Incarnation: envelope.Incarnation{Topic: someTopic, Offset: 5},
		Start:       envelope.Position{Topic: someTopic, Partition: 4, Offset: 100},
		Position:    envelope.Position{Topic: someTopic, Partition: 4, Offset: 120},
		LastDown:    9, Delivered: 8, Persisted: 11,
	}
)

func TestMessagesReadWhatTheyWrite(t *testing.T) {
	h, err := ParseHello(HelloMessage(&someHello))
	if err != nil || !reflect.DeepEqual(h, someHello) {
		t.Errorf("Hello: %+v, %v", h, err)
	}
	first := Hello{Secret: [16]byte{1}, Agent: "a", Controller: "ci", Attempt: 1}
	if h, err := ParseHello(HelloMessage(&first)); err != nil || h.Resume() {
		t.Errorf("a first Hello: %+v, %v", h, err)
	}
	w := Welcome{
		Start: someHello.Start, Incarnation: someHello.Incarnation, Ticket: []byte("t"), UpWindow: 1 << 20,
		MaxFrame: MaxFrame, Grace: 4 * time.Minute, Heartbeat: 5 * time.Second, Persisted: 3, Delivered: 2, Better: []string{"gw2:7443"},
	}
	if got, err := ParseWelcome(WelcomeMessage(&w)); err != nil || !reflect.DeepEqual(got, w) {
		t.Errorf("Welcome: %+v, %v", got, err)
	}
	f := Frame{Seq: 4, Kind: envelope.Fin, Payload: []byte("x"), Delivered: 3, Persisted: 2}
	if got := ParseFrame(FrameMessage(f)); !reflect.DeepEqual(got, f) {
		t.Errorf("Frame: %+v", got)
	}
	b := Heartbeat{Position: someHello.Position, Persisted: 1, Delivered: 2, Probe: true, Ticket: []byte("t"), Paused: true}
	if got, err := ParseHeartbeat(HeartbeatMessage(b)); err != nil || !reflect.DeepEqual(got, b) {
		t.Errorf("Heartbeat: %+v, %v", got, err)
	}
	c := Close{Ending{linkv1.Reason_REASON_GRACE, "away"}, someHello.Incarnation}
	if got := ParseClose(CloseMessage(c)); got != c {
		t.Errorf("Close: %+v", got)
	}
}

func TestAbsurdWelcomeIsBounded(t *testing.T) {
	for _, ms := range []uint64{0, 1, uint64(24 * time.Hour / time.Millisecond), 1 << 43, 1<<64 - 1} {
		m := WelcomeMessage(&Welcome{Start: someHello.Start, Incarnation: someHello.Incarnation, UpWindow: 1, MaxFrame: 1})
		m.HeartbeatIntervalMs, m.GraceMs = ms, ms
		w, err := ParseWelcome(m)
		if err != nil {
			t.Fatal(err)
		}
		if w.Heartbeat < 100*time.Millisecond || w.Heartbeat > MostHeartbeat {
			t.Errorf("a heartbeat interval of %d ms is taken for %v", ms, w.Heartbeat)
		}
		if w.Grace < 0 || ms > 1<<40 && w.Grace < time.Hour {
			t.Errorf("a grace of %d ms is taken for %v", ms, w.Grace)
		}
	}
}

func TestHostileHelloIsRefused(t *testing.T) {
	for _, test := range []struct {
		desc  string
		spoil func(*linkv1.Hello)
		says  string
	}{
		{"no version", func(m *linkv1.Hello) { m.Version = 0 }, "version"},
		{"a short session id", func(m *linkv1.Hello) { m.SessionId = m.SessionId[:15] }, "session id"},
		{"a long session id", func(m *linkv1.Hello) { m.SessionId = make([]byte, 1<<20) }, "session id"},
		{"a long name", func(m *linkv1.Hello) { m.Agent = strings.Repeat("x", 65535) }, "agent name"},
		{"no attempt", func(m *linkv1.Hello) { m.Attempt = 0 }, "attempt"},
		{"a huge credential", func(m *linkv1.Hello) { m.Credential = strings.Repeat("x", 1<<16) }, "credential"},
		{"a huge ticket", func(m *linkv1.Hello) { m.Ticket = make([]byte, 1<<16) }, "ticket"},
		{"a thousand labels", func(m *linkv1.Hello) {
			for i := range 1000 {
				m.Labels[strings.Repeat("x", i)] = ""
			}
		}, "labels"},
		{"a long label", func(m *linkv1.Hello) { m.Labels["k"] = strings.Repeat("x", 257) }, "label"},
		{"a malformed incarnation", func(m *linkv1.Hello) { m.Incarnation.TopicId = []byte{1} }, "incarnation"},
		{"incarnation zero", func(m *linkv1.Hello) { m.Incarnation.TopicId = make([]byte, 16) }, "incarnation"},
		{"no position", func(m *linkv1.Hello) { m.Position = nil }, "position"},
		{"a negative offset", func(m *linkv1.Hello) { m.Position.Offset = -1 }, "position"},
		{"a negative partition", func(m *linkv1.Hello) { m.StartPosition.Partition = -4 }, "position"},
		{"a position before the start", func(m *linkv1.Hello) { m.Position.Offset = 1 }, "does not follow"},
		{"a position of another topic", func(m *linkv1.Hello) { m.Position.TopicId = make([]byte, 16) }, "does not follow"},
		{"a position of another partition", func(m *linkv1.Hello) { m.Position.Partition = 5 }, "does not follow"},
		{"delivered beyond received", func(m *linkv1.Hello) { m.DownDelivered = 10 }, "delivered"},
	} {
		m := HelloMessage(&someHello)
		m.Labels = maps.Clone(m.Labels)
		test.spoil(m)
		_, err := ParseHello(m)
		if !errors.Is(err, ErrViolation) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want a violation that names %q", test.desc, err, test.says)
		}
	}
	if _, err := ParseHello(nil); !errors.Is(err, ErrViolation) {
		t.Errorf("no Hello: %v", err)
	}
}

func TestUnknownReasonsCountAsProtocolError(t *testing.T) {
	for _, r := range []linkv1.Reason{0, 99, -1} {
		if got := ParseClose(&linkv1.Close{Reason: r}).Reason; got != linkv1.Reason_REASON_PROTOCOL_ERROR {
			t.Errorf("%d: %v", r, got)
		}
	}
	if got := ParseEnding([]byte{0xff}).Reason; got != linkv1.Reason_REASON_PROTOCOL_ERROR {
		t.Errorf("garbage: %v", got)
	}
	if got := ParseEnding(MarshalEnding(Ending{linkv1.Reason_REASON_OPERATOR, "not \xff UTF-8"})); got.Reason != linkv1.Reason_REASON_OPERATOR {
		t.Errorf("a text that proto refuses loses its reason: %v", got)
	}
}

func TestAnotherIdentityHasAnotherSession(t *testing.T) {
	secret := [16]byte{1}
	if NewID("a", secret) == NewID("b", secret) || NewID("a", secret) == NewID("a", [16]byte{2}) {
		t.Error("two sessions with one id")
	}
	// The vector of docs/protocol.md.
	if got := NewID("foobar", [16]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}).String(); got != goldenID {
		t.Errorf("id %s, documented %s", got, goldenID)
	}
}

const goldenID = "67c6344bd562630f99e41b3322c980d8"

func TestFramesWithoutPayloadAreBoundedToo(t *testing.T) {
	e := End{inLimit: 64}
	for seq := uint64(1); ; seq++ {
		_, err := e.accept(Frame{Seq: seq, Kind: envelope.Data})
		if errors.Is(err, ErrViolation) {
			return
		}
		if err != nil || seq > 100 {
			t.Fatalf("frame %d: %v", seq, err)
		}
	}
}

func FuzzParseHello(f *testing.F) {
	whole, err := proto.Marshal(HelloMessage(&someHello))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var m linkv1.Hello
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		h, err := ParseHello(&m)
		if err != nil {
			if !errors.Is(err, ErrViolation) {
				t.Errorf("%v is no violation", err)
			}
			return
		}
		again, err := ParseHello(HelloMessage(&h))
		if err != nil || again.ID() != h.ID() || again.Position != h.Position || again.Persisted != h.Persisted {
			t.Errorf("%+v came back as %+v, %v", h, again, err)
		}
	})
}

func FuzzParseDown(f *testing.F) {
	for _, m := range []*linkv1.AttachResponse{
		{Message: &linkv1.AttachResponse_Welcome{Welcome: &linkv1.Welcome{UpWindow: 1, MaxFrame: 1}}},
		{Message: &linkv1.AttachResponse_Frame{Frame: &linkv1.Frame{Seq: 1, Kind: 2}}},
		{Message: &linkv1.AttachResponse_Heartbeat{Heartbeat: HeartbeatMessage(Heartbeat{Position: someHello.Position})}},
		{Message: &linkv1.AttachResponse_Close{Close: &linkv1.Close{Reason: 5}}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m linkv1.AttachResponse
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		// Whatever a gateway sends, an agent side neither panics nor counts
		// what it never sent as acknowledged.
		now := time.Unix(0, 0)
		a := NewAgent(AgentConfig{Agent: "a", Controller: "ci"})
		a.Attach(now)
		if w, err := ParseWelcome(m.GetWelcome()); err == nil {
			_ = a.Welcome(now, w)
		} else if err := a.Welcome(now, Welcome{Start: someHello.Start, Incarnation: someHello.Incarnation, UpWindow: 1, MaxFrame: 1, Heartbeat: time.Second}); err != nil {
			t.Fatal(err)
		}
		switch m := m.GetMessage().(type) {
		case *linkv1.AttachResponse_Frame:
			_ = a.Frame(now, ParseFrame(m.Frame))
		case *linkv1.AttachResponse_Heartbeat:
			if h, err := ParseHeartbeat(m.Heartbeat); err == nil {
				_ = a.Heartbeat(now, h)
			}
		case *linkv1.AttachResponse_Close:
			a.Close(ParseClose(m.Close))
		}
		if a.Persisted() > a.Written() {
			t.Errorf("persisted %d of %d", a.Persisted(), a.Written())
		}
	})
}
