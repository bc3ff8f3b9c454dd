package door

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/remoting"
	"github.com/moorage-dev/moorage/tunnel"
)

func TestAgentBytesPassUnchanged(t *testing.T) {
	r := newRig(t, Config{})
	a := r.jnlp4()
	a.say("ClientHello")
	c := r.accepted()
	if c.Kind != linkv1.ServiceKind_SERVICE_KIND_REMOTING || c.Controller != "main" ||
		c.Remoting.Protocol != remoting.JNLP4 || c.Remoting.Agent != "" || c.Remoting.Address != a.LocalAddr().String() {
		t.Errorf("asked for %v", c.Request)
	}
	c.want("the session begins behind the ACKs", "ClientHello")
	c.say("ServerHello")
	a.want("the answer comes", "ServerHello")
	r.wantCount("sessions", r.d.m.sessions, 1)
	r.wantCount("bytes up", r.d.m.upBytes, 11)
	r.wantCount("bytes down", r.d.m.downBytes, 11)
	must(t, a.Close())
	c.wantEnd("the agent's end", linkv1.Reason_REASON_OK)
	r.wantCount("sessions", r.d.m.sessions, 0)
	r.wantCount("connections", r.d.m.connections, 0)
	r.wantCame(sortJNLP4, 1)
}

func TestEndsAreCarriedAcross(t *testing.T) {
	t.Run("reset by the agent", func(t *testing.T) {
		r := newRig(t, Config{})
		a := r.jnlp4()
		c := r.accepted()
		tunnel.TCP{TCPConn: a.Conn.(*net.TCPConn)}.Abort(nil)
		c.wantEnd("a reset stays one", linkv1.Reason_REASON_PEER_RESET)
	})
	t.Run("half-close by the agent", func(t *testing.T) {
		r := newRig(t, Config{})
		a := r.jnlp4()
		c := r.accepted()
		a.say("last words")
		must(t, a.Conn.(*net.TCPConn).CloseWrite())
		c.want("what came before arrives", "last words")
		c.wantEnd("half an end is the whole", linkv1.Reason_REASON_OK)
		a.wantClosed("the agent sees it too", "")
	})
	t.Run("end of the session", func(t *testing.T) {
		r := newRig(t, Config{})
		a := r.jnlp4()
		c := r.accepted()
		c.say("last words")
		must(t, c.far.Close())
		began := time.Now()
		a.wantClosed("an end in good order", "last words")
		if took := time.Since(began); took > time.Second {
			t.Errorf("the agent knows after %v", took)
		}
		c.wantEnd("and the session is closed", linkv1.Reason_REASON_OK)
	})
	t.Run("break of the session", func(t *testing.T) {
		r := newRig(t, Config{})
		a := r.jnlp4()
		c := r.accepted()
		a.say("x")
		c.want("it is joined", "x")
		tunnel.TCP{TCPConn: c.far.(*net.TCPConn)}.Abort(nil)
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the agent reads %v, want a reset", err)
		}
	})
}

func TestProxyProtocolShowsTheName(t *testing.T) {
	for _, tt := range []struct{ desc, block string }{
		{"Unix", "Node-Name: agenté 1\n\n"},
		{"Windows", "Node-Name: agenté 1\r\n\r\n"},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			r := newRig(t, Config{})
			a := r.dial()
			front := string(remoting.AppendGreeting(nil, remoting.JNLP4Proxy)) + tt.block
			a.say(front + string(remoting.AppendGreeting(nil, remoting.JNLP4)) + remoting.ACK)
			a.want("its ACK comes at once", remoting.ACK)
			a.say("ClientHello")
			c := r.accepted()
			if c.Remoting.Protocol != remoting.JNLP4 || c.Remoting.Agent != "agenté 1" {
				t.Errorf("asked for %v", c.Remoting)
			}
			c.want("the session begins behind the ACK", "ClientHello")
			r.wantCame(sortProxied, 1)
		})
	}
}

// An agent that does not read cannot keep a connection whose session broke.
func TestBrokenSessionWaitsForNoReader(t *testing.T) {
	r := newRig(t, Config{})
	r.jnlp4()
	c := r.accepted()
	const size = 16 << 20 // more than sockets hold
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		_, _ = c.far.Write(make([]byte, size)) // ends with the connection
	}()
	waitFor(t, "bytes under way", func() bool { return value(r.d.m.downBytes) > 0 })
	c.end(linkv1.Reason_REASON_CONTROLLER_GONE)
	r.wantCount("connections", r.d.m.connections, 0)
	<-wrote
}

// An agent may dawdle as it likes, one byte at a time.
func TestGreetingMayComeInPieces(t *testing.T) {
	r := newRig(t, Config{})
	a := r.dial()
	must(t, a.Conn.(*net.TCPConn).SetNoDelay(true))
	for _, b := range []byte(jnlp4Proxy("slow")) {
		a.say(string(b))
		runtime.Gosched()
	}
	a.want("its ACK", remoting.ACK)
	a.say("ClientHello")
	r.accepted().want("the session begins behind the ACK", "ClientHello")
}

func TestOldLogInsBelongToTheSession(t *testing.T) {
	const secret = "00f2be5ce25720984334d870c1c7d553f2ef1279eb33dac307113b9bb73cdbb9"
	for _, tt := range []struct {
		protocol string
		sort     string
		login    []byte
	}{
		{remoting.JNLP2, sortJNLP2, remoting.AppendLogin2(nil, "legacy1", secret, "")},
		{remoting.JNLP1, sortJNLP1, remoting.AppendLogin1(nil, secret, "legacy1")},
	} {
		t.Run(tt.protocol, func(t *testing.T) {
			r := newRig(t, Config{})
			r.jenkins = &linkv1.Jenkins{Path: "/", AgentPort: 50000, Hudson: true}
			a := r.dial()
			a.say(string(remoting.AppendGreeting(nil, tt.protocol)) + string(tt.login))
			c := r.accepted()
			if c.Remoting.Protocol != tt.protocol || c.Remoting.Agent != "legacy1" {
				t.Errorf("asked for %v", c.Remoting)
			}
			c.want("the controller gets the log-in", string(tt.login))
			c.say("Welcome\n")
			a.want("and answers it", "Welcome\n")
			r.wantCame(tt.sort, 1)
		})
	}
}

func TestOldLogInsAreForWhoSpeaksThem(t *testing.T) {
	greeting := string(remoting.AppendGreeting(nil, remoting.JNLP2))
	login := string(remoting.AppendLogin2(nil, "legacy1", "5ec4e7", ""))
	t.Run("not listed", func(t *testing.T) {
		r := newRig(t, Config{})
		a := r.dial()
		a.say(greeting + login)
		a.wantClosed("as a stock controller says it", "Unknown protocol:\n")
		r.wantRefused(refusedProtocol, 1)
	})
	t.Run("listed", func(t *testing.T) {
		r := newRig(t, Config{})
		r.jenkins.Protocols = append(r.jenkins.Protocols, remoting.JNLP2)
		a := r.dial()
		a.say(greeting + login)
		r.accepted().want("passed on", login)
	})
	t.Run("from another host", func(t *testing.T) {
		r := newRig(t, Config{ProxyProtocol: true})
		r.jenkins.Hudson, r.jenkins.Protocols = true, nil
		a := r.dial()
		a.say("PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\n" + greeting + login)
		a.wantClosed("its secret must not travel in clear", "Unknown protocol:\n")
		r.wantRefused(refusedCleartext, 1)
		if r.opened() != 0 {
			t.Error("a session was opened")
		}
	})
	t.Run("from another host, allowed", func(t *testing.T) {
		r := newRig(t, Config{ProxyProtocol: true, AllowCleartext: true})
		r.jenkins.Hudson, r.jenkins.Protocols = true, nil
		a := r.dial()
		a.say("PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\n" + greeting + login)
		c := r.accepted()
		if c.Remoting.Address != "203.0.113.9:4711" {
			t.Errorf("the agent's address is said to be %s", c.Remoting.Address)
		}
	})
}

func TestPing(t *testing.T) {
	r := newRig(t, Config{})
	a := r.dial()
	a.say(string(remoting.AppendGreeting(nil, remoting.Ping)))
	a.wantClosed("answered", "Ping\n")
	r.wantCame(sortPing, 1)
}

func TestProbeOpensNoSession(t *testing.T) {
	r := newRig(t, Config{})
	must(t, r.dial().Close())
	r.wantCame(sortProbe, 1)
	r.wantCount("connections", r.d.m.connections, 0)
	if r.opened() != 0 {
		t.Error("a session was opened")
	}
}

func TestUnknownControllersAgentsAreToldSo(t *testing.T) {
	r := newRig(t, Config{Routes: []Route{{Controller: "ci", Node: "build-*"}}})
	r.jenkins.Hudson, r.jenkins.Protocols = true, nil
	a := r.dial()
	a.say(string(remoting.AppendGreeting(nil, remoting.JNLP2)) + string(remoting.AppendLogin2(nil, "legacy1", "5ec4e7", "")))
	a.wantClosed("an old one gets a line", "No such controller\n")
	r.named("somebody").wantGone("a modern one has no ear for it")
	r.wantRefused(refusedUnknown, 2)
	r.named("build-7")
	if c := r.accepted(); c.Controller != "ci" {
		t.Errorf("led to %q", c.Controller)
	}
}

func TestInnerServerNameLeadsToTheController(t *testing.T) {
	r := newRig(t, Config{Routes: []Route{{Controller: "ci", SNI: "ci.example.test"}}, Default: "main"})
	a := r.jnlp4()
	hello := clientHello(t, "ci.example.test")
	a.say(hello)
	c := r.accepted()
	if c.Controller != "ci" {
		t.Errorf("led to %q", c.Controller)
	}
	c.want("nothing is missing for that", hello)
}

func TestHostileConnectionsAreRefusedAndCounted(t *testing.T) {
	r := newRig(t, Config{Greeting: 200 * time.Millisecond, ACK: 300 * time.Millisecond})
	attached := r.jnlp4()
	s := r.accepted()
	opens := r.opened()
	greeting := string(remoting.AppendGreeting(nil, remoting.JNLP4))
	proxy := string(remoting.AppendGreeting(nil, remoting.JNLP4Proxy))
	long := strings.Repeat("x", 65_535)
	for _, tt := range []struct{ desc, say, reason string }{
		{"garbage", "SSH-2.0-OpenSSH_9.6\r\n", refusedGarbage},
		{"a string of 65,535 bytes", "\xff\xff" + long, refusedGarbage},
		{"a greeting without end", "\x00\x40Protocol:", refusedSlow},
		{"half a first byte", "\x00", refusedSlow},
		{"nothing at all", "", refusedSlow},
		{"an unknown protocol", string(remoting.AppendGreeting(nil, "CLI-connect")), refusedProtocol},
		{"a wrong ACK", greeting + "\x00\x03NAK", refusedACK},
		{"no ACK", greeting, refusedACK},
		{"a name of 65,535 bytes", proxy + "Node-Name: " + long + "\n\n", refusedGarbage},
		{"a name that no log can show", proxy + "Node-Name: a\x00b\n\n", refusedGarbage},
		{"a name that no session can carry", proxy + "Node-Name: " + long[:256] + "\n\n", refusedGarbage},
		{"a log-in without a name", string(remoting.AppendLogin1(remoting.AppendGreeting(nil, remoting.JNLP1), "5ec4e7", "")), refusedGarbage},
		{"no name", proxy + "\n", refusedGarbage},
		{"half a name", proxy + "Node-Name: a", refusedSlow},
		{"a proxy in front of a proxy", proxy + "Node-Name: a\n\n" + proxy, refusedGarbage},
		{"a log-in without end", string(remoting.AppendGreeting(nil, remoting.JNLP2)) + "\x20\x00", refusedSlow},
		{"a log-in that is too long", string(remoting.AppendGreeting(nil, remoting.JNLP2)) + "\xff\xff" + long, refusedGarbage},
		{"a PROXY header that nobody expects", "PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n" + greeting, refusedProxy},
		{"TLS where there is none", clientHello(t, "example.test"), refusedTLS},
		{"half a ClientHello", clientHello(t, "example.test")[:50], refusedSlow},
		{"gRPC at a shim", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", refusedGRPC},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			before := counted(r, tt.reason)
			a := r.dial()
			_, _ = io.WriteString(a, tt.say) // may be refused before it is all said
			_ = a.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.Copy(io.Discard, a); isTimeout(err) {
				t.Error("the connection stays open")
			}
			waitFor(t, "counted as "+tt.reason, func() bool { return counted(r, tt.reason) == before+1 })
		})
	}
	if n := r.opened(); n != opens {
		t.Errorf("%d sessions were opened", n-opens)
	}
	attached.say("still here")
	s.want("an attached agent feels nothing", "still here")
	r.wantCount("connections", r.d.m.connections, 1)
}

func TestOneAddressIsNotEverybody(t *testing.T) {
	r := newRig(t, Config{PerAddress: 3})
	agents := []*agent{r.dial(), r.dial(), r.dial()}
	r.wantCount("connections", r.d.m.connections, 3)
	r.wantGreeting(3)
	r.dial().wantGone("one too many")
	r.wantRefused(refusedAddress, 1)
	agents[0].say(string(remoting.AppendGreeting(nil, remoting.JNLP4)) + remoting.ACK)
	agents[0].want("who greets counts no longer", remoting.ACK)
	r.accepted()
	r.jnlp4()
	r.accepted()
}

func TestTenThousandConnectionsWithoutAByte(t *testing.T) {
	const most, kept = 10_000, 500
	r := newRig(t, Config{PerAddress: kept, Greeting: time.Hour})
	attached := r.jnlp4()
	s := r.accepted()
	for range kept {
		r.dial()
	}
	r.wantGreeting(kept)
	for i := range most - kept {
		a := r.dial()
		a.wantGone("one too many")
		must(t, a.Close())
		if i%1000 == 0 {
			attached.say("still here")
			s.want("an attached agent feels nothing", "still here")
		}
	}
	r.wantRefused(refusedAddress, most-kept)
	r.wantCount("connections", r.d.m.connections, kept+1)
	if n := r.opened(); n != 1 {
		t.Errorf("%d sessions were opened for them", n-1)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	r := newRig(t, Config{Connections: 100, PerAddress: 1000})
	var agents []*agent
	for range 100 {
		agents = append(agents, r.dial())
	}
	r.wantCount("connections", r.d.m.connections, 100)
	for range 20 {
		r.dial().wantGone("no place")
	}
	r.wantRefused(refusedFull, 20)
	must(t, agents[0].Close())
	r.wantCame(sortProbe, 1)
	r.wantCount("connections", r.d.m.connections, 99)
	r.jnlp4()
	r.accepted()
}

func TestIdleAgentCostsTwoGoroutines(t *testing.T) {
	r := newRig(t, Config{})
	before := runtime.NumGoroutine()
	const agents = 50
	for range agents {
		a := r.jnlp4()
		c := r.accepted()
		a.say("x")
		c.want("it is joined", "x")
	}
	waitFor(t, "at most two goroutines for each", func() bool { return runtime.NumGoroutine()-before <= 2*agents+5 }) // the door's own start late
}

func TestShutDoorEndsEverything(t *testing.T) {
	r := newRig(t, Config{})
	silent, held := r.dial(), r.jnlp4()
	c := r.call()
	joined := r.jnlp4()
	s := r.accepted()
	joined.say("x")
	s.want("it is joined", "x")
	r.stop()
	s.wantEnd("the controller knows", linkv1.Reason_REASON_PEER_RESET)
	c.wantEnd("and the one that waited", linkv1.Reason_REASON_PEER_RESET)
	for _, a := range []*agent{silent, held, joined} {
		a.wantGone("the door is shut")
	}
}

// clientHello returns what a TLS client says first.
func clientHello(t *testing.T, name string) string {
	t.Helper()
	near, far := net.Pipe()
	defer near.Close()
	go func() {
		// It ends with the pipe: nobody answers.
		_ = tls.Client(far, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake()
	}()
	head := make([]byte, 5)
	_, err := io.ReadFull(near, head)
	must(t, err)
	body := make([]byte, binary.BigEndian.Uint16(head[3:]))
	_, err = io.ReadFull(near, body)
	must(t, err)
	return string(head) + string(body)
}
