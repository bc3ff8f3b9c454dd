package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/bridge"
	ctl "github.com/moorage-dev/moorage/controller"
	"github.com/moorage-dev/moorage/door"
	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

// legacy is what a legacy agent's session is opened with.
var legacy = Local{
	Controller: "test", Kind: linkv1.ServiceKind_SERVICE_KIND_REMOTING, Agent: "old-1", RemoteAddr: "192.0.2.7:50000",
	Remoting: &linkv1.Remoting{Protocol: "JNLP4-connect", Agent: "old-1", Address: "192.0.2.7:50000"},
}

// A localAgent is a local session, and the controller side's view of it.
type localAgent struct {
	*agent
	*LocalSession
}

// local opens a local session, up to the records that this puts into the log.
func (r *rig) local(g *gate) *localAgent {
	r.Helper()
	l, err := g.OpenLocal(context.Background(), legacy)
	if err != nil {
		r.Fatal(err)
	}
	a := &localAgent{&agent{rig: r, name: "local", hello: &linkv1.Hello{Attempt: 1}, id: l.ID()}, l}
	a.ups = r.up(a.id)
	a.want("the attach is persisted first", envelope.Attached)
	return a
}

// opened is local for a session that the controller side has accepted.
func (r *rig) opened(g *gate) *localAgent {
	r.Helper()
	a := r.local(g)
	a.want("OPEN", envelope.Open)
	a.say(envelope.Accept, 1, "")
	if err := a.Accepted(context.Background()); err != nil {
		r.Fatal(err)
	}
	return a
}

// wantOver wants the session to end on the agent's side.
func (a *localAgent) wantOver(why string, reason linkv1.Reason) {
	a.Helper()
	select {
	case <-a.Done():
	case <-time.After(patience):
		a.Fatalf("%s: the session goes on", why)
	}
	if ended, ok := errors.AsType[*session.EndedError](a.Err()); !ok || ended.Reason != reason {
		a.Fatalf("%s: ended with %v, want %v", why, a.Err(), reason)
	}
}

// wantUp returns the next up record, which is of the kind. News alone don't count.
func (a *localAgent) wantUp(why string, kind envelope.Kind) envelope.Record {
	a.Helper()
	for {
		select {
		case rec := <-a.ups:
			if rec.Kind == envelope.Delivered || rec.Kind == envelope.Probe {
				continue
			}
			if rec.Kind != kind {
				a.Fatalf("%s: up record %v seq %d, want %v", why, rec.Kind, rec.Seq, kind)
			}
			return rec
		case <-time.After(patience):
			a.Fatalf("%s: no up record, want %v", why, kind)
		}
	}
}

func (a *localAgent) write(p string) {
	a.Helper()
	if _, err := a.Write([]byte(p)); err != nil {
		a.Fatal(err)
	}
}

func (a *localAgent) wantRead(want string) {
	a.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(a, got); err != nil || string(got) != want {
		a.Fatalf("read %q, %v; want %q", got, err, want)
	}
}

func TestLocalSession(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		a := r.local(g)
		rec := a.want("OPEN", envelope.Open)
		var open linkv1.Open
		var verified linkv1.Verified
		if err := errors.Join(proto.Unmarshal(rec.Payload, &open), proto.Unmarshal(rec.Appendix, &verified)); err != nil {
			t.Fatal(err)
		}
		if open.GetResumable() || open.GetKind() != legacy.Kind || !proto.Equal(open.GetRemoting(), legacy.Remoting) || open.GetAgent() != "old-1" {
			t.Errorf("OPEN says %v", &open)
		}
		if verified.GetIdentity() != "" || verified.GetRemoteAddress() != legacy.RemoteAddr || verified.GetGateway() != "gw" {
			t.Errorf("the gateway vouches for %v", &verified)
		}
		answer, _ := proto.Marshal(&linkv1.Accept{Status: 101})
		a.say(envelope.Accept, 1, string(answer))
		if err := a.Accepted(context.Background()); err != nil || a.Answer().GetStatus() != 101 {
			t.Errorf("accepted: %v, answer %v", err, a.Answer())
		}
		a.write("up")
		if rec := a.want("data", envelope.Data); string(rec.Payload) != "up" || rec.Seq != 2 {
			t.Errorf("up came %q, seq %d", rec.Payload, rec.Seq)
		}
		a.say(envelope.Data, 2, "down", func(r *envelope.Record) { r.Delivered = 2 })
		a.wantRead("down")
		if rec := a.want("delivered", envelope.Delivered); rec.Delivered != 2 {
			t.Errorf("delivered %d, want 2", rec.Delivered)
		}
		a.say(envelope.Probe, 0, "")
		a.want("the answer to a probe", envelope.Delivered)
		time.Sleep(time.Minute) // heartbeats come and go
		if err := a.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		a.want("half-close", envelope.Fin)
		a.Close()
		if rec := a.want("close", envelope.Close); session.ParseEnding(rec.Payload).Reason != linkv1.Reason_REASON_OK {
			t.Errorf("closed with %v", session.ParseEnding(rec.Payload))
		}
		a.say(envelope.Close, 3, string(session.MarshalEnding(session.Ending{Reason: linkv1.Reason_REASON_OK})))
		a.wantOver("closed by both", linkv1.Reason_REASON_OK)
		a.wantNothingUp("nothing follows CLOSE")
		g.wantNothingLeft()
	})
}

// wantNothingLeft wants no trace of any session in the gateway.
func (g *gate) wantNothingLeft() {
	g.rig.Helper()
	for range 100 {
		if g.sessions.Load() == 0 && g.streams.Load() == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if n := len(g.feeds) + len(g.lingering) + len(g.locals.open) + int(g.sessions.Load()+g.streams.Load()) + g.cache.Len(); n != 0 {
		g.rig.Errorf("left: %d feeds, %d lingering, %d local, %d places, %d streams, %d tails",
			len(g.feeds), len(g.lingering), len(g.locals.open), g.sessions.Load(), g.streams.Load(), g.cache.Len())
	}
}

// Whatever ends the stream of a local session ends the session, with the
// reason, and the gateway keeps nothing of it.
func TestLocalSessionEnds(t *testing.T) {
	for _, tc := range []struct {
		desc   string
		strike func(a *localAgent)
		reason linkv1.Reason
		said   envelope.Kind // last thing up; 0: nothing
	}{
		{"the controller side closes it", func(a *localAgent) {
			a.say(envelope.Close, 2, string(session.MarshalEnding(session.Ending{Reason: linkv1.Reason_REASON_PEER_RESET})))
		}, linkv1.Reason_REASON_PEER_RESET, 0},
		{"the controller side knows nothing of it", func(a *localAgent) {
			a.say(envelope.Ended, 0, string(session.MarshalEnding(session.Ending{Reason: linkv1.Reason_REASON_UNKNOWN_SESSION})))
		}, linkv1.Reason_REASON_UNKNOWN_SESSION, 0},
		{"a newer process of the controller", func(a *localAgent) {
			a.silence()
			a.live()
		}, linkv1.Reason_REASON_CONTROLLER_GONE, 0},
		{"a silent controller", func(a *localAgent) {
			a.silence()
			time.Sleep(90 * time.Second)
		}, linkv1.Reason_REASON_CONTROLLER_GONE, 0},
		{"a gap in the log", func(a *localAgent) {
			a.say(envelope.Data, 3, "3 without 2")
		}, linkv1.Reason_REASON_DATA_LOSS, envelope.Lost},
		{"a controller side that breaks the rules", func(a *localAgent) {
			a.say(envelope.Accept, 2, "")
		}, linkv1.Reason_REASON_PROTOCOL_ERROR, envelope.Close},
	} {
		t.Run(tc.desc, func(t *testing.T) {
			story(t, func(r *rig) {
				g := r.gateway(nil)
				defer g.shut()
				a := r.opened(g)
				tc.strike(a)
				a.wantOver(tc.desc, tc.reason)
				if tc.said != 0 {
					a.wantUp("the controller side is told", tc.said)
				}
				if _, err := a.Read(make([]byte, 1)); err == nil || err == io.EOF {
					t.Errorf("read: %v", err)
				}
				if _, err := a.Write([]byte("x")); err == nil {
					t.Error("written to a session that is over")
				}
				g.wantNothingLeft()
			})
		})
	}
}

func TestLocalSessionOfGatewayThatEnds(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		a := r.opened(g)
		began := time.Now()
		drained := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			drained <- g.Drain(ctx)
		}()
		time.Sleep(10 * time.Second)
		if _, err := g.OpenLocal(context.Background(), legacy); !errors.Is(err, errDraining) {
			t.Errorf("a new session while draining: %v", err)
		}
		a.write("still served")
		a.wantUp("a draining gateway serves it", envelope.Data)
		rec := a.wantUp("the end is said", envelope.Close)
		if took := time.Since(began); took < 20*time.Second || took > 22*time.Second {
			t.Errorf("ended after %v, want the drain's 20 s", took)
		}
		if e := session.ParseEnding(rec.Payload); e.Reason != linkv1.Reason_REASON_GATEWAY_GONE {
			t.Errorf("told %v", e)
		}
		a.wantOver("the gateway has ended", linkv1.Reason_REASON_GATEWAY_GONE)
		if err := <-drained; err != nil {
			t.Error(err)
		}
		<-g.served
		g.conn.Close()
		g.wantNothingLeft()
		if _, err := g.OpenLocal(context.Background(), legacy); err == nil {
			t.Error("a session at a gateway that has ended")
		}
	})
}

// A draining gateway is done as soon as its last local session is.
func TestDrainWaitsForLocalSessions(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		a := r.opened(g)
		began := time.Now()
		time.AfterFunc(10*time.Second, func() {
			a.say(envelope.Close, 2, string(session.MarshalEnding(session.Ending{Reason: linkv1.Reason_REASON_OK})))
		})
		g.stop(func() { g.Drain(context.Background()) })
		a.wantOver("closed while draining", linkv1.Reason_REASON_OK)
		if took := time.Since(began); took > 12*time.Second {
			t.Errorf("drained after %v", took)
		}
	})
}

// Connections that a door keeps for the next look-up hold no drain up.
func TestDrainDoesNotWaitForLookUps(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		want := legacy
		want.Kind = linkv1.ServiceKind_SERVICE_KIND_HTTP
		if _, err := g.OpenLocal(context.Background(), want); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		began := time.Now()
		g.stop(func() { g.Drain(context.Background()) })
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("drained after %v", took)
		}
	})
}

func TestLocalSessionsAreBounded(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(func(c *Config) { c.MaxSessions = 1 })
		defer g.shut()
		r.opened(g)
		other := func(change func(*Local)) Local {
			want := legacy
			change(&want)
			return want
		}
		for _, tc := range []struct {
			desc string
			want Local
			err  error
		}{
			{"one too many", legacy, errTooMany},
			{"an unknown controller", other(func(w *Local) { w.Controller = "nobody" }), errUnknownController},
			{"an impossible controller", other(func(w *Local) { w.Controller = "No Body" }), errNoName},
			{"a name that is not UTF-8", other(func(w *Local) { w.Agent = "\xff" }), session.ErrViolation},
			{"too much to say", other(func(w *Local) {
				w.Remoting = &linkv1.Remoting{Headers: []*linkv1.Header{{Name: "X", Value: make([]byte, 20<<10)}}}
			}), session.ErrViolation},
		} {
			if _, err := g.OpenLocal(context.Background(), tc.want); !errors.Is(err, tc.err) {
				t.Errorf("%s: %v", tc.desc, err)
			}
		}
		if n := g.sessions.Load(); n != 1 {
			t.Errorf("%d places taken", n)
		}
	})
}

// An agent that doesn't read holds little memory, loses nothing, and its
// session can be closed all the same.
func TestLocalAgentThatDoesNotRead(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(func(c *Config) { c.CacheBytes = 256 << 10 }) // so that most has to be read again
		defer g.shut()
		a := r.opened(g)
		const frames, size = 40, 16 << 10
		sent := sha256.New()
		for i := range frames {
			p := bytes.Repeat([]byte{byte(i)}, size)
			sent.Write(p)
			a.say(envelope.Data, uint64(i+2), string(p))
		}
		time.Sleep(10 * time.Second)
		if n := a.unread.Load(); n < localUnread || n >= localUnread+size {
			t.Errorf("%d bytes wait in the session, want about %d", n, localUnread)
		}
		got := sha256.New()
		if _, err := io.CopyN(got, a, frames*size); err != nil || !bytes.Equal(got.Sum(nil), sent.Sum(nil)) {
			t.Errorf("read something else: %v", err)
		}
		for i := range 20 {
			a.say(envelope.Data, uint64(i+frames+2), strings.Repeat("x", size))
		}
		time.Sleep(time.Second)
		a.Abort(errors.New("its connection broke"))
		a.say(envelope.Close, frames+22, string(session.MarshalEnding(session.Ending{Reason: linkv1.Reason_REASON_PEER_RESET})))
		began := time.Now()
		a.wantOver("aborted", linkv1.Reason_REASON_PEER_RESET)
		if took := time.Since(began); took > time.Second {
			t.Errorf("known after %v", took)
		}
	})
}

// While Kafka takes nothing, a local session waits, however long; what its
// agent writes above a little is not read. Closing it ends it on this side,
// in bounded time.
func TestLocalSessionWaitsForKafka(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		a, b := r.opened(g), r.opened(g)
		f := r.kafka.ProduceFailed(-1)
		a.write("waits")
		time.Sleep(10 * time.Second)
		blocked := make(chan error, 1)
		go func() {
			_, err := b.Write([]byte("is not read"))
			blocked <- err
		}()
		if _, err := g.OpenLocal(context.Background(), legacy); !errors.Is(err, errStalled) {
			t.Errorf("a new session while Kafka is away: %v", err)
		}
		time.Sleep(3 * time.Minute)
		if a.Err() != nil || b.Err() != nil || len(blocked) > 0 {
			t.Fatalf("ended: %v, %v", a.Err(), b.Err())
		}
		b.Abort(errors.New("its connection broke"))
		if err := <-blocked; !errors.Is(err, net.ErrClosed) {
			t.Errorf("the blocked write: %v", err)
		}
		b.wantOver("closed while Kafka is away", linkv1.Reason_REASON_PEER_RESET)
		f.Remove()
		if rec := a.wantUp("it goes on", envelope.Data); string(rec.Payload) != "waits" {
			t.Errorf("came %q", rec.Payload)
		}
		a.write("more")
		a.wantUp("and on", envelope.Data)
		b.wantUp("the other side is told as well", envelope.Close)
	})
}

// realController starts one, "real", beside the one that the test plays.
func (r *rig) realController(grace time.Duration) *ctl.Controller {
	r.Helper()
	spec := bridge.TopicSpec{Partitions: 1, SingleBroker: true, AllowSmall: true}
	if err := r.client.CreateTopics(context.Background(), "real", spec); err != nil {
		r.Fatal(err)
	}
	c, err := ctl.Start(context.Background(), ctl.Config{
		Bridge: r.bridge(), Name: "real", Grace: grace, SingleBroker: true, AllowSmall: true, Logger: r.log.With("process", "controller"),
	})
	if err != nil {
		r.Fatal(err)
	}
	return c
}

// pair opens a local session with a real controller and returns both ends.
func (r *rig) pair(g *gate, c *ctl.Controller) (*LocalSession, *ctl.Session) {
	r.Helper()
	want := legacy
	want.Controller = "real"
	l, err := g.OpenLocal(context.Background(), want)
	if err != nil {
		r.Fatal(err)
	}
	far, err := c.Accept(context.Background())
	if err != nil {
		r.Fatal(err)
	}
	far.Accept()
	if err := l.Accepted(context.Background()); err != nil {
		r.Fatal(err)
	}
	return l, far
}

// A gateway killed while Kafka is healthy: the controller side knows within
// 5 s, the agent's side at once.
func TestLocalSessionOfKilledGateway(t *testing.T) {
	story(t, func(r *rig) {
		c := r.realController(time.Minute)
		defer c.Close(context.Background())
		g := r.gateway(nil)
		l, far := r.pair(g, c)
		time.Sleep(10 * time.Second)
		began := time.Now()
		g.stop(g.Kill)
		select {
		case <-l.Done():
		default:
			t.Error("the agent's side does not know")
		}
		if e, ok := errors.AsType[*session.EndedError](l.Err()); !ok || e.Reason != linkv1.Reason_REASON_GATEWAY_GONE {
			t.Errorf("the agent's side: %v", l.Err())
		}
		<-far.Done()
		if e, ok := errors.AsType[*session.EndedError](far.Err()); !ok || e.Reason != linkv1.Reason_REASON_GATEWAY_GONE {
			t.Errorf("the controller side: %v", far.Err())
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("the controller side knows after %v", took)
		}
	})
}

// Kafka takes nothing for minutes: no session ends for it, on either side.
func TestKafkaOutageEndsNoLocalSession(t *testing.T) {
	story(t, func(r *rig) {
		c := r.realController(20 * time.Second)
		defer c.Close(context.Background())
		g := r.gateway(nil)
		defer g.shut()
		l, far := r.pair(g, c)
		f := r.kafka.ProduceFailed(-1)
		time.Sleep(5 * time.Minute)
		f.Remove()
		if _, err := l.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 4)
		if _, err := io.ReadFull(far, p); err != nil {
			t.Fatal(err)
		}
		if _, err := far.Write(p); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(l, p); err != nil || string(p) != "ping" {
			t.Errorf("came back %q, %v", p, err)
		}
	})
}

// A thousand local sessions that do nothing are no goroutine more.
func TestIdleLocalSessionsHaveNoGoroutines(t *testing.T) {
	g, _ := voidGateway(t, true)
	openLocals(t, g, 10)
	before := runtime.NumGoroutine()
	openLocals(t, g, 1000)
	deadline := time.Now().Add(10 * time.Second)
	for runtime.NumGoroutine() > before+mostIdle {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before 1,000 sessions", runtime.NumGoroutine(), before)
		}
		runtime.Gosched()
	}
}

// openLocals opens n local sessions, each of which does ten round trips.
func openLocals(tb testing.TB, g *Gateway, n int) {
	tb.Helper()
	for range n {
		l, err := g.OpenLocal(context.Background(), legacy)
		if err != nil {
			tb.Fatal(err)
		}
		p := make([]byte, 64)
		for range 10 {
			if _, err := l.Write(p); err != nil {
				tb.Fatal(err)
			}
			if _, err := io.ReadFull(l, p); err != nil {
				tb.Fatal(err)
			}
		}
	}
}

// BenchmarkIdleLocal reports what an idle local session costs, in heap and
// stacks.
func BenchmarkIdleLocal(b *testing.B) {
	const n = 4000
	for b.Loop() {
		g, _ := voidGateway(b, true)
		openLocals(b, g, 100) // what is made once
		h0, s0 := memory()
		before := runtime.NumGoroutine()
		openLocals(b, g, n)
		h1, s1 := memory()
		b.ReportMetric(float64(h1-h0)/n, "B/heap")
		b.ReportMetric((float64(s1)-float64(s0))/n, "B/stack")
		b.ReportMetric(float64(runtime.NumGoroutine()-before)/n, "goroutines")
		b.ReportMetric(0, "ns/op")
	}
}

// What a door asks is answered from the last heartbeat, whoever is away.
func TestBackendDescribes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.close()
		r.silence()
		m := &linkv1.Jenkins{Path: "/ci/", AgentPort: 50000}
		r.jenkins = m
		r.live()
		r.silence()
		time.Sleep(time.Minute) // the controller is away before the gateway comes
		g := r.gateway(nil)
		defer g.shut()
		b := g.DoorBackend()
		d, err := b.Describe(context.Background(), "test")
		if err != nil || !proto.Equal(d.Jenkins, m) {
			t.Fatalf("described as %v, %v", d.Jenkins, err)
		}
		for _, name := range []string{"nobody", "No Body", ""} {
			if _, err := b.Describe(context.Background(), name); !errors.Is(err, door.ErrUnknownController) {
				t.Errorf("%q: %v", name, err)
			}
		}
		time.Sleep(10 * time.Second)
		req := door.Request{Controller: "test", Kind: legacy.Kind, Remoting: legacy.Remoting}
		if _, err := b.Open(context.Background(), req); err == nil || errors.Is(err, door.ErrUnknownController) {
			t.Errorf("a session with a controller that is away: %v", err)
		}
		r.kafka.Close()
		time.Sleep(10 * time.Minute) // nobody has asked for it: it is not followed any more
		if d, err := b.Describe(context.Background(), "test"); err != nil || !proto.Equal(d.Jenkins, m) || d.Age < 10*time.Minute {
			t.Errorf("described as %v, %v ago, %v", d.Jenkins, d.Age, err)
		}
		if _, err := b.Describe(context.Background(), "nobody"); err == nil || errors.Is(err, door.ErrUnknownController) {
			t.Errorf("whether there is such a controller cannot be known now: %v", err)
		}
	})
}

// BenchmarkLocalBytes is a local session's way to the bridge and back, in
// pieces of 32 KiB, as a door copies them.
func BenchmarkLocalBytes(b *testing.B) {
	g, _ := voidGateway(b, true)
	l, err := g.OpenLocal(context.Background(), legacy)
	if err != nil {
		b.Fatal(err)
	}
	p := make([]byte, 32<<10)
	b.SetBytes(int64(len(p)))
	read := make(chan error, 1)
	n := 0
	go func() {
		_, err := io.Copy(io.Discard, l)
		read <- err
	}()
	for b.Loop() {
		if _, err := l.Write(p); err != nil {
			b.Fatal(err)
		}
		n++
	}
	for took := uint64(0); took < uint64(n*len(p)); runtime.Gosched() {
		l.Lock()
		took, _ = l.agent.Bytes()
		l.Unlock()
	}
	l.Abort(errors.New("done"))
	<-read
}
