package door

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

// agentTLS is how an agent with -noCertificateCheck comes.
var agentTLS = &tls.Config{InsecureSkipVerify: true, ServerName: "two.example"}

func TestAgentsComeOverHTTPS(t *testing.T) {
	s := newStage(t, Config{Controllers: []string{"one", "two"}, TLS: &tls.Config{Certificates: []tls.Certificate{certificate(t)}}})
	s.known("two", &linkv1.Jenkins{Path: "/", AgentPort: 1, Version: "2"})
	s.jenkins = func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(rw, `<jnlp codebase="http://inside/computer/a/"/>`) // the test sees it
	}
	client := &http.Transport{TLSClientConfig: agentTLS}
	defer client.CloseIdleConnections()
	get := func(path string) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+s.address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(body)
	}
	resp, _ := get("/tcpSlaveAgentListener/") // the server name leads to the controller
	wantHeader(t, resp, "X-Jenkins", "2")
	if resp.ProtoMajor != 1 {
		t.Errorf("%s, want HTTP/1.1", resp.Proto)
	}
	if _, body := get("/computer/a/slave-agent.jnlp"); body != `<jnlp codebase="https://`+s.address+`/computer/a/"/>` {
		t.Errorf("leads to %s", body)
	}

	sessions := make(chan *far, 1)
	s.ws = func(_ Request, f *far) {
		f.answer(http.StatusSwitchingProtocols)
		sessions <- f
	}
	dialer := websocket.Dialer{TLSClientConfig: agentTLS}
	c, _, err := dialer.DialContext(t.Context(), "wss://"+s.address+"/wsagents/", agentRequest("agent1"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f := <-sessions
	if _, err := f.Write([]byte("\x00\x05hello")); err != nil {
		t.Fatal(err)
	}
	if _, message, err := c.ReadMessage(); err != nil || string(message) != "\x00\x05hello" {
		t.Fatalf("%q, %v", message, err)
	}
	f.end(linkv1.Reason_REASON_OK)
	if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
		t.Fatalf("%v, want close 1000", err)
	}
}

func TestAddressBehindAProxyIsTheAgents(t *testing.T) {
	s := newStage(t, Config{Default: "main", ProxyProtocol: true})
	requests := make(chan Request, 1)
	s.ws = func(r Request, f *far) {
		requests <- r
		f.answer(http.StatusForbidden)
		f.end(linkv1.Reason_REASON_OK)
	}
	dialer := websocket.Dialer{NetDial: func(_, address string) (net.Conn, error) {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_, err = io.WriteString(c, "PROXY TCP4 192.0.2.7 198.51.100.1 4242 443\r\n")
		}
		return c, err
	}}
	_, resp, err := dialer.DialContext(t.Context(), "ws://"+s.address+"/wsagents/", agentRequest("agent1"))
	if err == nil || resp == nil || resp.StatusCode != http.StatusForbidden {
		t.Fatalf("%v, %v; want 403", resp, err)
	}
	if r := <-requests; r.Remoting.Address != "192.0.2.7:4242" {
		t.Errorf("address %q", r.Remoting.Address)
	}
}

func TestProtocolsInClearAreOfferedOnlyWhereTheyWork(t *testing.T) {
	old := &linkv1.Jenkins{Path: "/", AgentPort: 1, Protocols: []string{"JNLP2-connect", "JNLP4-connect"}}
	for _, test := range []struct {
		from  string
		allow bool
		want  bool
	}{{"192.0.2.7", false, false}, {"192.0.2.7", true, true}, {"127.0.0.1", false, true}} {
		s := newStage(t, Config{Default: "main", ProxyProtocol: true, AllowCleartext: test.allow})
		s.known("main", old)
		c, err := net.Dial("tcp", s.address)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.WriteString(c, "PROXY TCP4 "+test.from+" 198.51.100.1 4242 443\r\nGET /tcpSlaveAgentListener/ HTTP/1.1\r\nHost: door\r\nConnection: close\r\n\r\n")
		if err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(c)
		_ = c.Close() // read to its end
		if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 200") || strings.Contains(string(answer), "JNLP2-connect") != test.want {
			t.Errorf("from %s, allowed %v: %v\n%s", test.from, test.allow, err, answer)
		}
	}
}
