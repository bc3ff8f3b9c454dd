package proc_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/e2e/rig"
)

// Of two connectors with one name the newer wins. The older says so in one line
// and ends; what it held is over, and who comes anew is served by the newer.
func TestTheNewerOfTwoConnectorsWins(t *testing.T) {
	t.Parallel()
	f := newSingle(t)
	g := f.gateway(rig.FreeAddress(t))
	echo := startEcho(t)
	older := f.connector("older", "echo", echo)
	local := f.shim("echo", g.place)
	held := dial(t, local)
	wantEcho(t, held, "to the older\n")

	began := time.Now()
	newer := f.connector("newer", "echo", echo)
	if code := older.Exit(20 * time.Second); code != 1 {
		t.Errorf("the older connector ended with %d, want 1", code)
	}
	t.Logf("the older was gone %v after the newer's start", time.Since(began).Round(time.Millisecond))
	lines := strings.Split(strings.TrimSpace(string(older.Said())), "\n")
	last := lines[len(lines)-1]
	t.Logf("it said: %s", last)
	if !strings.HasPrefix(last, "moorage: ") || !strings.Contains(last, "superseded") || !strings.Contains(last, f.controller) {
		t.Errorf("the older connector's last line doesn't tell what happened to whom: %q", last)
	}
	rig.Must(t, held.SetDeadline(time.Now().Add(20*time.Second)))
	if _, err := io.ReadAll(held); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection that the older held ended with %v, want a reset", err)
	}
	f.shimProcess.WaitSaid("CONTROLLER_GONE", 5*time.Second)

	wantEcho(t, dial(t, local), "to the newer\n")
	if !newer.Running() || !bytes.Contains(newer.Said(), []byte("connector: session open")) {
		t.Error("the newer connector has not served the second connection")
	}
}

// startEcho starts a service that sends back what it gets.
func startEcho(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	rig.Must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c) // the far end sees what is missing
				_ = c.Close()
			}()
		}
	}()
	return l.Addr().String()
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	rig.Must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	rig.Must(t, c.SetDeadline(time.Now().Add(30*time.Second)))
	return c
}

func wantEcho(t *testing.T, c net.Conn, text string) {
	t.Helper()
	_, err := io.WriteString(c, text)
	rig.Must(t, err)
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("said %q, heard %q, %v", text, got, err)
	}
}
