package tunnel

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestHalfCloseStaysHalf(t *testing.T) {
	client, server, joined := newTunnel(t)

	mustWrite(t, client, "question")
	must(t, client.CloseWrite())
	wantAll(t, "the server sees the question and its end", server, "question")

	mustWrite(t, server, "answer")
	must(t, server.Close())
	wantAll(t, "the answer comes after the client's end", client, "answer")
	if err := <-joined; err != nil {
		t.Errorf("an orderly end gave %v", err)
	}
}

func TestResetIsPassedOn(t *testing.T) {
	client, server, joined := newTunnel(t)

	mustWrite(t, server, "half a")
	buf := make([]byte, 16)
	if n, err := client.Read(buf); err != nil || string(buf[:n]) != "half a" {
		t.Fatalf("got %q, %v", buf[:n], err)
	}
	TCP{server}.Abort(nil)
	if _, err := client.Read(buf); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a broken download reads as %v, want a reset", err)
	}
	if err := <-joined; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Join: %v, want the reset", err)
	}
}

func TestBytesArriveUnchanged(t *testing.T) {
	client, server, joined := newTunnel(t)
	const size = 8 << 20
	content := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(content) // never fails

	go func() {
		_, _ = io.Copy(client, bytes.NewReader(content)) // a failure shows as a wrong sum
		_ = client.CloseWrite()
	}()
	sum := sha256.New()
	n, err := io.Copy(sum, server)
	if err != nil || n != size || [32]byte(sum.Sum(nil)) != sha256.Sum256(content) {
		t.Errorf("%d bytes of %d arrived, or changed: %v", n, size, err)
	}
	must(t, server.Close())
	if err := <-joined; err != nil {
		t.Error(err)
	}
}

// newTunnel returns the far ends of two connections whose near ends are joined.
func newTunnel(t *testing.T) (client, server *net.TCPConn, joined <-chan error) {
	client, near := tcpPair(t)
	server, far := tcpPair(t)
	done := make(chan error, 1)
	go func() { done <- Join(TCP{near}, TCP{far}) }()
	return client, server, done
}

func tcpPair(t *testing.T) (dialled, accepted *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	d, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	a, err := l.Accept()
	must(t, err)
	t.Cleanup(func() {
		_ = d.Close() // closed already in most tests
		_ = a.Close()
	})
	return d.(*net.TCPConn), a.(*net.TCPConn)
}

func wantAll(t *testing.T, why string, r io.Reader, want string) {
	t.Helper()
	got, err := io.ReadAll(r)
	if err != nil || string(got) != want {
		t.Errorf("%s: got %q, %v; want %q", why, got, err, want)
	}
}

func mustWrite(t *testing.T, w io.Writer, s string) {
	t.Helper()
	_, err := io.WriteString(w, s)
	must(t, err)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
