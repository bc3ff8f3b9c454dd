package session

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

var (
	metaTopic = envelope.TopicID{1}
	downTopic = envelope.TopicID{2}
	inc1      = envelope.Incarnation{Topic: metaTopic, Offset: 1}
	inc2      = envelope.Incarnation{Topic: metaTopic, Offset: 2}
	gateA     = envelope.Gateway{Boot: 1, Name: "a"}
	gateB     = envelope.Gateway{Boot: 2, Name: "b"}
)

const grace = 240 * time.Second

// A story plays one session over a log that never fails by itself: what
// fails, the test says.
type story struct {
	t     *testing.T
	now   time.Time
	agent *Agent
	relay *Relay // nil: no stream
	gate  envelope.Gateway
	ctl   *Controller
	reg   *Registry

	up, down []envelope.Record // the log
	read     int               // up records the controller side has read
	upErr    error             // the outcome of up produces; they are lost when it is set
	downErr  error
	over     error // why the last stream ended
}

func newStory(t *testing.T) *story {
	s := &story{t: t, now: time.Unix(1e9, 0), reg: NewRegistry(inc1)}
	s.agent = NewAgent(AgentConfig{
		Secret: [16]byte{7}, Agent: "builder", Kind: linkv1.ServiceKind_SERVICE_KIND_NATIVE, Resumable: true,
	})
	return s
}

// attach makes a new stream; an older one is dropped without a word.
func (s *story) attach(g envelope.Gateway) {
	s.t.Helper()
	if s.relay != nil {
		s.agent.Detach(s.now)
	}
	h := s.agent.Attach(s.now)
	start, inc := h.Start, h.Incarnation
	if !h.Resume() {
		start, inc = envelope.Position{Topic: downTopic, Offset: int64(len(s.down))}, inc1
	}
	s.relay = NewRelay(s.now, &h, start, inc, 5*time.Second)
	s.gate = g
	s.up = append(s.up, s.relay.Attached(g))
	var w Welcome
	s.relay.Welcome(&w)
	w.UpWindow, w.MaxFrame, w.Grace = 64, 64, grace
	if err := s.agent.Welcome(s.now, w); err != nil {
		s.t.Fatalf("Welcome: %v", err)
	}
	s.over = nil
	s.pump()
}

func (s *story) cut() {
	s.relay = nil
	s.agent.Detach(s.now)
}

// pump moves everything that can move.
func (s *story) pump() {
	s.t.Helper()
	for moved := true; moved; {
		moved = s.pumpUp()
		moved = s.pumpController() || moved
		moved = s.pumpDown() || moved
	}
}

func (s *story) pumpUp() (moved bool) {
	s.t.Helper()
	for s.relay != nil {
		u, ok := s.agent.Pending(s.now)
		if !ok {
			break
		}
		moved = true
		if u.Frame.Seq == 0 {
			if err := s.relay.Heartbeat(s.now, u.Heartbeat); err != nil {
				s.t.Fatalf("gateway: %v", err)
			}
			continue
		}
		rec, ok, err := s.relay.Frame(s.now, u.Frame)
		if err != nil {
			s.t.Fatalf("gateway: %v", err)
		}
		if !ok {
			continue
		}
		if rec.Kind == envelope.Open {
			rec.Appendix, _ = proto.Marshal(&linkv1.Verified{Gateway: s.gate.Name, Boot: s.gate.Boot})
		}
		if s.upErr == nil {
			s.up = append(s.up, rec)
		}
		if err := s.relay.Produced(rec.Seq, int64(len(s.up))-1, s.upErr); err != nil {
			s.over = err
			s.cut()
		}
	}
	for s.relay != nil {
		rec, ok := s.relay.PendingRecord()
		if !ok {
			break
		}
		s.up, moved = append(s.up, rec), true
	}
	return moved
}

func (s *story) pumpController() (moved bool) {
	for ; s.read < len(s.up); s.read++ {
		moved = true
		rec := &s.up[s.read]
		if s.ctl != nil {
			s.ctl.Record(s.now, rec)
			continue
		}
		open, answer := s.reg.Unknown(s.now, rec)
		if answer != nil {
			s.down = append(s.down, *answer)
		}
		if open {
			var err error
			if s.ctl, err = NewController(s.now, rec, 64, grace); err != nil {
				s.t.Fatalf("OPEN: %v", err)
			}
			s.ctl.Accept(nil)
		}
	}
	for s.ctl != nil {
		p, ok := s.ctl.Pending(s.now)
		if !ok {
			break
		}
		moved = true
		if s.downErr == nil {
			s.down = append(s.down, p.Record)
		}
		s.ctl.Produced(s.now, &p, int64(len(s.down))-1, s.downErr)
	}
	if s.ctl != nil && s.ctl.State() == Over {
		s.reg.Bury(s.now, s.ctl)
		s.ctl = nil
	}
	return moved
}

func (s *story) pumpDown() (moved bool) {
	s.t.Helper()
	for s.relay != nil && s.relay.Position() < int64(len(s.down)) {
		moved = true
		at := s.relay.Position()
		d, err := s.relay.Record(s.now, at, &s.down[at])
		if err != nil {
			s.over = err
			s.cut()
			return true
		}
		if d.Frame.Seq != 0 {
			if err := s.agent.Frame(s.now, d.Frame); err != nil {
				s.t.Fatalf("agent side: %v", err)
			}
		}
		if d.Close.Reason != 0 && s.agent.Close(d.Close) {
			s.relay = nil
		}
	}
	for s.relay != nil {
		h, ok := s.relay.PendingHeartbeat(s.now)
		if !ok {
			break
		}
		moved = true
		if err := s.agent.Heartbeat(s.now, h); err != nil {
			s.t.Fatalf("agent side: %v", err)
		}
	}
	return moved
}

// after lets time pass, with the gateway's leases arriving or not.
func (s *story) after(d time.Duration, leases bool) {
	s.t.Helper()
	for end := s.now.Add(d); s.now.Before(end); {
		s.now = s.now.Add(min(time.Second, end.Sub(s.now)))
		if leases && s.relay != nil && s.ctl != nil {
			e := s.relay.Lease()
			s.ctl.Lease(s.now, gateA, &e)
		}
		if s.ctl != nil {
			s.ctl.Tick(s.now)
		}
		s.reg.Tick(s.now)
		s.pump()
	}
}

// take returns what an application gets now.
func take(e *End) (got []string) {
	for {
		p, ok := e.Next()
		if !ok {
			return got
		}
		got = append(got, string(p))
		e.Consume()
	}
}

func (s *story) want(why string, e *End, want ...string) {
	s.t.Helper()
	if got := take(e); !slices.Equal(got, want) {
		s.t.Fatalf("%s: got %q, want %q", why, got, want)
	}
}

func (s *story) wantEnded(why string, e *End, want linkv1.Reason) {
	s.t.Helper()
	ending, ok := e.Ended()
	if !ok || ending.Reason != want {
		s.t.Fatalf("%s: ended %v with %v, want %v", why, ok, ending, ReasonName(want))
	}
}

var errLost = errors.New("lost")

func TestWordsCrossBothWays(t *testing.T) {
	s := newStory(t)
	s.attach(gateA)
	s.agent.Write([]byte("up 1"))
	s.ctl.Write([]byte("down 1"))
	s.agent.CloseWrite()
	s.pump()
	s.want("controller", &s.ctl.End, "up 1")
	s.want("agent", &s.agent.End, "down 1")
	if s.ctl.ReadErr() == nil || s.agent.ReadErr() != nil {
		t.Error("the half-close should be seen by the controller and only by it")
	}
	s.after(2*time.Second, true)
	if s.agent.Undelivered() != 0 || s.ctl.Undelivered() != 0 {
		t.Errorf("undelivered %d up, %d down after everything was taken", s.agent.Undelivered(), s.ctl.Undelivered())
	}
	s.ctl.CloseSession(Ending{Reason: linkv1.Reason_REASON_OK})
	s.pump()
	s.wantEnded("agent", &s.agent.End, linkv1.Reason_REASON_OK)
}

func TestFramesOfALostStreamComeAgain(t *testing.T) {
	s := newStory(t)
	s.attach(gateA)
	s.upErr = errLost
	s.agent.Write([]byte("1"))
	s.pump()
	if !errors.Is(s.over, ErrProduce) {
		t.Fatalf("stream ended with %v, want ErrProduce", s.over)
	}
	s.upErr = nil
	s.agent.Write([]byte("2"))
	s.ctl.Write([]byte("a")) // while nobody is attached
	s.attach(gateB)
	s.want("controller", &s.ctl.End, "1", "2")
	s.want("agent", &s.agent.End, "a")
}

func TestDownFramesAreProducedUntilPersisted(t *testing.T) {
	s := newStory(t)
	s.attach(gateA)
	s.downErr = errLost
	s.ctl.Write([]byte("1"))
	s.ctl.Write([]byte("2"))
	s.pump()
	s.downErr = nil
	s.pump()
	s.want("still backing off", &s.agent.End)
	s.after(time.Second, true)
	s.want("agent", &s.agent.End, "1", "2")
}

func TestGraceEndsADetachedSession(t *testing.T) {
	s := newStory(t)
	s.attach(gateA)
	s.after(10*time.Minute, true)
	if _, ended := s.ctl.Ended(); ended {
		t.Fatal("an attached session ended by itself")
	}
	s.cut() // no DETACHED: the lease lapses
	s.after(grace-time.Second, false)
	if s.ctl == nil {
		t.Fatal("ended before grace was over")
	}
	s.after(time.Second, false)
	if s.ctl != nil {
		t.Fatal("grace is over and the session is not")
	}
	s.attach(gateB)
	s.wantEnded("the returning agent side", &s.agent.End, linkv1.Reason_REASON_GRACE)
}

// Nobody can write that the session is attached: that no lease comes proves
// nothing, and grace counts from when somebody could (row 22).
func TestNothingRunsOutWhileNobodyCouldWrite(t *testing.T) {
	s := newStory(t)
	s.attach(gateA)
	for range 60 {
		s.after(10*time.Second, false)
		if s.ctl == nil {
			t.Fatal("ended while attached")
		}
		s.ctl.Hold(s.now)
	}
	if _, _, attached := s.ctl.Attachment(); !attached {
		t.Error("detached, and nobody could have said otherwise")
	}
	s.after(LeaseFresh, false)
	s.after(grace-LeaseFresh-time.Second, false)
	if s.ctl == nil {
		t.Fatal("grace is cut short")
	}
	s.ctl.Hold(s.now)
	s.after(LeaseFresh-time.Second, false)
	if s.ctl == nil {
		t.Fatal("grace ran out while nobody could come back")
	}
	s.after(time.Second, false)
	s.attach(gateB)
	s.wantEnded("the returning agent side", &s.agent.End, linkv1.Reason_REASON_GRACE)
}

func TestReturningToAForgottenSession(t *testing.T) {
	s := newStory(t)
	s.attach(gateA)
	s.cut()
	s.after(grace+time.Second, false)
	s.after(tombstoneFor, false)
	s.agent.position.Offset = int64(len(s.down)) // as if its CLOSE were out of reach
	s.attach(gateB)
	s.wantEnded("nobody remembers", &s.agent.End, linkv1.Reason_REASON_UNKNOWN_SESSION)
}

func TestSlowReaderHoldsItsWriterBack(t *testing.T) {
	s := newStory(t)
	s.attach(gateA)
	written := 0
	for s.agent.CanWrite(8) {
		s.agent.Write([]byte("8 bytes."))
		written++
		s.pump()
	}
	if written != 8 {
		t.Fatalf("%d frames of 8 bytes fit into a window of 64", written)
	}
	s.want("the first", &s.ctl.End, slices.Repeat([]string{"8 bytes."}, 8)...)
	s.pump()
	if !s.agent.CanWrite(64) {
		t.Errorf("room for %d bytes after everything was taken", s.agent.Room())
	}
}

func TestProbeRecoversALostDelivered(t *testing.T) {
	s := newStory(t)
	s.attach(gateA)
	s.ctl.Write([]byte("x"))
	s.pump()
	s.want("agent", &s.agent.End, "x")
	before := len(s.up)
	s.after(reportAfter, true)
	if len(s.up) == before {
		t.Fatal("delivered was not told alone")
	}
	s.ctl.out = s.ctl.Clone().out
	s.after(2*time.Second, true)
	if s.ctl.Undelivered() != 0 {
		t.Errorf("%d frames still undelivered", s.ctl.Undelivered())
	}
}

func TestSomethingPersistedIsMissing(t *testing.T) {
	t.Run("up", func(t *testing.T) {
		s := newStory(t)
		s.attach(gateA)
		s.agent.Write([]byte("1"))
		s.pumpUp()
		s.up[len(s.up)-1] = envelope.Record{} // truncated
		s.agent.Write([]byte("2"))
		s.agent.Write([]byte("3"))
		s.pump()
		s.wantEnded("agent", &s.agent.End, linkv1.Reason_REASON_DATA_LOSS)
	})
	t.Run("down", func(t *testing.T) {
		s := newStory(t)
		s.attach(gateA)
		s.cut()
		s.ctl.Write([]byte("1"))
		s.pumpController()
		s.down[len(s.down)-1] = envelope.Record{}
		s.ctl.Write([]byte("2"))
		s.pumpController()
		s.attach(gateB)
		if ended, ok := errors.AsType[*EndedError](s.over); !ok || ended.Reason != linkv1.Reason_REASON_DATA_LOSS {
			t.Fatalf("stream ended with %v, want DATA_LOSS", s.over)
		}
	})
}

func TestAgentJudgesCloses(t *testing.T) {
	for _, tc := range []struct {
		desc string
		from envelope.Incarnation
		want bool
	}{
		{"its own incarnation is final", inc1, true},
		{"so is a newer one", inc2, true},
		{"an older one is a stale view", envelope.Incarnation{Topic: metaTopic}, false},
		{"none is no word at all", envelope.Incarnation{}, false},
	} {
		s := newStory(t)
		s.attach(gateA)
		if got := s.agent.Close(Close{Ending{Reason: linkv1.Reason_REASON_CONTROLLER_GONE}, tc.from}); got != tc.want {
			t.Errorf("%s: final = %v", tc.desc, got)
		}
	}
}

func TestRelayRefusesWhatIsOutOfTurn(t *testing.T) {
	for _, tc := range []struct {
		desc string
		f    Frame
	}{
		{"a hole", Frame{Seq: 3, Kind: envelope.Data}},
		{"a second OPEN", Frame{Seq: 2, Kind: envelope.Open}},
		{"a kind of the other direction", Frame{Seq: 2, Kind: envelope.Accept}},
		{"an unknown kind", Frame{Seq: 2, Kind: 9}},
		{"a frame above the limit", Frame{Seq: 2, Kind: envelope.Data, Payload: make([]byte, MaxFrame+1)}},
		{"delivered beyond what was sent", Frame{Seq: 2, Kind: envelope.Data, Delivered: 2}},
	} {
		s := newStory(t)
		s.attach(gateA)
		if _, _, err := s.relay.Frame(s.now, tc.f); !errors.Is(err, ErrViolation) {
			t.Errorf("%s: %v, want a violation", tc.desc, err)
		}
	}
}

func TestRelayAcknowledgesOnlyAPrefix(t *testing.T) {
	s := newStory(t)
	s.attach(gateA)
	s.agent.Write([]byte("2"))
	s.agent.Write([]byte("3"))
	for range 2 {
		u, _ := s.agent.Pending(s.now)
		if _, _, err := s.relay.Frame(s.now, u.Frame); err != nil {
			t.Fatal(err)
		}
	}
	swapped := s.relay.Clone()
	if err := s.relay.Produced(3, 8, nil); err != nil || s.relay.HasNews() {
		t.Fatalf("seq 3 alone: %v, news %v; want nothing told before seq 2", err, s.relay.HasNews())
	}
	if err := s.relay.Produced(2, 7, nil); err != nil || !s.relay.HasNews() {
		t.Fatalf("then seq 2: %v, news %v", err, s.relay.HasNews())
	}
	if h, _ := s.relay.PendingHeartbeat(s.now); h.Persisted != 3 {
		t.Errorf("persisted %d, want 3", h.Persisted)
	}
	_ = swapped.Produced(2, 8, nil)
	if err := swapped.Produced(3, 7, nil); !errors.Is(err, ErrSwapped) {
		t.Errorf("a later frame at a lower offset: %v, want ErrSwapped", err)
	}
}

func TestRelayIsCutByANewerAttempt(t *testing.T) {
	s := newStory(t)
	s.attach(gateA)
	old := s.relay.Clone()
	s.attach(gateB)
	for at := old.Position(); at < int64(len(s.down)); at++ {
		if _, err := old.Record(s.now, at, &s.down[at]); err != nil {
			if !errors.Is(err, ErrTakenOver) {
				t.Fatalf("cut with %v", err)
			}
			return
		}
	}
	t.Error("the echo of the newer attempt did not cut the older stream")
}

func TestTierZeroDiesWithItsGateway(t *testing.T) {
	s := newStory(t)
	s.agent.cfg.Resumable = false
	s.attach(gateA)
	s.ctl.GatewayGone(s.now, gateB)
	if _, ended := s.ctl.Ended(); ended {
		t.Fatal("another gateway's death ended the session")
	}
	s.ctl.GatewayGone(s.now, gateA)
	s.wantEnded("controller", &s.ctl.End, linkv1.Reason_REASON_GATEWAY_GONE)
}

func TestRegistryTellsOldFromNew(t *testing.T) {
	s := newStory(t)
	s.attach(gateA)
	open := s.up[1]
	if open.Kind != envelope.Open {
		t.Fatalf("record 1 is %v, want OPEN", open.Kind)
	}
	s.ctl.CloseSession(Ending{Reason: linkv1.Reason_REASON_OPERATOR})
	s.pump()
	for _, tc := range []struct {
		desc string
		wait time.Duration
		want linkv1.Reason
	}{
		{"remembered: the reason of record", 0, linkv1.Reason_REASON_OPERATOR},
		{"forgotten: refused all the same (row 14)", tombstoneFor, linkv1.Reason_REASON_REFUSED},
	} {
		s.now = s.now.Add(tc.wait)
		s.reg.Tick(s.now)
		opens, answer := s.reg.Unknown(s.now, &open)
		if opens || answer == nil || ParseEnding(answer.Payload).Reason != tc.want {
			t.Errorf("%s: opens %v, answer %v", tc.desc, opens, answer)
		}
	}
}

// The agent side was told that its session is over; its OPEN comes afterwards.
func TestOpenBehindTheEndOpensNothing(t *testing.T) {
	s := newStory(t)
	s.attach(gateA)
	open, lost, beat := s.up[1], s.relay.Lost(), s.relay.record(envelope.Probe)
	beat.Stable = 1
	for _, tc := range []struct {
		desc      string
		before    envelope.Record
		wait      time.Duration
		told, now linkv1.Reason // at the end, and when OPEN comes
	}{
		{"LOST before it", lost, 0, 0, linkv1.Reason_REASON_DATA_LOSS},
		{"LOST, forgotten since", lost, tombstoneFor, 0, linkv1.Reason_REASON_REFUSED},
		{"answered before it", beat, answerEvery, linkv1.Reason_REASON_UNKNOWN_SESSION, linkv1.Reason_REASON_UNKNOWN_SESSION},
	} {
		t.Run(tc.desc, func(t *testing.T) {
			reg := NewRegistry(inc1)
			said := func(answer *envelope.Record) (r linkv1.Reason) {
				if answer != nil {
					r = ParseEnding(answer.Payload).Reason
				}
				return r
			}
			if _, answer := reg.Unknown(s.now, &tc.before); said(answer) != tc.told {
				t.Errorf("the end is answered with %v, want %v", said(answer), tc.told)
			}
			reg.Tick(s.now.Add(tc.wait))
			opens, answer := reg.Unknown(s.now.Add(tc.wait), &open)
			if opens || said(answer) != tc.now {
				t.Errorf("OPEN opens %v, is answered with %v; want %v", opens, said(answer), tc.now)
			}
		})
	}
}

func TestRegistryKeepsSilentAboutWhatMayOpen(t *testing.T) {
	r := NewRegistry(inc1)
	data := envelope.Record{Kind: envelope.Data, Seq: 2, Session: envelope.SessionID{1}, Incarnation: inc1}
	if open, answer := r.Unknown(time.Time{}, &data); open || answer != nil {
		t.Errorf("stable 0: %v, %v; its OPEN may come again (row 15)", open, answer)
	}
	data.Stable = 1
	if _, answer := r.Unknown(time.Time{}, &data); answer == nil {
		t.Error("stable 1: no answer, although an OPEN was persisted and is not known")
	}
	data.Incarnation = inc2
	if _, answer := r.Unknown(time.Time{}.Add(time.Hour), &data); answer != nil {
		t.Error("answered for another incarnation")
	}
}

func TestEndRefusesAHole(t *testing.T) {
	e := End{inLimit: 10}
	if _, err := e.accept(Frame{Seq: 2, Kind: envelope.Data}); !errors.Is(err, ErrHole) {
		t.Errorf("seq 2 first: %v, want ErrHole", err)
	}
	for i, f := range []Frame{{Seq: 1, Kind: envelope.Accept}, {Seq: 2, Kind: envelope.Data, Payload: []byte("x")}} {
		if fresh, err := e.accept(f); !fresh || err != nil {
			t.Fatalf("frame %d: %v, %v", i+1, fresh, err)
		}
		if fresh, err := e.accept(f); fresh || err != nil {
			t.Fatalf("frame %d again: %v, %v; want a repeat", i+1, fresh, err)
		}
	}
	if _, err := e.accept(Frame{Seq: 3, Kind: envelope.Data, Payload: make([]byte, 10)}); !errors.Is(err, ErrViolation) {
		t.Errorf("beyond the window: %v", err)
	}
	if fmt.Sprint(take(&e)) != "[x]" {
		t.Error("the application did not get exactly x")
	}
}

// A zombie copy of a frame from an older stream is delivered while this
// stream's own copy failed and the next frame stands before it in the log:
// the reader dropped that one as a hole, so it must not be acknowledged.
func TestDeliveredProvesNothingOfLaterFrames(t *testing.T) {
	t.Run("relay", func(t *testing.T) {
		s := newStory(t)
		s.attach(gateA)
		s.agent.Write([]byte("2"))
		s.agent.Write([]byte("3"))
		for range 2 {
			u, _ := s.agent.Pending(s.now)
			if _, _, err := s.relay.Frame(s.now, u.Frame); err != nil {
				t.Fatal(err)
			}
		}
		far := envelope.Record{Kind: envelope.Delivered, Session: s.relay.id, Incarnation: inc1, Attempt: 1, Delivered: 2}
		if _, err := s.relay.Record(s.now, 50, &far); err != nil {
			t.Fatal(err)
		}
		err := s.relay.Produced(2, 0, errLost)
		if err == nil {
			err = s.relay.Produced(3, 40, nil)
		}
		if err == nil || s.relay.acked > 2 {
			t.Errorf("stream ended with %v, acknowledged %d; want an error and 2", err, s.relay.acked)
		}
	})
	t.Run("controller", func(t *testing.T) {
		s := newStory(t)
		s.attach(gateA)
		s.ctl.Write([]byte("2"))
		s.ctl.Write([]byte("3"))
		two, _ := s.ctl.Pending(s.now)
		three, _ := s.ctl.Pending(s.now)
		s.ctl.Record(s.now, &envelope.Record{Kind: envelope.Delivered, Attempt: 1, Session: s.ctl.id, Incarnation: inc1, Delivered: 2})
		s.ctl.Produced(s.now, &three, 40, nil)
		s.ctl.Produced(s.now, &two, 0, errLost)
		if s.ctl.Persisted() > 2 {
			t.Errorf("persisted %d, want 2", s.ctl.Persisted())
		}
		s.now = s.now.Add(time.Second)
		if p, ok := s.ctl.Pending(s.now); !ok || p.Record.Seq != 3 {
			t.Errorf("produces %v %v, want seq 3 again", ok, p.Record.Seq)
		}
	})
}

// A timer that was obeyed must not be asked for again, or its owner spins.
func TestWakeIsNeverInThePastAfterPending(t *testing.T) {
	s := newStory(t)
	s.attach(gateA)
	s.agent.Write([]byte("x"))
	s.pump()
	s.want("controller", &s.ctl.End, "x")
	s.after(2*time.Second, true)
	s.ctl.aloneOwed = true
	p, _ := s.ctl.Pending(s.now)
	s.ctl.Produced(s.now, &p, 0, errLost)
	s.after(2*time.Second, true)
	if at := s.ctl.Wake(); !at.After(s.now) {
		t.Errorf("wakes %v ago with nothing left to do", s.now.Sub(at))
	}
}

// The last frame before CLOSE is gone from the log, and CLOSE did not know it
// persisted yet. The answer from the tombstone must not say that all is well.
func TestLossBeforeCloseIsToldAfterIt(t *testing.T) {
	s := newStory(t)
	s.attach(gateA)
	s.cut()
	s.ctl.Write([]byte("x"))
	data, _ := s.ctl.Pending(s.now)
	s.ctl.CloseSession(Ending{Reason: linkv1.Reason_REASON_OK})
	last, _ := s.ctl.Pending(s.now)
	s.down = append(s.down, envelope.Record{}, last.Record)
	s.ctl.Produced(s.now, &data, int64(len(s.down))-2, nil)
	s.ctl.Produced(s.now, &last, int64(len(s.down))-1, nil)
	s.pump()
	s.attach(gateB)
	if ended, ok := errors.AsType[*EndedError](s.over); !ok || ended.Reason != linkv1.Reason_REASON_DATA_LOSS {
		ending, _ := s.agent.Ended()
		t.Fatalf("stream ended with %v, agent side was told %v; want DATA_LOSS", s.over, ending)
	}
}
