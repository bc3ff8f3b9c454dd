package gateway

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

// Whatever a hostile or broken client does: a status, a counter, and no effect
// on the others.
func TestHelloIsJudged(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		victim := r.agent("victim").open(g)
		for _, tt := range []struct {
			desc   string
			change func(*linkv1.Hello)
			code   codes.Code
			word   string
		}{
			{"no credential", func(h *linkv1.Hello) { h.Credential = "" }, codes.Unauthenticated, "credential"},
			{"a credential of another name", func(h *linkv1.Hello) { h.Credential = NewToken(testKey, "other") }, codes.Unauthenticated, "credential"},
			{"a credential under another key", func(h *linkv1.Hello) { h.Credential = NewToken([]byte("another key, long enough"), "a") }, codes.Unauthenticated, "credential"},
			{"not base64", func(h *linkv1.Hello) { h.Credential = "%%%" }, codes.Unauthenticated, "credential"},
			{"no name", func(h *linkv1.Hello) { h.Agent, h.Credential = "", NewToken(testKey, "") }, codes.Unauthenticated, "credential"},
			{"version 0", func(h *linkv1.Hello) { h.Version = 0 }, codes.InvalidArgument, "violation"},
			{"short session id", func(h *linkv1.Hello) { h.SessionId = h.SessionId[:8] }, codes.InvalidArgument, "violation"},
			{"attempt 0", func(h *linkv1.Hello) { h.Attempt = 0 }, codes.InvalidArgument, "violation"},
			{"a controller that cannot be", func(h *linkv1.Hello) { h.Controller = "../up" }, codes.InvalidArgument, "violation"},
			{"a controller that is not there", func(h *linkv1.Hello) { h.Controller = "nobody" }, codes.NotFound, "controller"},
			{"a resume without ticket", resume(r, nil), codes.PermissionDenied, "ticket"},
			{"a forged ticket", resume(r, make([]byte, 40)), codes.PermissionDenied, "ticket"},
			{"a ticket of another session", resume(r, victim.hello.Ticket), codes.PermissionDenied, "ticket"},
			{"delivered beyond received", func(h *linkv1.Hello) {
				resume(r, nil)(h)
				h.DownDelivered = 5
			}, codes.InvalidArgument, "violation"},
		} {
			before := counted(g.metrics.refused, tt.word)
			a := r.agent("a")
			tt.change(a.hello)
			if tt.desc != "attempt 0" {
				a.hello.Attempt = 1
			}
			a.raw(g, &linkv1.AttachRequest{Message: &linkv1.AttachRequest_Hello{Hello: a.hello}})
			if st := a.wantEnd(tt.code); st.Message() == "" {
				t.Errorf("%s: no text", tt.desc)
			}
			if n := counted(g.metrics.refused, tt.word); n != before+1 {
				t.Errorf("%s: counter %q at %v after %v", tt.desc, tt.word, n, before)
			}
			a.wantNothingUp(tt.desc)
		}
		victim.say(envelope.Accept, 1, "")
		victim.wantFrame("untouched", envelope.Accept, "")
	})
}

// resume makes a Hello look like that of a session welcomed before.
func resume(r *rig, ticket []byte) func(*linkv1.Hello) {
	return func(h *linkv1.Hello) {
		p := session.PositionMessage(envelope.Position{Topic: r.down.ID})
		h.Ticket, h.Incarnation, h.StartPosition, h.Position = ticket, session.IncarnationMessage(r.inc), p, p
	}
}

func TestSessionOfAnotherIdentityCannotBeResumed(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		a := r.agent("a1").open(g)
		thief := *a
		thief.hello = proto.CloneOf(a.hello)
		thief.hello.Agent, thief.hello.Credential = "thief", NewToken(testKey, "thief")
		thief.dial(g)
		thief.wantEnd(codes.PermissionDenied)
		// A first attach under the same secret is another session, for the name is in its id.
		thief.hello.Incarnation = nil
		thief.dial(g)
		if thief.next().GetWelcome() == nil {
			t.Error("a thief's own session is not welcome")
		}
		a.say(envelope.Accept, 1, "")
		a.wantFrame("untouched", envelope.Accept, "")
	})
}

func TestTicketsExpireAndKeysRotate(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		fresh := []byte("the next key of the fleet")
		rolled := r.gateway(func(cfg *Config) { cfg.Name, cfg.Keys = "rolled", Ring{fresh, testKey} })
		defer rolled.shut()
		forgot := r.gateway(func(cfg *Config) { cfg.Name, cfg.Keys = "forgot", Ring{Current: fresh} })
		defer forgot.shut()
		a := r.agent("a1").open(g)
		a.drop()
		a.want("hint", envelope.Detached)
		a.attach(rolled)
		a.drop()
		a.want("hint", envelope.Detached)
		a.hello.Credential = NewToken(fresh, "a1")
		a.attach(forgot)
		a.drop()
		a.want("hint", envelope.Detached)
		a.hello.Ticket = Ring{Current: fresh}.ticket(&claim{a.id, "a1", "test", 0, r.inc}, time.Now().Add(-time.Hour-time.Minute))
		a.dial(rolled)
		a.wantEnd(codes.PermissionDenied)
	})
}

func TestViolationsEndTheStreamOnly(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		victim := r.agent("victim").open(g)
		frame := func(f *linkv1.Frame) *linkv1.AttachRequest {
			return &linkv1.AttachRequest{Message: &linkv1.AttachRequest_Frame{Frame: f}}
		}
		for desc, m := range map[string]*linkv1.AttachRequest{
			"a second Hello":               {Message: &linkv1.AttachRequest_Hello{Hello: r.agent("x").hello}},
			"nothing":                      {},
			"a seq that jumps":             frame(&linkv1.Frame{Seq: 7, Kind: linkv1.FrameKind_FRAME_KIND_DATA}),
			"a seq of the past":            frame(&linkv1.Frame{Seq: 1, Kind: linkv1.FrameKind_FRAME_KIND_OPEN}),
			"seq 0":                        frame(&linkv1.Frame{Kind: linkv1.FrameKind_FRAME_KIND_DATA}),
			"a frame above the limit":      frame(&linkv1.Frame{Seq: 2, Kind: linkv1.FrameKind_FRAME_KIND_DATA, Payload: make([]byte, 64<<10+1)}),
			"a message above the limit":    frame(&linkv1.Frame{Seq: 2, Kind: linkv1.FrameKind_FRAME_KIND_DATA, Payload: make([]byte, 1<<20)}),
			"a kind nobody knows":          frame(&linkv1.Frame{Seq: 2, Kind: 9}),
			"a kind only controllers use":  frame(&linkv1.Frame{Seq: 2, Kind: linkv1.FrameKind_FRAME_KIND_ACCEPT}),
			"a kind beyond a byte":         frame(&linkv1.Frame{Seq: 2, Kind: 256 + 4}),
			"delivered beyond sent":        frame(&linkv1.Frame{Seq: 2, Kind: linkv1.FrameKind_FRAME_KIND_DATA, Delivered: 9}),
			"delivered beyond sent, alone": {Message: &linkv1.AttachRequest_Heartbeat{Heartbeat: &linkv1.Heartbeat{Delivered: 9}}},
		} {
			before := counted(g.metrics.ended, "violation")
			a := r.agent("bad").open(g)
			a.tell(m)
			code := codes.InvalidArgument
			if desc == "a message above the limit" {
				code = codes.ResourceExhausted // gRPC's own answer
			}
			a.wantEnd(code)
			a.want(desc, envelope.Detached)
			if n := counted(g.metrics.ended, "violation"); n != before+1 {
				t.Errorf("%s: counter at %v after %v", desc, n, before)
			}
		}
		victim.say(envelope.Accept, 1, "")
		victim.wantFrame("untouched", envelope.Accept, "")
	})
}

func TestFrameBeforeHelloIsRefused(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		a := r.agent("a")
		a.raw(g, &linkv1.AttachRequest{Message: &linkv1.AttachRequest_Heartbeat{Heartbeat: &linkv1.Heartbeat{}}})
		a.wantEnd(codes.InvalidArgument)
	})
}

func TestGarbageConnectionsAreClosed(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		for _, garbage := range []string{"", "GET / HTTP/1.0\r\n\r\n", "\x00\x01\x02\x03 garbage instead of gRPC, and more of it"} {
			conn, err := r.net.DialContext(context.Background(), "tcp", g.lis.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			go conn.Write([]byte(garbage))
			began := time.Now()
			for buf := make([]byte, 1024); err == nil; {
				_, err = conn.Read(buf)
			}
			if took := time.Since(began); took > 11*time.Second {
				t.Errorf("%q kept a connection for %v", garbage, took)
			}
			conn.Close()
		}
		time.Sleep(time.Second)
		g.conns.mu.Lock()
		n := len(g.conns.open)
		g.conns.mu.Unlock()
		if n > 0 {
			t.Errorf("%d connections left", n)
		}
		r.agent("a1").open(g)
	})
}

func TestOpensWithoutHelloAreBounded(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(func(cfg *Config) { cfg.MaxSessions, cfg.MaxStreams = 5, 20 })
		defer g.shut()
		silent := g.dial()
		defer silent.Close()
		var idle []*agent
		for range 15 {
			a := r.agent("idle")
			a.raw(g, nil)
			idle = append(idle, a)
		}
		time.Sleep(time.Second)
		var attached []*agent
		for range 5 {
			attached = append(attached, r.agent("a").open(g))
		}
		other := *g
		other.conn = silent // MaxConcurrentStreams holds back who stays on one connection
		late := r.agent("late")
		late.dial(&other)
		late.wantEnd(codes.ResourceExhausted)
		for _, a := range idle {
			a.wantCut("hello")
		}
		late.dial(&other)
		if st := late.wantEnd(codes.ResourceExhausted); len(st.Details()) != 1 {
			t.Errorf("no time to come again in %v", st)
		}
		attached[0].drop()
		attached[0].want("hint", envelope.Detached)
		late.attach(&other)
		if n := counted(g.metrics.refused, "hello"); n != 15 {
			t.Errorf("%v streams without Hello counted, want 15", n)
		}
	})
}

func TestOneAddressCannotTakeAllPlaces(t *testing.T) {
	var th threshold
	from := func(s string) *peer.Peer {
		return &peer.Peer{Addr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s))}
	}
	var leaves []func()
	for i := range 3 {
		leave, err := th.enter(from(fmt.Sprintf("192.0.2.1:%d", i+1)), 3)
		if err != nil {
			t.Fatal(err)
		}
		leaves = append(leaves, leave)
	}
	if _, err := th.enter(from("192.0.2.1:9"), 3); judge(err).code != codes.ResourceExhausted || judge(err).word != "address" {
		t.Errorf("a fourth: %v, counted as %q", err, judge(err).word)
	}
	leave, err := th.enter(from("[2001:db8::1]:9"), 3)
	if err != nil {
		t.Errorf("another address: %v", err)
	}
	leave()
	leaves[0]()
	leaves[0]() // again, to no effect
	if leave, err = th.enter(from("192.0.2.1:9"), 3); err != nil {
		t.Errorf("after one left: %v", err)
	}
	leave()
	leaves[1]()
	leaves[2]()
	if n := len(th.waiting); n > 0 {
		t.Errorf("%d addresses remembered", n)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(func(cfg *Config) { cfg.MaxSessions, cfg.MaxStreams = 5, 6 })
		defer g.shut()
		a := r.agent("a1").open(g)
		for i := range 10 {
			conn, err := r.net.DialContext(context.Background(), "tcp", g.lis.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if i >= 5 {
				if _, err := conn.Read(make([]byte, 1)); err == nil {
					t.Errorf("connection %d is served", i)
				}
			}
		}
		a.say(envelope.Accept, 1, "")
		a.wantFrame("untouched", envelope.Accept, "")
	})
}

func TestControllersAreBounded(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(func(cfg *Config) { cfg.Controllers = 3 })
		defer g.shut()
		r.agent("a1").open(g)
		refused := map[codes.Code]int{}
		for i := range 5 {
			a := r.agent("a")
			a.hello.Controller = fmt.Sprintf("nobody-%d", i)
			a.dial(g)
			for a.next() != nil {
			}
			refused[a.why().Code()]++
		}
		if refused[codes.NotFound] != 2 || refused[codes.ResourceExhausted] != 3 {
			t.Errorf("refused %v", refused)
		}
		if n := counted(g.metrics.refused, "controllers"); n != 3 {
			t.Errorf("%v refusals counted, want 3", n)
		}
		time.Sleep(2 * time.Second)
		g.mu.Lock()
		defer g.mu.Unlock()
		if n := len(g.controllers); n != 1 {
			t.Errorf("%d controllers remembered", n)
		}
	})
}
