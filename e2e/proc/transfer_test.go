package proc_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/e2e/rig"
)

// Three gateways die under one download, each while it carries it; curl is
// never told to try again and sees nothing but pauses.
func TestDownloadOutlivesThreeGateways(t *testing.T) {
	f := newSingle(t)
	download(t, f, *transferSize)
}

// The same in the other direction.
func TestUploadOutlivesThreeGateways(t *testing.T) {
	f := newSingle(t)
	size := *transferSize
	e := newExecutioner(f, size)
	got := sha256.New()
	web := serve(t, func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.MultiWriter(got, e), r.Body)
		if err != nil || n != size {
			t.Errorf("the server got %d bytes of %d: %v", n, size, err)
		}
		w.WriteHeader(http.StatusNoContent)
	})
	url := tunnelTo(f, web)
	sent := sha256.New()
	curl := newCurl(t, "--upload-file", "-", url)
	curl.Stdin = io.TeeReader(content(size), sent)
	e.during(curl)
	wantSameSum(t, sent, got)
}

// The same binaries with the race detector in them, once: what only shows
// between processes, and under signals, is raced there. Then all of them end
// as an operator ends them.
func TestBinariesHaveNoRace(t *testing.T) {
	program, err := racing()
	rig.Must(t, err)
	f := newFleet(t, program, oneKafka.start(t).Addrs(), "--single-broker")
	download(t, f, min(*transferSize, 64<<20))
	for _, p := range f.processes {
		if p.Running() {
			p.Signal(syscall.SIGTERM)
			// A process that has raced exits with 66.
			if code := p.Exit(20 * time.Second); code != 0 {
				t.Errorf("%s ended with %d", p.Name, code)
			}
		}
		if bytes.Contains(p.Said(), []byte("DATA RACE")) {
			t.Errorf("%s raced:\n%s", p.Name, p.Said())
		}
	}
}

// download fetches size bytes by curl while three gateways die.
func download(t *testing.T, f *fleet, size int64) {
	sent := sha256.New()
	web := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		if _, err := io.Copy(w, io.TeeReader(content(size), sent)); err != nil {
			t.Errorf("the server: %v", err)
		}
	})
	url := tunnelTo(f, web)
	e := newExecutioner(f, size)
	got := sha256.New()
	curl := newCurl(t, url)
	curl.Stdout = io.MultiWriter(got, e)
	e.during(curl)
	wantSameSum(t, sent, got)
}

// tunnelTo starts shim, two gateways and connector before a service, and
// returns the URL at which it is found on the agent's side.
func tunnelTo(f *fleet, service string) string {
	places := []string{rig.FreeAddress(f.t), rig.FreeAddress(f.t)}
	for _, place := range places {
		f.gateway(place)
	}
	f.connector("connector", "web", service)
	return "http://" + f.shim("web", places...) + "/"
}

// An executioner kills the gateway in use at 25, 50 and 75 % of a transfer,
// and starts a fresh one in its place. The bytes go on while it looks for the
// gateway, so what is killed is at work; only where they get an eighth ahead of
// it do they wait.
type executioner struct {
	f      *fleet
	size   int64
	seen   atomic.Int64
	eighth chan struct{} // from 2/8 to 7/8, taken when they may go on
}

func newExecutioner(f *fleet, size int64) *executioner {
	return &executioner{f: f, size: size, eighth: make(chan struct{})}
}

// Write counts what passes. One goroutine calls it.
func (e *executioner) Write(p []byte) (int, error) {
	before := e.seen.Load() * 8 / e.size
	now := e.seen.Add(int64(len(p))) * 8 / e.size
	for range min(now, 7) - min(max(before, 1), 7) {
		select {
		case e.eighth <- struct{}{}:
		case <-e.f.t.Context().Done():
			return 0, context.Cause(e.f.t.Context())
		}
	}
	return len(p), nil
}

// during runs one transfer, which must outlive three gateways.
func (e *executioner) during(curl *exec.Cmd) {
	t := e.f.t
	t.Helper()
	begin := time.Now()
	over := make(chan error, 1)
	go func() { over <- curl.Run() }()
	dead := map[int]bool{}
	await := func() {
		t.Helper()
		select {
		case <-e.eighth:
		case err := <-over:
			t.Fatalf("curl ended after %d dead gateways and %d bytes: %v", len(dead), e.seen.Load(), err)
		}
	}
	for range 3 {
		await()
		g, held := e.f.inUse()
		g.Kill()
		dead[g.PID()] = true
		t.Logf("at %d %%: killed %s, pid %d, which held attempt %d", e.seen.Load()*100/e.size, g.Name, g.PID(), held.Attempt)
		e.f.gateway(g.place)
		await()
	}
	if err := <-over; err != nil {
		t.Errorf("curl: %v", err)
	}
	if len(dead) != 3 {
		t.Errorf("pids of dead gateways: %v, want three", dead)
	}
	took := time.Since(begin)
	t.Logf("%d MiB in %v, %.0f MB/s", e.size>>20, took.Round(time.Millisecond), float64(e.size)/1e6/took.Seconds())
}

// newCurl is a curl that gives up at the first thing that goes wrong.
func newCurl(t *testing.T, args ...string) *exec.Cmd {
	curl := exec.CommandContext(t.Context(), "curl", append([]string{"--disable", "--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "600"}, args...)...)
	curl.Stderr = t.Output()
	return curl
}

// serve answers HTTP on a port of its own.
func serve(t *testing.T, h http.HandlerFunc) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	rig.Must(t, err)
	s := &http.Server{Handler: h}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		_ = s.Close() // connections that are left are the failed test's
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// content is size bytes that no cache, zip or repetition can fake.
func content(size int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{7}), size)
}

func wantSameSum(t *testing.T, sent, got hash.Hash) {
	t.Helper()
	if s, g := sent.Sum(nil), got.Sum(nil); !bytes.Equal(s, g) {
		t.Errorf("SHA-256 of what was sent %x, of what came %x", s, g)
	}
}
