package controller

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

// story runs a test in a bubble, with a Kafka in memory.
func story(t *testing.T, f func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.follow()
		f(r)
	})
}

func TestMessagesBothWays(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		p := r.peer(c).open(r.gateway("gw", 1), nil)
		p.data("early") // data may follow OPEN without waiting
		s := r.accept(c)
		p.want(envelope.Accept, time.Second)
		r.wantMessage(s, "early")
		for _, m := range []string{"one", "two", "three"} {
			if err := s.Send(r.Context(), []byte(m)); err != nil {
				r.Fatal(err)
			}
		}
		p.wantData("one")
		p.wantData("two")
		p.wantData("three")
		p.data("answer")
		r.wantMessage(s, "answer")
		if d := p.want(envelope.Delivered, 2*time.Second); d.Delivered != p.seq {
			r.Errorf("told %d delivered, want %d", d.Delivered, p.seq)
		}
		s.Close()
		p.wantEnd(envelope.Close, linkv1.Reason_REASON_OK, time.Second)
		r.wantEnded(s, linkv1.Reason_REASON_OK, time.Second)
	})
}

func TestInfoTellsWhatTheGatewayVerified(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		p := r.peer(c).open(r.gateway("gw", 1), func(o *linkv1.Open) {
			o.Kind, o.Service = linkv1.ServiceKind_SERVICE_KIND_TCP, "web"
		})
		i := r.accept(c).Info()
		if i.ID != p.id || i.Agent != "agent" || i.Service != "web" || i.Labels["os"] != "linux" || i.Identity != "agent" ||
			i.RemoteAddr != "192.0.2.1:5000" || i.Gateway != "gw" || i.Attempt != 1 || !i.Attached || i.State != session.Accepted {
			r.Errorf("info: %+v", i)
		}
		if all := c.Sessions(); len(all) != 1 || all[0].ID != p.id {
			r.Errorf("sessions: %+v", all)
		}
	})
}

func TestRejectReachesTheAgent(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		p := r.peer(c).open(r.gateway("gw", 1), nil)
		s, err := c.Accept(r.Context())
		if err != nil {
			r.Fatal(err)
		}
		s.Reject(ending(linkv1.Reason_REASON_DIAL_FAILED, "nobody listens"))
		p.wantEnd(envelope.Reject, linkv1.Reason_REASON_DIAL_FAILED, time.Second)
		r.wantEnded(s, linkv1.Reason_REASON_DIAL_FAILED, time.Second)
	})
}

func TestNothingIsWrittenBeforeAccept(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		p := r.peer(c).open(r.gateway("gw", 1), nil)
		s, err := c.Accept(r.Context())
		if err != nil {
			r.Fatal(err)
		}
		if _, err := s.Write([]byte("hasty")); err != nil {
			r.Fatal(err)
		}
		if err := s.CloseWrite(); err != nil {
			r.Fatal(err)
		}
		synctest.Wait()
		s.Accept()
		p.want(envelope.Accept, time.Second)
		p.wantData("hasty")
		p.want(envelope.Fin, time.Second)
	})
}

func TestUnknownOutcomesOfProduces(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		p := r.peer(c).open(r.gateway("gw", 1), nil)
		s := r.accept(c)
		p.want(envelope.Accept, patience)
		fault := r.kafka.ProduceWrittenButFailed(3)
		defer fault.Remove()
		for range 3 {
			if err := s.Send(r.Context(), []byte("x")); err != nil {
				r.Fatal(err)
			}
			p.wantData("x")
		}
		if err := s.Flush(r.Context()); err != nil {
			r.Fatal(err)
		}
	})
}

// A refused produce leaves its outcome unknown to the role, which produces
// everything again from the first doubtful frame on.
func TestRefusedProducesAreRepeated(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		p := r.peer(c).open(r.gateway("gw", 1), nil)
		s := r.accept(c)
		p.want(envelope.Accept, patience)
		fault := r.kafka.ProduceRefused(2)
		defer fault.Remove()
		for _, m := range []string{"a", "b", "c"} {
			if err := s.Send(r.Context(), []byte(m)); err != nil {
				r.Fatal(err)
			}
		}
		p.wantData("a")
		p.wantData("b")
		p.wantData("c")
		s.Close()
		p.wantEnd(envelope.Close, linkv1.Reason_REASON_OK, patience)
	})
}

func TestAgentCloses(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		p := r.peer(c).open(r.gateway("gw", 1), nil)
		s := r.accept(c)
		p.want(envelope.Accept, time.Second)
		p.frame(envelope.Close, session.MarshalEnding(ending(linkv1.Reason_REASON_PEER_RESET, "gone")), nil)
		p.wantEnd(envelope.Close, linkv1.Reason_REASON_PEER_RESET, time.Second)
		r.wantEnded(s, linkv1.Reason_REASON_PEER_RESET, time.Second)
		synctest.Wait()
		if st := c.Stats(); st.Sessions != 0 || st.Ended != 1 {
			r.Errorf("stats: %+v", st)
		}
	})
}

func TestOperatorEndsASession(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		p := r.peer(c).open(r.gateway("gw", 1), nil)
		s := r.accept(c)
		p.want(envelope.Accept, time.Second)
		p.record(envelope.End, []byte("maintenance"))
		p.wantEnd(envelope.Close, linkv1.Reason_REASON_OPERATOR, time.Second)
		r.wantEnded(s, linkv1.Reason_REASON_OPERATOR, time.Second)
	})
}

func TestEndByTheApplication(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		p := r.peer(c).open(r.gateway("gw", 1), nil)
		r.accept(c)
		p.want(envelope.Accept, time.Second)
		if !c.End(p.id, ending(linkv1.Reason_REASON_REPLACED, "newer")) {
			r.Error("no such session")
		}
		p.wantEnd(envelope.Close, linkv1.Reason_REASON_REPLACED, time.Second)
		if c.End(envelope.SessionID{9}, ending(linkv1.Reason_REASON_OK, "")) {
			r.Error("ended a session that there never was")
		}
	})
}

func TestAGapEndsTheSession(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		p := r.peer(c).open(r.gateway("gw", 1), nil)
		s := r.accept(c)
		p.want(envelope.Accept, time.Second)
		p.seq += 2 // two frames were persisted, and lost
		p.data("the third")
		p.wantEnd(envelope.Close, linkv1.Reason_REASON_DATA_LOSS, time.Second)
		r.wantEnded(s, linkv1.Reason_REASON_DATA_LOSS, time.Second)
	})
}

func TestLateRecordsOfEndedSessions(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		p := r.peer(c).open(r.gateway("gw", 1), nil)
		s := r.accept(c)
		p.want(envelope.Accept, time.Second)
		s.CloseWithReason(ending(linkv1.Reason_REASON_REPLACED, ""))
		p.wantEnd(envelope.Close, linkv1.Reason_REASON_REPLACED, time.Second)
		synctest.Wait() // the controller knows, too
		p.data("too late")
		p.wantEnd(envelope.Ended, linkv1.Reason_REASON_REPLACED, time.Second)
		time.Sleep(2 * time.Second)
		p.seq = 0
		p.open(r.gateway("other", 2), nil) // the OPEN's zombie
		p.wantEnd(envelope.Ended, linkv1.Reason_REASON_REPLACED, time.Second)
		if st := c.Stats(); st.Opened != 1 {
			r.Errorf("opened %d sessions, want 1", st.Opened)
		}
	})
}

func TestUnknownSessions(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		g := r.gateway("gw", 1)
		p := r.peer(c)
		p.seq = 5
		p.lease(g)
		p.wantEnd(envelope.Ended, linkv1.Reason_REASON_UNKNOWN_SESSION, time.Second)

		q := r.peer(c)
		q.attach(g) // about to open, perhaps
		q.incarnation.Offset--
		q.seq = 5
		q.data("for an older process")
		time.Sleep(time.Second)
		synctest.Wait()
		if len(q.down) > 0 {
			r.Errorf("answered %v", <-q.down)
		}
	})
}

func TestUnreadableRecordsAreCounted(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		r.written(func(done func(int64, error)) { r.producer.Send(r.names.Up, 0, nil, []byte("what is this?"), done) })
		p := r.peer(c)
		p.record(envelope.Lease, []byte("short"))
		p.open(r.gateway("gw", 1), nil) // the next record is read all the same
		r.accept(c)
		if st := c.Stats(); st.Unreadable != 2 {
			r.Errorf("%d unreadable records, want 2", st.Unreadable)
		}
	})
}

func TestBounds(t *testing.T) {
	story(t, func(r *rig) {
		cfg := r.config()
		cfg.SessionLimit, cfg.AcceptQueue = 3, 2
		c := r.start(cfg)
		g := r.gateway("gw", 1)
		first := r.peer(c).open(g, nil)
		second := r.peer(c).open(g, nil)
		r.peer(c).open(g, nil).wantEnd(envelope.Reject, linkv1.Reason_REASON_REFUSED, time.Second) // nobody accepts
		synctest.Wait()                                                                            // it counts until its end is known to be in Kafka
		r.accept(c)
		r.accept(c)
		third := r.peer(c).open(g, nil)
		r.accept(c)
		for _, p := range []*peer{first, second, third} {
			p.want(envelope.Accept, time.Second)
		}
		r.peer(c).open(g, nil).wantEnd(envelope.Reject, linkv1.Reason_REASON_REFUSED, time.Second)
		c.End(first.id, ending(linkv1.Reason_REASON_OK, ""))
		first.wantEnd(envelope.Close, linkv1.Reason_REASON_OK, time.Second)
		synctest.Wait()
		r.peer(c).open(g, nil)
		r.accept(c) // there is room again
	})
}

func TestOpensThatMakeNoSense(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		g := r.gateway("gw", 1)
		r.peer(c).open(g, func(o *linkv1.Open) { o.StartPosition.TopicId = make([]byte, 16) }).
			wantEnd(envelope.Reject, linkv1.Reason_REASON_DATA_LOSS, time.Second)
		r.peer(c).open(g, func(o *linkv1.Open) { o.StartPosition.Partition = 7 }).
			wantEnd(envelope.Reject, linkv1.Reason_REASON_DATA_LOSS, time.Second)
		r.peer(c).open(g, func(o *linkv1.Open) { o.DownWindow = 1 << 31 }).
			wantEnd(envelope.Reject, linkv1.Reason_REASON_REFUSED, time.Second)
		r.peer(c).open(g, func(o *linkv1.Open) { o.Service = strings.Repeat("s", maxOpen) }).
			wantEnd(envelope.Ended, linkv1.Reason_REASON_PROTOCOL_ERROR, time.Second)
		p := r.peer(c)
		p.frame(envelope.Open, marshal(&linkv1.Open{StartPosition: session.PositionMessage(envelope.Position{Topic: r.down.ID})}), []byte{0xff})
		p.wantEnd(envelope.Ended, linkv1.Reason_REASON_PROTOCOL_ERROR, time.Second)
	})
}

func TestReadsEndWithTheSession(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		p := r.peer(c).open(r.gateway("gw", 1), nil)
		s := r.accept(c)
		p.want(envelope.Accept, time.Second)
		read := make(chan error, 1)
		go func() {
			_, err := s.Read(make([]byte, 1))
			read <- err
		}()
		synctest.Wait()
		c.Kill()
		var ended *session.EndedError
		if err := <-read; !errors.As(err, &ended) || ended.Reason != linkv1.Reason_REASON_CONTROLLER_GONE {
			r.Errorf("read: %v", err)
		}
	})
}
