//go:build unix

package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// startAttempts bounds how often a cluster is started again because
	// somebody else took one of its ports between choice and use.
	startAttempts = 3

	// readyTimeout bounds one start. On a loaded machine with two cores
	// three nodes need 10 s; a start that takes this long never comes.
	readyTimeout = 90 * time.Second
)

// An ApacheConfig says what StartApache starts.
type ApacheConfig struct {
	// Nodes is how many processes, each broker and controller in one. 0 means
	// 1. With 3, topics have three replicas and need two of them to accept a
	// record, unless they are created otherwise.
	Nodes int

	// Dir holds the nodes' data and logs, and is left in place by Close.
	// "" means a temporary folder, which Close removes.
	Dir string

	// Dist is the folder in which InstallApache put Kafka. "" means the
	// default, below the user's cache folder. What is missing is installed.
	Dist string

	// Host is the address that nodes listen on and tell clients, for clients
	// in other network namespaces. "" means 127.0.0.1, the only one that the
	// certificate of a Secure cluster holds for.
	Host string

	// Networks are network namespaces that the nodes live in, one each, instead
	// of the caller's with Host. Empty: all live in the caller's.
	Networks []Network

	// FastFailover has a dead leader replaced within 2 to 3 s rather than 9
	// to 13 s, and a killed node come back in 3 s rather than 12.
	FastFailover bool

	// Secure makes clients speak SASL (SCRAM-SHA-512) over TLS and lets them
	// do only what ACLs allow; the super user is "admin".
	Secure bool

	// Users are further SCRAM users of a secure cluster, name to password.
	Users map[string]string

	// Properties are put last into every node's server.properties.
	Properties map[string]string

	// Proxies are addresses of proxies, one for each node, for faults on the
	// way to it: clients that come in at a node's Front are told its proxy's
	// address for every node, and so stay behind proxies. Empty: no Fronts.
	// Not with Secure.
	Proxies []string

	// JVM are further flags for every node, after ours: such as -Xmx512m or
	// -XX:TieredStopAtLevel=4 (measurements want the compiler that a short
	// test does without).
	JVM []string

	// Log gets starts, stops and signals at Debug. nil discards them.
	Log *slog.Logger
}

// A Network is a network namespace that a node lives in.
type Network struct {
	Host string // the node's address in it, which the caller can reach
	// Enter moves the calling thread into it. The thread ends with the node.
	Enter func() error
}

// Apache is a running Apache Kafka cluster. Its nodes count from 1, as their
// ids in Kafka's metadata do. Its methods may be called concurrently, except
// that one node takes one order at a time.
//
// The processes die with the one that started them, even when that is killed.
type Apache struct {
	cfg     ApacheConfig
	log     *slog.Logger
	dist    dist
	dir     string
	temp    *tempDir // nil if the caller gave a folder
	nodes   []*node  // nodes[i] has id i+1
	secrets *secrets

	mu     sync.Mutex
	closed bool
}

// A node is one Kafka process and what it needs to come back after a stop.
type node struct {
	id         int
	dir        string
	client     string       // address for clients
	controller string       // address for the other nodes' controllers
	front      string       // address for its proxy, with Proxies
	enter      func() error // into its network; nil: it is the caller's
	proc       *process
}

// StartApache starts a cluster and returns once every node's metadata shows all
// of them. It installs Kafka first if need be. The context bounds the start,
// not the cluster's life, which ends with Close.
func StartApache(ctx context.Context, cfg ApacheConfig) (*Apache, error) {
	if cfg.Nodes == 0 {
		cfg.Nodes = 1
	}
	if cfg.Dist == "" {
		dir, err := defaultDist()
		if err != nil {
			return nil, err
		}
		cfg.Dist = dir
	}
	if err := InstallApache(ctx, cfg.Dist); err != nil {
		return nil, err
	}
	d, err := openDist(cfg.Dist)
	if err != nil {
		return nil, err
	}
	var a *Apache
	for range startAttempts {
		a, err = startOnce(ctx, cfg, d)
		if !errors.Is(err, errPortTaken) {
			break
		}
	}
	return a, err
}

// errPortTaken is a start that failed only for its choice of ports.
var errPortTaken = errors.New("broker: port taken")

func startOnce(ctx context.Context, cfg ApacheConfig, d dist) (_ *Apache, err error) {
	if cfg.Host == "" {
		cfg.Host = "127.0.0.1"
	}
	a := &Apache{cfg: cfg, dist: d, dir: cfg.Dir, log: cfg.Log}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	if a.dir == "" {
		if a.temp, err = newTempDir(); err != nil {
			return nil, err
		}
		a.dir = a.temp.path
	}
	defer func() {
		if err != nil {
			a.Close()
		}
	}()
	if cfg.Secure {
		if a.secrets, err = newSecrets(a.dir, cfg.Users); err != nil {
			return nil, err
		}
	}
	if n := len(cfg.Proxies); n > 0 && (n != cfg.Nodes || cfg.Secure) {
		return nil, fmt.Errorf("broker: %d proxies for %d nodes: want one each, and a cluster that is not secure", n, cfg.Nodes)
	}
	if n := len(cfg.Networks); n > 0 && (n != cfg.Nodes || cfg.Secure) {
		return nil, fmt.Errorf("broker: %d networks for %d nodes: want one each, and a cluster that is not secure", n, cfg.Nodes)
	}
	ports, err := freePorts(cfg.Host, 3*cfg.Nodes)
	if err != nil {
		return nil, err
	}
	for i := range cfg.Nodes {
		host, enter := cfg.Host, (func() error)(nil)
		if len(cfg.Networks) > 0 {
			// The ports are free in our network; in its own a node is alone.
			host, enter = cfg.Networks[i].Host, cfg.Networks[i].Enter
		}
		a.nodes = append(a.nodes, &node{
			id:         i + 1,
			dir:        filepath.Join(a.dir, fmt.Sprintf("node-%d", i+1)),
			client:     address(host, ports[3*i]),
			controller: address(host, ports[3*i+1]),
			front:      address(host, ports[3*i+2]),
			enter:      enter,
		})
	}
	if err := a.format(ctx); err != nil {
		return nil, err
	}
	for _, n := range a.nodes {
		if err := a.spawn(n); err != nil {
			return nil, err
		}
	}
	if err := a.waitReady(ctx, a.nodes); err != nil {
		return nil, err
	}
	return a, nil
}

// Addrs are the addresses for clients, in the order of the node ids.
func (a *Apache) Addrs() []string {
	addrs := make([]string, len(a.nodes))
	for i, n := range a.nodes {
		addrs[i] = n.client
	}
	return addrs
}

// Fronts are the addresses that proxies lead to, in the order of the node ids.
func (a *Apache) Fronts() []string {
	if len(a.cfg.Proxies) == 0 {
		return nil
	}
	addrs := make([]string, len(a.nodes))
	for i, n := range a.nodes {
		addrs[i] = n.front
	}
	return addrs
}

// PID is the process id of a node, 0 if it isn't running.
func (a *Apache) PID(id int) int {
	n, err := a.node(id)
	if err != nil || !n.proc.running() {
		return 0
	}
	return n.proc.cmd.Process.Pid
}

// Kill ends a node as a crash does, and returns when it is dead.
func (a *Apache) Kill(id int) error { return a.end(id, syscall.SIGKILL) }

// Stop lets a node hand over its partitions and end in order, and returns when
// it has.
func (a *Apache) Stop(id int) error { return a.end(id, syscall.SIGTERM) }

// Pause freezes a node: its connections stay and say nothing.
func (a *Apache) Pause(id int) error { return a.signal(id, syscall.SIGSTOP) }

// Resume lets a paused node go on as if no time had passed.
func (a *Apache) Resume(id int) error { return a.signal(id, syscall.SIGCONT) }

// Start starts a node again that was killed or stopped, with the same data and
// addresses, and returns when metadata shows it.
func (a *Apache) Start(ctx context.Context, id int) error {
	n, err := a.node(id)
	if err != nil {
		return err
	}
	if n.proc.running() {
		return fmt.Errorf("broker: node %d is running", id)
	}
	if err := a.spawn(n); err != nil {
		return err
	}
	return a.waitReady(ctx, []*node{n})
}

// Close ends every process, whatever state it is in, and removes the data.
// Closing twice is harmless, but not twice at once.
func (a *Apache) Close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	for _, n := range a.nodes {
		n.proc.kill()
	}
	for _, n := range a.nodes {
		n.proc.wait()
	}
	a.temp.remove()
}

func (a *Apache) node(id int) (*node, error) {
	if id < 1 || id > len(a.nodes) {
		return nil, fmt.Errorf("broker: no node %d among %d", id, len(a.nodes))
	}
	return a.nodes[id-1], nil
}

func (a *Apache) signal(id int, sig syscall.Signal) error {
	n, err := a.node(id)
	if err != nil {
		return err
	}
	if !n.proc.running() {
		return fmt.Errorf("broker: node %d is not running", id)
	}
	a.log.Debug("kafka node signalled", "node", id, "signal", sig)
	if err := n.proc.signal(sig); err != nil {
		return fmt.Errorf("broker: signal node %d: %w", id, err)
	}
	return nil
}

func (a *Apache) end(id int, sig syscall.Signal) error {
	if err := a.signal(id, sig); err != nil {
		return err
	}
	a.nodes[id-1].proc.wait()
	return nil
}

// spawn starts the process of a formatted node.
func (a *Apache) spawn(n *node) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return errors.New("broker: cluster is closed")
	}
	args := slices.Concat(a.dist.flags(), []string{"-Xms64m", "-Xmx256m"}, a.cfg.JVM,
		[]string{"-cp", a.dist.classPath(), "kafka.Kafka", n.properties()})
	proc, err := startProcess(exec.Command(a.dist.java, args...), n.logFile(), n.enter)
	if err != nil {
		return fmt.Errorf("broker: start node %d: %w", n.id, err)
	}
	n.proc = proc
	a.log.Debug("kafka node started", "node", n.id, "pid", proc.cmd.Process.Pid, "addr", n.client)
	return nil
}

func (n *node) properties() string { return filepath.Join(n.dir, "server.properties") }
func (n *node) logFile() string    { return filepath.Join(n.dir, "server.log") }
func (n *node) data() string       { return filepath.Join(n.dir, "data") }

// died explains a process that ended by itself.
func (n *node) died() error {
	out, err := os.ReadFile(n.logFile())
	if err != nil {
		return fmt.Errorf("broker: node %d ended, and left no log: %w", n.id, err)
	}
	if strings.Contains(string(out), "Address already in use") {
		return fmt.Errorf("%w (node %d)", errPortTaken, n.id)
	}
	return fmt.Errorf("broker: node %d ended while starting: %s", n.id, tail(out, 2000))
}

// tail is the end of a log, enough to tell the cause.
func tail(b []byte, n int) string {
	if len(b) > n {
		b = b[len(b)-n:]
	}
	return strings.TrimSpace(string(b))
}
