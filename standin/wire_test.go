package standin_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/moorage-dev/moorage/remoting"
	"github.com/moorage-dev/moorage/standin"
)

// dial connects to the agent port.
func (s *story) dial() net.Conn {
	s.Helper()
	conn, err := s.network.Dial(s.Context(), "somebody", "jenkins:50000")
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { conn.Close() })
	return conn
}

func (s *story) write(conn io.Writer, b []byte) {
	s.Helper()
	if _, err := conn.Write(b); err != nil {
		s.Fatal(err)
	}
}

// read reads as much as there is to be.
func (s *story) read(conn io.Reader, n int) string {
	s.Helper()
	b := make([]byte, n)
	if n, err := io.ReadFull(conn, b); err != nil {
		s.Fatalf("read %q, then %v", b[:n], err)
	}
	return string(b)
}

// rest reads up to the end.
func (s *story) rest(conn io.Reader) string {
	s.Helper()
	b, err := io.ReadAll(conn)
	if err != nil {
		s.Fatalf("read %q, then %v", b, err)
	}
	return string(b)
}

func greeting(protocol string) []byte { return remoting.AppendGreeting(nil, protocol) }

func TestAgentPortLooksAtTenBytes(t *testing.T) {
	tell(t, standin.Config{}, func(s *story) {
		for _, tc := range []struct{ desc, say, want string }{
			{"ping", string(greeting(remoting.Ping)), "Ping\n"},
			{"the proxy's name", string(greeting(remoting.JNLP4Proxy)), "Unknown protocol:JNLP4-connect-proxy\n"},
			{"an old name", string(greeting(remoting.JNLP2)), "Unknown protocol:JNLP2-connect\n"},
			{"no greeting", "\x00\x08whatever", "Unrecognized protocol: whatever\n"},
		} {
			conn := s.dial()
			s.write(conn, []byte(tc.say))
			if got := s.rest(conn); got != tc.want {
				t.Errorf("%s: got %q, want %q", tc.desc, got, tc.want)
			}
		}
		conn := s.dial()
		s.write(conn, []byte("GET / HTTP/1.0\r\n\r\n"))
		if got := s.read(conn, 15); got != "HTTP/1.0 200 OK" {
			t.Errorf("a browser reads %q", got)
		}
		conn.Close()

		hello := s.dial()
		s.write(hello, []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"))
		silent := s.dial()
		time.Sleep(10 * time.Minute)
		for desc, conn := range map[string]net.Conn{"a ClientHello": hello, "silence": silent} {
			if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
				t.Fatal(err)
			}
			if n, err := conn.Read(make([]byte, 1)); n != 0 || !isTimeout(err) {
				t.Errorf("%s: got %d bytes, %v, want it waited for", desc, n, err)
			}
			conn.Close()
		}
	})
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

func TestControllerWaitsTenSecondsForTheACK(t *testing.T) {
	tell(t, standin.Config{}, func(s *story) {
		conn := s.dial()
		s.write(conn, greeting(remoting.JNLP4))
		if got := s.read(conn, 5); got != remoting.ACK {
			t.Fatalf("got %q", got)
		}
		s.elapsed()
		s.rest(conn)
		s.wantElapsed("giving up", 10)
		if s.controller.Stats().NoACK != 1 {
			t.Error("it is not counted")
		}

		conn = s.dial()
		s.write(conn, append(greeting(remoting.JNLP4), "\x00\x03NAK"...))
		s.elapsed()
		s.rest(conn)
		s.wantElapsed("refusing another word", 0)
	})
}

// TestAgentWaitsTenSecondsForTheACK has an agent at a port that only accepts:
// what a door must not be.
func TestAgentWaitsTenSecondsForTheACK(t *testing.T) {
	tell(t, standin.Config{}, func(s *story) {
		l := s.listen("silent:1")
		var held []net.Conn
		accepting := make(chan struct{})
		go func() {
			defer close(accepting)
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				held = append(held, conn)
			}
		}()
		a := s.agent(standin.Agent{Name: "agent1", Direct: "silent:1", Protocols: []string{remoting.JNLP4}})
		for range 2 {
			s.elapsed()
			if e := a.want(standin.Failed); !errors.Is(e.Err, standin.ErrNoACK) {
				t.Errorf("the agent hears %v", e.Err)
			}
			s.wantElapsed("giving up", 10)
			time.Sleep(10 * time.Second)
		}
		a.quit()
		l.Close()
		<-accepting
		for _, conn := range held {
			conn.Close()
		}
	})
}

// TestAgentSpeaksTheProxyProtocolFirst plays a door that takes the name off.
func TestAgentSpeaksTheProxyProtocolFirst(t *testing.T) {
	tell(t, standin.Config{}, func(s *story) {
		l := s.listen("door:1")
		names := make(chan string, 10)
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			front := s.read(conn, len(greeting(remoting.JNLP4Proxy))+len("Node-Name: agent1\n\n"))
			name, _, err := remoting.ParseProxyBlock([]byte(front[len(greeting(remoting.JNLP4Proxy)):]))
			if err != nil {
				t.Error(err)
			}
			names <- name
			join(conn, s.dial())
		}()
		a := s.agent(standin.Agent{Name: "agent1", Direct: "door:1"})
		if e := a.want(standin.Online); e.Protocol != remoting.JNLP4Proxy {
			t.Errorf("online by %s", e.Protocol)
		}
		if name := <-names; name != "agent1" {
			t.Errorf("the door reads the name %q", name)
		}
		s.online("agent1")
		a.quit()
		s.offline("agent1")
		l.Close()
	})
}

// join copies both ways and carries the end over.
func join(a, b net.Conn) {
	go func() { pour(a, b); a.Close() }()
	pour(b, a)
	b.Close()
}

// TestServerNameIsSentWhereJavaSendsIt reads ClientHellos.
func TestServerNameIsSentWhereJavaSendsIt(t *testing.T) {
	for host, want := range map[string]string{"gw.example.test:443": "gw.example.test", "gateway:443": "", "192.0.2.7:443": ""} {
		tell(t, standin.Config{}, func(s *story) {
			l := s.listen(host)
			a := s.agent(standin.Agent{Name: "agent1", Direct: host, Protocols: []string{remoting.JNLP4}})
			conn, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			s.read(conn, len(greeting(remoting.JNLP4))+len(remoting.ACK))
			s.write(conn, []byte(remoting.ACK))
			var hello []byte
			for {
				b := make([]byte, 4<<10)
				n, err := conn.Read(b)
				if err != nil {
					t.Fatal(err)
				}
				hello = append(hello, b[:n]...)
				sni, alpn, err := remoting.ParseClientHello(hello)
				if errors.Is(err, remoting.ErrShort) {
					continue
				}
				if sni != want || alpn != nil || err != nil {
					t.Errorf("%s: got %q, %q, %v, want %q", host, sni, alpn, err, want)
				}
				break
			}
			a.cancel(errOver)
			conn.Close()
			<-a.exit
			l.Close()
		})
	}
}

// rawAgent logs in by hand as an old agent, where everything is in clear.
func (s *story) rawAgent(name string) net.Conn {
	s.Helper()
	conn := s.dial()
	s.write(conn, remoting.AppendLogin1(greeting(remoting.JNLP1), s.controller.Secret(name), name))
	if got := s.read(conn, len(remoting.Welcome)); got != remoting.Welcome {
		s.Fatalf("got %q", got)
	}
	preamble := "<===[HUDSON REMOTING CAPACITY]===>" + remoting.CapabilityText(6) + "\x00\x00\x00\x00\xac\xed\x00\x05"
	if got := s.read(conn, len(preamble)); got != preamble {
		s.Fatalf("got %q", got)
	}
	s.write(conn, []byte(preamble))
	return conn
}

// TestEmptyFinalChunkIsNotDelivered sends a CloseCommand so, and then the byte
// that frees it.
func TestEmptyFinalChunkIsNotDelivered(t *testing.T) {
	tell(t, standin.Config{Hudson: true, LoginCalls: -1}, func(s *story) {
		conn := s.rawAgent("agent1")
		s.online("agent1")
		closing := remoting.AppendClass(nil, remoting.ClassCloseCommand)
		closing = append(closing, make([]byte, 8+8+8+4+2+8+4)...)
		wire := remoting.AppendChunkHeader(nil, len(closing), true)
		wire = append(wire, closing...)
		s.write(conn, remoting.AppendChunkHeader(wire, 0, false))
		time.Sleep(time.Minute)
		if len(s.controller.Agents()) != 1 {
			t.Fatal("the command was delivered")
		}
		s.write(conn, []byte{0})
		s.offline("agent1")
	})
}

// TestOneByteWrongEndsTheChannel has somebody between the two who is not
// faithful.
func TestOneByteWrongEndsTheChannel(t *testing.T) {
	for desc, spoil := range map[string]func(b []byte) []byte{
		"a changed byte":  func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"a lost byte":     func(b []byte) []byte { return b[:len(b)-1] },
		"a repeated read": func(b []byte) []byte { return append(b, b...) },
		"a lost read":     func([]byte) []byte { return nil },
	} {
		t.Run(desc, func(t *testing.T) {
			tell(t, standin.Config{Hudson: true}, func(s *story) {
				l := s.listen("door:1")
				spoiled := make(chan bool, 1)
				go func() {
					agent, err := l.Accept()
					if err != nil {
						return
					}
					l.Close()
					controller := s.dial()
					go func() { pour(agent, controller); agent.Close() }()
					b := make([]byte, 32<<10)
					for {
						n, err := agent.Read(b)
						if err != nil {
							break
						}
						out := slices.Clone(b[:n])
						if n > 1000 {
							select {
							case <-spoiled:
								out = spoil(out)
							default:
							}
						}
						if _, err := controller.Write(out); err != nil {
							break
						}
					}
					controller.Close()
				}()
				a := s.agent(standin.Agent{Name: "agent1", Hudson: true, Tunnel: "door:1"})
				a.want(standin.Online)
				s.online("agent1")
				s.call("agent1", 100_000, 10)
				spoiled <- true
				ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
				defer cancel()
				if err := s.controller.Call(ctx, "agent1", 100_000, 10); err == nil {
					// What was repeated may stand behind a response that was whole.
					err = s.controller.Call(ctx, "agent1", 100_000, 10)
					if err == nil {
						t.Error("nobody noticed")
					}
				}
				a.quit()
			})
		})
	}
}

// upgrade asks for a WebSocket by hand.
func (s *story) upgrade(name string) *websocket.Conn {
	s.Helper()
	dialer := websocket.Dialer{NetDialContext: s.network.Dialer("somebody")}
	conn, _, err := dialer.Dial("ws://jenkins:8080/wsagents/", s.headers(name))
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { conn.Close() })
	return conn
}

func (s *story) headers(name string) http.Header {
	return http.Header{
		remoting.HeaderNodeName:   {remoting.ToLatin1(name)},
		remoting.HeaderSecret:     {s.controller.Secret(name)},
		remoting.HeaderCapability: {remoting.CapabilityText(remoting.StockCapability)},
	}
}

func TestControllerPingsAWebSocket(t *testing.T) {
	tell(t, standin.Config{LoginCalls: -1}, func(s *story) {
		conn := s.upgrade("agent1")
		s.online("agent1")
		s.elapsed()
		pings := make(chan string)
		conn.SetPingHandler(func(payload string) error { pings <- payload; return nil })
		failed := make(chan error, 1)
		go func() {
			_, _, err := conn.NextReader()
			failed <- err
		}()
		// This agent answers no ping: it is given up a minute after its last sign.
		for _, wait := range []float64{15, 30} {
			if payload := <-pings; payload != "" {
				t.Errorf("a ping with the payload %q", payload)
			}
			s.wantElapsed("the ping", wait)
		}
		if err := <-failed; err == nil {
			t.Error("read something")
		}
		s.wantElapsed("giving up", 15)
		s.offline("agent1")
	})
}

func TestAnsweredPingsKeepAWebSocket(t *testing.T) {
	for every, want := range map[time.Duration]int{0: 40, 10 * time.Second: 120} {
		tell(t, standin.Config{SocketPing: every}, func(s *story) {
			a := s.agent(standin.Agent{Name: "agent1", WebSocket: true})
			a.want(standin.Online)
			s.online("agent1")
			time.Sleep(20*time.Minute + time.Second)
			s.call("agent1", 100_000, 100_000)
			a.quit()
			if e := a.want(standin.Offline); e.Pings != int64(want) || s.controller.Stats().Pongs != want {
				t.Errorf("the agent has seen %d pings, and its controller %d answers, want %d", e.Pings, s.controller.Stats().Pongs, want)
			}
		})
	}
}

func TestWebSocketMessagesHaveALimit(t *testing.T) {
	for size, fits := range map[int]bool{64 << 10: true, 64<<10 + 1: false} {
		tell(t, standin.Config{LoginCalls: -1}, func(s *story) {
			conn := s.upgrade("agent1")
			s.online("agent1")
			chunk := remoting.AppendChunkHeader(nil, 32766, true)
			chunk = append(chunk, remoting.AppendClass(nil, remoting.ClassUserRequest)...)
			chunk = append(chunk, make([]byte, 2+32766-len(chunk))...)
			chunk = remoting.AppendChunkHeader(chunk, 32767, true)
			message := slices.Concat(chunk, make([]byte, size-len(chunk)))
			conn.SetPingHandler(func(string) error { return nil })
			if err := conn.WriteMessage(websocket.BinaryMessage, message); err != nil {
				t.Fatal(err)
			}
			s.elapsed()
			if _, _, err := conn.NextReader(); err == nil {
				t.Fatal("read something")
			}
			// The second chunk is never whole: what fits ends by idleness.
			if fits {
				s.wantElapsed("giving up", 60)
			} else {
				s.wantElapsed("refusing it", 0)
			}
		})
	}
}

func TestTextMessageEndsAWebSocket(t *testing.T) {
	tell(t, standin.Config{LoginCalls: -1}, func(s *story) {
		conn := s.upgrade("agent1")
		s.online("agent1")
		if err := conn.WriteMessage(websocket.TextMessage, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, _, err := conn.NextReader(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
			t.Errorf("got %v", err)
		}
	})
}

func TestUpgradeIsRefusedWithAStatus(t *testing.T) {
	for desc, tc := range map[string]struct {
		spoil func(h http.Header)
		want  int
	}{
		"unknown name":  {func(h http.Header) { h.Set("Node-Name", "stranger") }, 400},
		"no name":       {func(h http.Header) { h.Del("Node-Name") }, 400},
		"no capability": {func(h http.Header) { h.Del("X-Remoting-Capability") }, 400},
		"wrong secret":  {func(h http.Header) { h.Set("Secret-Key", strings.Repeat("0", 64)) }, 403},
		"no hex cookie": {func(h http.Header) { h.Set("Connection-Cookie", "cookie") }, 400},
	} {
		tell(t, standin.Config{Nodes: []string{"agent1"}}, func(s *story) {
			h := s.headers("agent1")
			tc.spoil(h)
			dialer := websocket.Dialer{NetDialContext: s.network.Dialer("somebody")}
			_, response, err := dialer.Dial("ws://jenkins:8080/wsagents/", h)
			if err == nil || response == nil || response.StatusCode != tc.want {
				t.Errorf("%s: got %v, %v, want %d", desc, response, err, tc.want)
			}
		})
	}
}

// get asks the HTTP port.
func (s *story) get(path string) (*http.Response, string) {
	s.Helper()
	transport := &http.Transport{DialContext: s.network.Dialer("somebody"), DisableKeepAlives: true}
	response, err := (&http.Client{Transport: transport}).Get("http://jenkins:8080" + path)
	if err != nil {
		s.Fatal(err)
	}
	defer response.Body.Close()
	return response, s.rest(response.Body)
}

func TestHTTPPortAnswersWhatAgentsAsk(t *testing.T) {
	tell(t, standin.Config{Prefix: "/ci/", Jar: []byte("a jar"), Key: []byte("key"), Nodes: []string{"agent1"}}, func(s *story) {
		response, _ := s.get("/ci/tcpSlaveAgentListener/")
		for header, want := range map[string]string{
			"X-Jenkins-JNLP-Port": "50000", "X-Hudson-JNLP-Port": "50000", "X-Jenkins-Agent-Protocols": "JNLP4-connect, Ping",
			"X-Instance-Identity": s.controller.Identity, "X-Remoting-Minimum-Version": "3176.v207ec082a_8c0", "X-Jenkins-JNLP-Host": "",
		} {
			if got := response.Header.Get(header); got != want {
				t.Errorf("%s: got %q, want %q", header, got, want)
			}
		}
		for path, want := range map[string]int{
			"/ci/login": 200, "/login": 404, "/ci/jnlpJars/other.jar": 404, "/ci/script": 404, "/ci/computer/stranger/jenkins-agent.jnlp": 404,
			"/ci/computer/agent1/config.xml": 404,
		} {
			if response, _ := s.get(path); response.StatusCode != want {
				t.Errorf("%s: got %s, want %d", path, response.Status, want)
			}
		}
		for _, jar := range []string{"agent.jar", "remoting.jar", "slave.jar"} {
			if response, body := s.get("/ci/jnlpJars/" + jar); response.StatusCode != 200 || body != "a jar" {
				t.Errorf("%s: got %s, %q", jar, response.Status, body)
			}
		}

		_, clear := s.get("/ci/computer/agent1/jenkins-agent.jnlp")
		var file struct {
			Arguments []string `xml:"application-desc>argument"`
		}
		if err := xml.Unmarshal([]byte(clear), &file); err != nil {
			t.Fatal(err)
		}
		if want := []string{s.controller.Secret("agent1"), "agent1", "-url", s.controller.URL}; !slices.Equal(file.Arguments, want) {
			t.Errorf("arguments: got %q, want %q", file.Arguments, want)
		}
		_, encrypted := s.get("/ci/computer/agent1/slave-agent.jnlp?encrypt=true")
		decrypted, err := remoting.DecryptJNLP(s.controller.Secret("agent1"), []byte(encrypted))
		if err != nil || string(decrypted) != clear {
			t.Errorf("decrypted: got %q, %v", decrypted, err)
		}
		if got := s.controller.Stats().Requests["/ci/computer/NAME/jenkins-agent.jnlp"]; got != 2 {
			t.Errorf("counted %d, want 2", got)
		}
	})
}

// TestHTTPSWithAWebSocket runs on the real loopback.
func TestHTTPSWithAWebSocket(t *testing.T) {
	lender := httptest.NewTLSServer(http.NotFoundHandler())
	defer lender.Close()
	trust := lender.Client().Transport.(*http.Transport).TLSClientConfig
	for _, webSocket := range []bool{true, false} {
		controller, err := standin.NewController(standin.Config{TLS: &tls.Config{Certificates: lender.TLS.Certificates}, Identity: someKey()})
		if err != nil {
			t.Fatal(err)
		}
		a := standin.Agent{Name: "agent1", URL: controller.URL, Secret: controller.Secret("agent1"), WebSocket: webSocket, TLS: trust}
		onLoopback(t, controller, a, func(ctx context.Context) {
			if err := controller.Call(ctx, "agent1", 100_000, 100_000); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestLargeCommandsBothWays moves as much at once as the largest that have been
// seen.
func TestLargeCommandsBothWays(t *testing.T) {
	for _, webSocket := range []bool{false, true} {
		controller, err := standin.NewController(standin.Config{Identity: someKey()})
		if err != nil {
			t.Fatal(err)
		}
		a := standin.Agent{Name: "agent1", URL: controller.URL, Secret: controller.Secret("agent1"), WebSocket: webSocket}
		onLoopback(t, controller, a, func(ctx context.Context) {
			if err := controller.Call(ctx, "agent1", 64<<20, 64<<20); err != nil {
				t.Error(err)
			}
		})
	}
}

// onLoopback runs a controller and an agent, and ends both.
func onLoopback(t *testing.T, controller *standin.Controller, a standin.Agent, story func(ctx context.Context)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan error, 2)
	running, stop := context.WithCancelCause(ctx)
	go func() { ended <- controller.Run(running) }()
	go func() { ended <- a.Run(running) }()
	if err := controller.WaitOnline(ctx, a.Name); err != nil {
		t.Error(err)
	} else {
		story(ctx)
	}
	stop(errOver)
	for range 2 {
		if err := <-ended; !errors.Is(err, errOver) {
			t.Errorf("ended: %v", err)
		}
	}
}

// TestResetOfAnAgentIsNoticedAtOnce, on a real socket.
func TestResetOfAnAgentIsNoticedAtOnce(t *testing.T) {
	controller, err := standin.NewController(standin.Config{Identity: someKey()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	running, stop := context.WithCancelCause(ctx)
	go func() { ended <- controller.Run(running) }()
	for _, cause := range []error{standin.ErrReset, errOver} {
		life, kill := context.WithCancelCause(ctx)
		died := make(chan error, 1)
		a := standin.Agent{Name: "agent1", URL: controller.URL, Secret: controller.Secret("agent1")}
		go func() { died <- a.Run(life) }()
		if err := controller.WaitOnline(ctx, "agent1"); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		kill(cause)
		if err := <-died; !errors.Is(err, cause) {
			t.Errorf("the agent ended: %v", err)
		}
		if err := controller.WaitOffline(ctx, "agent1"); err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took > 2*time.Second {
			t.Errorf("%v: noticed after %v", cause, took)
		}
	}
	stop(errOver)
	<-ended
}

// TestAgentBeginsAsTheJavaOne: greeting and ACK at once, without waiting.
func TestAgentBeginsAsTheJavaOne(t *testing.T) {
	tell(t, standin.Config{}, func(s *story) {
		l := s.listen("door:1")
		a := s.agent(standin.Agent{Name: "agent1", Direct: "door:1", Protocols: []string{remoting.JNLP4}})
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		want := "001650726f746f636f6c3a4a4e4c50342d636f6e6e656374" + "000341434b"
		if got := hex.EncodeToString([]byte(s.read(conn, len(want)/2))); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		conn.Close()
		a.want(standin.Failed)
		a.quit()
		l.Close()
		if raw, err := base64.StdEncoding.DecodeString(s.controller.Identity); err != nil || !bytes.HasPrefix(raw, []byte{0x30, 0x82}) {
			t.Errorf("the identity is no SubjectPublicKeyInfo: %v", err)
		}
	})
}
