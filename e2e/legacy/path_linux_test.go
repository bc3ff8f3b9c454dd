package legacy_test

import (
	"bytes"
	"context"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/e2e/rig"
)

// No inbound port, no path: the controller's host takes nothing from outside,
// the agent's host reaches the gateways' ports and nothing else, whatever it
// tries; and builds succeed all the same.
func TestNoInboundPortNoPath(t *testing.T) {
	k := startKafka(t, 1)
	g := generations[1]
	n := node{"agent", job{dir: t.TempDir(), lines: 100, every: 20 * time.Millisecond, files: []int{1 << 20}}}
	home := newHost(t, "controller")
	cable := home.plug(k.lan)
	c := startHudson(t, g, home, n)
	c.ready(startLimit)
	s := newSite(t, k, c)

	inside := home.listening()
	if open := s.edge.scan(cable.address, inside); !slices.Equal(open, inside) {
		t.Fatalf("of %v, on which the controller's host listens, only %v are found before it is closed: the scan is not to be trusted", inside, open)
	}
	home.closeTo(k.Addrs())
	stranger := newHost(t, "stranger")
	stranger.plug(k.lan)
	for _, neighbour := range []*host{s.edge, stranger} {
		if open := neighbour.scan(cable.address, inside); len(open) > 0 {
			t.Errorf("%s reaches the controller's host at %v", neighbour.name, open)
		}
	}
	if said := string(home.run("ss", "--listening", "--tcp", "--no-header", "--numeric", "--processes")); strings.Contains(said, "moorage") {
		t.Errorf("the connector listens:\n%s", said)
	}

	a := s.shim(t, n)
	c.waitOnline(t, n.name, startLimit)
	c.build(t, a, 1).wantExact(t, n.job, buildLimit)

	// The agent's host sends all it has to the edge, as its router.
	a.host.ip("route", "add", "default", "via", s.address)
	doors := []int{7443, 7444}
	if open := a.host.scan(s.address, append(s.edge.listening(), 22, 80)); !slices.Equal(open, doors) {
		t.Errorf("the agent's host reaches %v of the edge, want %v", open, doors)
	}
	beyond := map[string][]int{cable.address: inside, s.edgeInside: append(s.edge.listening(), doors...)}
	for _, address := range k.Addrs() {
		host, port := split(t, address)
		beyond[host] = append(beyond[host], port)
	}
	for address, ports := range beyond {
		if open := a.host.scan(address, ports); len(open) > 0 {
			t.Errorf("the agent's host reaches %s at %v", address, open)
		}
	}
	broker, port := split(t, k.Addrs()[0])
	if open := s.edge.scan(broker, []int{port}); len(open) == 0 {
		t.Error("the edge does not reach Kafka either: the scan is not to be trusted")
	}
}

// run runs a command on the host.
func (h *host) run(program string, args ...string) []byte {
	h.t.Helper()
	argv := h.argv(program, args...)
	return rig.Output(h.t, argv[0], argv[1:]...)
}

// listening are the TCP ports on which somebody listens at the host, on other
// addresses than loopback's.
func (h *host) listening() (ports []int) {
	h.t.Helper()
	for line := range bytes.Lines(h.run("ss", "--listening", "--tcp", "--no-header", "--numeric")) {
		fields := strings.Fields(string(line))
		if len(fields) < 4 || strings.HasPrefix(fields[3], "127.") || strings.HasPrefix(fields[3], "[::ffff:127.") {
			continue
		}
		port, err := strconv.Atoi(fields[3][strings.LastIndexByte(fields[3], ':')+1:])
		rig.Must(h.t, err)
		ports = append(ports, port)
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// scan returns those of the ports that take a connection from this host.
func (h *host) scan(address string, ports []int) (open []int) {
	h.t.Helper()
	var (
		mu sync.Mutex
		wg sync.WaitGroup
	)
	for _, port := range ports {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(h.t.Context(), 2*time.Second)
			defer cancel()
			conn, err := h.dial(ctx, "tcp", net.JoinHostPort(address, strconv.Itoa(port)))
			if err != nil {
				return
			}
			conn.Close()
			mu.Lock()
			defer mu.Unlock()
			open = append(open, port)
		})
	}
	wg.Wait()
	slices.Sort(open)
	return slices.Compact(open)
}

// closeTo has the host drop every TCP packet from outside that doesn't come
// from one of the addresses: all that a firewall for outgoing connections lets
// back in. Routing rules do it, for they need no further program.
func (h *host) closeTo(addresses []string) {
	h.t.Helper()
	for _, address := range addresses {
		from, port := split(h.t, address)
		h.ip("rule", "add", "pref", "100", "iif", "eth0", "from", from, "ipproto", "tcp", "sport", strconv.Itoa(port), "lookup", "local")
	}
	h.ip("rule", "add", "pref", "200", "iif", "eth0", "ipproto", "tcp", "blackhole")
	h.ip("rule", "add", "pref", "300", "lookup", "local")
	h.ip("rule", "del", "pref", "0")
}

// noRouter has the host pass nothing on between its networks; a fresh one does
// in this as the machine does.
func (h *host) noRouter() {
	h.t.Helper()
	rig.Must(h.t, h.do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0\n"), 0o644)
	}))
}

func split(t *testing.T, address string) (string, int) {
	t.Helper()
	host, text, err := net.SplitHostPort(address)
	rig.Must(t, err)
	port, err := strconv.Atoi(text)
	rig.Must(t, err)
	return host, port
}
