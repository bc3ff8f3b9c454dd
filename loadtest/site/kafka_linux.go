package site

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/broker"
	"github.com/moorage-dev/moorage/loadtest/fault"
)

// A kafka is the brokers of a site, ours or others'.
type kafka struct {
	words  string
	public []string // what gateways and the application dial
	direct []string // without proxies: what the harness itself dials

	embedded *broker.Embedded
	apache   *broker.Apache
	dir      string // of apache's data and logs
	disk     *disk  // of the last node; nil: none of its own

	hosts  []*host      // networks of the brokers, by number; nil: ours
	turns  []sync.Mutex // of each node, which takes one order at a time
	topics []string     // that were made in others' Kafka, and go with us
	admin  broker.Admin // changes what they hold
}

// nodes is how many brokers can be struck one by one.
func (k *kafka) nodes() int { return len(k.turns) }

// startKafka starts the brokers, or looks for those that run, and makes the
// run's topics.
func (s *site) startKafka(ctx context.Context) error {
	var err error
	switch {
	case len(s.cfg.Kafka) > 0:
		s.kafka = &kafka{words: "Kafka that ran already", public: s.cfg.Kafka, direct: s.cfg.Kafka}
		if how := s.cfg.Access.Words(); how != "" {
			s.kafka.words += ", " + how
		}
	case s.cfg.Local.Brokers == "embedded":
		s.kafka, err = s.startEmbedded()
	default:
		s.kafka, err = s.startApache(ctx)
	}
	if err != nil {
		return err
	}
	s.kafka.admin = broker.Admin{Seeds: s.kafka.direct}
	if len(s.cfg.Kafka) > 0 {
		if err := s.cfg.letIn(&s.kafka.admin); err != nil {
			return fmt.Errorf("site: %w", err)
		}
	}
	return s.makeTopics(ctx)
}

// letIn gives an Admin the way into others' Kafka.
func (c *Config) letIn(a *broker.Admin) (err error) {
	a.TLS, err = c.Access.TLSConfig()
	a.Mechanism, a.User, a.Password = c.Access.Mechanism, c.Access.User, string(c.Access.Password)
	return err
}

// makeTopics makes what the run's controllers need.
func (s *site) makeTopics(ctx context.Context) error {
	client, err := s.client(ctx)
	if err != nil {
		return fmt.Errorf("site: %w", err)
	}
	defer client.Close()
	if len(s.cfg.Gateways) > 0 {
		// To make it would be to leave it behind.
		_, err := client.Topic(ctx, client.GatewaysTopic())
		if errors.Is(err, bridge.ErrNoTopic) {
			err = fmt.Errorf("this Kafka has no topic %s, so none of --gateway can be on it: check --kafka and --topic-prefix", client.GatewaysTopic())
		}
		if err != nil {
			return fmt.Errorf("site: %w", err)
		}
	}
	if len(s.cfg.Kafka) > 0 {
		s.kafka.topics = s.ownedTopics()
	}
	if s.cfg.System != Moorage {
		return nil // relay makes its own
	}
	controllers := []string{s.cfg.Run}
	if s.cfg.Doors || s.cfg.Shims > 0 {
		controllers = append(controllers, s.legacyController())
	}
	partitions := s.cfg.Local.Partitions
	for _, controller := range controllers {
		spec := bridge.TopicSpec{Partitions: int32(partitions), AllowSmall: partitions < defaultPartitions}
		if grace := time.Duration(s.cfg.Local.Grace); grace > 0 && len(s.cfg.Kafka) == 0 {
			// What is older nobody resumes from, and a long run would fill memory or the disk.
			spec.Retention = max(shortRetention, 4*grace)
		}
		err := client.CreateTopics(ctx, controller, spec)
		if err != nil && ctx.Err() == nil {
			// A cluster of fewer than three brokers bears one copy.
			spec.SingleBroker = true
			if single := client.CreateTopics(ctx, controller, spec); single == nil {
				err = nil
			}
		}
		if err != nil {
			return fmt.Errorf("site: %w", err)
		}
	}
	return nil
}

// shortRetention is the least of a run's own topics: many times what the faults
// of a scenario with a grace of its own last.
const shortRetention = 5 * time.Minute

// embeddedBrokers is how many the embedded broker poses as, so that topics
// have three replicas as in production.
const embeddedBrokers = 3

func (s *site) startEmbedded() (*kafka, error) {
	k := &kafka{words: "embedded broker, in memory, within the coordinator's process: never to be quoted"}
	number := 0
	cfg := broker.EmbeddedConfig{Brokers: embeddedBrokers, Retain: 10 * time.Second, Log: s.log, ListenFn: func(network, _ string) (net.Listener, error) {
		number++
		h, err := s.net.brokerHost(k, number)
		if err != nil {
			return nil, err
		}
		l, err := h.listen(network, cmp.Or(h.where(), s.ownHost()))
		if err != nil || s.legs == nil {
			return l, err
		}
		public, err := s.proxyBroker(number, l.Addr().String())
		if err != nil {
			l.Close()
			return nil, err
		}
		return announced{l, public}, nil
	}}
	e, err := broker.StartEmbedded(cfg)
	if err != nil {
		return nil, fmt.Errorf("site: %w", err)
	}
	k.embedded = e
	k.public, k.direct = e.Addrs(), e.Addrs()
	return k, nil
}

// announced is a listener that tells another address: its proxy's.
type announced struct {
	net.Listener
	addr net.Addr
}

func (a announced) Addr() net.Addr { return a.addr }

// proxyBroker puts a proxy before a broker, from 1, and returns its address.
func (s *site) proxyBroker(number int, upstream string) (net.Addr, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(s.ownHost(), "0"))
	if err != nil {
		return nil, err
	}
	s.legs.open(l, upstream, func(conn net.Conn) origin { return s.kafkaOrigin(conn, number) })
	return l.Addr(), nil
}

func (s *site) startApache(ctx context.Context) (_ *kafka, err error) {
	nodes, err := strconv.Atoi(s.cfg.Local.Brokers)
	if err != nil {
		return nil, fmt.Errorf("site: brokers: %w", err)
	}
	k := &kafka{words: "Apache Kafka, " + map[int]string{1: "one broker", 3: "three brokers"}[nodes], turns: make([]sync.Mutex, nodes)}
	cfg := broker.ApacheConfig{
		Nodes: nodes, FastFailover: true, Log: s.log,
		Dir: filepath.Join(s.cfg.Dir, "kafka-"+s.cfg.Run),
		// As a server would run it, with the optimizing compiler, and with a heap
		// that is there from the start: one that is touched bit by bit would look
		// like a leak for half an hour.
		JVM: []string{"-XX:TieredStopAtLevel=4", "-Xms256m", "-Xmx768m", "-XX:+AlwaysPreTouch"},
		Properties: map[string]string{
			"log.segment.bytes": "67108864", "log.retention.check.interval.ms": "5000", "log.segment.delete.delay.ms": "1000",
		},
	}
	for i := range nodes {
		h, err := s.net.brokerHost(k, i+1)
		if err != nil {
			return nil, err
		}
		if h != nil {
			cfg.Networks = append(cfg.Networks, broker.Network{Host: h.address, Enter: h.enter})
		}
	}
	maps.Copy(cfg.Properties, s.cfg.Local.Kafka)
	if s.cfg.Small {
		if k.disk, err = mountDisk(filepath.Join(cfg.Dir, "node-"+strconv.Itoa(nodes))); err != nil {
			return nil, err
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, k.disk.unmount())
			}
		}()
	}
	var fronts []net.Listener
	if s.legs != nil {
		for range nodes {
			l, err := net.Listen("tcp", net.JoinHostPort(s.ownHost(), "0"))
			if err != nil {
				return nil, fmt.Errorf("site: %w", err)
			}
			fronts = append(fronts, l)
			cfg.Proxies = append(cfg.Proxies, l.Addr().String())
		}
	}
	a, err := broker.StartApache(ctx, cfg)
	if err != nil {
		for _, l := range fronts {
			l.Close()
		}
		return nil, fmt.Errorf("site: %w", err)
	}
	k.apache, k.direct, k.public, k.dir = a, a.Addrs(), a.Addrs(), cfg.Dir
	if s.legs != nil {
		k.public = cfg.Proxies
		for i, upstream := range a.Fronts() {
			s.legs.open(fronts[i], upstream, func(conn net.Conn) origin { return s.kafkaOrigin(conn, i+1) })
		}
	}
	return k, nil
}

// end has a node die or end; again starts it.
func (k *kafka) end(id int, sig syscall.Signal) (again func(context.Context) error, err error) {
	k.turns[id-1].Lock()
	defer k.turns[id-1].Unlock()
	if k.apache.PID(id) == 0 {
		return nil, fmt.Errorf("site: broker-%d %w", id, ErrDown)
	}
	if sig == syscall.SIGKILL {
		err = k.apache.Kill(id)
	} else {
		err = k.apache.Stop(id)
	}
	return func(ctx context.Context) error { return k.start(ctx, id) }, err
}

func (k *kafka) start(ctx context.Context, id int) error {
	k.turns[id-1].Lock()
	defer k.turns[id-1].Unlock()
	if k.apache.PID(id) != 0 {
		return nil
	}
	return k.apache.Start(ctx, id)
}

// freeze stops a node in the middle of whatever it does.
func (k *kafka) freeze(id int) (thaw func(context.Context) error, err error) {
	k.turns[id-1].Lock()
	defer k.turns[id-1].Unlock()
	pid := k.apache.PID(id)
	if pid == 0 {
		return nil, fmt.Errorf("site: broker-%d %w", id, ErrDown)
	}
	if err := k.apache.Pause(id); err != nil {
		return nil, err
	}
	return func(context.Context) error {
		if k.apache.PID(id) != pid {
			return nil // killed meanwhile; the new one is not frozen
		}
		return k.apache.Resume(id)
	}, nil
}

// closeTopicsWithin bounds how long a broken cluster may keep Close waiting.
const closeTopicsWithin = 10 * time.Second

// close ends the brokers, or deletes what was made in others'.
func (k *kafka) close() error {
	var err error
	if len(k.topics) > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), closeTopicsWithin)
		defer cancel()
		if err = k.admin.DeleteTopics(ctx, k.topics...); err != nil {
			err = fmt.Errorf("site: topics %s are left behind, delete them: %w", strings.Join(k.topics, ", "), err)
		}
	}
	if k.embedded != nil {
		k.embedded.Close()
	}
	if k.apache != nil {
		k.apache.Close()
	}
	if k.disk != nil {
		err = errors.Join(err, k.disk.unmount())
	}
	if k.apache != nil {
		// The logs stay; what was in the topics may be gigabytes.
		data, globbing := filepath.Glob(filepath.Join(k.dir, "node-*", "data"))
		err = errors.Join(err, globbing)
		for _, dir := range data {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}
	return err
}

// addPartitions adds partitions to the application's up and down topics, as
// many as with says.
func (s *site) addPartitions(ctx context.Context, with map[string]string) error {
	client, err := s.client(ctx)
	if err != nil {
		return fmt.Errorf("site: %w", err)
	}
	defer client.Close()
	t := client.Topics(s.cfg.Run)
	now, err := client.Topic(ctx, t.Up)
	if err != nil {
		return fmt.Errorf("site: %w", err)
	}
	n, err := fault.Grown(int(now.Partitions), with)
	if err != nil {
		return fmt.Errorf("site: add-partitions: %w", err)
	}
	return s.kafka.admin.AddPartitions(ctx, int32(n), t.Up, t.Down)
}

// pids are the nodes' process ids by name.
func (k *kafka) pids() map[string]int {
	all := map[string]int{}
	for id := range k.nodes() {
		if pid := k.apache.PID(id + 1); pid != 0 {
			all["broker-"+strconv.Itoa(id+1)] = pid
		}
	}
	return all
}

// handle is a fault of the embedded broker.
type handle = broker.Fault

// brokers is how many there are that proxies stand before.
func (k *kafka) brokers() int {
	switch {
	case k == nil:
		return 0
	case k.embedded != nil:
		return embeddedBrokers
	}
	return k.nodes()
}

// targets are the brokers as faults name them.
func (k *kafka) targets() []target {
	var all []target
	for i := range k.brokers() {
		t := target{name: "broker-" + strconv.Itoa(i+1), broker: i + 1}
		if i < len(k.hosts) {
			t.host = k.hosts[i]
		}
		all = append(all, t)
	}
	return all
}

// restart starts a node that ended by itself, or is still about to; one that
// lives is ended first.
func (k *kafka) restart(ctx context.Context, id int) error {
	k.turns[id-1].Lock()
	if k.apache.PID(id) != 0 {
		if err := k.apache.Kill(id); err != nil && k.apache.PID(id) != 0 {
			k.turns[id-1].Unlock()
			return err
		}
	}
	k.turns[id-1].Unlock()
	return k.start(ctx, id)
}
