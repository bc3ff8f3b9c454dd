package remoting_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"testing"

	"github.com/moorage-dev/moorage/remoting"
)

// fuzz checks of one parser what holds whatever comes in: it takes no more than
// there is, its result does not depend on what stands behind, and only ErrShort
// or ErrMalformed come out.
func fuzz(f *testing.F, name string) {
	for _, p := range parsers() {
		if p.name != name {
			continue
		}
		for _, whole := range p.valid {
			f.Add(whole)
		}
		f.Add(p.long)
		f.Fuzz(func(t *testing.T, b []byte) {
			got, n, err := p.parse(b)
			switch {
			case err == nil && (n < 0 || n > len(b)):
				t.Fatalf("took %d of %d bytes", n, len(b))
			case err != nil && !errors.Is(err, remoting.ErrShort) && !errors.Is(err, remoting.ErrMalformed):
				t.Fatalf("an error of its own: %v", err)
			case errors.Is(err, remoting.ErrShort) && len(b) > 16<<10:
				t.Fatalf("%d bytes are not enough", len(b))
			case err == nil:
				again, m, err := p.parse(b[:n:n])
				if again != got || m != n || err != nil {
					t.Fatalf("without what is behind: %q, %d, %v, want %q, %d", again, m, err, got, n)
				}
			}
		})
	}
}

func FuzzParseString(f *testing.F)      { fuzz(f, "string") }
func FuzzParseGreeting(f *testing.F)    { fuzz(f, "greeting") }
func FuzzParseProxyBlock(f *testing.F)  { fuzz(f, "proxy block") }
func FuzzParseLogin1(f *testing.F)      { fuzz(f, "login1") }
func FuzzParseLogin2(f *testing.F)      { fuzz(f, "login2") }
func FuzzParseHeaders(f *testing.F)     { fuzz(f, "headers") }
func FuzzParseResponse(f *testing.F)    { fuzz(f, "response") }
func FuzzParseCapability(f *testing.F)  { fuzz(f, "capability") }
func FuzzParseChunkHeader(f *testing.F) { fuzz(f, "chunk header") }

func FuzzHeadersRoundTrip(f *testing.F) {
	f.Add("Node-Name", "agent1")
	f.Add("k\"\\\n\u0001é😀/<", "v\t")
	f.Fuzz(func(t *testing.T, key, value string) {
		wire := remoting.AppendString(nil, "")
		if len(key)+len(value) < 1000 {
			wire = remoting.AppendHeaders(nil, remoting.Headers{key: &value})
		}
		h, _, err := remoting.ParseHeaders(wire)
		if err != nil || len(h) == 0 {
			return // no UTF-8
		}
		if h.Value(key) != value {
			t.Fatalf("got %q, want %q", h.Value(key), value)
		}
	})
}

func FuzzLogin2RoundTrip(f *testing.F) {
	f.Add("agent1", "0123", "")
	f.Add(" a=b:c\\u", "\t\r\n\f", "#!")
	f.Fuzz(func(t *testing.T, node, secret, cookie string) {
		if len(node)+len(secret)+len(cookie) > 1000 {
			return
		}
		gotNode, gotSecret, gotCookie, _, err := remoting.ParseLogin2(remoting.AppendLogin2(nil, node, secret, cookie))
		if err == nil && (gotNode != node || gotSecret != secret || gotCookie != cookie) && valid(node+secret+cookie) {
			t.Fatalf("got %q, %q, %q, want %q, %q, %q", gotNode, gotSecret, gotCookie, node, secret, cookie)
		}
	})
}

func valid(s string) bool { return bytes.Equal(bytes.ToValidUTF8([]byte(s), nil), []byte(s)) }

func FuzzSniff(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1"))
	f.Add(remoting.AppendGreeting(nil, remoting.JNLP4))
	f.Add([]byte("\r\n\r\n\x00\r\nQUIT\n"))
	f.Add([]byte("\x16\x03\x01\x02\x00\x01\x00\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		sort := remoting.Sniff(b)
		if sort == remoting.SortMore && len(b) >= remoting.SniffLen {
			t.Fatalf("%d bytes are not enough", len(b))
		}
		for size := range b {
			if got := remoting.Sniff(b[:size]); got != sort && got != remoting.SortMore {
				t.Fatalf("%d bytes are %s, %d are %s", size, got, len(b), sort)
			}
		}
	})
}

func FuzzReassembler(f *testing.F) {
	f.Add(remoting.AppendCommand(nil, bytes.Repeat([]byte("x"), 20000)), 7)
	f.Add([]byte("\x80\x05hello\x00\x00\x00\x01x"), 1)
	f.Fuzz(func(t *testing.T, wire []byte, piece int) {
		whole := commandsOf(wire, max(1, len(wire)))
		if pieces := commandsOf(wire, max(1, piece)); !bytes.Equal(whole, pieces) {
			t.Fatalf("in one piece %q, in pieces of %d %q", whole, piece, pieces)
		}
	})
}

// commandsOf joins the commands of a stream that comes in pieces, each behind a
// mark.
func commandsOf(wire []byte, piece int) (all []byte) {
	r := remoting.Reassembler{Limit: 64 << 10}
	for len(wire) > 0 {
		command, n, err := r.Feed(wire[:min(piece, len(wire))])
		if err != nil {
			return append(all, "\nrefused"...)
		}
		if command != nil {
			all = append(append(all, "\ncommand "...), command...)
		}
		wire = wire[n:]
	}
	return all
}

func FuzzClass(f *testing.F) {
	f.Add(remoting.AppendStreamAck(nil, 5, 1000))
	f.Fuzz(func(t *testing.T, b []byte) {
		class, err := remoting.Class(b)
		if err == nil && !bytes.HasPrefix(b, remoting.AppendClass(nil, class)) {
			t.Fatalf("got %q of %q", class, b)
		}
	})
}

func FuzzParseClientHello(f *testing.F) {
	hello := clientHello(f, &tls.Config{ServerName: "gw.example.test", NextProtos: []string{"h2"}, MaxVersion: tls.VersionTLS12})
	f.Add(hello)
	f.Add(append(append(remoting.AppendGreeting(nil, remoting.JNLP4), remoting.ACK...), hello...))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, err := remoting.ParseClientHello(b)
		if errors.Is(err, remoting.ErrShort) && len(b) > 7*(16<<10) {
			t.Fatalf("%d bytes are not enough", len(b))
		}
	})
}

func FuzzDecryptJNLP(f *testing.F) {
	f.Add(someSecret, []byte("0123456789abcdef<jnlp/>"))
	f.Fuzz(func(t *testing.T, secret string, file []byte) {
		xml, err := remoting.DecryptJNLP(secret, file)
		if err != nil {
			return
		}
		if again, err := remoting.EncryptJNLP(secret, [16]byte(file), xml); err != nil || !bytes.Equal(again, file) {
			t.Fatalf("encrypted again: %x, %v, want %x", again, err, file)
		}
	})
}
