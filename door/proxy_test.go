package door

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/moorage-dev/moorage/remoting"
)

func header(t testing.TB, version byte, from, to string) string {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", from)
	if err != nil {
		t.Fatal(err)
	}
	b, err := net.ResolveTCPAddr("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	p, err := proxyproto.HeaderProxyFromAddrs(version, a, b).Format()
	if err != nil {
		t.Fatal(err)
	}
	return string(p)
}

func TestBalancersTellTheAgentsAddress(t *testing.T) {
	for _, tt := range []struct{ desc, header, want string }{
		{"v1", header(t, 1, "203.0.113.9:4711", "192.0.2.1:50001"), "203.0.113.9:4711"},
		{"v1, IPv6", header(t, 1, "[2001:db8::9]:4711", "[2001:db8::1]:50001"), "[2001:db8::9]:4711"},
		{"v2", header(t, 2, "203.0.113.9:4711", "192.0.2.1:50001"), "203.0.113.9:4711"},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			r := newRig(t, Config{ProxyProtocol: true, Routes: []Route{{Controller: "ci", Port: 50001}}, Default: "main"})
			a := r.dial()
			a.say(tt.header + jnlp4Proxy("agent1") + "ClientHello")
			a.want("its ACK", remoting.ACK)
			c := r.accepted()
			if c.Remoting.Address != tt.want || c.Controller != "ci" {
				t.Errorf("address %s, controller %s; want %s, ci", c.Remoting.Address, c.Controller, tt.want)
			}
			c.want("the header is the door's alone", "ClientHello")
		})
	}
}

func TestBalancersOwnCheckIsAProbe(t *testing.T) {
	r := newRig(t, Config{ProxyProtocol: true})
	a := r.dial()
	a.say("\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00")
	must(t, a.Close())
	r.wantCame(sortProbe, 1)
}

// The test's own connections come from loopback, as a balancer's on the
// gateway's host do.
func TestWhoeverABalancerDoesNotNameIsNotOfThisHost(t *testing.T) {
	r := newRig(t, Config{ProxyProtocol: true})
	r.jenkins.Hudson, r.jenkins.Protocols = true, nil
	greeting := string(remoting.AppendGreeting(nil, remoting.JNLP2))
	login := string(remoting.AppendLogin2(nil, "legacy1", "5ec4e7", ""))
	for _, tt := range []struct{ desc, header string }{
		{"v1", "PROXY UNKNOWN\r\n"},
		{"v2, the balancer itself", "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			before := counted(r, refusedCleartext)
			a := r.dial()
			a.say(tt.header + greeting + login)
			a.wantClosed("its secret has come in clear from who knows where", lineUnknownProtocol)
			waitFor(t, "counted", func() bool { return counted(r, refusedCleartext) == before+1 })
		})
	}
	a := r.dial()
	a.say(header(t, 1, "127.0.0.1:4711", "127.0.0.1:50001") + greeting + login)
	r.accepted().want("one that is of this host comes in", login)
}

func TestBadPROXYHeadersAreRefused(t *testing.T) {
	r := newRig(t, Config{ProxyProtocol: true, Greeting: 200 * time.Millisecond})
	for _, tt := range []struct{ desc, say, reason string }{
		{"none", jnlp4Proxy("agent1"), refusedProxy},
		{"endless", "PROXY TCP4 " + string(make([]byte, 200)), refusedProxy},
		{"not an address", "PROXY TCP4 a b c d\r\n", refusedProxy},
		{"v2 that is too long", "\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff", refusedProxy},
		{"v2 of an unknown version", "\r\n\r\n\x00\r\nQUIT\n\x31\x11\x00\x0c123456789012", refusedProxy},
		{"half of one", "PROXY TCP4 203.0.113.9", refusedSlow},
		{"two of them", header(t, 1, "203.0.113.9:1", "192.0.2.1:2") + header(t, 1, "203.0.113.9:1", "192.0.2.1:2"), refusedProxy},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			before := counted(r, tt.reason)
			a := r.dial()
			a.say(tt.say)
			a.wantGone("refused")
			waitFor(t, "counted as "+tt.reason, func() bool { return counted(r, tt.reason) == before+1 })
		})
	}
}

func FuzzProxyHeaderSize(f *testing.F) {
	f.Add([]byte(header(f, 1, "203.0.113.9:4711", "192.0.2.1:50001")))
	f.Add([]byte(header(f, 2, "203.0.113.9:4711", "192.0.2.1:50001")))
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	f.Fuzz(func(t *testing.T, p []byte) {
		n, err := proxyHeaderSize(p)
		if err != nil {
			return
		}
		if n <= 0 || n > len(p) || n > mostProxyHeader {
			t.Fatalf("size %d of %d bytes", n, len(p))
		}
		for i := range n {
			if _, err := proxyHeaderSize(p[:i]); !errors.Is(err, remoting.ErrShort) && i > 0 {
				t.Fatalf("cut at %d of %d: %v", i, n, err)
			}
		}
	})
}
