package remoting_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/moorage-dev/moorage/remoting"
)

// A parser is one of the package's, its result made comparable.
type parser struct {
	name  string
	valid [][]byte // whole messages
	long  []byte   // the beginning of one that is over the limit
	parse func(b []byte) (result string, n int, err error)
}

func parsers() []parser {
	const java = "#Mon Nov 23 08:45:21 UTC 2026\nNode-Name=agent1\nSecret-Key=" +
		"0000000000000000000000000000000000000000000000000000000000000001\n"
	return []parser{
		{
			"string", [][]byte{{0, 0}, remoting.AppendString(nil, "some text")}, []byte{1, 1},
			func(b []byte) (string, int, error) { return remoting.ParseString(b, 256) },
		},
		{
			"greeting", [][]byte{remoting.AppendGreeting(nil, remoting.JNLP4Proxy), remoting.AppendGreeting(nil, "")}, []byte{0, 65},
			func(b []byte) (string, int, error) { return remoting.ParseGreeting(b) },
		},
		{
			"proxy block",
			[][]byte{remoting.AppendProxyBlock(nil, "agenté 1"), []byte("Node-Name: agent1\r\n\r\n"), []byte("Other: x\nnode-name:agent1\n\n")},
			bytes.Repeat([]byte{'x'}, 1<<10),
			func(b []byte) (string, int, error) { return remoting.ParseProxyBlock(b) },
		},
		{
			"login1", [][]byte{remoting.AppendLogin1(nil, someSecret, "agent1")}, []byte{0xff, 0xff},
			func(b []byte) (string, int, error) {
				secret, node, n, err := remoting.ParseLogin1(b)
				return secret + " " + node, n, err
			},
		},
		{
			"login2",
			[][]byte{remoting.AppendString(nil, java), remoting.AppendLogin2(nil, " ag:ent=1\t", someSecret, "c00c1e")}, []byte{0xff, 0xff},
			func(b []byte) (string, int, error) {
				node, secret, cookie, n, err := remoting.ParseLogin2(b)
				return strings.Join([]string{node, secret, cookie}, "\n"), n, err
			},
		},
		{
			"headers", [][]byte{remoting.AppendHeaders(nil, remoting.Headers{"Node-Name": new("agent1"), "x": nil})}, []byte{0xff, 0xff},
			func(b []byte) (string, int, error) {
				h, n, err := remoting.ParseHeaders(b)
				if err != nil {
					return "", n, err
				}
				return string(remoting.AppendHeaders(nil, h)), n, nil
			},
		},
		{
			"response", [][]byte{remoting.AppendString(nil, remoting.OK), remoting.AppendRefusal(nil, "no")}, []byte{0xff, 0xff},
			func(b []byte) (string, int, error) { return remoting.ParseResponse(b) },
		},
		{
			"capability", [][]byte{remoting.AppendCapability(nil, 0x17e)}, []byte{0xff, 0xff},
			func(b []byte) (string, int, error) {
				mask, n, err := remoting.ParseCapability(b)
				return remoting.CapabilityText(mask), n, err
			},
		},
		{
			"chunk header", [][]byte{{0x20, 0}, {0xa0, 0}}, nil,
			func(b []byte) (string, int, error) {
				n, more, err := remoting.ParseChunkHeader(b)
				if err != nil {
					return "", 0, err
				}
				return string(remoting.AppendChunkHeader(nil, n, more)), 2, nil
			},
		},
	}
}

func TestEveryTruncationAsksForMore(t *testing.T) {
	for _, p := range parsers() {
		for _, whole := range p.valid {
			want, n, err := p.parse(whole)
			if err != nil || n != len(whole) {
				t.Errorf("%s: %q: took %d of %d bytes, %v", p.name, whole, n, len(whole), err)
				continue
			}
			for size := range whole {
				if _, n, err := p.parse(whole[:size:size]); !errors.Is(err, remoting.ErrShort) || n != 0 {
					t.Errorf("%s: %d of %d bytes: took %d, %v, want ErrShort", p.name, size, len(whole), n, err)
				}
			}
			if got, n, err := p.parse(append(slices.Clip(whole), "behind"...)); got != want || n != len(whole) || err != nil {
				t.Errorf("%s: with bytes behind it: got %q, %d, %v, want %q, %d", p.name, got, n, err, want, len(whole))
			}
		}
		if p.long != nil {
			if _, _, err := p.parse(p.long); !errors.Is(err, remoting.ErrMalformed) {
				t.Errorf("%s: over its limit: got %v, want ErrMalformed at once", p.name, err)
			}
		}
	}
}

func TestGarbageIsRefused(t *testing.T) {
	for _, tc := range []struct{ parser, bytes string }{
		{"greeting", "\x00\x05hello"},
		{"proxy block", "\n"},
		{"proxy block", "Node-Name: \n\n"},
		{"proxy block", "Node-Name: a\x07b\n\n"},
		{"proxy block", "Node-Name: \xff\n\n"},
		{"login1", "\x00\x01s\x00\x01\xff"},
		{"login1", "\x00\x01s\x00\x06\xed\xa0\xbd\xed\xa0\xbd"},
		{"login2", "\x00\x05a=\\u0"},
		{"login2", "\x00\x01\xff"},
		{"capability", "\x00\x02{}"},
	} {
		i := slices.IndexFunc(parsers(), func(p parser) bool { return p.name == tc.parser })
		if got, _, err := parsers()[i].parse([]byte(tc.bytes)); !errors.Is(err, remoting.ErrMalformed) {
			t.Errorf("%s %q: got %q, %v, want ErrMalformed", tc.parser, tc.bytes, got, err)
		}
	}
}

// TestLoginOfAnOldAgent reads what java.util.Properties and writeUTF may make
// of odd names.
func TestLoginOfAnOldAgent(t *testing.T) {
	for text, want := range map[string]string{
		"Node-Name=agent1\n":                             "agent1",
		"#a date\r\nNode-Name = agent1\r\n":              "agent1",
		"! a note\nNode-Name:agent1":                     "agent1",
		"  Node-Name agent1":                             "agent1",
		`Node-Name=caf\u00e9\ \= \ud83d\ude00`:           "café = 😀",
		"Node-Name=ag\\\n   ent1\n":                      "agent1",
		`Node\-Name=a\tb\\`:                              "a\tb\\",
		"Node-Name=one\nNode-Name=two":                   "two",
		"Node-Name=\xed\xa0\xbd\xed\xb8\x80 \xc0\x80end": "😀 \x00end",
		"Secret-Key=x":                                   "",
	} {
		got, _, _, _, err := remoting.ParseLogin2(remoting.AppendString(nil, text))
		if got != want || err != nil {
			t.Errorf("%q: got %q, %v, want %q", text, got, err, want)
		}
	}
	for _, name := range []string{"agent1", " a b ", "a=b:c#d!e\\f", "agenté", "tab\tline\nfeed\f\r"} {
		node, secret, cookie, _, err := remoting.ParseLogin2(remoting.AppendLogin2(nil, name, "s3cret", "c00c1e"))
		if node != name || secret != "s3cret" || cookie != "c00c1e" || err != nil {
			t.Errorf("%q: got %q, %q, %q, %v", name, node, secret, cookie, err)
		}
	}
}

func TestNamesInHeadersAreLatin1(t *testing.T) {
	if got := remoting.ToLatin1("agenté €"); got != "agent\xe9 ?" {
		t.Errorf("to: got %q", got)
	}
	if got := remoting.FromLatin1("agent\xe9"); got != "agenté" {
		t.Errorf("from: got %q", got)
	}
}

func TestRefusalsShowTheirText(t *testing.T) {
	for response, want := range map[string]string{"ERROR: no": "no", "FATAL: go": "go", "OK": "", "BYE": ""} {
		if got, refused := remoting.Refusal(response); got != want || refused != (want != "") {
			t.Errorf("%s: got %q, %t", response, got, refused)
		}
	}
	long := remoting.AppendRefusal(nil, strings.Repeat("x", 1<<20))
	if _, _, err := remoting.ParseResponse(long); err != nil {
		t.Errorf("a long text is not cut: %v", err)
	}
}

func TestSniffTellsByTheFirstBytes(t *testing.T) {
	for _, tc := range []struct {
		first string
		want  remoting.Sort
	}{
		{string(remoting.AppendGreeting(nil, remoting.JNLP4)), remoting.SortGreeting},
		{string(remoting.AppendGreeting(nil, remoting.Ping)), remoting.SortGreeting},
		{"GET / HTTP/1.1\r\n", remoting.SortHTTP1},
		{"POST /x HTTP/1.1\r\n", remoting.SortHTTP1},
		{"PUT /x", remoting.SortHTTP1},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", remoting.SortHTTP2},
		{"PROXY TCP4 192.0.2.1", remoting.SortProxy},
		{"\r\n\r\n\x00\r\nQUIT\n\x21", remoting.SortProxy},
		{"\x16\x03\x01\x02\x00\x01", remoting.SortTLS},
	} {
		if got := remoting.Sniff([]byte(tc.first)); got != tc.want {
			t.Errorf("%q: got %s, want %s", tc.first, got, tc.want)
		}
		decided := false
		for size := range min(len(tc.first), remoting.SniffLen) + 1 {
			switch got := remoting.Sniff([]byte(tc.first[:size])); {
			case got == tc.want:
				decided = true
			case got != remoting.SortMore || decided:
				t.Errorf("%q: got %s, want %s or more", tc.first[:size], got, tc.want)
			}
		}
		if !decided {
			t.Errorf("%q: %d bytes are not enough", tc.first, remoting.SniffLen)
		}
	}
	for _, garbage := range []string{
		"SSH-2.0-OpenSSH", "\x00\x41", "\x00\x02", "\x00\x16hello", "\x15\x03\x01", "\x16\x02", "\x16\x03\x01\x00\x02\x02", "GETX", "\xff", "get ", "PRY", "\r\n\n", "\x80",
	} {
		if got := remoting.Sniff([]byte(garbage)); got != remoting.SortUnknown {
			t.Errorf("%q: got %s, want unknown", garbage, got)
		}
	}
}

func TestIdentityIsReadStrictly(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	text := base64.StdEncoding.EncodeToString(der)
	if spki, err := remoting.ParseIdentity(text); err != nil || !bytes.Equal(spki, der) {
		t.Errorf("an RSA key: %v", err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := x509.MarshalPKIXPublicKey(&other.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for desc, bad := range map[string]string{
		"nothing": "", "a line break": text[:64] + "\n" + text[64:], "a line break behind": text + "\r\n",
		"cut": text[:40], "an EC key": base64.StdEncoding.EncodeToString(ec), "a blank": " " + text,
	} {
		if _, err := remoting.ParseIdentity(bad); !errors.Is(err, remoting.ErrMalformed) {
			t.Errorf("%s: got %v, want it refused", desc, err)
		}
	}
	if got := remoting.ParseProtocols(" JNLP4-connect,,Ping , "); !slices.Equal(got, []string{"JNLP4-connect", "Ping"}) {
		t.Errorf("protocols: got %q", got)
	}
}

func TestReassemblerMakesCommandsOfAnyPieces(t *testing.T) {
	commands := [][]byte{[]byte("a"), bytes.Repeat([]byte("b"), remoting.ChunkSize), bytes.Repeat([]byte("c"), 3*remoting.ChunkSize+1)}
	var wire []byte
	for _, c := range commands {
		wire = remoting.AppendCommand(wire, c)
	}
	for _, piece := range []int{1, 2, 3, 7, 8191, 8194, 1 << 20} {
		var r remoting.Reassembler
		var got [][]byte
		for part := range slices.Chunk(wire, piece) {
			for len(part) > 0 {
				command, n, err := r.Feed(part)
				if err != nil {
					t.Fatal(err)
				}
				if command != nil {
					got = append(got, command)
				}
				part = part[n:]
			}
		}
		if !slices.EqualFunc(got, commands, bytes.Equal) {
			t.Errorf("in pieces of %d: got %d other commands", piece, len(got))
		}
	}
}

func TestEmptyFinalChunkStallsAsInJava(t *testing.T) {
	var r remoting.Reassembler
	wire := remoting.AppendChunkHeader([]byte("\x80\x05hello"), 0, false)
	if command, n, err := r.Feed(wire); command != nil || n != len(wire) || err != nil {
		t.Fatalf("got %q, %d, %v, want nothing yet", command, n, err)
	}
	if command, n, err := r.Feed([]byte{0}); string(command) != "hello" || n != 0 || err != nil {
		t.Fatalf("with the next byte: got %q, %d, %v", command, n, err)
	}
	if command, n, err := r.Feed([]byte("\x00\x02ok")); string(command) != "ok" || n != 4 || err != nil {
		t.Fatalf("the next command: got %q, %d, %v", command, n, err)
	}
}

func TestReassemblerHoldsNoMoreThanItsLimit(t *testing.T) {
	r := remoting.Reassembler{Limit: 10}
	if _, n, err := r.Feed([]byte("\x80\x08aaaaaaaa\x00\x03bbb")); !errors.Is(err, remoting.ErrMalformed) || n != 12 {
		t.Errorf("got %d, %v, want it refused at the second header", n, err)
	}
	if r.Pending() != 8 {
		t.Errorf("holds %d bytes, want 8", r.Pending())
	}
}

// clientHello is what crypto/tls sends first.
func clientHello(t testing.TB, config *tls.Config) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := tls.Client(client, config).HandshakeContext(t.Context())
		if err == nil {
			t.Error("a handshake with nobody went well")
		}
	}()
	record := make([]byte, 32<<10)
	n, err := server.Read(record)
	if err != nil {
		t.Fatal(err)
	}
	server.Close()
	<-done
	return record[:n]
}

func TestClientHelloShowsHostAndProtocols(t *testing.T) {
	for _, tc := range []struct {
		config *tls.Config
		alpn   []string
	}{
		{&tls.Config{ServerName: "GW.example.test", NextProtos: []string{"h2", "http/1.1"}}, []string{"h2", "http/1.1"}},
		{&tls.Config{ServerName: "gw.example.test", MaxVersion: tls.VersionTLS12}, nil},
	} {
		hello := clientHello(t, tc.config)
		greeted := append(remoting.AppendGreeting(nil, remoting.JNLP4), remoting.ACK...)
		for desc, b := range map[string][]byte{"bare": hello, "behind a greeting": append(greeted, hello...), "in small records": split(hello, 7), "byte by byte": split(hello, 1)} {
			sni, alpn, err := remoting.ParseClientHello(b)
			if sni != "gw.example.test" || !slices.Equal(alpn, tc.alpn) || err != nil {
				t.Errorf("%s: got %q, %q, %v", desc, sni, alpn, err)
			}
			for size := range b {
				if _, _, err := remoting.ParseClientHello(b[:size:size]); !errors.Is(err, remoting.ErrShort) {
					t.Errorf("%s, %d of %d bytes: got %v, want ErrShort", desc, size, len(b), err)
				}
			}
		}
	}
	anonymous := clientHello(t, &tls.Config{InsecureSkipVerify: true})
	if sni, alpn, err := remoting.ParseClientHello(anonymous); sni != "" || alpn != nil || err != nil {
		t.Errorf("without a name: got %q, %q, %v", sni, alpn, err)
	}
	for desc, b := range map[string]string{
		"HTTP": "GET / HTTP/1.1", "an alert": "\x15\x03\x01", "an empty record": "\x16\x03\x01\x00\x00", "a huge record": "\x16\x03\x01\xff\xff",
		"a ServerHello": "\x16\x03\x01\x00\x04\x02\x00\x00\x00", "a huge ClientHello": "\x16\x03\x01\x00\x08\x01\xff\xff\xff", "nothing in it": "\x16\x03\x01\x00\x04\x01\x00\x00\x00",
		"another greeting": string(remoting.AppendGreeting(nil, remoting.Ping)), "no ACK": string(remoting.AppendGreeting(nil, remoting.JNLP4)) + "\x16",
	} {
		if _, _, err := remoting.ParseClientHello([]byte(b)); !errors.Is(err, remoting.ErrMalformed) {
			t.Errorf("%s: got %v, want it refused", desc, err)
		}
	}
}

// split spreads one TLS record over many of size bytes.
func split(record []byte, size int) []byte {
	var out []byte
	for part := range slices.Chunk(record[5:], size) {
		out = append(out, record[:3]...)
		out = binary.BigEndian.AppendUint16(out, uint16(len(part)))
		out = append(out, part...)
	}
	return out
}
