package standin_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/moorage-dev/moorage/demo/fabric"
	"github.com/moorage-dev/moorage/remoting"
	"github.com/moorage-dev/moorage/standin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A story has one controller and agents on a network in memory, in a bubble
// where time costs nothing.
type story struct {
	*testing.T
	network    *fabric.Network
	controller *standin.Controller
	stop       context.CancelCauseFunc // ends the controller
	stopped    chan struct{}
	begun      time.Time
}

// someKey is an identity that stories share: making one takes its time.
var someKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

var errOver = errors.New("the story is over")

func tell(t *testing.T, cfg standin.Config, story func(s *story)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newStory(t, cfg)
		story(s)
		s.end()
	})
}

func newStory(t *testing.T, cfg standin.Config) *story {
	t.Helper()
	s := &story{T: t, network: fabric.New(), begun: time.Now()}
	if cfg.Pings.Interval == 0 {
		cfg.Pings.Interval = -1
	}
	if cfg.Identity == nil {
		cfg.Identity = someKey()
	}
	s.start(cfg)
	return s
}

// start starts the controller, or one that takes its place.
func (s *story) start(cfg standin.Config) {
	s.Helper()
	cfg.HTTP, cfg.TCP = s.listen("jenkins:8080"), s.listen("jenkins:50000")
	controller, err := standin.NewController(cfg)
	if err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(s.Context())
	s.controller, s.stop, s.stopped = controller, cancel, make(chan struct{})
	go func(done chan struct{}) {
		defer close(done)
		// A failed test ends its context first; it has said why.
		if err := controller.Run(ctx); !errors.Is(err, errOver) && s.Context().Err() == nil {
			s.Errorf("the controller ended: %v", err)
		}
	}(s.stopped)
}

func (s *story) end() {
	s.stop(errOver)
	<-s.stopped
	s.network.Close()
}

func (s *story) listen(addr string) net.Listener {
	s.Helper()
	l, err := s.network.Listen("tcp", addr)
	if err != nil {
		s.Fatal(err)
	}
	return l
}

// none stands for no secret.
const none = "none"

// An actor is an agent that runs.
type actor struct {
	s      *story
	events chan standin.Event
	cancel context.CancelCauseFunc
	exit   chan error
}

// agent completes an agent's options and starts it.
func (s *story) agent(a standin.Agent) *actor {
	if a.Secret == "" {
		a.Secret = s.controller.Secret(a.Name)
	}
	if a.Secret == none {
		a.Secret = ""
	}
	if a.URL == "" && a.Direct == "" && a.JNLPURL == "" {
		a.URL = s.controller.URL
	}
	if a.Direct != "" && a.Identity == "" {
		a.Identity = s.controller.Identity
	}
	if a.Dial == nil {
		a.Dial = s.network.Dialer(a.Name)
	}
	if a.Pings.Interval == 0 {
		a.Pings.Interval = -1
	}
	actor := &actor{s: s, events: make(chan standin.Event, 1000), exit: make(chan error, 1)}
	a.Observe = func(e standin.Event) { actor.events <- e }
	ctx, cancel := context.WithCancelCause(s.Context())
	actor.cancel = cancel
	go func() { actor.exit <- a.Run(ctx) }()
	return actor
}

// quit kills the agent's process.
func (a *actor) quit() {
	a.s.Helper()
	a.cancel(errOver)
	if err := <-a.exit; !errors.Is(err, errOver) {
		a.s.Errorf("the agent ended: %v", err)
	}
}

// want waits for the agent's next event.
func (a *actor) want(state standin.State) standin.Event {
	a.s.Helper()
	select {
	case e := <-a.events:
		if e.State != state {
			a.s.Fatalf("the agent is %s (%v), want %s", e.State, e.Err, state)
		}
		return e
	case err := <-a.exit:
		a.s.Fatalf("the agent ended: %v, want it %s", err, state)
	}
	return standin.Event{}
}

// wantExit waits for the end of the agent's process.
func (a *actor) wantExit(code int) error {
	a.s.Helper()
	err := <-a.exit
	exit, ok := errors.AsType[*standin.ExitError](err)
	if !ok || exit.Code != code {
		a.s.Fatalf("the agent ended: %v, want exit %d", err, code)
	}
	return err
}

func (s *story) online(name string) {
	s.Helper()
	if err := s.controller.WaitOnline(s.limit(), name); err != nil {
		s.Fatalf("%s is not online: %v", name, err)
	}
}

func (s *story) offline(name string) {
	s.Helper()
	if err := s.controller.WaitOffline(s.limit(), name); err != nil {
		s.Fatalf("%s is not offline: %v", name, err)
	}
}

// limit bounds a wait by an hour of the bubble's.
func (s *story) limit() context.Context {
	ctx, cancel := context.WithTimeout(s.Context(), time.Hour)
	s.Cleanup(cancel)
	return ctx
}

func (s *story) call(name string, up, down int) {
	s.Helper()
	if err := s.controller.Call(s.limit(), name, up, down); err != nil {
		s.Fatalf("call of %d bytes up, %d down: %v", up, down, err)
	}
}

// elapsed is the time since the last look, in seconds.
func (s *story) elapsed() float64 {
	d := time.Since(s.begun)
	s.begun = time.Now()
	return d.Seconds()
}

func (s *story) wantElapsed(what string, seconds float64) {
	s.Helper()
	if got := s.elapsed(); got < seconds-0.001 || got > seconds+0.1 {
		s.Errorf("%s took %.3f s, want %v", what, got, seconds)
	}
}

func TestAgentsComeOnlineEveryWay(t *testing.T) {
	const file = "http://jenkins:8080/computer/agent%C3%A9%201/jenkins-agent.jnlp"
	for _, tc := range []struct {
		desc     string
		agent    standin.Agent
		cfg      standin.Config
		protocol string
	}{
		{"-url", standin.Agent{}, standin.Config{}, remoting.JNLP4},
		{"-url with a prefix", standin.Agent{}, standin.Config{Prefix: "ci/jenkins"}, remoting.JNLP4},
		{"-url, the controller has TLS 1.2", standin.Agent{}, standin.Config{MaxTLS: 0x303}, remoting.JNLP4},
		{"-url, the agent has TLS 1.2", standin.Agent{MaxTLS: 0x303}, standin.Config{}, remoting.JNLP4},
		{"-url -tunnel", standin.Agent{Tunnel: "jenkins:"}, standin.Config{}, remoting.JNLP4},
		{"-direct", standin.Agent{Direct: "jenkins:50000"}, standin.Config{}, remoting.JNLP4},
		{"-direct -protocols", standin.Agent{Direct: "jenkins:50000", Protocols: []string{remoting.JNLP4}}, standin.Config{}, remoting.JNLP4},
		{"-webSocket", standin.Agent{WebSocket: true}, standin.Config{}, standin.WebSocket},
		{"-jnlpUrl in clear", standin.Agent{JNLPURL: file, Secret: none}, standin.Config{}, remoting.JNLP4},
		{"-jnlpUrl -secret", standin.Agent{JNLPURL: file}, standin.Config{Options: []string{"-workDir", "/x"}}, remoting.JNLP4},
		{"-jnlpUrl of a WebSocket", standin.Agent{JNLPURL: file}, standin.Config{Options: []string{"-webSocket"}}, standin.WebSocket},
		{"-jnlpUrl with a tunnel", standin.Agent{JNLPURL: file}, standin.Config{Options: []string{"-tunnel", ":50000"}}, remoting.JNLP4},
		{"of 1.395's age", standin.Agent{Hudson: true, Protocols: []string{remoting.JNLP1}}, standin.Config{Hudson: true}, remoting.JNLP1},
		{"of Hudson's age, at an older one", standin.Agent{Hudson: true}, standin.Config{Hudson: true, Protocols: []string{remoting.JNLP1}}, remoting.JNLP1},
		{"of Hudson's age", standin.Agent{Hudson: true}, standin.Config{Hudson: true}, remoting.JNLP2},
	} {
		t.Run(tc.desc, func(t *testing.T) {
			tell(t, tc.cfg, func(s *story) {
				tc.agent.Name = "agenté 1"
				a := s.agent(tc.agent)
				a.want(standin.Online)
				s.online("agenté 1")
				if got := s.controller.Agents(); len(got) != 1 || got[0].Name != "agenté 1" || got[0].Protocol != tc.protocol {
					t.Errorf("online are %v, want one by %s", got, tc.protocol)
				}
				for _, size := range []int{0, 1, remoting.ChunkSize, 3 << 20} {
					s.call("agenté 1", size, 0)
					s.call("agenté 1", 0, size)
				}
				a.quit()
				s.offline("agenté 1")
				stats := s.controller.Stats()
				if stats.Corrupt != 0 || stats.Online != 1 || stats.Lost != 1 {
					t.Errorf("the controller counts %+v", stats)
				}
				if stats.Commands[remoting.ClassResponse] != 6+8 {
					t.Errorf("%d responses have come, want 14", stats.Commands[remoting.ClassResponse])
				}
			})
		})
	}
}

func TestManyCallsAtOnceBothWays(t *testing.T) {
	tell(t, standin.Config{}, func(s *story) {
		a := s.agent(standin.Agent{Name: "agent1"})
		s.online("agent1")
		results := make(chan error)
		for i := range 20 {
			go func() { results <- s.controller.Call(s.limit(), "agent1", 400<<10, i<<14) }()
		}
		for range 20 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		a.quit()
	})
}

// TestLookupCostsOneProbe shows what a door will see before a real connection.
func TestLookupCostsOneProbe(t *testing.T) {
	tell(t, standin.Config{}, func(s *story) {
		a := s.agent(standin.Agent{Name: "agent1"})
		s.online("agent1")
		if stats := s.controller.Stats(); stats.Probes != 1 || stats.Connections != 1 {
			t.Errorf("got %d probes and %d connections, want one each", stats.Probes, stats.Connections)
		}
		a.quit()
	})
}

func TestRefusalsAreRepeatedEveryTenSeconds(t *testing.T) {
	for desc, tc := range map[string]struct {
		agent standin.Agent
		want  string
		sort  string
	}{
		"unknown name":  {standin.Agent{Name: "stranger"}, "Unknown client name: stranger", "Unknown client name"},
		"wrong secret":  {standin.Agent{Name: "agent1", Secret: strings.Repeat("0", 64)}, "Authorization failure", "Authorization failure"},
		"wrong key":     {standin.Agent{Name: "agent1", Direct: "jenkins:50000", Identity: otherIdentity(t)}, "public key", ""},
		"by look-up":    {standin.Agent{Name: "stranger", URL: "http://jenkins:8080"}, "Unknown client name: stranger", "Unknown client name"},
		"no such place": {standin.Agent{Name: "agent1", URL: "http://jenkins:8080/other/"}, "404", ""},
	} {
		t.Run(desc, func(t *testing.T) {
			tell(t, standin.Config{Nodes: []string{"agent1"}}, func(s *story) {
				a := s.agent(tc.agent)
				for i := range 3 {
					e := a.want(standin.Failed)
					if !strings.Contains(e.Err.Error(), tc.want) {
						t.Errorf("the agent hears %v, want %q", e.Err, tc.want)
					}
					if i > 0 {
						s.wantElapsed("the next try", 10)
					}
					s.elapsed()
				}
				if got := s.controller.Stats().Refused[tc.sort]; tc.sort != "" && got != 3 {
					t.Errorf("counted %d times, want 3", got)
				}
				a.quit()
			})
		})
	}
}

func otherIdentity(t *testing.T) string {
	t.Helper()
	other, err := standin.NewController(standin.Config{HTTP: noListener{}, TCP: noListener{}})
	if err != nil {
		t.Fatal(err)
	}
	return other.Identity
}

// noListener is for a controller that is never run.
type noListener struct{ net.Listener }

func (noListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1} }

func TestIdentityWithALineBreakEndsTheProcess(t *testing.T) {
	tell(t, standin.Config{}, func(s *story) {
		broken := s.controller.Identity[:64] + "\n" + s.controller.Identity[64:]
		a := s.agent(standin.Agent{Name: "agent1", Direct: "jenkins:50000", Identity: broken})
		a.wantExit(1)
	})
}

func TestSecondAgentOfANameIsRefused(t *testing.T) {
	for _, webSocket := range []bool{false, true} {
		t.Run(fmt.Sprintf("WebSocket %t", webSocket), func(t *testing.T) {
			tell(t, standin.Config{}, func(s *story) {
				first := s.agent(standin.Agent{Name: "agent1", WebSocket: webSocket})
				first.want(standin.Online)
				s.online("agent1")
				second := s.agent(standin.Agent{Name: "agent1", WebSocket: webSocket})
				second.want(standin.Failed)
				if got := s.controller.Stats().Refused["already connected"]; got != 1 {
					t.Errorf("counted %d times, want once", got)
				}
				s.call("agent1", 1000, 1000)
				first.quit()
				for second.next() != standin.Online {
				}
				second.quit()
			})
		})
	}
}

func (a *actor) next() standin.State { return (<-a.events).State }

// TestCookieReplacesTheOldChannel cuts the path so that only the agent knows:
// the same JVM gets in by its cookie, a fresh one is told that it is already
// connected.
func TestCookieReplacesTheOldChannel(t *testing.T) {
	for _, fresh := range []bool{false, true} {
		t.Run(fmt.Sprintf("fresh %t", fresh), func(t *testing.T) {
			tell(t, standin.Config{}, func(s *story) {
				half := &halfCut{story: s}
				a := s.agent(standin.Agent{Name: "agent1", Direct: "jenkins:50000", Protocols: []string{remoting.JNLP4}, FreshJVM: fresh, Dial: half.dial})
				a.want(standin.Online)
				s.online("agent1")
				half.cut()
				a.want(standin.Offline)
				if !fresh {
					a.want(standin.Online)
					s.online("agent1")
					s.call("agent1", 1, 1)
				} else if e := a.want(standin.Failed); !strings.Contains(e.Err.Error(), "already connected") {
					t.Errorf("the agent hears %v", e.Err)
				}
				a.quit()
				half.release()
			})
		})
	}
}

// A halfCut closes the agent's end of a connection and keeps the
// controller's.
type halfCut struct {
	*story
	conns []net.Conn
	ends  []net.Conn
}

func (h *halfCut) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := h.network.Dial(ctx, "agent1", addr)
	if err != nil {
		return nil, err
	}
	near, far := net.Pipe()
	h.conns, h.ends = append(h.conns, conn), append(h.ends, near)
	go pour(conn, far)
	go pour(far, conn)
	return &addressed{near, conn.RemoteAddr()}, nil
}

// pour copies without carrying over the end.
func pour(to, from net.Conn) {
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

type addressed struct {
	net.Conn
	remote net.Addr
}

func (a *addressed) RemoteAddr() net.Addr { return a.remote }

func (h *halfCut) cut() { h.ends[0].Close() }

func (h *halfCut) release() {
	for i := range h.conns {
		h.conns[i].Close()
		h.ends[i].Close()
	}
}

func TestReconnectTimes(t *testing.T) {
	for desc, tc := range map[string]struct {
		agent standin.Agent
		want  float64
	}{
		"-url":       {standin.Agent{}, 10},
		"-direct":    {standin.Agent{Direct: "jenkins:50000"}, 0},
		"-webSocket": {standin.Agent{WebSocket: true}, 0},
	} {
		t.Run(desc, func(t *testing.T) {
			tell(t, standin.Config{}, func(s *story) {
				tc.agent.Name = "agent1"
				a := s.agent(tc.agent)
				a.want(standin.Online)
				s.online("agent1")
				for _, how := range []standin.Ending{standin.EndFIN, standin.EndReset, standin.EndCommand} {
					if err := s.controller.Disconnect("agent1", how); err != nil {
						t.Fatal(err)
					}
					a.want(standin.Offline)
					s.elapsed()
					a.want(standin.Online)
					s.wantElapsed("coming back", tc.want)
					s.online("agent1")
				}
				a.quit()
			})
		})
	}
}

// TestAgentsWaitForTheirController restarts the controller with the same keys.
func TestAgentsWaitForTheirController(t *testing.T) {
	for desc, agent := range map[string]standin.Agent{"-url": {}, "-webSocket": {WebSocket: true}, "of Hudson's age": {Hudson: true}} {
		t.Run(desc, func(t *testing.T) {
			cfg := standin.Config{Key: []byte("key"), Hudson: agent.Hudson}
			tell(t, cfg, func(s *story) {
				agent.Name = "agent1"
				a := s.agent(agent)
				a.want(standin.Online)
				s.online("agent1")
				s.stop(errOver)
				<-s.stopped
				a.want(standin.Offline)
				time.Sleep(95 * time.Second)
				s.start(cfg)
				for a.next() != standin.Online {
				}
				s.online("agent1")
				a.quit()
			})
		})
	}
}

func TestRetriesOfAWebSocket(t *testing.T) {
	tell(t, standin.Config{Nodes: []string{"agent1"}}, func(s *story) {
		a := s.agent(standin.Agent{Name: "stranger", WebSocket: true})
		a.want(standin.Failed)
		s.elapsed()
		for _, wait := range []float64{1, 3, 7, 10, 10} {
			if e := a.want(standin.Failed); !strings.Contains(e.Err.Error(), "400") {
				t.Errorf("the agent hears %v", e.Err)
			}
			s.wantElapsed("the next try", wait)
		}
		if got := s.controller.Stats().Requests["/login"]; got != 1 {
			t.Errorf("asked for /login %d times, want once", got)
		}
		a.quit()
	})
}

func TestOldAgentsProcessEndsForGood(t *testing.T) {
	for desc, misbehave := range map[string]func(s *story) *actor{
		"nobody answers the look-up": func(s *story) *actor {
			return s.agent(standin.Agent{Name: "agent1", Hudson: true, URL: "http://nobody:8080/"})
		},
		"the handshake is cut": func(s *story) *actor {
			l := s.listen("rude:1")
			go func() {
				conn, err := l.Accept()
				if err == nil {
					conn.Close()
				}
				l.Close()
			}()
			return s.agent(standin.Agent{Name: "agent1", Hudson: true, Tunnel: "rude:1"})
		},
		"a wrong secret": func(s *story) *actor {
			return s.agent(standin.Agent{Name: "agent1", Hudson: true, Secret: "x"})
		},
	} {
		t.Run(desc, func(t *testing.T) {
			tell(t, standin.Config{Hudson: true}, func(s *story) {
				misbehave(s).wantExit(255)
				s.wantElapsed("the end", 0)
			})
		})
	}
}

func TestPingsNoticeASilentPeer(t *testing.T) {
	tell(t, standin.Config{Pings: standin.Pings{Interval: 300 * time.Second}}, func(s *story) {
		a := s.agent(standin.Agent{Name: "agent1"})
		a.want(standin.Online)
		s.online("agent1")
		time.Sleep(9 * time.Second)
		for _, l := range s.network.Links(func(*fabric.Link) bool { return true }) {
			l.BlackHole()
		}
		s.elapsed()
		s.offline("agent1")
		s.wantElapsed("noticing", 531)
		if s.controller.Stats().PingsMissing != 1 {
			t.Error("the missing ping is not counted")
		}
		a.quit()
	})
}

// TestCloseNotifyLeavesADeafChannel is why nobody may say close_notify.
func TestCloseNotifyLeavesADeafChannel(t *testing.T) {
	for _, version := range []uint16{0x303, 0x304} {
		tell(t, standin.Config{MaxTLS: version}, func(s *story) {
			a := s.agent(standin.Agent{Name: "agent1", Pings: standin.Pings{Interval: 300 * time.Second}})
			a.want(standin.Online)
			s.online("agent1")
			time.Sleep(time.Minute)
			s.elapsed()
			if err := s.controller.Disconnect("agent1", standin.EndNotify); err != nil {
				t.Fatal(err)
			}
			a.want(standin.Offline)
			if got := s.elapsed(); got < 240 || got > 540 {
				t.Errorf("the agent noticed after %.0f s, want minutes", got)
			}
			a.quit()
		})
	}
}

func TestAgentsAreListedByName(t *testing.T) {
	tell(t, standin.Config{}, func(s *story) {
		var all []*actor
		for i := range 10 {
			all = append(all, s.agent(standin.Agent{Name: fmt.Sprint("agent", 9-i)}))
		}
		if err := s.controller.WaitAgents(s.limit(), 10); err != nil {
			t.Fatal(err)
		}
		if !slices.IsSortedFunc(s.controller.Agents(), func(a, b standin.Connected) int { return strings.Compare(a.Name, b.Name) }) {
			t.Error("the agents are in no order")
		}
		for _, a := range all {
			a.quit()
		}
	})
}
