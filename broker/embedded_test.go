package broker_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/moorage-dev/moorage/broker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEmbeddedKeepsWhatItWasGiven(t *testing.T) {
	tb := newTestBroker(t, broker.EmbeddedConfig{})
	tb.produce("one", "two")
	tb.wantRecords("a record each", "one", "two")
	if got := len(tb.Addrs()); got != 3 {
		t.Errorf("addresses: got %d, want 3", got)
	}
}

func TestEmbeddedListensWhereItIsTold(t *testing.T) {
	// A port that was just free; the broker behind it takes the next one.
	probe := newTestBroker(t, broker.EmbeddedConfig{Brokers: 1})
	addr := probe.Addrs()[0]
	probe.Close()
	tb := newTestBroker(t, broker.EmbeddedConfig{Brokers: 1, Listen: addr})
	if got := tb.Addrs()[0]; got != addr {
		t.Errorf("address: got %s, want %s", got, addr)
	}
	tb.produce("here")
	tb.wantRecords("reached by its address", "here")
}

func TestEmbeddedRefusesAnAddressNobodyCanBeSentTo(t *testing.T) {
	for _, listen := range []string{":9092", "0.0.0.0:9092", "[::]:9092", "localhost", "localhost:port", "localhost:99999"} {
		e, err := broker.StartEmbedded(broker.EmbeddedConfig{Listen: listen})
		if err == nil {
			e.Close()
			t.Errorf("%q: started, want an error", listen)
		} else if !strings.HasPrefix(err.Error(), "broker: listen address") {
			t.Errorf("%q: got %v, want an error about the listen address", listen, err)
		}
	}
}

func TestEmbeddedLivesInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network kfake.VirtualNetwork
		tb := newTestBroker(t, broker.EmbeddedConfig{ListenFn: network.Listen}, kgo.Dialer(network.DialContext))
		tb.produce("bubble")
		tb.wantRecords("over pipes", "bubble")
		tb.close()
		time.Sleep(time.Second) // fake; the client's timers end
	})
}

func TestFaultsMeetTheProducer(t *testing.T) {
	for _, tt := range []struct {
		desc    string
		fault   func(*broker.Embedded) *broker.Fault
		wantErr error
		want    []string
	}{
		{"a refusal is reported, and nothing is written",
			func(e *broker.Embedded) *broker.Fault { return e.ProduceRefused(1) }, kerr.TopicAuthorizationFailed, []string{"after"}},
		{"a refusal of some records meets those", func(e *broker.Embedded) *broker.Fault {
			return e.ProduceRefusedOf(topic, 1, func(value []byte) bool { return string(value) == "first" })
		}, kerr.TopicAuthorizationFailed, []string{"after"}},
		{"a failure is retried",
			func(e *broker.Embedded) *broker.Fault { return e.ProduceFailed(2) }, nil, []string{"first", "after"}},
		{"what was written and not confirmed is not written twice by an idempotent producer",
			func(e *broker.Embedded) *broker.Fault { return e.ProduceWrittenButFailed(2) }, nil, []string{"first", "after"}},
		{"a deposed leader is left for the true one",
			func(e *broker.Embedded) *broker.Fault { return e.NotLeader(1) }, nil, []string{"first", "after"}},
		{"one partition fails",
			func(e *broker.Embedded) *broker.Fault { return e.PartitionFailed(topic, 0, 2) }, nil, []string{"first", "after"}},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			tb := newTestBroker(t, broker.EmbeddedConfig{})
			fault := tt.fault(tb.Embedded)
			if err := tb.tryProduce("first"); !errors.Is(err, tt.wantErr) {
				t.Fatalf("produce: got %v, want %v", err, tt.wantErr)
			}
			if fault.Hits() == 0 {
				t.Error("no request met the fault")
			}
			tb.produce("after")
			tb.wantRecords("read back", tt.want...)
		})
	}
}

func TestAWrittenButFailedRecordComesTwiceFromAProducerThatForgets(t *testing.T) {
	tb := newTestBroker(t, broker.EmbeddedConfig{}, kgo.DisableIdempotentWrite())
	tb.ProduceWrittenButFailed(1)
	tb.produce("twice")
	tb.wantRecords("the first was written", "twice", "twice")
}

func TestARefusalOfSomeRecordsLetsOthersPass(t *testing.T) {
	tb := newTestBroker(t, broker.EmbeddedConfig{})
	fault := tb.ProduceRefusedOf(topic, 1, func(value []byte) bool { return string(value) == "first" })
	tb.produce("another", "")
	if got := fault.Hits(); got != 0 {
		t.Errorf("fault met by %d requests, want 0", got)
	}
	tb.wantRecords("both", "another", "")
}

func TestALostProduceIsOne(t *testing.T) {
	tb := newTestBroker(t, broker.EmbeddedConfig{})
	lose := tb.ProduceLost(topic, 0)
	lost := make(chan error, 1)
	go func() { lost <- tb.tryProduce("lost") }()
	lose()
	if err := <-lost; !errors.Is(err, kerr.TopicAuthorizationFailed) {
		t.Errorf("produce: got %v, want that it was refused", err)
	}
	tb.produce("behind")
	tb.wantRecords("what came behind", "behind")
}

func TestALateRecordIsASecondOne(t *testing.T) {
	tb := newTestBroker(t, broker.EmbeddedConfig{})
	pick := func(value []byte) bool { return string(value) == "one" }
	if n, err := tb.WriteAgain(t.Context(), nil, topic, 0, pick); n != 0 || err != nil {
		t.Errorf("of an empty partition: got %d, %v; want nothing", n, err)
	}
	tb.produce("one", "two")
	if n, err := tb.WriteAgain(t.Context(), nil, topic, 0, pick); n != 1 || err != nil {
		t.Errorf("got %d, %v; want 1", n, err)
	}
	tb.wantRecords("behind all", "one", "two", "one")
}

func TestACutConnectionIsTriedAgain(t *testing.T) {
	tb := newTestBroker(t, broker.EmbeddedConfig{})
	tb.ProduceCut(2)
	tb.produce("through")
	tb.wantRecords("once", "through")
}

func TestAFailedFetchIsTriedAgain(t *testing.T) {
	tb := newTestBroker(t, broker.EmbeddedConfig{})
	fault := tb.FetchFailed(2)
	tb.produce("late")
	tb.wantRecords("after the faults", "late")
	if got := fault.Hits(); got != 2 {
		t.Errorf("fault met by %d requests, want 2", got)
	}
}

const topic = "moorage.test.up"

// A testBroker is an embedded broker with a topic of one partition and a
// client.
type testBroker struct {
	*broker.Embedded
	t      *testing.T
	client *kgo.Client
	opts   []kgo.Opt
}

func newTestBroker(t *testing.T, cfg broker.EmbeddedConfig, opts ...kgo.Opt) *testBroker {
	t.Helper()
	e, err := broker.StartEmbedded(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Cluster.CreateTopic(topic, 1, nil); err != nil {
		t.Fatal(err)
	}
	tb := &testBroker{Embedded: e, t: t, opts: append([]kgo.Opt{
		kgo.SeedBrokers(e.Addrs()...), kgo.ProducerLinger(0),
		kgo.DefaultProduceTopic(topic), kgo.RetryBackoffFn(func(int) time.Duration { return time.Millisecond }),
		kgo.MetadataMinAge(10 * time.Millisecond),
	}, opts...)}
	tb.client = tb.connect()
	t.Cleanup(tb.close)
	return tb
}

func (tb *testBroker) close() {
	tb.client.Close()
	tb.Close()
}

func (tb *testBroker) connect(opts ...kgo.Opt) *kgo.Client {
	tb.t.Helper()
	client, err := kgo.NewClient(append(tb.opts, opts...)...)
	if err != nil {
		tb.t.Fatal(err)
	}
	return client
}

func (tb *testBroker) tryProduce(value string) error {
	return tb.client.ProduceSync(tb.t.Context(), kgo.StringRecord(value)).FirstErr()
}

func (tb *testBroker) produce(values ...string) {
	tb.t.Helper()
	for i, v := range values {
		if err := tb.tryProduce(v); err != nil {
			tb.t.Fatalf("produce %d (%s): %v", i, strconv.Quote(v), err)
		}
	}
}

func (tb *testBroker) wantRecords(desc string, want ...string) {
	tb.t.Helper()
	client := tb.connect(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}))
	defer client.Close()
	ctx, cancel := context.WithTimeout(tb.t.Context(), 10*time.Second)
	defer cancel()
	var got []string
	for int64(len(got)) < tb.Cluster.PartitionInfo(topic, 0).HighWatermark {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			tb.t.Fatalf("%s: got %q and no more, want %q", desc, got, want)
		}
		fetches.EachRecord(func(r *kgo.Record) { got = append(got, string(r.Value)) })
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		tb.t.Errorf("%s: got %q, want %q", desc, got, want)
	}
}
