package modern_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/moorage-dev/moorage/e2e/rig"
	"github.com/moorage-dev/moorage/standin"
)

// insideVar tells the test binary that it is on a network of its own.
const insideVar = "MOORAGE_MODERN_INSIDE"

// TestBlackHoleFromTier0 runs itself on a network of its own: as root, or as
// root of a user namespace.
func TestBlackHoleFromTier0(t *testing.T) {
	if os.Getenv(insideVar) != "" {
		blackHole(t)
		return
	}
	t.Parallel()
	self, err := os.Executable()
	rig.Must(t, err)
	args := []string{"--net"}
	if os.Getuid() != 0 {
		args = append(args, "--user", "--map-root-user")
	}
	cmd := exec.CommandContext(t.Context(), "unshare", append(args, self, "-test.run", "^"+t.Name()+"$", "-test.v", "-test.timeout", "3m")...)
	cmd.Env = append(os.Environ(), insideVar+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // with this thread the child would die
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if err != nil || strings.Contains(line, "hole_linux_test.go") {
			t.Log(strings.TrimSpace(line))
		}
	}
	if err != nil {
		t.Errorf("on a network of its own (iproute2 and util-linux; root, or user namespaces for everybody): %v", err)
	}
}

// vanishes is within what time a gateway must know that an agent's host is
// gone without a word.
const vanishes = 15 * time.Second

// An agent's host falls silent: the gateway knows within 15 s, whether it has
// something to say to the agent or not, and so does the controller. The agent
// knows nothing, unless its own pings tell it.
func blackHole(t *testing.T) {
	ip(t, "link", "set", "lo", "up")
	ip(t, "link", "add", "lan", "type", "bridge")
	ip(t, "addr", "add", "10.88.0.1/24", "dev", "lan")
	ip(t, "link", "set", "lan", "up")
	far := newHost(t)
	s := newSite(t, standin.Config{}, nil)
	e := s.startGateway("10.88.0.1:7443")
	type silenced struct {
		*actor
		busy, pings bool
	}
	var all []silenced
	for _, m := range []manner{manners[0], manners[3]} {
		for _, one := range []silenced{{}, {busy: true}, {pings: true}} {
			name := fmt.Sprintf("%s, busy %v, pings %v", m.word, one.busy, one.pings)
			one.actor = s.startAgent(name, e.place, m, once, func(a *standin.Agent) {
				a.Dial = far.dial
				if one.pings {
					a.Pings = standin.Pings{Interval: 2 * time.Second, Timeout: 8 * time.Second}
				}
			})
			s.jenkins.wantOnline(t, name, 30*time.Second)
			one.want(standin.Online, 1, 10*time.Second)
			all = append(all, one)
		}
	}

	far.port("0")
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), vanishes+atOnce)
	defer cancel()
	var waits sync.WaitGroup
	for _, one := range all {
		if one.busy {
			waits.Go(func() {
				if s.jenkins.Call(ctx, one.name, 1000, 1<<20) == nil {
					t.Errorf("%s: something came through the hole", one.name)
				}
			})
		}
		waits.Go(func() {
			if err := s.jenkins.WaitOffline(ctx, one.name); err != nil {
				t.Errorf("%s: the controller does not know after %v", one.name, time.Since(began))
				return
			}
			t.Logf("%s: the controller knew after %v", one.name, time.Since(began).Round(time.Millisecond))
		})
	}
	waits.Wait()
	for _, one := range all {
		told := one.told(standin.Offline)
		switch {
		case one.pings:
			t.Logf("%s: the agent knew by its ping after %v", one.name, one.want(standin.Offline, 1, 15*time.Second).at.Sub(began).Round(time.Millisecond))
		case len(told) > 0:
			t.Errorf("%s: the agent knew too: %v", one.name, told[0].Err)
		}
	}
	far.port("3")
}

// A host is another network namespace, with a cable to the bridge lan.
type host struct {
	t  *testing.T
	ns *os.File
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{t: t}
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
	path := "/proc/" + strconv.Itoa(os.Getpid()) + "/fd/" + strconv.Itoa(int(h.ns.Fd()))
	ip(t, "link", "add", "far", "type", "veth", "peer", "name", "eth0", "netns", path)
	ip(t, "link", "set", "far", "master", "lan", "up")
	for _, args := range [][]string{{"link", "set", "lo", "up"}, {"addr", "add", "10.88.0.2/24", "dev", "eth0"}, {"link", "set", "eth0", "up"}} {
		rig.Output(t, "nsenter", append([]string{"--net=" + path, "--", "ip"}, args...)...)
	}
	return h
}

// dial connects from the host. The address must be numbers: only then does
// net.Dialer stay on this thread.
func (h *host) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and let the thread go with the goroutine
		if err = unix.Setns(int(h.ns.Fd()), unix.CLONE_NEWNET); err == nil {
			conn, err = new(net.Dialer).DialContext(ctx, network, address)
		}
	}()
	<-done
	return conn, err
}

// port sets what the switch does with the host's cable: 0 drops all, without a
// word to anybody, and 3 forwards. It is bridge's to say: ip link takes the
// same words and does nothing.
func (h *host) port(state string) {
	h.t.Helper()
	rig.Output(h.t, "bridge", "link", "set", "dev", "far", "state", state)
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	rig.Output(t, "ip", args...)
}
