package legacy_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/moorage-dev/moorage/e2e/rig"
)

// A lan is a switch: a bridge in the test's own network namespace.
type lan struct {
	t      *testing.T
	name   string
	prefix string // three numbers of its addresses, with a dot behind
	hosts  atomic.Int32
}

var (
	lans  atomic.Int32
	links atomic.Int32
)

// newLAN makes a switch that connects those who plug in, and nobody else.
func newLAN(t *testing.T) *lan {
	t.Helper()
	n := lans.Add(1)
	l := &lan{t: t, name: fmt.Sprintf("lan%d", n), prefix: fmt.Sprintf("10.77.%d.", n)}
	ip(t, "link", "add", l.name, "type", "bridge")
	ip(t, "link", "set", l.name, "up")
	t.Cleanup(func() { ip(t, "link", "del", l.name) })
	return l
}

// address takes the switch's next free address.
func (l *lan) address() string { return fmt.Sprintf("%s%d", l.prefix, l.hosts.Add(1)) }

// joinSelf gives the test itself an address in the lan, and returns it.
func (l *lan) joinSelf() string {
	l.t.Helper()
	a := l.address()
	ip(l.t, "addr", "add", a+"/24", "dev", l.name)
	return a
}

// A host is a network namespace: a machine as far as the network can tell. It
// lives as long as a process in it, or this one.
type host struct {
	t    *testing.T
	name string
	ns   *os.File
	nics int
}

func newHost(t *testing.T, name string) *host {
	t.Helper()
	h := &host{t: t, name: name}
	made := make(chan error)
	go func() {
		// The thread goes with the goroutine, for it is in the namespace.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			h.ns, err = os.Open("/proc/thread-self/ns/net")
		}
		made <- err
	}()
	rig.Must(t, <-made)
	t.Cleanup(func() { h.ns.Close() })
	h.ip("link", "set", "lo", "up")
	return h
}

// path names the namespace for commands.
func (h *host) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), h.ns.Fd()) }

// argv is a command line that runs another one on the host. The process that
// it makes becomes the command: no other stands between.
func (h *host) argv(program string, args ...string) []string {
	return append([]string{"nsenter", "--net=" + h.path(), "--", program}, args...)
}

// ip runs iproute2's command on the host.
func (h *host) ip(args ...string) []byte {
	h.t.Helper()
	argv := h.argv("ip", args...)
	return rig.Output(h.t, argv[0], argv[1:]...)
}

// do calls f on a thread that is on the host.
func (h *host) do(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and let the thread go with the goroutine
		err := setns(h.ns)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// dial connects from the host. The address must be numbers: only then does
// net.Dialer stay on this thread.
func (h *host) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = h.do(func() error {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// client speaks HTTP from the host. It follows no redirection: what Hudson
// answers an order with leads to a page that takes seconds to make. Hudson 1.395
// now and then forgets a request, so that nobody should wait for it long.
func (h *host) client() *http.Client {
	transport := &http.Transport{DialContext: h.dial, DisableKeepAlives: true, ResponseHeaderTimeout: 15 * time.Second}
	return &http.Client{
		Transport:     transport,
		Timeout:       5 * time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// A cable connects a host to a lan.
type cable struct {
	t       *testing.T
	port    string // of the switch
	address string // of the host
	host    *host
}

// plug connects the host to a lan, with an address of its own.
func (h *host) plug(l *lan) *cable {
	h.t.Helper()
	c := &cable{t: h.t, host: h, port: fmt.Sprintf("port%d", links.Add(1)), address: l.address()}
	nic := fmt.Sprintf("eth%d", h.nics)
	h.nics++
	ip(h.t, "link", "add", c.port, "type", "veth", "peer", "name", nic, "netns", h.path())
	ip(h.t, "link", "set", c.port, "master", l.name, "up")
	h.ip("addr", "add", c.address+"/24", "dev", nic)
	h.ip("link", "set", nic, "up")
	return c
}

// cut makes a black hole of the cable: the switch drops what comes and goes,
// and neither end is told.
func (c *cable) cut() {
	c.t.Helper()
	c.forward("0")
}

// mend has the switch forward again.
func (c *cable) mend() {
	c.t.Helper()
	c.forward("3")
}

// forward sets the state of the switch's port. It is bridge's to say: ip link
// takes the same words and does nothing.
func (c *cable) forward(state string) {
	c.t.Helper()
	rig.Output(c.t, "bridge", "link", "set", "dev", c.port, "state", state)
}

// resetNow resets the TCP connections that the host has with a peer, at the
// peer, and returns how many. The peer, which accepted them, hears of a broken
// connection, and the host gets a RST.
func (c *cable) resetNow(far *host) int {
	c.t.Helper()
	argv := far.argv("ss", "--kill", "--tcp", "--no-header", "--numeric", "state", "connected", "dst", c.address)
	return strings.Count(string(rig.Output(c.t, argv[0], argv[1:]...)), c.address)
}

// reset resets all connections between the host and a peer, and each new one,
// for some time.
func (c *cable) reset(far *host, d time.Duration) {
	c.t.Helper()
	limit := time.After(d)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	killed := 0
	for {
		killed += c.resetNow(far)
		select {
		case <-tick.C:
			continue
		case <-c.t.Context().Done():
			c.t.Fatal("the test ended while a cable was reset")
		case <-limit:
		}
		if killed == 0 {
			c.t.Fatal("there was no connection to reset (or the kernel lacks INET_DIAG_DESTROY)")
		}
		c.t.Logf("%s: %d connections reset in %v", c.host.name, killed, d)
		return
	}
}

// ip runs iproute2's command in the test's own namespace.
func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %q: %v: %s", args, err, out)
	}
}

// setns moves the calling thread into a namespace.
func setns(ns *os.File) error {
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("setns: %w", err)
	}
	return nil
}
