package bridge

import (
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/moorage-dev/moorage/proto/envelope"
)

// read returns the session and seq of every record of a partition, as they
// stand in the log.
func (k *testKafka) read(partition int32) (records [][2]uint64) {
	k.Helper()
	_, next, err := k.client.Bounds(k.Context(), testTopic, partition)
	if err != nil {
		k.Fatal(err)
	}
	if next == 0 {
		return nil
	}
	done := make(chan struct{})
	f := k.reader().Follow(k.topic, partition, 0, func(m Message) {
		records = append(records, [2]uint64{uint64(m.Value[8]), uint64(m.Value[55])})
		if m.Offset == next-1 {
			close(done)
		}
	}, func(err error) { k.Error(err); close(done) })
	<-done
	f.Stop()
	return records
}

// wantLog compares the seqs of one session with 1 to n.
func (k *testKafka) wantLog(what string, partition int32, session uint64, n int) {
	k.Helper()
	var seqs []uint64
	for _, r := range k.read(partition) {
		if r[0] == session {
			seqs = append(seqs, r[1])
		}
	}
	var want []uint64
	for i := range n {
		want = append(want, uint64(i+1))
	}
	if !slices.Equal(seqs, want) {
		k.Errorf("%s: the log has seqs %v of session %d, want 1 to %d", what, seqs, session, n)
	}
}

func TestQueueFlowsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 1, 1, nil)
		q := k.producer().Queue(testTopic, 0)
		thaw := k.net.freeze(k.leader(0))
		for seq := range uint64(100) {
			put(q, 1, seq+1, 64<<10) // a flood of 6.4 MB
		}
		synctest.Wait()
		var small []<-chan result
		for seq := range uint64(3) {
			small = append(small, put(q, 2, seq+1, 100))
		}
		thaw()
		// 7 records of the flood fill the batch that was under way; in the next
		// the other flow has its turn.
		for _, ch := range small {
			if offset := k.want("the small flow", ch); offset > 20 {
				t.Errorf("a small record has offset %d: it waited for the flood", offset)
			}
		}
		time.Sleep(time.Second)
		k.wantLog("the flood goes on in order", 0, 1, 100)
	})
}

func TestQueueMakesWayForASmallFlow(t *testing.T) {
	q := &Queue{
		p:     &Producer{c: &Client{cfg: Config{UnackedBytes: defaultUnackedBytes}}},
		flows: make(map[envelope.SessionID]*flow), state: sent, // so nobody takes its batches but the test
	}
	now := time.Now()
	write := func(session byte, n, size int) {
		for i := range n {
			q.Put(sessionID(session), data(session, uint64(i+1), size), func(int64, error) {})
		}
	}
	want := func(what string, least, most int) {
		t.Helper()
		if b := q.fillLocked(q.limitLocked(now), now); b.bytes < least || b.bytes > most {
			t.Errorf("%s: a batch of %d bytes, want %d to %d", what, b.bytes, least, most)
		}
	}
	const large = 256 << 10
	write(1, 100, 60<<10)
	want("a flood alone", large, defaultUnackedBytes)
	write(2, 100, 60<<10)
	want("two floods", large, defaultUnackedBytes)
	write(3, 1, 100)
	want("a small record comes", large, defaultUnackedBytes)
	want("right after it", 1, sharedBatch)
	now = now.Add(companyFor)
	want("long after it", large, defaultUnackedBytes)
}

// A testRing is a queue whose batches nobody takes but the test.
type testRing struct {
	*Queue
	now   time.Time
	wrote map[byte]int // bytes of each flow, in the batches so far
}

func newTestRing() *testRing {
	return &testRing{
		Queue: &Queue{
			p:     &Producer{c: &Client{cfg: Config{UnackedBytes: defaultUnackedBytes}}},
			flows: make(map[envelope.SessionID]*flow), state: sent,
		},
		now: time.Now(), wrote: make(map[byte]int),
	}
}

func (r *testRing) write(session byte, n, size int) {
	for i := range n {
		r.Put(sessionID(session), data(session, uint64(i+1), size), func(int64, error) {})
	}
}

// batch takes one, and returns how many flows are in it.
func (r *testRing) batch() int {
	r.company = time.Time{}
	flows := make(map[byte]bool)
	for _, it := range r.fillLocked(r.limitLocked(r.now), r.now).items {
		flows[it.value[8]] = true
		r.wrote[it.value[8]] += it.size()
	}
	return len(flows)
}

// Many agents are busy, and a round of the ring takes seven batches. A flow
// that comes now is in the next one all the same.
func TestQueueServesANewFlowFirst(t *testing.T) {
	q := newTestRing()
	for session := range byte(200) {
		q.write(session, 60, 1<<10)
	}
	for q.fresh.first != nil {
		q.batch()
	}
	q.write(201, 1, 1<<10)
	if q.batch(); q.wrote[201] == 0 {
		t.Error("a new flow is not in the next batch")
	}
	for range 8 {
		q.batch()
	}
	q.write(201, 1, 1<<10)
	was := q.wrote[201]
	if q.batch(); q.wrote[201] == was {
		t.Error("a flow that was idle for long is not in the next batch")
	}
}

func TestQueueGivesNobodyMoreForLeaving(t *testing.T) {
	q := newTestRing()
	for session := range byte(100) {
		q.write(session, 300, 1<<10)
	}
	for range 40 { // ten rounds
		if f := q.flows[sessionID(101)]; f == nil || f.head == len(f.items) {
			q.write(101, 14, 1<<10) // a turn's worth, whenever it has nothing
		}
		q.batch()
	}
	if got, most := q.wrote[101], 2*quantum+slices.Max([]int{q.wrote[0], q.wrote[50], q.wrote[99]}); got > most {
		t.Errorf("who leaves and comes back wrote %d bytes, who stays at most %d", got, most)
	}
}

// However many flows are new, half of the turns are those of the others.
func TestQueueGoesOnBesideEverNewFlows(t *testing.T) {
	q := newTestRing()
	q.write(0, 5000, 1<<10)
	q.batch()
	was := q.wrote[0]
	total := 0
	for i := range 18 {
		for j := range byte(40) {
			q.Put(envelope.SessionID{1, byte(i), j}, data(1, 1, quantum-200), func(int64, error) {})
		}
		q.company = time.Time{}
		b := q.fillLocked(q.limitLocked(q.now), q.now)
		total += b.bytes
		for _, it := range b.items {
			if it.value[8] == 0 {
				q.wrote[0] += it.size()
			}
		}
	}
	if got := q.wrote[0] - was; got < total/3 {
		t.Errorf("beside ever new flows the old one wrote %d bytes of %d", got, total)
	}
}

// Flows that have written everything are not kept.
func TestQueueForgetsWhoHasNothingLeft(t *testing.T) {
	q := newTestRing()
	for session := range byte(200) {
		q.write(session, 2, 1<<10)
	}
	for q.batch() > 0 {
	}
	if len(q.flows) > 0 || q.fresh.first != nil || q.old.first != nil {
		t.Errorf("%d flows are kept", len(q.flows))
	}
}

func TestQueueTellsEachOutcomeOnceInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 3, 4, nil)
		p := k.producer()
		type outcome struct {
			partition int32
			offset    int64
		}
		var mu sync.Mutex
		var got []outcome
		const n = 400
		for i := range n {
			partition := int32(i % 4)
			p.Queue(testTopic, partition).Put(sessionID(byte(i%7)), data(byte(i%7), uint64(i+1), 50), func(offset int64, err error) {
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				got = append(got, outcome{partition, offset})
			})
		}
		time.Sleep(5 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		next := make(map[int32]int64)
		for _, o := range got {
			if o.offset != next[o.partition] {
				t.Fatalf("partition %d: offset %d, want %d", o.partition, o.offset, next[o.partition])
			}
			next[o.partition]++
		}
		if len(got) != n {
			t.Errorf("%d outcomes, want %d", len(got), n)
		}
	})
}

func TestQueueRepeatsNothingThatWasWrittenButAnsweredWithAnError(t *testing.T) {
	for _, e := range []*kerr.Error{kerr.RequestTimedOut, kerr.NotEnoughReplicasAfterAppend, kerr.NotLeaderForPartition} {
		t.Run(e.Message, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newTestKafka(t, 1, 1, nil)
				q := k.producer().Queue(testTopic, 0)
				k.fill(q, 1, 1, 3)
				k.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: e, Count: 3})
				k.fill(q, 1, 4, 3)
				k.fill(q, 1, 7, 3)
				k.wantLog("each once", 0, 1, 9)
				if s := q.p.Stats()[0]; s.Retried != 3 || s.Produced != 9 || s.Failed != 0 || s.Queued != 0 {
					t.Errorf("stats %+v", s)
				}
			})
		})
	}
}

func TestQueueRepeatsNothingAfterALostAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 1, 1, nil)
		q := k.producer().Queue(testTopic, 0)
		k.fill(q, 1, 1, 3)
		thaw := k.net.freeze(k.leader(0))
		last := put(q, 1, 4, 10)
		time.Sleep(ackTimeout + ackGrace + time.Second) // the answer never came; it is tried again
		thaw()
		k.want("after the freeze", last)
		k.fill(q, 1, 5, 3)
		k.wantLog("each once", 0, 1, 7)
	})
}

func TestQueueGoesOnAfterARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 1, 1, nil)
		q := k.producer().Queue(testTopic, 0)
		k.fill(q, 1, 1, 1)
		k.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.InvalidRecord})
		if r := <-put(q, 1, 2, 10); r.err == nil {
			t.Fatal("a refused record has no error")
		}
		k.fill(q, 1, 2, 2)
		k.wantLog("under a new producer id", 0, 1, 3)
	})
}

func TestFrozenBrokerDelaysOnlyWhatItLeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 3, 3, nil)
		for p := range int32(3) {
			if err := k.cluster.MoveTopicPartition(testTopic, p, p); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := k.client.Topic(t.Context(), testTopic); err != nil {
			t.Fatal(err)
		}
		p := k.producer()
		r := k.reader()
		sinks := make([]*testSink, 3)
		for i := range sinks {
			sinks[i] = newSink()
			r.Tail(k.topic, int32(i)).Subscribe(sessionID(1), 0, sinks[i])
			k.fill(p.Queue(testTopic, int32(i)), 1, 1, 3)
			sinks[i].wantSeqs(t, "calm", 1, 3)
		}
		thaw := k.net.freeze(k.leader(0))
		var stuck <-chan result
		for i := range uint64(500) {
			stuck = put(p.Queue(testTopic, 0), 1, 4+i, 16<<10)
		}
		for step := range uint64(40) {
			begun := time.Now()
			for i := range int32(2) {
				k.fill(p.Queue(testTopic, i+1), 1, 4+step, 1)
				sinks[i+1].wantSeqs(t, "beside the frozen broker", 1, 4+step)
			}
			if d := time.Since(begun); d > 10*time.Millisecond {
				t.Fatalf("step %d took %v beside a frozen broker", step, d)
			}
			time.Sleep(250 * time.Millisecond)
		}
		begun := time.Now()
		late := newSink()
		r.Tail(k.topic, 2).Subscribe(sessionID(2), 0, late)
		k.fill(p.Queue(testTopic, 2), 2, 1, 1)
		late.wantSeqs(t, "a new subscription beside the frozen broker", 1, 1)
		if d := time.Since(begun); d > 10*time.Millisecond {
			t.Errorf("a new subscription took %v beside a frozen broker", d)
		}
		if since, open := p.Stalled(testTopic, 0); !open || since < 9*time.Second {
			t.Errorf("the frozen partition: since %v, open %v", since, open)
		}
		if _, open := p.Stalled(testTopic, 1); open {
			t.Error("another partition's breaker is open")
		}
		thaw()
		k.want("after the thaw", stuck)
		sinks[0].wantSeqs(t, "after the thaw", 1, 503)
		time.Sleep(2 * time.Second)
		if since, open := p.Stalled(testTopic, 0); open || since != 0 {
			t.Errorf("after the thaw: since %v, open %v", since, open)
		}
	})
}

func TestBreakerLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 1, 1, nil)
		p := k.producer()
		q := p.Queue(testTopic, 0)
		k.fill(q, 1, 1, 1)
		fault := k.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotEnoughReplicas, Count: -1})
		state := func() string { return p.Stats()[0].Breaker }
		put(q, 1, 2, 10)
		time.Sleep(4900 * time.Millisecond)
		if s := state(); s != "closed" {
			t.Errorf("after 4.9 s: %s", s)
		}
		seen := make(map[string]bool)
		seq := uint64(3)
		for range 100 { // records go on coming, in every state
			time.Sleep(60 * time.Millisecond)
			seen[q.breaker.cb.State().String()] = true
			put(q, 1, seq, 10)
			seq++
		}
		if !seen["open"] || !seen["half-open"] {
			t.Errorf("states seen: %v", seen)
		}
		fault.Remove()
		last := put(q, 1, seq, 10)
		k.want("after the fault", last)
		time.Sleep(1500 * time.Millisecond)
		if s := state(); s != "closed" {
			t.Errorf("after the fault: %s", s)
		}
		k.wantLog("nothing lost", 0, 1, int(seq))
	})
}

func TestQueueFollowsItsLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 3, 1, nil)
		q := k.producer().Queue(testTopic, 0)
		var last <-chan result
		for seq := range uint64(60) {
			if err := k.cluster.MoveTopicPartition(testTopic, 0, int32(seq/10%3)); err != nil {
				t.Fatal(err)
			}
			last = put(q, 1, seq+1, 10)
			time.Sleep(7 * time.Millisecond)
		}
		k.want("the last", last)
		k.wantLog("each once, in order", 0, 1, 60)
	})
}

func TestQueueLeavesAFrozenLeaderThatIsNoneAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 3, 1, nil)
		q := k.producer().Queue(testTopic, 0)
		sink := newSink()
		k.reader().Tail(k.topic, 0).Subscribe(sessionID(1), 0, sink)
		k.fill(q, 1, 1, 1)
		sink.wantSeqs(t, "before", 1, 1)
		was := k.cluster.LeaderFor(testTopic, 0)
		defer k.net.freeze(k.client.cluster.addr(was))()
		begun := time.Now()
		stuck := put(q, 1, 2, 10)
		time.Sleep(2 * time.Second)
		if err := k.cluster.MoveTopicPartition(testTopic, 0, (was+1)%3); err != nil {
			t.Fatal(err)
		}
		k.want("at the new leader", stuck)
		sink.wantSeqs(t, "from the new leader", 1, 2)
		// Metadata may be asked of the frozen broker first: that costs adminTimeout.
		if d := time.Since(begun); d > 2*time.Second+adminTimeout+time.Second {
			t.Errorf("it took %v, 2 s of which there was no leader", d)
		}
	})
}

func TestWaitHoldsBackReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 1, 1, func(cfg *Config) { cfg.QueueBytes = 1000 })
		p := k.producer()
		q := p.Queue(testTopic, 0)
		k.fill(q, 1, 1, 1)
		thaw := k.net.freeze(k.leader(0))
		if err := q.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		if n := p.Waits(); n != 0 {
			t.Errorf("%d waits with an empty queue", n)
		}
		put(q, 1, 2, 2000)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := q.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a full queue: %v", err)
		}
		go func() {
			time.Sleep(time.Second)
			thaw()
		}()
		if err := q.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		if n := p.Waits(); n != 2 {
			t.Errorf("%d waits counted, want 2", n)
		}
	})
}

func TestQueueOfAMissingTopicFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 1, 1, nil)
		p := k.producer()
		begun := time.Now()
		for _, q := range []*Queue{p.Queue("moorage.none.up", 0), p.Queue(testTopic, 7)} {
			if r := <-put(q, 1, 1, 10); !errors.Is(r.err, ErrNoTopic) {
				t.Errorf("%v: %v, want ErrNoTopic", q, r.err)
			}
		}
		if d := time.Since(begun); d < missingFor || d > 3*missingFor {
			t.Errorf("it took %v", d)
		}
	})
}

func TestCloseGivesUpWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 1, 1, nil)
		p := k.producer()
		q := p.Queue(testTopic, 0)
		k.fill(q, 1, 1, 1)
		defer k.net.freeze(k.leader(0))()
		var outcomes []<-chan result
		for i := range uint64(20) {
			outcomes = append(outcomes, put(q, byte(i%3), i+2, 100<<10))
		}
		synctest.Wait()
		begun := time.Now()
		p.Close()
		if d := time.Since(begun); d > 0 {
			t.Errorf("Close took %v", d)
		}
		outcomes = append(outcomes, put(q, 1, 30, 10), put(p.Queue(testTopic, 9), 1, 1, 10))
		for i, ch := range outcomes {
			if r := <-ch; !errors.Is(r.err, ErrClosed) {
				t.Errorf("record %d: %v", i, r.err)
			}
		}
		if err := q.Wait(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("Wait: %v", err)
		}
	})
}

func TestSendWritesStateAndTombstones(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 1, 1, nil)
		p := k.producer()
		ch := make(chan result, 3)
		done := func(offset int64, err error) { ch <- result{offset, err} }
		p.Send(testTopic, 0, []byte("a"), []byte("1"), done)
		p.Send(testTopic, 0, []byte("b"), []byte{}, done)
		p.Send(testTopic, 0, []byte("a"), nil, done)
		for range 3 {
			k.want("state", ch)
		}
		got := make(chan Message, 3)
		f := k.reader().Follow(k.topic, 0, 0, func(m Message) { got <- m }, func(err error) { t.Error(err) })
		defer f.Stop()
		for i, want := range []Message{{Key: []byte("a"), Value: []byte("1")}, {Key: []byte("b"), Value: []byte{}}, {Key: []byte("a")}} {
			m := <-got
			if string(m.Key) != string(want.Key) || string(m.Value) != string(want.Value) || (m.Value == nil) != (want.Value == nil) {
				t.Errorf("record %d: %q=%q", i, m.Key, m.Value)
			}
			if d := time.Since(m.Time); d < 0 || d > time.Second {
				t.Errorf("record %d: time %v", i, m.Time)
			}
		}
	})
}

// A broker that is cut off from the controllers names a leader of yesterday,
// for as long as it is asked.
func TestStaleBrokerIsNotAskedForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 3, 1, nil)
		q := k.producer().Queue(testTopic, 0)
		k.fill(q, 1, 1, 1)
		reader := newSink()
		k.reader().Tail(k.topic, 0).Subscribe(sessionID(1), 0, reader)
		reader.wantSeqs(t, "before", 1, 1)

		was, stale := k.cluster.LeaderFor(testTopic, 0), int32(-1)
		k.cluster.ControlKey(int16(kmsg.Metadata), func(r kmsg.Request) (kmsg.Response, error, bool) {
			k.cluster.KeepControl()
			if stale < 0 {
				stale = k.cluster.CurrentNode() // the one that everybody goes on asking
			}
			if k.cluster.CurrentNode() != stale {
				return nil, nil, false
			}
			resp := r.ResponseKind().(*kmsg.MetadataResponse)
			for i, addr := range k.cluster.ListenAddrs() {
				host, port, _ := net.SplitHostPort(addr)
				number, _ := strconv.Atoi(port)
				resp.Brokers = append(resp.Brokers, kmsg.MetadataResponseBroker{NodeID: int32(i), Host: host, Port: int32(number)})
			}
			topic := kmsg.NewMetadataResponseTopic()
			topic.Topic, topic.TopicID = new(testTopic), k.topic.ID
			topic.Partitions = []kmsg.MetadataResponseTopicPartition{{Leader: was, LeaderEpoch: -1, Replicas: []int32{was}, ISR: []int32{was}}}
			resp.Topics = append(resp.Topics, topic)
			return resp, nil, true
		})
		if err := k.cluster.MoveTopicPartition(testTopic, 0, (was+1)%3); err != nil {
			t.Fatal(err)
		}
		k.fill(q, 1, 2, 1)
		reader.wantSeqs(t, "after", 1, 2)
		if stale < 0 {
			t.Error("nobody asked for the leader")
		}
	})
}

// An answer about one topic tells which brokers are left, and that another
// topic's leader, as it was last heard of, is not among them.
func TestLeaderThatHasLeftIsLookedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 3, 1, nil)
		q := k.producer().Queue(testTopic, 0)
		k.fill(q, 1, 1, 1)
		cl := k.client.cluster
		cl.mu.Lock()
		delete(cl.brokers, cl.topics[testTopic].leaders[0])
		cl.mu.Unlock()
		begun := time.Now()
		k.want("written", put(q, 1, 2, 10))
		sink := newSink()
		cl.mu.Lock()
		delete(cl.brokers, cl.topics[testTopic].leaders[0])
		cl.mu.Unlock()
		k.reader().Tail(k.topic, 0).Subscribe(sessionID(1), 0, sink)
		sink.wantSeqs(t, "read", 1, 2)
		if d := time.Since(begun); d > time.Second {
			t.Errorf("it took %v", d)
		}
	})
}
