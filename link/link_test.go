package link_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/link"
	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSessionFromOpenToClose(t *testing.T) {
	inBubble(t, func(t *testing.T, fl *fleet) {
		c := fl.client(func(cfg *link.Config) {
			cfg.Gateways, cfg.Labels = []string{"g1:1"}, map[string]string{"os": "linux"}
		})
		defer closeClient(t, c)
		o := open(t.Context(), c, link.Target{Kind: linkv1.ServiceKind_SERVICE_KIND_TCP, Service: "ssh"})
		p := fl.attach("open")
		if h := p.hello; h.GetAgent() != "foobar" || h.GetController() != "ci" || h.GetAttempt() != 1 ||
			h.GetCredential() != "secret" || h.GetLabels()["os"] != "linux" || h.GetIncarnation() != nil {
			t.Errorf("Hello %v", h)
		}
		if p.group != "14" { // slot 958 mod 16
			t.Errorf("moorage-group %q, want 14", p.group)
		}
		synctest.Wait()
		if o.session != nil || len(p.up) > 0 {
			t.Error("something happens before Welcome")
		}
		p.welcome()
		<-o.done
		if o.err != nil {
			t.Fatal(o.err)
		}
		s := o.session
		var opened linkv1.Open
		if err := proto.Unmarshal(p.wantFrame("OPEN", 1, envelope.Open, "*").GetPayload(), &opened); err != nil {
			t.Fatal(err)
		}
		if opened.GetService() != "ssh" || !opened.GetResumable() || opened.GetDownWindow() != session.DefaultWindow {
			t.Errorf("OPEN %v", &opened)
		}
		if _, err := io.WriteString(s, "data may follow at once"); err != nil {
			t.Fatal(err)
		}
		p.frame(1, envelope.Accept, nil)
		if err := s.Accepted(t.Context()); err != nil {
			t.Fatal(err)
		}
		if gateway, attempt, attached, since := s.Status(); gateway != "g1:1" || attempt != 1 || !attached || since != time.Now() {
			t.Errorf("Status() = %s, %d, %v, %v", gateway, attempt, attached, since)
		}
		p.frame(2, envelope.Data, []byte("answer"))
		p.beat(session.Heartbeat{Persisted: 1})
		p.wantFrame("joined until OPEN was persisted", 2, envelope.Data, "data may follow at once")
		if b, err := s.Receive(t.Context()); string(b) != "answer" || err != nil {
			t.Errorf("received %q, %v", b, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		f := p.wantFrame("CLOSE", 3, envelope.Close, "*")
		if f.GetDelivered() != 2 {
			t.Errorf("CLOSE carries delivered %d, want 2", f.GetDelivered())
		}
		p.frame(3, envelope.Close, session.MarshalEnding(session.Ending{Reason: linkv1.Reason_REASON_OK}))
		<-s.Done()
		wantEnded(t, s.Err(), linkv1.Reason_REASON_OK)
		p.wantLeft("the session has ended", 0)
	}, "g1:1")
}

func TestRejectReachesAccepted(t *testing.T) {
	inBubble(t, func(t *testing.T, fl *fleet) {
		c := fl.client(at("g1:1"))
		defer closeClient(t, c)
		o := open(t.Context(), c, link.Target{})
		p := fl.attach("open").welcome()
		<-o.done
		p.frame(1, envelope.Reject, session.MarshalEnding(session.Ending{Reason: linkv1.Reason_REASON_REFUSED, Text: "not here"}))
		err := o.session.Accepted(t.Context())
		wantEnded(t, err, linkv1.Reason_REASON_REFUSED)
		if !strings.Contains(err.Error(), "not here") {
			t.Errorf("%v lacks the text", err)
		}
	}, "g1:1")
}

func TestBrokenStreamIsResumedWhereItStood(t *testing.T) {
	inBubble(t, func(t *testing.T, fl *fleet) {
		c := fl.client(at("g1:1", "g2:1"))
		defer closeClient(t, c)
		s, p := fl.opened(c)
		for _, m := range []string{"a", "b", "c"} {
			if err := s.Send(t.Context(), []byte(m)); err != nil {
				t.Fatal(err)
			}
		}
		p.wantFrame("sent", 2, envelope.Data, "a")
		p.wantFrame("sent", 3, envelope.Data, "b")
		p.frame(2, envelope.Data, []byte("x"))
		p.frame(3, envelope.Data, []byte("y"))
		renewed := envelope.Position{Topic: start.Topic, Partition: 3, Offset: 250}
		p.beat(session.Heartbeat{Persisted: 2, Position: renewed, Ticket: []byte("newer")})
		if b, err := s.Receive(t.Context()); string(b) != "x" || err != nil {
			t.Fatalf("received %q, %v", b, err)
		}
		synctest.Wait()
		cut := time.Now()
		p.refuse(codes.Unavailable, "cut", 0)

		q := fl.attach("resume")
		if q.gateway != p.gateway {
			t.Errorf("resumes at %s, want %s, which has the latest frames in memory", q.gateway, p.gateway)
		}
		if took := time.Since(cut); took > 50*time.Millisecond {
			t.Errorf("comes back after %v", took)
		}
		h := q.hello
		if h.GetAttempt() != 2 || !bytes.Equal(h.GetSessionId(), p.hello.GetSessionId()) || string(h.GetTicket()) != "newer" ||
			h.GetPosition().GetOffset() != 250 || h.GetStartPosition().GetOffset() != 100 || h.GetIncarnation().GetOffset() != 7 ||
			h.GetLastDownReceived() != 3 || h.GetDownDelivered() != 2 || h.GetUpPersisted() != 2 {
			t.Errorf("Hello %v", h)
		}
		q.welcome()
		q.wantFrame("what is not persisted comes again", 3, envelope.Data, "b")
		q.wantFrame("and what follows", 4, envelope.Data, "c")
		q.frame(4, envelope.Data, []byte("z"))
		for _, want := range []string{"y", "z"} {
			if b, err := s.Receive(t.Context()); string(b) != want || err != nil {
				t.Fatalf("received %q, %v, want %q", b, err, want)
			}
		}
		if got := c.Stats(); got.Attached != 2 || got.Lost != 1 {
			t.Errorf("Stats() = %+v", got)
		}
	}, "g1:1", "g2:1")
}

func TestSilentStreamIsLeftAfterThreeHeartbeats(t *testing.T) {
	inBubble(t, func(t *testing.T, fl *fleet) {
		c := fl.client(at("g1:1"))
		defer closeClient(t, c)
		s, p := fl.opened(c)
		time.Sleep(4 * time.Second)
		p.beat(session.Heartbeat{})
		synctest.Wait()
		heard := time.Now()
		fl.blackhole("g1:1") // what is sent into it fills buffers, and blocks nobody
		if _, err := s.Write(make([]byte, 512<<10)); err != nil {
			t.Fatal(err)
		}
		q := fl.attach("resume")
		if took := q.at.Sub(heard); took < 15*time.Second || took > 15*time.Second+50*time.Millisecond {
			t.Errorf("comes again after %v, want three intervals of 5 s", took)
		}
		if n := fl.dialed("g1:1"); n != 2 {
			t.Errorf("%d connections, want a fresh one: the old one may be half-open", n)
		}
		if got := c.Stats(); got.Dead != 1 {
			t.Errorf("Stats() = %+v", got)
		}
	}, "g1:1")
}

func TestSilenceMakesIdleConnectionsDoubtfulToo(t *testing.T) {
	inBubble(t, func(t *testing.T, fl *fleet) {
		c := fl.client(at("g1:1", "g2:1"))
		defer closeClient(t, c)
		_, p := fl.opened(c)
		p.refuse(codes.Unavailable, "a produce failed", 0)
		fl.attach("the same gateway").refuse(codes.ResourceExhausted, "full", 0)
		q := fl.attach("the other gateway")
		if q.gateway == p.gateway {
			t.Fatal("the session returns to the gateway that refused it")
		}
		q.welcome()
		synctest.Wait()
		heard := time.Now()
		fl.blackhole("g1:1") // the network breaks: the connection in use,
		fl.blackhole("g2:1") // and the one that was kept
		r := fl.attach("resume")
		if took := r.at.Sub(heard); took > 16*time.Second {
			t.Errorf("comes again after %v: it waited on a connection that was half-open too", took)
		}
	}, "g1:1", "g2:1")
}

func TestSilentGatewayGoesToTheEndOfTheList(t *testing.T) {
	inBubble(t, func(t *testing.T, fl *fleet) {
		c := fl.client(at("g1:1", "g2:1"))
		defer closeClient(t, c)
		_, p := fl.opened(c)
		if q := fl.attach("resume"); q.gateway == p.gateway {
			t.Error("the session returns to the gateway that fell silent")
		}
	}, "g1:1", "g2:1")
}

func TestHeartbeatsAndProbes(t *testing.T) {
	inBubble(t, func(t *testing.T, fl *fleet) {
		c := fl.client(at("g1:1"))
		defer closeClient(t, c)
		s, p := fl.opened(c)
		sent := time.Now()
		p.wantBeat("the interval is over", 5*time.Second)
		if time.Since(sent) == time.Second { // that the ACCEPT arrived, told alone
			sent = time.Now()
			p.wantBeat("the interval is over", 5*time.Second)
		}
		if got := time.Since(sent); got != 5*time.Second {
			t.Errorf("a heartbeat after %v, want 5 s", got)
		}
		p.frame(2, envelope.Data, []byte("x"))
		p.beat(session.Heartbeat{Probe: true})
		if h := p.wantBeat("probed", 0); h.GetDelivered() != 1 {
			t.Errorf("delivered %d, want 1: the application has not read yet", h.GetDelivered())
		}
		if _, err := s.Receive(t.Context()); err != nil {
			t.Fatal(err)
		}
		if h := p.wantBeat("delivered is told alone after a second", time.Second); h.GetDelivered() != 2 {
			t.Errorf("delivered %d, want 2", h.GetDelivered())
		}
	}, "g1:1")
}

func TestDrainIsFollowedAtOnce(t *testing.T) {
	for _, tt := range []struct {
		desc  string
		drain *linkv1.Drain
		to    string
	}{
		{"to the gateway it names", &linkv1.Drain{ReconnectTo: []string{"named:1"}}, "named:1"},
		{"to another of the list", &linkv1.Drain{}, "other"},
		{"never back to itself", &linkv1.Drain{ReconnectTo: []string{"g1:1", "g2:1"}}, "other"},
		{"past a named one that is not there", &linkv1.Drain{ReconnectTo: []string{"nowhere:1"}}, "other"},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			inBubble(t, func(t *testing.T, fl *fleet) {
				c := fl.client(at("g1:1", "g2:1"))
				defer closeClient(t, c)
				s, p := fl.opened(c)
				if _, err := io.WriteString(s, "the tail"); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				p.drain(tt.drain)
				told := time.Now()
				q := fl.attach("moves").welcome()
				if tt.to == "other" && q.gateway == p.gateway || tt.to != "other" && q.gateway != tt.to {
					t.Errorf("moves to %s", q.gateway)
				}
				if took := q.at.Sub(told); took > 0 && tt.drain.ReconnectTo == nil {
					t.Errorf("waits %v", took)
				}
				q.wantFrame("OPEN was not known persisted", 1, envelope.Open, "*")
				q.beat(session.Heartbeat{Persisted: 1})
				q.wantFrame("the tail moves with it", 2, envelope.Data, "the tail")
				if got := c.Stats(); got.Drained != 1 || got.Lost != 1 {
					t.Errorf("Stats() = %+v", got)
				}
			}, "g1:1", "g2:1", "named:1")
		})
	}
}

// A balancer may stand before a fleet: one address, and which gateway is
// behind it is decided for each connection.
func TestLeavingGatewayIsLeftWithItsConnection(t *testing.T) {
	inBubble(t, func(t *testing.T, fl *fleet) {
		c := fl.client(at("balancer:1"))
		defer closeClient(t, c)
		_, p := fl.opened(c)
		p.drain(&linkv1.Drain{})
		q := fl.attach("moves")
		if n := fl.dialed("balancer:1"); n != 2 {
			t.Errorf("%d connections after a drain, want 2", n)
		}
		q.refuse(codes.Unavailable, "this gateway is draining too", 0)
		q = fl.attach("moves on")
		if n := fl.dialed("balancer:1"); n != 3 {
			t.Errorf("%d connections after a refusal, want 3", n)
		}
		q.refuse(codes.ResourceExhausted, "full", time.Second)
		fl.attach("comes back as told").welcome()
		if n := fl.dialed("balancer:1"); n != 3 {
			t.Errorf("%d connections, want 3: a gateway that says when is asked again", n)
		}
	}, "balancer:1")
}

func TestDrainSpreadsOverTheTimeItGives(t *testing.T) {
	inBubble(t, func(t *testing.T, fl *fleet) {
		c := fl.client(func(cfg *link.Config) {
			cfg.Gateways, cfg.Rand = []string{"g1:1"}, rand.New(rand.NewPCG(1, 2))
		})
		defer closeClient(t, c)
		const sessions = 20
		peers := make([]*peer, sessions)
		for i := range peers {
			_, peers[i] = fl.opened(c)
		}
		told := time.Now()
		for _, p := range peers {
			p.drain(&linkv1.Drain{AfterMs: 2000})
		}
		early := 0
		for range peers {
			took := fl.attach("moves").at.Sub(told)
			if took > 2*time.Second {
				t.Errorf("leaves after %v", took)
			}
			if took < time.Second {
				early++
			}
		}
		if early == 0 || early == sessions {
			t.Errorf("%d of %d leave in the first half", early, sessions)
		}
	}, "g1:1")
}

func TestRetryHintIsObeyed(t *testing.T) {
	inBubble(t, func(t *testing.T, fl *fleet) {
		c := fl.client(at("g1:1", "g2:1"))
		defer closeClient(t, c)
		o := open(t.Context(), c, link.Target{})
		p := fl.attach("open")
		first := p.gateway
		p.refuse(codes.ResourceExhausted, "full", 20*time.Second)
		refused := time.Now()
		for range 3 {
			p = fl.attach("the other one meanwhile")
			if p.gateway == first {
				t.Fatalf("back at %s after %v", first, time.Since(refused))
			}
			p.refuse(codes.Unavailable, "not now", 0)
		}
		fl.attach("the other one").refuse(codes.Unavailable, "Kafka is slow", 30*time.Second)
		p = fl.attach("the first again")
		if took := time.Since(refused); p.gateway != first || took < 20*time.Second || took > 26*time.Second {
			t.Errorf("attaches to %s after %v, want %s after 20 s", p.gateway, took, first)
		}
		p.welcome()
		<-o.done
		if o.err != nil {
			t.Error(o.err)
		}
	}, "g1:1", "g2:1")
}

func TestBackoffWithoutHints(t *testing.T) {
	inBubble(t, func(t *testing.T, fl *fleet) {
		c := fl.client(at("g1:1"))
		defer closeClient(t, c)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		o := open(ctx, c, link.Target{})
		n := 0
		for {
			select {
			case p := <-fl.attaches:
				n++
				p.refuse(codes.Unavailable, "starting up", 0)
				continue
			case <-o.done:
			}
			break
		}
		if n < 15 || n > 60 {
			t.Errorf("%d attaches in a minute", n)
		}
		if !errors.Is(o.err, context.DeadlineExceeded) || !strings.Contains(o.err.Error(), "starting up") {
			t.Errorf("Open: %v; want the deadline and what the gateway said last", o.err)
		}
	}, "g1:1")
}

func TestGatewayThatWelcomesAndCutsIsLeft(t *testing.T) {
	inBubble(t, func(t *testing.T, fl *fleet) {
		c := fl.client(at("g1:1", "g2:1"))
		defer closeClient(t, c)
		_, p := fl.opened(c)
		bad := p.gateway
		for range 3 {
			p.refuse(codes.Unavailable, "the log cannot be read here", 0)
			if p = fl.attach("comes again").welcome(); p.gateway != bad {
				return
			}
		}
		t.Error("the session comes back to the same gateway again and again")
	}, "g1:1", "g2:1")
}

func TestUsefulStreamsAreNoFailures(t *testing.T) {
	for _, tt := range []struct {
		desc   string
		useful bool
		most   time.Duration
	}{
		{"something gets on between the cuts", true, 50 * time.Millisecond},
		{"nothing does", false, 5 * time.Second},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			inBubble(t, func(t *testing.T, fl *fleet) {
				c := fl.client(at("g1:1"))
				defer closeClient(t, c)
				_, p := fl.opened(c)
				longest := time.Duration(0)
				for seq := range uint64(40) {
					if tt.useful {
						p.frame(2+seq, envelope.Data, []byte("x"))
						synctest.Wait()
					}
					cut := time.Now()
					p.refuse(codes.Unavailable, "cut", 0)
					p = fl.attach("comes again").welcome()
					longest = max(longest, p.at.Sub(cut))
				}
				if longest > tt.most || !tt.useful && longest < time.Second {
					t.Errorf("waits up to %v, want up to %v", longest, tt.most)
				}
			}, "g1:1")
		})
	}
}

func TestFinalRefusalFailsOpen(t *testing.T) {
	for _, code := range []codes.Code{codes.Unauthenticated, codes.PermissionDenied, codes.InvalidArgument, codes.NotFound} {
		inBubble(t, func(t *testing.T, fl *fleet) {
			c := fl.client(at("g1:1"))
			defer closeClient(t, c)
			o := open(t.Context(), c, link.Target{})
			fl.attach("open").refuse(code, "the token is for another name", 0)
			<-o.done
			e, ok := errors.AsType[*link.RefusedError](o.err)
			if !ok || e.Code != code || e.Gateway != "g1:1" || !strings.Contains(e.Error(), "the token is for another name") {
				t.Errorf("Open: %v", o.err)
			}
		}, "g1:1")
	}
}

func TestRefusalAfterWelcomeIsNotFinal(t *testing.T) {
	inBubble(t, func(t *testing.T, fl *fleet) {
		c := fl.client(at("g1:1", "g2:1"))
		defer closeClient(t, c)
		_, p := fl.opened(c)
		p.refuse(codes.Unavailable, "cut", 0)
		for i := range 5 {
			q := fl.attach("comes again")
			if i > 0 && q.gateway == p.gateway {
				t.Error("a gateway that refused is to come last")
			}
			q.refuse(codes.PermissionDenied, "wrong key ring", 0)
			p = q
		}
		fl.attach("comes again").welcome()
	}, "g1:1", "g2:1")
}

func TestGivesUpInTheEnd(t *testing.T) {
	for _, tt := range []struct {
		desc       string
		giveUp, in time.Duration
	}{
		{"after the grace and a minute", 0, 5 * time.Minute},
		{"after GiveUp", 90 * time.Second, 90 * time.Second},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			inBubble(t, func(t *testing.T, fl *fleet) {
				c := fl.client(func(cfg *link.Config) { cfg.Gateways, cfg.GiveUp = []string{"g1:1"}, tt.giveUp })
				defer closeClient(t, c)
				s, p := fl.opened(c)
				cut := time.Now()
				p.refuse(codes.Unavailable, "cut", 0) // and nobody answers what follows
				_, err := s.Read(make([]byte, 1))
				wantEnded(t, err, linkv1.Reason_REASON_GRACE)
				if took := time.Since(cut); took != tt.in {
					t.Errorf("gives up after %v, want %v", took, tt.in)
				}
			}, "g1:1")
		})
	}
}

func TestWelcomeInTimeStopsGivingUp(t *testing.T) {
	inBubble(t, func(t *testing.T, fl *fleet) {
		c := fl.client(func(cfg *link.Config) { cfg.Gateways, cfg.GiveUp = []string{"g1:1"}, time.Minute })
		defer closeClient(t, c)
		s, p := fl.opened(c)
		for range 3 {
			p.refuse(codes.Unavailable, "cut", 0)
			p = fl.attach("comes again")
			p.refuse(codes.Unavailable, "wait", 40*time.Second)
			p = fl.attach("comes again").welcome()
		}
		if s.Err() != nil {
			t.Error(s.Err())
		}
	}, "g1:1")
}

func TestNoWelcomeInTime(t *testing.T) {
	inBubble(t, func(t *testing.T, fl *fleet) {
		c := fl.client(at("g1:1", "g2:1"))
		defer closeClient(t, c)
		o := open(t.Context(), c, link.Target{})
		var last *peer
		for _, patience := range []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second, 40 * time.Second} {
			p := fl.attach("open")
			if last != nil && p.gateway == last.gateway {
				t.Error("the same gateway twice in a row")
			}
			p.wantLeft("no Welcome", patience)
			if took := time.Since(p.at); took != patience {
				t.Errorf("waits %v for Welcome, want %v", took, patience)
			}
			last = p
		}
		fl.attach("open").welcome()
		<-o.done
		if o.err != nil {
			t.Error(o.err)
		}
	}, "g1:1", "g2:1")
}

func TestGatewaysWord(t *testing.T) {
	older, newer := incarnation, incarnation
	older.Offset--
	newer.Offset++
	for _, tt := range []struct {
		desc  string
		by    envelope.Incarnation
		final bool
	}{
		{"of its own incarnation", incarnation, true},
		{"of a newer one", newer, true},
		{"of an older one", older, false},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			inBubble(t, func(t *testing.T, fl *fleet) {
				c := fl.client(at("g1:1"))
				defer closeClient(t, c)
				s, p := fl.opened(c)
				p.end(session.Close{Ending: session.Ending{Reason: linkv1.Reason_REASON_CONTROLLER_GONE}, Incarnation: tt.by})
				if !tt.final {
					fl.attach("comes again").welcome()
					return
				}
				<-s.Done()
				wantEnded(t, s.Err(), linkv1.Reason_REASON_CONTROLLER_GONE)
				fl.idle("ended", time.Minute)
			}, "g1:1")
		})
	}
}

func TestViolationEndsTheSession(t *testing.T) {
	for _, tt := range []struct {
		desc string
		do   func(p *peer)
	}{
		{"persisted beyond what was sent", func(p *peer) { p.beat(session.Heartbeat{Persisted: 99}) }},
		{"ACCEPT twice", func(p *peer) { p.frame(2, envelope.Accept, nil) }},
		{"a frame of no known kind", func(p *peer) { p.frame(2, 9, nil) }},
		{"Welcome twice", func(p *peer) { p.welcome() }},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			inBubble(t, func(t *testing.T, fl *fleet) {
				var log bytes.Buffer
				c := fl.client(func(cfg *link.Config) {
					cfg.Gateways, cfg.Logger = []string{"g1:1"}, slog.New(slog.NewTextHandler(&log, nil))
				})
				defer closeClient(t, c)
				s, p := fl.opened(c)
				tt.do(p)
				p.wantLeft("violation", time.Second)
				q := fl.attach("to tell the controller side").welcome()
				q.wantFrame("again", 1, envelope.Open, "*")
				f := q.wantFrame("CLOSE", 2, envelope.Close, "*")
				if e := session.ParseEnding(f.GetPayload()); e.Reason != linkv1.Reason_REASON_PROTOCOL_ERROR {
					t.Errorf("CLOSE says %v", e)
				}
				q.frame(2, envelope.Close, f.GetPayload())
				<-s.Done()
				wantEnded(t, s.Err(), linkv1.Reason_REASON_PROTOCOL_ERROR)
				synctest.Wait()
				if got := c.Stats(); got.Violations != 1 || !strings.Contains(log.String(), "protocol violation") {
					t.Errorf("Stats() = %+v, log:\n%s", got, log.String())
				}
				if strings.Contains(log.String(), "secret") {
					t.Error("the credential stands in the log")
				}
			}, "g1:1")
		})
	}
}

func TestHoleEndsTheStreamOnly(t *testing.T) {
	inBubble(t, func(t *testing.T, fl *fleet) {
		c := fl.client(at("g1:1"))
		defer closeClient(t, c)
		s, p := fl.opened(c)
		p.frame(3, envelope.Data, []byte("too early"))
		q := fl.attach("comes again").welcome()
		q.frame(2, envelope.Data, []byte("first"))
		if b, err := s.Receive(t.Context()); string(b) != "first" || err != nil {
			t.Errorf("received %q, %v", b, err)
		}
	}, "g1:1")
}

func TestClosedSessionLingers(t *testing.T) {
	inBubble(t, func(t *testing.T, fl *fleet) {
		c := fl.client(at("g1:1"))
		defer closeClient(t, c)
		s, p := fl.opened(c)
		p.beat(session.Heartbeat{Persisted: 1})
		synctest.Wait()
		p.refuse(codes.Unavailable, "cut", 0)
		<-p.gone
		if _, err := io.WriteString(s, "last words"); err != nil {
			t.Fatal(err)
		}
		closed := time.Now()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		q := fl.attach("to bring the rest").welcome()
		q.wantFrame("the rest", 2, envelope.Data, "last words")
		q.wantFrame("then CLOSE", 3, envelope.Close, "*")
		for beats := 0; s.Err() == nil; beats++ { // alive, but the controller side does not answer
			q.beat(session.Heartbeat{Persisted: 3})
			select {
			case <-s.Done():
			case <-time.After(4 * time.Second):
			}
		}
		wantEnded(t, s.Err(), linkv1.Reason_REASON_GRACE)
		if took := time.Since(closed); took != 30*time.Second {
			t.Errorf("lingers for %v, want 30 s", took)
		}
		q.wantLeft("given up", time.Second)
		fl.idle("given up", time.Minute)
	}, "g1:1")
}

func TestSessionThatCannotMove(t *testing.T) {
	inBubble(t, func(t *testing.T, fl *fleet) {
		c := fl.client(at("g1:1", "g2:1"))
		defer closeClient(t, c)
		o := open(t.Context(), c, link.Target{NotResumable: true})
		p := fl.attach("open").welcome()
		<-o.done
		p.drain(&linkv1.Drain{ReconnectTo: []string{"g2:1"}})
		fl.idle("a drain is not followed", 10*time.Second)
		p.refuse(codes.Unavailable, "the gateway leaves", 0)
		<-o.session.Done()
		wantEnded(t, o.session.Err(), linkv1.Reason_REASON_GATEWAY_GONE)
		fl.idle("ended", time.Minute)
	}, "g1:1", "g2:1")
}

func TestClientCloseIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, fl *fleet) {
		c := fl.client(at("g1:1"))
		s, p := fl.opened(c)
		answered, q := fl.opened(c)
		o := open(t.Context(), c, link.Target{})
		fl.attach("never welcomed")
		go func() {
			q.wantFrame("CLOSE", 2, envelope.Close, "*")
			q.frame(2, envelope.Close, session.MarshalEnding(session.Ending{Reason: linkv1.Reason_REASON_OK}))
		}()
		began := time.Now()
		closeClient(t, c)
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("Close took %v, want 5 s", took)
		}
		p.wantLeft("closed", time.Second)
		wantEnded(t, answered.Err(), linkv1.Reason_REASON_OK)
		wantEnded(t, s.Err(), linkv1.Reason_REASON_PEER_RESET)
		<-o.done
		if !errors.Is(o.err, link.ErrClosed) {
			t.Errorf("Open: %v", o.err)
		}
		if _, err := c.Open(t.Context(), link.Target{}); !errors.Is(err, link.ErrClosed) {
			t.Errorf("Open after Close: %v", err)
		}
		if _, err := c.Describe(t.Context()); err == nil {
			t.Error("Describe after Close works")
		}
	}, "g1:1")
}

func TestSessionsShareConnections(t *testing.T) {
	inBubble(t, func(t *testing.T, fl *fleet) {
		c := fl.client(at("g1:1"))
		defer closeClient(t, c)
		for range 101 {
			fl.opened(c)
		}
		if n := fl.dialed("g1:1"); n != 2 {
			t.Errorf("%d connections for 101 sessions, want 2", n)
		}
	}, "g1:1")
}

// An agent's start is a look-up and some sessions. They go one way, while what
// it opens later spreads.
func TestWhatIsOpenedTogetherGoesToOneGateway(t *testing.T) {
	gateways := []string{"g1:1", "g2:1", "g3:1", "g4:1", "g5:1", "g6:1", "g7:1", "g8:1"}
	inBubble(t, func(t *testing.T, fl *fleet) {
		c := fl.client(at(gateways...))
		defer closeClient(t, c)
		if _, err := c.Describe(t.Context()); err != nil {
			t.Fatal(err)
		}
		used := fl.used(gateways)
		for range 10 {
			if _, p := fl.opened(c); len(used) != 1 || p.gateway != used[0] {
				t.Errorf("a session starts at %s, the look-up went to %v", p.gateway, used)
			}
		}
	}, gateways...)
	inBubble(t, func(t *testing.T, fl *fleet) {
		c := fl.client(at(gateways...))
		defer closeClient(t, c)
		for range 20 {
			if _, err := c.Describe(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
		}
		if used := fl.used(gateways); len(used) == 1 {
			t.Errorf("all of 20 look-ups in 200 s go to %s", used[0])
		}
	}, gateways...)
}

func TestSessionsStartNoMoreWhereOneWasDrained(t *testing.T) {
	inBubble(t, func(t *testing.T, fl *fleet) {
		c := fl.client(at("g1:1", "g2:1"))
		defer closeClient(t, c)
		_, p := fl.opened(c)
		p.drain(&linkv1.Drain{})
		if q := fl.attach("moves").welcome(); q.gateway == p.gateway {
			t.Fatalf("moves to %s, which drains", q.gateway)
		}
		synctest.Wait()
		for range 10 {
			if _, q := fl.opened(c); q.gateway == p.gateway {
				t.Errorf("a session starts at %s, which drains", q.gateway)
			}
		}
	}, "g1:1", "g2:1")
}

func TestDescribe(t *testing.T) {
	inBubble(t, func(t *testing.T, fl *fleet) {
		c := fl.client(at("nowhere:1", "g1:1"))
		defer closeClient(t, c)
		d, err := c.Describe(t.Context())
		if err != nil || !d.Known || d.Age != 1500*time.Millisecond || strings.Join(d.Services, " ") != "ssh web" {
			t.Errorf("Describe() = %+v, %v", d, err)
		}
		bad := fl.client(func(cfg *link.Config) { cfg.Gateways, cfg.Credential = []string{"g1:1"}, "wrong" })
		defer closeClient(t, bad)
		if _, err := bad.Describe(t.Context()); err == nil || !strings.Contains(err.Error(), "bad credential") || strings.Contains(err.Error(), "wrong") {
			t.Errorf("Describe() = %v", err)
		}
	}, "g1:1")
}

func TestConfigIsChecked(t *testing.T) {
	for _, tt := range []struct {
		cfg  link.Config
		want string
	}{
		{link.Config{Controller: "ci"}, "no gateway"},
		{link.Config{Gateways: []string{"host"}, Controller: "ci"}, `gateway "host"`},
		{link.Config{Gateways: []string{"h:1"}}, "no controller"},
		{link.Config{Gateways: []string{"h:1"}, Controller: "ci", Agent: "\xff"}, "UTF-8"},
		{link.Config{Gateways: []string{"h:1"}, Controller: "ci", Window: -1}, "window"},
	} {
		if _, err := link.New(tt.cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("New(%+v) = %v, want an error with %q", tt.cfg, err, tt.want)
		}
	}
}
