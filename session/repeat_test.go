package session

import (
	"testing"
	"time"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

// What nobody heard is said again, and what was heard is not heard twice.

func TestFrameWhoseAcknowledgementWasLostIsTakenOnce(t *testing.T) {
	s := newStory(t)
	s.attach(gateA)
	s.agent.Write([]byte("1"))
	u, _ := s.agent.Pending(s.now)
	rec, _, err := s.relay.Frame(s.now, u.Frame)
	if err != nil {
		t.Fatal(err)
	}
	s.up = append(s.up, rec)
	s.cut() // before the agent side could be told
	s.agent.Write([]byte("2"))
	s.attach(gateB)
	s.want("controller", &s.ctl.End, "1", "2")
}

func TestLostCloseIsProducedAgain(t *testing.T) {
	s := newStory(t)
	s.attach(gateA)
	s.downErr = errLost
	s.ctl.CloseSession(Ending{Reason: linkv1.Reason_REASON_REFUSED})
	s.pump()
	s.downErr = nil
	s.after(time.Second, true)
	s.wantEnded("agent", &s.agent.End, linkv1.Reason_REASON_REFUSED)
}

func TestLostDeliveredIsProducedAgain(t *testing.T) {
	s := newStory(t)
	s.attach(gateA)
	s.agent.Write(make([]byte, 64))
	s.pump()
	if s.agent.CanWrite(1) {
		t.Fatal("the window should be full")
	}
	s.downErr = errLost
	take(&s.ctl.End)
	s.pump()
	s.downErr = nil
	s.after(time.Second, true)
	if !s.agent.CanWrite(1) {
		t.Error("the window stays full: a second after it was lost, the news was not told again")
	}
}
