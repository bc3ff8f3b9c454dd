package door

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

var identity = sync.OnceValue(func() string {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		panic(err)
	}
	return base64.StdEncoding.EncodeToString(der)
})

func TestLookUpTellsTheControllerAndThisDoor(t *testing.T) {
	s := newStage(t, Config{Default: "main"})
	s.known("main", &linkv1.Jenkins{
		Path: "/", AgentPort: 50000, Protocols: []string{"JNLP4-connect", "Ping"}, InstanceIdentity: identity(),
		MinimumVersion: "3176.v207ec082a_8c0", Version: "2.600", Reachable: true,
	})
	resp, body := s.fetch("/tcpSlaveAgentListener/", "Node-Name: agent1")
	host, port, _ := net.SplitHostPort(s.address)
	if resp.StatusCode != http.StatusOK || body != "Jenkins" {
		t.Fatalf("%s %q, want 200 Jenkins", resp.Status, body)
	}
	wantHeader(t, resp, "Content-Type", "text/plain;charset=UTF-8")
	wantHeader(t, resp, "X-Hudson-JNLP-Port", port)
	wantHeader(t, resp, "X-Jenkins-JNLP-Port", port)
	wantHeader(t, resp, "X-Jenkins-JNLP-Host", host)
	wantHeader(t, resp, "X-Instance-Identity", identity())
	wantHeader(t, resp, "X-Jenkins-Agent-Protocols", "JNLP4-connect-proxy, JNLP4-connect, Ping")
	wantHeader(t, resp, "X-Remoting-Minimum-Version", "3176.v207ec082a_8c0")
	wantHeader(t, resp, "X-Jenkins", "2.600")
}

func TestLookUpOfAHudsonTellsOnlyThePort(t *testing.T) {
	s := newStage(t, Config{Default: "main"})
	s.known("main", &linkv1.Jenkins{Path: "/", AgentPort: 50000, Hudson: true, Version: "3.3.2"})
	// Hudson 3 names its root without the last '/', and its agents put another behind it.
	resp, body := s.fetch("//tcpSlaveAgentListener/")
	_, port, _ := net.SplitHostPort(s.address)
	if resp.StatusCode != http.StatusOK || strings.TrimSpace(body) != "Hudson" {
		t.Fatalf("%s %q, want 200 Hudson", resp.Status, body)
	}
	wantHeader(t, resp, "X-Hudson-JNLP-Port", port)
	for _, name := range []string{"X-Jenkins-JNLP-Port", "X-Jenkins-JNLP-Host", "X-Instance-Identity", "X-Jenkins-Agent-Protocols", "X-Jenkins"} {
		wantHeader(t, resp, name, "")
	}
}

func TestLookUpByPrefixHostAndTheControllersOwnPath(t *testing.T) {
	s := newStage(t, Config{Default: "one", Controllers: []string{"one", "two"}})
	s.known("one", &linkv1.Jenkins{Path: "/jenkins/", AgentPort: 1, Version: "1"})
	s.known("two", &linkv1.Jenkins{Path: "/", AgentPort: 2, Version: "2"})
	for _, test := range []struct{ path, host, version string }{
		{"/tcpSlaveAgentListener/", "door:1", "1"},
		{"/tcpSlaveAgentListener", "door:1", "1"},
		{"/jenkins/tcpSlaveAgentListener/", "door:1", "1"},
		{"/one/jenkins/tcpSlaveAgentListener/", "door:1", "1"},
		{"/two/tcpSlaveAgentListener/", "door:1", "2"},
		{"/tcpSlaveAgentListener/", "two.example:1", "2"},
		{"/two/jenkins/tcpSlaveAgentListener/", "door:1", ""},
	} {
		resp := s.get(test.path, "Host: "+test.host)
		if got := resp.Header.Get("X-Jenkins"); got != test.version {
			t.Errorf("%s at %s: %s, Jenkins %q; want %q", test.path, test.host, resp.Status, got, test.version)
		}
	}
}

// The URL leads a look-up, and nothing of it is seen in the agent's TCP
// connection: the port that is told must lead to the same controller.
func TestLookUpTellsAPortThatLeadsToTheSameController(t *testing.T) {
	s := newStage(t, Config{Default: "one", Controllers: []string{"one", "two", "old"}, Routes: []Route{
		{Controller: "two", Node: "linux-*"}, {Controller: "two", Port: 7444}, {Controller: "old", Port: 7445},
	}})
	s.known("one", &linkv1.Jenkins{Path: "/", AgentPort: 1, Version: "1"})
	s.known("two", &linkv1.Jenkins{Path: "/", AgentPort: 2, Version: "2"})
	s.known("old", &linkv1.Jenkins{Path: "/", AgentPort: 3, Hudson: true, Version: "3"})
	for _, test := range []struct{ desc, path, host, node, port string }{
		{"the default", "/tcpSlaveAgentListener/", "door:1", "", "1"},
		{"the default by prefix", "/one/tcpSlaveAgentListener/", "door:1", "", "1"},
		{"another by prefix", "/two/tcpSlaveAgentListener/", "door:1", "", "7444"},
		{"another by prefix, at its port", "/two/tcpSlaveAgentListener/", "door:7444", "", "7444"},
		{"another by prefix and name", "/two/tcpSlaveAgentListener/", "door:1", "linux-7", "1"},
		{"another by host, which its TLS names", "/tcpSlaveAgentListener/", "two.example.org:1", "", "1"},
		{"a Hudson by host, with no TLS", "/tcpSlaveAgentListener/", "old.example.org:1", "", "7445"},
		{"a Hudson by prefix", "/old/tcpSlaveAgentListener/", "192.0.2.1:1", "", "7445"},
	} {
		headers := []string{"Host: " + test.host}
		if test.node != "" {
			headers = append(headers, "Node-Name: "+test.node)
		}
		if got := s.get(test.path, headers...).Header.Get("X-Hudson-JNLP-Port"); got != test.port {
			t.Errorf("%s: port %q, want %q", test.desc, got, test.port)
		}
	}
}

func TestLookUpNamesTheAddressThatAgentsReach(t *testing.T) {
	for _, test := range []struct{ desc, advertise, host, proto, wantHost, wantPort string }{
		{"as the request says", "", "gw.example:7443", "", "gw.example", "7443"},
		{"the default port", "", "gw.example", "", "gw.example", "80"},
		{"behind a balancer that ends TLS", "", "gw.example", "https", "gw.example", "443"},
		{"an address of IPv6", "", "[2001:db8::1]:7443", "", "2001:db8::1", "7443"},
		{"as configured", "agents.example:4000", "gw.example:7443", "", "agents.example", "4000"},
		{"the port configured", ":4000", "gw.example:7443", "", "gw.example", "4000"},
		{"the host configured", "agents.example", "gw.example:7443", "", "agents.example", "7443"},
	} {
		t.Run(test.desc, func(t *testing.T) {
			s := newStage(t, Config{Default: "main", Advertise: test.advertise})
			s.known("main", &linkv1.Jenkins{Path: "/", AgentPort: 1})
			resp := s.get("/tcpSlaveAgentListener/", "Host: "+test.host, "X-Forwarded-Proto: "+test.proto)
			wantHeader(t, resp, "X-Jenkins-JNLP-Host", test.wantHost)
			wantHeader(t, resp, "X-Jenkins-JNLP-Port", test.wantPort)
		})
	}
}

func TestLookUpIsHeldUntilSomethingIsKnown(t *testing.T) {
	s := newStage(t, Config{Default: "main"})
	answered := make(chan *http.Response, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { answered <- s.get("/tcpSlaveAgentListener/") })
	select {
	case resp := <-answered:
		t.Fatalf("answered with %s while nothing is known", resp.Status)
	case <-time.After(100 * time.Millisecond):
	}
	s.known("main", &linkv1.Jenkins{Path: "/", AgentPort: 1})
	if resp := <-answered; resp.StatusCode != http.StatusOK {
		t.Fatalf("%s, want 200", resp.Status)
	}
	s.known("main", nil) // Kafka is away
	if resp := s.get("/tcpSlaveAgentListener/"); resp.StatusCode != http.StatusOK {
		t.Fatalf("%s from what was last known, want 200", resp.Status)
	}
}

func TestLookUpOfAControllerWithoutAgentPort(t *testing.T) {
	s := newStage(t, Config{Default: "main"})
	s.known("main", &linkv1.Jenkins{Path: "/"})
	if resp := s.get("/tcpSlaveAgentListener/"); resp.StatusCode != http.StatusNotFound {
		t.Fatalf("%s, want 404 as the controller itself says", resp.Status)
	}
}

func TestBadIdentityIsLeftOut(t *testing.T) {
	for _, bad := range []string{identity() + "=", identity()[:60] + "\r\n" + identity()[60:], "!", base64.StdEncoding.EncodeToString([]byte("no key"))} {
		s := newStage(t, Config{Default: "main"})
		s.known("main", &linkv1.Jenkins{Path: "/", AgentPort: 1, InstanceIdentity: bad})
		wantHeader(t, s.get("/tcpSlaveAgentListener/"), "X-Instance-Identity", "")
	}
}

func TestOfferedProtocols(t *testing.T) {
	for _, test := range []struct {
		desc      string
		listed    []string
		cleartext bool
		want      []string
	}{
		{"a Jenkins of today", []string{"JNLP4-connect", "Ping"}, false, []string{"JNLP4-connect-proxy", "JNLP4-connect", "Ping"}},
		{"one of ten years ago", []string{"CLI2-connect", "JNLP-connect", "JNLP2-connect", "JNLP3-connect", "JNLP4-connect", "Ping"}, true,
			[]string{"JNLP4-connect-proxy", "JNLP4-connect", "JNLP-connect", "JNLP2-connect", "Ping"}},
		{"the same, for agents from outside", []string{"JNLP-connect", "JNLP2-connect", "JNLP4-connect", "Ping"}, false, []string{"JNLP4-connect-proxy", "JNLP4-connect", "Ping"}},
		{"behind another door", []string{"JNLP4-connect-proxy", "JNLP4-connect", "Ping"}, false, []string{"JNLP4-connect-proxy", "JNLP4-connect", "Ping"}},
		{"nothing", nil, true, nil},
	} {
		if got := offered(test.listed, test.cleartext); !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", test.desc, got, test.want)
		}
	}
}
