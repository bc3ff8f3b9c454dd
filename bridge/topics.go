package bridge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/IBM/sarama"
)

const (
	defaultPartitions = 16
	sessionPartitions = 4 // of the sessions topic: compaction needs no more
	defaultRetention  = time.Hour
	defaultGrace      = 240 * time.Second
	// retentionFactor is how far retention must be above grace: a session that
	// comes back at its last moment must still find everything, and Kafka may
	// remove records up to a check earlier than it seems to.
	retentionFactor = 3
	createTimeout   = 30 * time.Second
)

// A TopicSpec says how a controller's topics are made.
type TopicSpec struct {
	Partitions   int32         // of up and down, a power of two; 0: 16
	Replication  int16         // 0: 3, or 1 with SingleBroker
	SingleBroker bool          // allows what one broker can offer: no durability
	Retention    time.Duration // of up and down; 0: 1 h
	AllowSmall   bool          // allows fewer than 16 partitions, for tests
}

// CheckOptions say what CheckTopics demands.
type CheckOptions struct {
	SingleBroker bool          // replication 1 will do
	AllowSmall   bool          // fewer than 16 partitions will do
	Grace        time.Duration // retention must be well above it; 0: 240 s
}

// A Problem is what durability can't stand on: one line that says what is
// wrong, where, and how to mend it.
type Problem struct {
	Topic string
	Text  string
}

func (p Problem) String() string { return p.Topic + ": " + p.Text }

func (s TopicSpec) resolve() (TopicSpec, error) {
	s.Partitions = cmp.Or(s.Partitions, defaultPartitions)
	s.Retention = cmp.Or(s.Retention, defaultRetention)
	if s.Replication == 0 {
		s.Replication = 3
		if s.SingleBroker {
			s.Replication = 1
		}
	}
	if text := wrongPartitions(s.Partitions, s.AllowSmall); text != "" {
		return s, fmt.Errorf("bridge: %s", text)
	}
	if s.Replication < 3 && !s.SingleBroker {
		return s, fmt.Errorf("bridge: replication %d loses records when a broker dies: use 3, or --single-broker to try things out", s.Replication)
	}
	return s, nil
}

func wrongPartitions(n int32, allowSmall bool) string {
	switch {
	case n < 1 || n&(n-1) != 0:
		return fmt.Sprintf("%d partitions: want a power of two", n)
	case n < defaultPartitions && !allowSmall:
		return fmt.Sprintf("%d partitions: want at least %d, so that groups of agents own whole partitions", n, defaultPartitions)
	}
	return ""
}

// configs returns the settings of session topics, or of compacted ones.
//
// Records carry the broker's time, so that a writer whose clock is wrong
// cannot have its records removed early, and the age of a heartbeat is told by
// one clock.
func (s TopicSpec) configs(compacted bool) map[string]*string {
	minISR := "2"
	if s.Replication < 3 {
		minISR = "1"
	}
	c := map[string]string{
		"message.timestamp.type":         "LogAppendTime",
		"min.insync.replicas":            minISR,
		"unclean.leader.election.enable": "false",
		"max.message.bytes":              "1048588",
	}
	if compacted {
		// A reader starts at the beginning: keep the uncompacted part short.
		c["cleanup.policy"] = "compact"
		c["segment.ms"] = "600000"
		c["min.cleanable.dirty.ratio"] = "0.1"
		c["max.compaction.lag.ms"] = "900000"
		c["delete.retention.ms"] = "3600000"
	} else {
		c["cleanup.policy"] = "delete"
		c["retention.ms"] = strconv.FormatInt(s.Retention.Milliseconds(), 10)
	}
	entries := make(map[string]*string, len(c))
	for k, v := range c {
		entries[k] = &v
	}
	return entries
}

// CreateTopics makes what is missing of a controller's topics and of the
// gateways topic, and waits until each partition has a leader. What exists is
// left as it is: CheckTopics says whether that will do.
func (c *Client) CreateTopics(ctx context.Context, controller string, spec TopicSpec) error {
	if err := ValidController(controller); err != nil {
		return err
	}
	spec, err := spec.resolve()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	names := c.Topics(controller)
	details := make(map[string]*sarama.TopicDetail)
	for name, partitions := range map[string]int32{
		names.Up: spec.Partitions, names.Down: spec.Partitions,
		names.Sessions: sessionPartitions, names.Meta: 1, c.GatewaysTopic(): 1,
	} {
		compacted := name != names.Up && name != names.Down
		details[name] = &sarama.TopicDetail{
			NumPartitions:     partitions,
			ReplicationFactor: spec.Replication,
			ConfigEntries:     spec.configs(compacted),
		}
	}
	if _, err := c.cluster.refresh(ctx, false, c.GatewaysTopic()); err != nil { // who is the controller now?
		return err
	}
	err = c.at(ctx, c.cluster.controller(), func(conn *conn) error {
		resp, err := conn.CreateTopics(&sarama.CreateTopicsRequest{Version: 5, TopicDetails: details, Timeout: ackTimeout})
		if err != nil {
			return err
		}
		return createError(resp, spec)
	})
	if err != nil {
		return fmt.Errorf("bridge: creating topics: %w", err)
	}
	return c.awaitLeaders(ctx, details)
}

func createError(resp *sarama.CreateTopicsResponse, spec TopicSpec) error {
	names := make([]string, 0, len(resp.TopicErrors))
	for name := range resp.TopicErrors {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		switch te := resp.TopicErrors[name]; te.Err {
		case sarama.ErrNoError, sarama.ErrTopicAlreadyExists:
		case sarama.ErrInvalidReplicationFactor:
			return fmt.Errorf("%s: replication %d needs as many brokers: start more, or use --single-broker to try things out (%w)", name, spec.Replication, te.Err)
		case sarama.ErrTopicAuthorizationFailed, sarama.ErrClusterAuthorizationFailed:
			return fmt.Errorf("%s: not allowed: grant Create on it (%w)", name, te.Err)
		default:
			return fmt.Errorf("%s: %w", name, te)
		}
	}
	return nil
}

// awaitLeaders returns when every partition of the topics has a leader, and
// the leader knows it. Metadata name leaders up to seconds earlier than these
// have made their logs; who comes in between is refused.
func (c *Client) awaitLeaders(ctx context.Context, topics map[string]*sarama.TopicDetail) error {
	names := make([]string, 0, len(topics))
	for name := range topics {
		names = append(names, name)
	}
	for {
		views, err := c.cluster.refresh(ctx, false, names...)
		if err != nil {
			return err
		}
		missing, err := c.unled(ctx, views, names)
		if err != nil || missing == "" {
			return err
		}
		select {
		case <-time.After(retryAfter):
		case <-ctx.Done():
			return fmt.Errorf("bridge: topic %s has partitions without a leader: %w", missing, context.Cause(ctx))
		}
	}
}

// unled returns a topic of which a partition has no leader that says so
// itself; "": there is none.
func (c *Client) unled(ctx context.Context, views map[string]*topicView, names []string) (missing string, err error) {
	asks := make(map[int32]*sarama.OffsetRequest)
	for _, name := range names {
		v := views[name]
		if v == nil || v.err != nil || v.Partitions == 0 || slices.Contains(v.leaders, -1) {
			return name, nil
		}
		for partition, leader := range v.leaders {
			if asks[leader] == nil {
				asks[leader] = &sarama.OffsetRequest{Version: 6}
			}
			asks[leader].AddBlock(name, int32(partition), sarama.OffsetOldest, 1)
		}
	}
	for leader, req := range asks {
		err := c.at(ctx, c.cluster.addr(leader), func(conn *conn) error {
			resp, err := conn.GetAvailableOffsets(req)
			if err != nil {
				return err
			}
			for name, partitions := range resp.Blocks {
				for _, b := range partitions {
					switch {
					case b.Err == sarama.ErrNoError, b.Err == sarama.ErrTopicAuthorizationFailed: // who creates need not read
					case mayPass(b.Err):
						missing = name
					default:
						return fmt.Errorf("%s: %w", name, b.Err)
					}
				}
			}
			return nil
		})
		if err != nil {
			return "", fmt.Errorf("bridge: asking the leaders: %w", err)
		}
	}
	return missing, nil
}

// CheckTopics returns what durability can't stand on in a controller's topics
// and the gateways topic. The error says only that Kafka could not be asked.
func (c *Client) CheckTopics(ctx context.Context, controller string, opts CheckOptions) ([]Problem, error) {
	if err := ValidController(controller); err != nil {
		return nil, err
	}
	opts.Grace = cmp.Or(opts.Grace, defaultGrace)
	t := c.Topics(controller)
	names := []string{t.Up, t.Down, t.Sessions, t.Meta, c.GatewaysTopic()}
	views, err := c.cluster.refresh(ctx, false, names...)
	if err != nil {
		return nil, err
	}
	configs, err := c.describe(ctx, names)
	if err != nil {
		return nil, err
	}
	var problems []Problem
	for _, name := range names {
		k := check{topic: name, opts: opts, view: views[name], configs: configs[name]}
		k.run(name == t.Up || name == t.Down, min(c.cfg.UnackedBytes, maxBatch)+1024)
		problems = append(problems, k.problems...)
	}
	if up, down := views[t.Up], views[t.Down]; up != nil && down != nil && up.err == nil && down.err == nil && up.Partitions != down.Partitions {
		problems = append(problems, Problem{t.Down, fmt.Sprintf("%d partitions, %s has %d: a session uses the same one in both; add partitions to the smaller", down.Partitions, t.Up, up.Partitions)})
	}
	return problems, nil
}

// describe returns the settings of each topic that exists.
func (c *Client) describe(ctx context.Context, names []string) (map[string]map[string]string, error) {
	req := &sarama.DescribeConfigsRequest{Version: 4}
	for _, name := range names {
		req.Resources = append(req.Resources, &sarama.ConfigResource{Type: sarama.TopicResource, Name: name})
	}
	configs := make(map[string]map[string]string)
	err := c.at(ctx, c.cluster.controller(), func(conn *conn) error {
		resp, err := conn.DescribeConfigs(req)
		if err != nil {
			return err
		}
		for _, r := range resp.Resources {
			switch sarama.KError(r.ErrorCode) {
			case sarama.ErrNoError, sarama.ErrUnknownTopicOrPartition:
			case sarama.ErrTopicAuthorizationFailed:
				return fmt.Errorf("%s: not allowed: grant DescribeConfigs on it (%w)", r.Name, sarama.KError(r.ErrorCode))
			default:
				return fmt.Errorf("%s: %w", r.Name, sarama.KError(r.ErrorCode))
			}
			configs[r.Name] = make(map[string]string, len(r.Configs))
			for _, e := range r.Configs {
				configs[r.Name][e.Name] = e.Value
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("bridge: reading topic settings: %w", err)
	}
	return configs, nil
}

// A check looks at one topic.
type check struct {
	topic    string
	opts     CheckOptions
	view     *topicView
	configs  map[string]string
	problems []Problem
}

func (k *check) problem(format string, args ...any) {
	k.problems = append(k.problems, Problem{k.topic, fmt.Sprintf(format, args...)})
}

// number reads a setting; ok is false when the broker does not tell it.
func (k *check) number(name string) (n int64, ok bool) {
	n, err := strconv.ParseInt(k.configs[name], 10, 64)
	return n, err == nil
}

func (k *check) run(session bool, largest int) {
	switch v := k.view; {
	case v == nil || errors.Is(v.err, ErrNoTopic):
		k.problem("does not exist; make it with moorage topics create")
		return
	case v.err != nil:
		k.problem("%s", strings.TrimPrefix(v.err.Error(), "bridge: "))
		return
	}
	if session {
		if text := wrongPartitions(k.view.Partitions, k.opts.AllowSmall); text != "" {
			k.problem("%s; add partitions with kafka-topics --alter", text)
		}
	}
	if !k.opts.SingleBroker {
		if k.view.replicas < 3 {
			k.problem("replication %d: records die with a broker; reassign to 3 replicas, or allow it with --single-broker", k.view.replicas)
		}
		if n, ok := k.number("min.insync.replicas"); ok && n < 2 {
			k.problem("min.insync.replicas is %d: a record may be acknowledged while one broker has it; set it to 2", n)
		}
	}
	if k.configs["unclean.leader.election.enable"] == "true" {
		k.problem("unclean.leader.election.enable is true: acknowledged records may be lost; set it to false")
	}
	if n, ok := k.number("max.message.bytes"); ok && n < int64(largest) {
		k.problem("max.message.bytes is %d: too small for a batch; set it to 1048588", n)
	}
	policy := k.configs["cleanup.policy"]
	if !session {
		if policy != "compact" {
			k.problem("cleanup.policy is %q: state would be forgotten; set it to compact", policy)
		}
		return
	}
	if policy != "delete" {
		k.problem("cleanup.policy is %q: frames would be compacted away; set it to delete", policy)
	}
	least := retentionFactor * k.opts.Grace
	if n, ok := k.number("retention.ms"); ok && n >= 0 && n < least.Milliseconds() {
		k.problem("retention.ms is %d: sessions that are away for their grace time of %v would lose records; set it to %d or more", n, k.opts.Grace, least.Milliseconds())
	}
	if n, ok := k.number("retention.bytes"); ok && n >= 0 {
		k.problem("retention.bytes is %d: records would be removed by size, however young; set it to -1", n)
	}
}

// ListTopics returns all topics under the prefix, by name.
func (c *Client) ListTopics(ctx context.Context) ([]Topic, error) {
	views, err := c.cluster.refresh(ctx, true)
	if err != nil {
		return nil, err
	}
	var topics []Topic
	for name, v := range views {
		if strings.HasPrefix(name, c.cfg.Prefix) && v.err == nil && !v.internal {
			topics = append(topics, v.Topic)
		}
	}
	slices.SortFunc(topics, func(a, b Topic) int { return cmp.Compare(a.Name, b.Name) })
	return topics, nil
}

// DeleteRecords moves the partition's start to before, as retention does.
func (c *Client) DeleteRecords(ctx context.Context, topic string, partition int32, before int64) error {
	return c.atLeader(ctx, topic, partition, func(conn *conn) error {
		resp, err := conn.DeleteRecords(&sarama.DeleteRecordsRequest{
			Version: 2,
			Topics:  map[string]*sarama.DeleteRecordsRequestTopic{topic: {PartitionOffsets: map[int32]int64{partition: before}}},
			Timeout: ackTimeout,
		})
		if err != nil {
			return err
		}
		t := resp.Topics[topic]
		if t == nil || t.Partitions[partition] == nil {
			return sarama.ErrIncompleteResponse
		}
		if err := t.Partitions[partition].Err; err != sarama.ErrNoError {
			return err
		}
		return nil
	})
}
