package site

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// isolatedVar tells a process that Isolate has moved it.
const isolatedVar = "MOORAGE_LOADTEST_ISOLATED"

// loopback is everybody's address without black holes.
const loopback = "127.0.0.1"

// Isolate moves this process into namespaces of its own, as far as the config
// needs them: a network for black holes, mounts for a small disk. They vanish
// with the last process in them, however that ends. It begins the program
// again, in the same process with the same arguments, and so belongs before
// anything else; it returns nil when nothing is needed, or left to do.
func Isolate(cfg Config) error {
	if !cfg.Holes && !cfg.Small || os.Getenv(isolatedVar) != "" {
		return nil
	}
	var tools map[string]string // and the packages that have them
	args := []string{"unshare"}
	if cfg.Holes {
		args = append(args, "--net")
		tools = map[string]string{"ip": "iproute2", "nft": "nftables"}
	}
	if cfg.Small {
		args = append(args, "--mount")
	}
	if os.Getuid() != 0 {
		// Needs user namespaces for everybody; unshare says so if not.
		args = append(args, "--user", "--map-root-user")
		if err := exec.Command("unshare", "--user", "--map-root-user", "true").Run(); err != nil {
			return fmt.Errorf("site: black holes and full disks need root, or user namespaces for everybody (%w): run as root, or leave these faults out", err)
		}
	}
	for _, tool := range slices.Sorted(maps.Keys(tools)) {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("site: black holes need the program %s: install the package %s", tool, tools[tool])
		}
	}
	path, err := exec.LookPath("unshare")
	if err != nil {
		return errors.New("site: black holes and full disks need the program unshare: install the package util-linux")
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("site: %w", err)
	}
	args = append(append(args, self), os.Args[1:]...)
	return fmt.Errorf("site: unshare: %w", syscall.Exec(path, args, append(os.Environ(), isolatedVar+"=1")))
}

// A network is a switch in this process's namespace, and hosts that are
// plugged into it.
type network struct {
	mu    sync.Mutex // guards the following
	hosts []*host
}

const (
	lanName   = "lan"
	lanPrefix = "10.88.0."
	lanSelf   = lanPrefix + "1"
	mostHosts = 200
)

// newNetwork makes the switch. It wants the namespace for itself.
func newNetwork() (*network, error) {
	if os.Getenv(isolatedVar) == "" {
		return nil, errors.New("site: black holes need a network of the harness's own: Isolate comes first")
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"link", "add", lanName, "type", "bridge"},
		{"addr", "add", lanSelf + "/24", "dev", lanName},
		{"link", "set", lanName, "up"},
	} {
		if err := ip(args...); err != nil {
			return nil, err
		}
	}
	rules := exec.Command("nft", "-f", "-")
	rules.Stdin = strings.NewReader(holeRules)
	if out, err := rules.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("site: nft: %w: %s", err, firstLine(out))
	}
	return &network{}, nil
}

// holeRules drop, at the switch and in both ways, what the ports in a set send
// and get. Neither end is told.
const holeRules = `
table bridge hole {
	set ports { type ifname; }
	chain forward { type filter hook forward priority 0; iifname @ports drop; oifname @ports drop; }
	chain input { type filter hook input priority 0; iifname @ports drop; }
	chain output { type filter hook output priority 0; oifname @ports drop; }
}
`

// all are the addresses that hosts may get.
func (n *network) all() []net.IP {
	var ips []net.IP
	for i := range mostHosts {
		ips = append(ips, net.ParseIP(lanPrefix+strconv.Itoa(i+2)))
	}
	return ips
}

// close removes the switch, and what was plugged into it with the hosts.
func (n *network) close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, h := range n.hosts {
		h.ns.Close()
	}
	for _, h := range n.hosts {
		_ = ip("link", "del", h.port) // gone already, if its host is
	}
	n.hosts = nil
	return errors.Join(ip("link", "del", lanName), command("nft", "delete", "table", "bridge", "hole"))
}

// A host is a network namespace: a machine as far as the network can tell. A
// nil host is where this process is.
type host struct {
	address string
	port    string // of the switch
	ns      *os.File

	mu    sync.Mutex // guards the following
	holes int        // under way
}

// newHost makes one and plugs it in.
func (n *network) newHost(name string) (*host, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.hosts) >= mostHosts {
		return nil, fmt.Errorf("site: more than %d hosts", mostHosts)
	}
	number := len(n.hosts) + 2
	h := &host{address: lanPrefix + strconv.Itoa(number), port: "port" + strconv.Itoa(number)}
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
	if err := <-made; err != nil {
		return nil, fmt.Errorf("site: network of %s: %w", name, err)
	}
	n.hosts = append(n.hosts, h)
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), h.ns.Fd())
	if err := ip("link", "add", h.port, "type", "veth", "peer", "name", "eth0", "netns", path); err != nil {
		return nil, err
	}
	if err := ip("link", "set", h.port, "master", lanName, "up"); err != nil {
		return nil, err
	}
	return h, h.do(func() error {
		for _, args := range [][]string{
			{"link", "set", "lo", "up"}, {"addr", "add", h.address + "/24", "dev", "eth0"}, {"link", "set", "eth0", "up"},
		} {
			if err := ip(args...); err != nil {
				return err
			}
		}
		return nil
	})
}

// brokerHost is the network of a broker, from 1; nil without networks.
func (n *network) brokerHost(k *kafka, number int) (*host, error) {
	if n == nil {
		return nil, nil
	}
	h, err := n.newHost("broker-" + strconv.Itoa(number))
	if err == nil {
		k.hosts = append(k.hosts, h)
	}
	return h, err
}

// where is the host's address; "" for a nil host.
func (h *host) where() string {
	if h == nil {
		return ""
	}
	return h.address
}

// enter moves the calling thread there for good.
func (h *host) enter() error {
	if err := unix.Setns(int(h.ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network of %s: %w", h.address, err)
	}
	return nil
}

// do calls f on a thread that is there.
func (h *host) do(f func() error) error {
	if h == nil {
		return f()
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and let the thread go with the goroutine
		err := h.enter()
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// listen opens a listener there, on a free port. The address is numbers: only
// then net stays on this thread.
func (h *host) listen(network, address string) (l net.Listener, err error) {
	err = h.do(func() error {
		l, err = net.Listen(network, net.JoinHostPort(address, "0"))
		return err
	})
	return l, err
}

// hole has the switch drop the host's packets, until undo. Holes may overlap.
func (h *host) hole() (undo func() error, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.holes == 0 {
		if err := command("nft", "add", "element", "bridge", "hole", "ports", "{ "+h.port+" }"); err != nil {
			return nil, err
		}
	}
	h.holes++
	return sync.OnceValue(h.mend), nil
}

func (h *host) mend() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.holes--; h.holes > 0 {
		return nil
	}
	return command("nft", "delete", "element", "bridge", "hole", "ports", "{ "+h.port+" }")
}

// ownHost is where the coordinator and its workers are.
func (s *site) ownHost() string {
	if s.net != nil {
		return lanSelf
	}
	return loopback
}

func ip(args ...string) error { return command("ip", args...) }

func command(program string, args ...string) error {
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("site: %s %s: %w: %s", program, strings.Join(args, " "), err, firstLine(out))
	}
	return nil
}

func firstLine(out []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}
