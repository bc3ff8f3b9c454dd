// Package apachetest has bridge meet a real Apache Kafka.
package apachetest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/broker"
	"github.com/moorage-dev/moorage/proto/envelope"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A testKafka is a real cluster with the topics of controller "main".
type testKafka struct {
	*testing.T
	*broker.Apache
	client *bridge.Client
	topics bridge.Topics
	down   bridge.Topic
}

func startTestKafka(t *testing.T, cfg broker.ApacheConfig, spec bridge.TopicSpec) *testKafka {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // an installation may be among it
	defer cancel()
	a, err := broker.StartApache(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	k := &testKafka{T: t, Apache: a}
	config := bridge.Config{Brokers: a.Addrs()}
	if cfg.Secure {
		config.TLS = &tls.Config{RootCAs: a.CAs()}
		config.SASL = bridge.SASL{Mechanism: "SCRAM-SHA-512", User: "admin", Password: a.Password("admin")}
	}
	k.client = k.dial(config)
	k.step("create", k.client.CreateTopics(ctx, "main", spec))
	k.topics = k.client.Topics("main")
	k.down, err = k.client.Topic(ctx, k.topics.Down)
	k.step("look up", err)
	problems, err := k.client.CheckTopics(ctx, "main", bridge.CheckOptions{SingleBroker: spec.SingleBroker, AllowSmall: spec.AllowSmall})
	k.step("check", err)
	for _, p := range problems {
		t.Errorf("a created topic has a problem: %v", p)
	}
	return k
}

func (k *testKafka) step(what string, err error) {
	k.Helper()
	if err != nil {
		k.Fatalf("%s: %v", what, err)
	}
}

func (k *testKafka) dial(cfg bridge.Config) *bridge.Client {
	k.Helper()
	c, err := bridge.Dial(k.Context(), cfg)
	k.step("dial", err)
	k.Cleanup(func() { c.Close() })
	return c
}

func (k *testKafka) producer() *bridge.Producer {
	k.Helper()
	p, err := k.client.NewProducer()
	k.step("producer", err)
	return p
}

func (k *testKafka) reader() *bridge.Reader {
	k.Helper()
	r, err := k.client.NewReader()
	k.step("reader", err)
	return r
}

var session = envelope.SessionID{7}

func record(seq uint64, size int) *envelope.Record {
	return &envelope.Record{Kind: envelope.Data, Session: session, Seq: seq, Payload: make([]byte, size)}
}

// A sink notes when each record came.
type sink struct {
	mu    sync.Mutex
	seqs  []uint64
	times []time.Time
	err   error
	came  chan struct{} // gets a token, if there is room, at each call
}

func newSink() *sink { return &sink{came: make(chan struct{}, 1)} }

func (s *sink) note(f func()) {
	s.mu.Lock()
	f()
	s.mu.Unlock()
	select {
	case s.came <- struct{}{}:
	default:
	}
}

func (s *sink) Record(_ int64, value []byte) bool {
	r, err := envelope.Parse(value)
	s.note(func() {
		s.seqs, s.times = append(s.seqs, r.Seq), append(s.times, time.Now())
		s.err = errors.Join(s.err, err)
	})
	return true
}

func (s *sink) Advanced(int64) {}

func (s *sink) Failed(err error) { s.note(func() { s.err = err }) }

// await returns when n records have come, and checks that they are 1 to n.
func (s *sink) await(k *testKafka, n int) []time.Time {
	k.Helper()
	deadline := time.After(60 * time.Second)
	for {
		s.mu.Lock()
		have, err := len(s.seqs), s.err
		s.mu.Unlock()
		if err != nil {
			k.Fatal(err)
		}
		if have >= n {
			break
		}
		select {
		case <-s.came:
		case <-deadline:
			k.Fatalf("%d records came, want %d", have, n)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, seq := range s.seqs {
		if seq != uint64(i+1) {
			k.Fatalf("record %d has seq %d", i+1, seq)
		}
	}
	return slices.Clone(s.times)
}

func percentiles(d []time.Duration) string {
	slices.Sort(d)
	at := func(p float64) time.Duration {
		return d[min(int(p*float64(len(d))), len(d)-1)].Round(10 * time.Microsecond)
	}
	return fmt.Sprintf("p50 %v, p90 %v, p99 %v, max %v of %d", at(.5), at(.9), at(.99), d[len(d)-1].Round(10*time.Microsecond), len(d))
}

func TestColdAttachIsServedAtOnce(t *testing.T) {
	k := startTestKafka(t, broker.ApacheConfig{}, bridge.TopicSpec{Partitions: 128, SingleBroker: true})
	p, r := k.producer(), k.reader()
	warm := newSink() // a gateway that serves somebody has its connections and its producer id
	r.Tail(k.down, 0).Subscribe(session, 0, warm)
	p.Queue(k.topics.Down, 0).Put(session, record(1, 256), func(int64, error) {})
	warm.await(k, 1)
	var first, backlog []time.Duration
	for partition := int32(1); partition < k.down.Partitions; partition++ {
		q := p.Queue(k.topics.Down, partition)
		if partition%2 == 0 { // the record is there before
			done := make(chan struct{})
			q.Put(session, record(1, 256), func(int64, error) { close(done) })
			<-done
		}
		s := newSink()
		begun := time.Now()
		sub := r.Tail(k.down, partition).Subscribe(session, 0, s)
		if partition%2 == 1 { // it is the answer to the attach
			q.Put(session, record(1, 256), func(int64, error) {})
		}
		took := s.await(k, 1)[0].Sub(begun)
		if took > 100*time.Millisecond {
			t.Logf("partition %d: %v", partition, took)
		}
		if partition%2 == 0 {
			backlog = append(backlog, took)
		} else {
			first = append(first, took)
		}
		sub.Cancel()
	}
	t.Logf("first frame after a cold attach: %s", percentiles(first))
	t.Logf("the same, frame there before:    %s", percentiles(backlog))
	for _, d := range [][]time.Duration{first, backlog} {
		// The goal is a p99 of 150 ms, and bench measures it. Here a median that
		// high means that cold attaches wait for a long poll again.
		if p50 := d[len(d)/2]; p50 > 150*time.Millisecond {
			t.Errorf("p50 %v, want well below 150ms", p50)
		}
	}
}

// TestLeadersDieAndFreeze writes and reads through the death, the freeze and
// the orderly stop of one leader after the other.
func TestLeadersDieAndFreeze(t *testing.T) {
	k := startTestKafka(t, broker.ApacheConfig{Nodes: 3, FastFailover: true}, bridge.TopicSpec{})
	const partitions = 3
	p, r := k.producer(), k.reader()
	var sinks [partitions]*sink
	var acked [partitions][]time.Time
	var mu sync.Mutex
	for i := range sinks {
		sinks[i] = newSink()
		r.Tail(k.down, int32(i)).Subscribe(session, 0, sinks[i])
	}
	stop, stopped := make(chan struct{}), make(chan uint64)
	var outcomes sync.WaitGroup
	go func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for seq := uint64(1); ; seq++ {
			for i := range sinks {
				outcomes.Add(1)
				p.Queue(k.topics.Down, int32(i)).Put(session, record(seq, 256), func(_ int64, err error) {
					defer outcomes.Done()
					mu.Lock()
					defer mu.Unlock()
					acked[i] = append(acked[i], time.Now())
					if err != nil {
						t.Errorf("a record failed: %v", err)
					}
				})
			}
			select {
			case <-tick.C:
			case <-stop:
				stopped <- seq
				return
			}
		}
	}()
	var marks []time.Time
	pause := func(d time.Duration) { <-time.After(d) }
	pause(2 * time.Second)
	for _, fault := range []struct {
		desc string
		do   func() error
		mend func() error
		last time.Duration
	}{
		{"node 1 killed", func() error { return k.Kill(1) }, func() error { return k.Start(t.Context(), 1) }, 4 * time.Second},
		{"node 2 frozen", func() error { return k.Pause(2) }, func() error { return k.Resume(2) }, 6 * time.Second},
		{"node 3 stopped", func() error { return k.Stop(3) }, func() error { return k.Start(t.Context(), 3) }, 4 * time.Second},
	} {
		marks = append(marks, time.Now())
		k.step(fault.desc, fault.do())
		pause(fault.last)
		k.step("mend "+fault.desc, fault.mend())
		pause(4 * time.Second)
		mu.Lock()
		for i := range sinks {
			t.Logf("%s: partition %d: longest wait for an ack %v", fault.desc, i, longestGap(acked[i], marks[len(marks)-1], time.Now()))
		}
		mu.Unlock()
	}
	close(stop)
	n := int(<-stopped)
	outcomes.Wait()
	marks = append(marks, time.Now())
	for i, s := range sinks {
		times := s.await(k, n)
		for f := range marks[1:] {
			t.Logf("fault %d: partition %d: longest wait for a record %v", f+1, i, longestGap(times, marks[f], marks[f+1]))
		}
	}
}

func longestGap(times []time.Time, from, to time.Time) (gap time.Duration) {
	for i := 1; i < len(times); i++ {
		if times[i].After(from) && times[i].Before(to) {
			gap = max(gap, times[i].Sub(times[i-1]))
		}
	}
	return gap.Round(time.Millisecond)
}

func TestSecureCluster(t *testing.T) {
	k := startTestKafka(t, broker.ApacheConfig{Secure: true, Users: map[string]string{"foreign": "foreign-secret"}},
		bridge.TopicSpec{SingleBroker: true})
	q := k.producer().Queue(k.topics.Down, 3)
	s := newSink()
	k.reader().Tail(k.down, 3).Subscribe(session, 0, s)
	for seq := range uint64(10) {
		q.Put(session, record(seq+1, 100), func(_ int64, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	s.await(k, 10)

	cfg := bridge.Config{Brokers: k.Addrs(), TLS: &tls.Config{RootCAs: k.CAs()}}
	cfg.SASL = bridge.SASL{Mechanism: "SCRAM-SHA-512", User: "admin", Password: "wrong"}
	begun := time.Now()
	if _, err := bridge.Dial(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), `login of user "admin" refused`) {
		t.Errorf("wrong password: %v", err)
	} else {
		t.Logf("after %v: %v", time.Since(begun).Round(time.Millisecond), err)
	}
	cfg.SASL.User, cfg.SASL.Password = "foreign", "foreign-secret"
	foreign := k.dial(cfg)
	if _, err := foreign.Topic(t.Context(), k.topics.Down); err == nil || !strings.Contains(err.Error(), "grant Describe") {
		t.Errorf("a topic that may not be seen: %v", err)
	}
	p, err := foreign.NewProducer()
	k.step("producer", err)
	failed := make(chan error, 1)
	p.Queue(k.topics.Down, 0).Put(session, record(1, 10), func(_ int64, err error) { failed <- err })
	if err := <-failed; err == nil {
		t.Error("a foreign user wrote")
	} else {
		t.Logf("a foreign user's record: %v", err)
	}
	if err := foreign.CreateTopics(t.Context(), "other", bridge.TopicSpec{SingleBroker: true}); err == nil || !strings.Contains(err.Error(), "grant Create") {
		t.Errorf("a foreign user's topics: %v", err)
	}
}
