package bridge

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"github.com/moorage-dev/moorage/proto/envelope"
)

func TestTailServesBacklogAndGoesLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 1, 2, nil)
		q := k.producer().Queue(testTopic, 1)
		k.fill(q, 1, 1, 100)
		r := k.reader()
		tail := r.Tail(k.topic, 1)
		if _, ok := tail.Next(); ok {
			t.Error("a tail without subscriptions is followed")
		}
		s := newSink()
		sub := tail.Subscribe(sessionID(1), 0, s)
		s.wantSeqs(t, "backlog", 1, 100)
		end := k.fill(q, 1, 101, 100)
		s.wantSeqs(t, "live", 1, 200)
		k.fill(q, 2, 1, 50)
		time.Sleep(2 * time.Second)
		s.await(t, "what belongs to others is passed", func() bool { return s.next == end+50 })
		if next := sub.Next(); next != end+50 {
			t.Errorf("Next is %d, want %d", next, end+50)
		}
		if next, ok := tail.Next(); !ok || next != end+50 {
			t.Errorf("the tail's next is %d, %v", next, ok)
		}
		live, scanned := r.Fetched()
		if scanned.Records < 100 || live.Records+scanned.Records < 250 || live.Records < 50 || live.Bytes < live.Records || scanned.Bytes < scanned.Records {
			t.Errorf("250 records, of them 100 in the backlog: %+v live, %+v scanned", live, scanned)
		}
	})
}

// What somebody else writes into a log is handed to nobody. It is counted, and
// a burst of it is one line.
func TestForeignRecordsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		k := newTestKafka(t, 1, 1, func(cfg *Config) { cfg.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		p, r := k.producer(), k.reader()
		q := p.Queue(testTopic, 0)
		s := newSink()
		r.Tail(k.topic, 0).Subscribe(sessionID(1), 0, s)
		k.fill(q, 1, 1, 1)
		s.wantSeqs(t, "before", 1, 1)
		time.Sleep(time.Second)
		written := make(chan error, 5)
		for range 5 {
			p.Send(testTopic, 0, nil, []byte("what is this?"), func(_ int64, err error) { written <- err })
		}
		for range 5 {
			if err := <-written; err != nil {
				t.Fatal(err)
			}
		}
		k.fill(q, 1, 2, 1)
		s.wantSeqs(t, "behind", 1, 2)
		if live, _ := r.Fetched(); live.Foreign != 5 {
			t.Errorf("%d foreign records, want 5", live.Foreign)
		}
		if n := strings.Count(log.String(), "not of Moorage"); n != 1 {
			t.Errorf("%d lines for a burst:\n%s", n, log.String())
		}
	})
}

// With a bound of one, backlogs of one broker are read one after the other, and
// it is counted that others had to wait.
func TestScansAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 1, 3, func(cfg *Config) { cfg.Scans = 1 })
		p, r := k.producer(), k.reader()
		for partition := range int32(3) {
			k.fill(p.Queue(testTopic, partition), 1, 1, 100)
		}
		if n := r.ScanWaits(); n != 0 {
			t.Errorf("%d waits before anything is read", n)
		}
		var sinks []*testSink
		for partition := range int32(3) {
			s := newSink()
			sinks = append(sinks, s)
			r.Tail(k.topic, partition).Subscribe(sessionID(1), 0, s)
		}
		for _, s := range sinks {
			s.wantSeqs(t, "backlog", 1, 100)
		}
		if n := r.ScanWaits(); n == 0 {
			t.Error("three backlogs at once, and none had to wait")
		}
	})
}

func TestColdSubscriptionIsServedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 3, 16, nil)
		p, r := k.producer(), k.reader()
		for partition := range int32(16) {
			s := newSink()
			begun := time.Now()
			r.Tail(k.topic, partition).Subscribe(sessionID(1), 0, s)
			// The answer to an attach comes a little later, on a partition that
			// was empty when the subscription came.
			for i := range uint64(20) {
				k.fill(p.Queue(testTopic, partition), 1, i+1, 1)
				s.wantSeqs(t, "cold", 1, i+1)
				if d := time.Since(begun); d > time.Duration(i+1)*10*time.Millisecond+scanWait {
					t.Fatalf("partition %d: record %d after %v", partition, i, d)
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
	})
}

// The follower's connection is in a long poll for another partition, so the
// scan at the log's end has to do for all who come meanwhile, also for one
// that starts where the log ended a moment before.
func TestColdSubscriptionsThatComeTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 1, 2, nil)
		p, r := k.producer(), k.reader()
		other := newSink()
		r.Tail(k.topic, 0).Subscribe(sessionID(9), 0, other)
		time.Sleep(time.Second)
		end := k.fill(p.Queue(testTopic, 1), 8, 1, 2*rewindMost)
		begun := time.Now()
		var sinks []*testSink
		for i := range byte(5) {
			s := newSink()
			sinks = append(sinks, s)
			r.Tail(k.topic, 1).Subscribe(sessionID(i), end, s)
			time.Sleep(3 * time.Millisecond)
			k.fill(p.Queue(testTopic, 1), i, 1, 2)
			s.wantSeqs(t, "one after the other", 1, 2)
		}
		if d := time.Since(begun); d > 5*(3*time.Millisecond+2*scanWait) {
			t.Errorf("they waited for %v in all", d)
		}
		// One that is far behind waits for the pass after it, and loses nothing.
		late := newSink()
		r.Tail(k.topic, 1).Subscribe(sessionID(8), 0, late)
		late.wantSeqs(t, "far behind", 1, 2*rewindMost)
		time.Sleep(time.Second)
		for i, s := range sinks {
			k.fill(p.Queue(testTopic, 1), byte(i), 3, 1)
			s.wantSeqs(t, "later", 1, 3)
		}
	})
}

func TestFollowerDoesNotWaitForThePollOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 1, 2, nil)
		p, r := k.producer(), k.reader()
		fail := func(err error) { t.Error(err) }
		defer r.Follow(k.topic, 0, 0, func(Message) {}, fail).Stop()
		time.Sleep(time.Second) // the long poll of partition 0 is under way
		k.fill(p.Queue(testTopic, 1), 1, 1, 10)
		begun := time.Now()
		got := make(chan int64, 100)
		defer r.Follow(k.topic, 1, 0, func(m Message) { got <- m.Offset }, fail).Stop()
		want := func(offset int64) {
			if at := <-got; at != offset {
				t.Fatalf("record %d, want %d", at, offset)
			}
		}
		for offset := range int64(10) {
			want(offset)
		}
		if d := time.Since(begun); d > scanWait {
			t.Errorf("what stands in the partition came after %v", d)
		}
		k.fill(p.Queue(testTopic, 1), 1, 11, 1)
		want(10)
	})
}

func TestSubscriptionOfAFollowedPartitionNeedsNoScan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 1, 1, nil)
		q := k.producer().Queue(testTopic, 0)
		k.fill(q, 1, 1, 10)
		r := k.reader()
		tail := r.Tail(k.topic, 0)
		first := newSink()
		tail.Subscribe(sessionID(1), 0, first)
		first.wantSeqs(t, "first", 1, 10)
		time.Sleep(time.Second)
		next, _ := tail.Next()
		s := newSink()
		tail.Subscribe(sessionID(2), next, s)
		if tail.scan != nil {
			t.Error("a scan runs for a subscription at the end")
		}
		k.fill(q, 2, 1, 1)
		s.wantSeqs(t, "second", 1, 1)
	})
}

func TestFullSinkIsParkedAndServedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 1, 1, nil)
		q := k.producer().Queue(testTopic, 0)
		tail := k.reader().Tail(k.topic, 0)
		slow, other := newSink(), newSink()
		slow.room = 4
		sub := tail.Subscribe(sessionID(1), 0, slow)
		tail.Subscribe(sessionID(2), 0, other)
		for i := range uint64(50) {
			k.fill(q, 1, i+1, 1)
			k.fill(q, 2, i+1, 1)
		}
		other.wantSeqs(t, "the other goes on", 1, 50)
		slow.wantSeqs(t, "the slow one got what it took", 1, 3)
		slow.wantRefused(t, 1)
		synctest.Wait()
		if sub.Next() != 6 {
			t.Errorf("Next is %d, want that of the record refused, 6", sub.Next())
		}
		for room := uint64(3); room < 50; room += 4 {
			slow.mu.Lock()
			slow.room = 5
			slow.mu.Unlock()
			sub.Resume(sub.Next())
			slow.wantSeqs(t, "a few more", 1, min(room+4, 50))
			synctest.Wait()
		}
		k.fill(q, 1, 51, 1)
		slow.mu.Lock()
		slow.room = 0
		slow.mu.Unlock()
		sub.Resume(sub.Next())
		slow.wantSeqs(t, "live again", 1, 51)
		other.wantSeqs(t, "the other saw nothing of it", 1, 50)
	})
}

func TestTwoSubscriptionsOfOneSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 1, 1, nil)
		q := k.producer().Queue(testTopic, 0)
		k.fill(q, 1, 1, 10)
		tail := k.reader().Tail(k.topic, 0)
		older, newer := newSink(), newSink()
		sub := tail.Subscribe(sessionID(1), 0, older)
		older.wantSeqs(t, "older", 1, 10)
		tail.Subscribe(sessionID(1), 5, newer)
		newer.wantSeqs(t, "newer", 6, 10)
		sub.Cancel()
		k.fill(q, 1, 11, 5)
		newer.wantSeqs(t, "newer goes on", 6, 15)
		older.wantSeqs(t, "older is left alone", 1, 10)
	})
}

func TestTailIsFollowedAWhileAfterTheLastSubscription(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 1, 1, nil)
		k.fill(k.producer().Queue(testTopic, 0), 1, 1, 1)
		tail := k.reader().Tail(k.topic, 0)
		s := newSink()
		sub := tail.Subscribe(sessionID(1), 0, s)
		s.wantSeqs(t, "first", 1, 1)
		time.Sleep(time.Second)
		sub.Cancel()
		time.Sleep(defaultLinger - time.Second)
		if _, ok := tail.Next(); !ok {
			t.Error("the follower ended early")
		}
		s = newSink()
		sub = tail.Subscribe(sessionID(1), 0, s)
		s.wantSeqs(t, "again", 1, 1) // cancelled before it is let in, it would not count
		sub.Cancel()
		time.Sleep(defaultLinger - time.Second)
		if _, ok := tail.Next(); !ok {
			t.Error("the follower ended though somebody had come back")
		}
		time.Sleep(2 * time.Second)
		if _, ok := tail.Next(); ok {
			t.Error("the follower goes on for nobody")
		}
	})
}

func TestOffsetOutOfRange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 1, 1, nil)
		q := k.producer().Queue(testTopic, 0)
		k.fill(q, 1, 1, 20)
		if err := k.client.DeleteRecords(t.Context(), testTopic, 0, 10); err != nil {
			t.Fatal(err)
		}
		r := k.reader()
		tail := r.Tail(k.topic, 0)
		below, within, above, briefly := newSink(), newSink(), newSink(), newSink()
		begun := time.Now()
		tail.Subscribe(sessionID(1), 9, below)
		tail.Subscribe(sessionID(1), 10, within)
		tail.Subscribe(sessionID(1), 25, above)
		tail.Subscribe(sessionID(1), 22, briefly)
		below.await(t, "below the log's start", func() bool { return errors.Is(below.err, ErrOutOfRange) })
		if d := time.Since(begun); d > time.Second {
			t.Errorf("below the log's start: told after %v", d)
		}
		within.wantSeqs(t, "from the log's start", 11, 20)
		time.Sleep(2 * time.Second)
		k.fill(q, 1, 21, 3)
		within.wantSeqs(t, "goes on", 11, 23)
		briefly.wantSeqs(t, "the end came", 23, 23)
		above.await(t, "above the log's end", func() bool { return errors.Is(above.err, ErrOutOfRange) })
		if d := time.Since(begun); d < rangeFor || d > 2*rangeFor {
			t.Errorf("above the log's end: told after %v", d)
		}
		late := newSink()
		tail.Subscribe(sessionID(1), 3, late)
		late.await(t, "below, at a followed partition", func() bool { return errors.Is(late.err, ErrOutOfRange) })
		within.await(t, "not the others", func() bool { return within.err == nil })
	})
}

func TestRetentionOvertakesAParkedSubscription(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 1, 1, nil)
		q := k.producer().Queue(testTopic, 0)
		s := newSink()
		s.room = 2
		sub := k.reader().Tail(k.topic, 0).Subscribe(sessionID(1), 0, s)
		k.fill(q, 1, 1, 20)
		s.wantSeqs(t, "before it is full", 1, 1)
		s.wantRefused(t, 1) // Resume is for a sink that has refused
		synctest.Wait()
		if err := k.client.DeleteRecords(t.Context(), testTopic, 0, 10); err != nil {
			t.Fatal(err)
		}
		sub.Resume(sub.Next())
		s.await(t, "told of the gap", func() bool { return errors.Is(s.err, ErrOutOfRange) })
	})
}

func TestTopicCreatedAgain(t *testing.T) {
	for _, again := range []bool{true, false} {
		t.Run(fmt.Sprintf("again=%v", again), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newTestKafka(t, 1, 1, nil)
				q := k.producer().Queue(testTopic, 0)
				k.fill(q, 1, 1, 5)
				r := k.reader()
				s := newSink()
				r.Tail(k.topic, 0).Subscribe(sessionID(1), 0, s)
				failed := make(chan error, 1)
				f := r.Follow(k.topic, 0, 0, func(Message) {}, func(err error) { failed <- err })
				defer f.Stop()
				s.wantSeqs(t, "before", 1, 5)
				time.Sleep(time.Second)
				if err := k.cluster.DeleteTopic(testTopic); err != nil {
					t.Fatal(err)
				}
				if again {
					time.Sleep(300 * time.Millisecond) // a long poll
					if err := k.cluster.CreateTopic(testTopic, 1, nil); err != nil {
						t.Fatal(err)
					}
					k.fill(k.producer().Queue(testTopic, 0), 1, 1, 9)
				}
				begun := time.Now()
				s.await(t, "told", func() bool { return errors.Is(s.err, ErrTopicChanged) })
				if err := <-failed; !errors.Is(err, ErrTopicChanged) {
					t.Errorf("the follower: %v", err)
				}
				if d := time.Since(begun); d > goneFor+lookEvery {
					t.Errorf("told after %v", d)
				}
				if len(s.seqs) != 5 {
					t.Errorf("records of the new topic were handed on: %v", s.seqs)
				}
				cold := newSink()
				r.Tail(k.topic, 0).Subscribe(sessionID(1), 0, cold)
				cold.await(t, "a cold subscription too", func() bool { return errors.Is(cold.err, ErrTopicChanged) })
			})
		})
	}
}

func TestReadersFollowTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 3, 1, nil)
		q := k.producer().Queue(testTopic, 0)
		r := k.reader()
		s := newSink()
		r.Tail(k.topic, 0).Subscribe(sessionID(1), 0, s)
		n := uint64(0)
		f := r.Follow(k.topic, 0, 0, func(m Message) {
			if n++; m.Offset != int64(n-1) {
				t.Errorf("record %d has offset %d", n, m.Offset)
			}
		}, func(err error) { t.Error(err) })
		for seq := range uint64(60) {
			if err := k.cluster.MoveTopicPartition(testTopic, 0, int32(seq/10%3)); err != nil {
				t.Fatal(err)
			}
			k.fill(q, 1, seq+1, 1)
			time.Sleep(7 * time.Millisecond)
		}
		s.wantSeqs(t, "across leaders", 1, 60)
		time.Sleep(time.Second)
		f.Stop()
		if n != 60 || f.Next() != 60 {
			t.Errorf("the follower passed %d records on, next %d", n, f.Next())
		}
	})
}

func TestFailedFetchesAreTriedAgain(t *testing.T) {
	for _, e := range []*kerr.Error{kerr.UnknownTopicOrPartition, kerr.NotLeaderForPartition, kerr.UnknownServerError, kerr.OffsetOutOfRange} {
		t.Run(e.Message, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newTestKafka(t, 1, 1, nil)
				q := k.producer().Queue(testTopic, 0)
				k.fill(q, 1, 1, 5)
				k.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Err: e, Count: 3})
				s := newSink()
				k.reader().Tail(k.topic, 0).Subscribe(sessionID(1), 0, s)
				s.wantSeqs(t, "backlog", 1, 5)
				k.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Err: e, Count: 3})
				k.fill(q, 1, 6, 5)
				s.wantSeqs(t, "live", 1, 10)
			})
		})
	}
}

func TestCompactedAwayIsPassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 1, 2, nil)
		p := k.producer()
		k.fill(p.Queue(testTopic, 0), 1, 1, 6)
		k.fill(p.Queue(testTopic, 1), 1, 1, 6)
		// Of partition 0, only offsets 0 and 5 are left: what a broker answers
		// at the empty batches between, sarama shows as nothing.
		k.cluster.ControlKey(int16(kmsg.Fetch), func(r kmsg.Request) (kmsg.Response, error, bool) {
			k.cluster.KeepControl()
			resp := r.ResponseKind().(*kmsg.FetchResponse)
			for _, rt := range r.(*kmsg.FetchRequest).Topics {
				topic := kmsg.NewFetchResponseTopic()
				topic.Topic = rt.Topic
				for _, rp := range rt.Partitions {
					if rp.Partition == 0 && rp.FetchOffset > 0 && rp.FetchOffset < 5 {
						part := kmsg.NewFetchResponseTopicPartition()
						part.HighWatermark, part.LastStableOffset, part.LogStartOffset = 6, 6, 0
						topic.Partitions = append(topic.Partitions, part)
					}
				}
				if len(topic.Partitions) > 0 && len(topic.Partitions) == len(rt.Partitions) {
					resp.Topics = append(resp.Topics, topic)
					return resp, nil, true
				}
			}
			return nil, nil, false
		})
		r := k.reader()
		var got []int64
		f := r.Follow(k.topic, 0, 1, func(m Message) { got = append(got, m.Offset) }, func(err error) { t.Error(err) })
		beside := newSink()
		r.Tail(k.topic, 1).Subscribe(sessionID(1), 0, beside)
		beside.wantSeqs(t, "the partition beside", 1, 6)
		time.Sleep(5 * time.Second)
		f.Stop()
		if len(got) == 0 || got[len(got)-1] != 5 || f.Next() != 6 {
			t.Errorf("passed on %v, next %d", got, f.Next())
		}
	})
}

func TestNotAllowedIsFinal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 1, 1, nil)
		k.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Err: kerr.TopicAuthorizationFailed, Count: -1})
		s := newSink()
		k.reader().Tail(k.topic, 0).Subscribe(sessionID(1), 0, s)
		s.await(t, "told", func() bool { return s.err != nil })
	})
}

func TestReaderCloseTellsSubscriptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 1, 1, nil)
		r := k.reader()
		s, late := newSink(), newSink()
		r.Tail(k.topic, 0).Subscribe(sessionID(1), 0, s)
		failed := make(chan error, 2)
		f := r.Follow(k.topic, 0, 0, func(Message) {}, func(err error) { failed <- err })
		time.Sleep(time.Second)
		begun := time.Now()
		r.Close()
		if d := time.Since(begun); d > 0 {
			t.Errorf("Close took %v", d)
		}
		s.await(t, "told", func() bool { return errors.Is(s.err, ErrClosed) })
		r.Tail(k.topic, 0).Subscribe(sessionID(1), 0, late)
		late.await(t, "told too", func() bool { return errors.Is(late.err, ErrClosed) })
		r.Follow(k.topic, 0, 0, func(Message) {}, func(err error) { failed <- err })
		for range 2 {
			if err := <-failed; !errors.Is(err, ErrClosed) {
				t.Errorf("a follower: %v", err)
			}
		}
		f.Stop()
	})
}

// TestScansCatchARunningFollower lets subscriptions begin at the log's start
// while records come as fast as they can: in real time, for in a bubble no scan
// is ever late.
func TestScansCatchARunningFollower(t *testing.T) {
	k := newTestKafka(t, 1, 1, func(cfg *Config) { cfg.Logger, cfg.Linger = nil, -1 })
	q := k.producer().Queue(testTopic, 0)
	tail := k.reader().Tail(k.topic, 0)
	const n, subs = 400, 25
	written := make(chan struct{})
	go func() {
		defer close(written)
		for seq := range uint64(n) {
			put(q, 1, seq+1, 20<<10)
			if err := q.Wait(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}()
	stayed := newSink()
	tail.Subscribe(sessionID(1), 0, stayed)
	for i := range subs {
		stayed.await(t, "the next subscription's moment", func() bool { return len(stayed.seqs) >= i*n/subs })
		s, brief := newSink(), newSink()
		sub := tail.Subscribe(sessionID(1), 0, brief)
		kept := tail.Subscribe(sessionID(1), 0, s)
		sub.Cancel()
		defer kept.Cancel()
		defer s.wantSeqs(t, fmt.Sprintf("subscription %d", i), 1, n)
	}
	<-written
	stayed.wantSeqs(t, "the first", 1, n)
}

// A mergeSession is what the property below expects of one session.
type mergeSession struct {
	id      byte
	written []int64 // offsets of its records, in order
	subs    []*mergeSub
}

// A mergeSub is a subscription with a sink that refuses now and then.
type mergeSub struct {
	*testSink
	sub  *Subscription
	from int64
	gone bool
}

// TestEachSubscriptionSeesExactlyItsRecords lets subscriptions come, park,
// resume and go while records are written, leaders move and brokers fail, and
// compares what each saw with what was written.
func TestEachSubscriptionSeesExactlyItsRecords(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		steps := rapid.SliceOfN(rapid.IntRange(0, 99), 20, 120).Draw(rt, "steps")
		sessions := rapid.IntRange(1, 5).Draw(rt, "sessions")
		synctest.Test(t, func(t *testing.T) { mergeStory(t, seed, steps, sessions) })
	})
}

func mergeStory(t *testing.T, seed uint64, steps []int, n int) {
	k := newTestKafka(t, 2, 1, func(cfg *Config) { cfg.Logger = nil })
	q := k.producer().Queue(testTopic, 0)
	tail := k.reader().Tail(k.topic, 0)
	rnd := seed
	random := func(n int) int { // splitmix64
		rnd += 0x9e3779b97f4a7c15
		z := rnd
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		return int((z ^ z>>31) % uint64(n))
	}
	all := make([]*mergeSession, n)
	for i := range all {
		all[i] = &mergeSession{id: byte(i + 1)}
	}
	end := int64(0)
	write := func(s *mergeSession, count int) {
		for range count {
			s.written = append(s.written, end)
			end++
		}
		if got := k.fill(q, s.id, uint64(len(s.written)-count+1), count); got != end {
			t.Fatalf("the log ends at %d, want %d", got, end)
		}
	}
	for _, step := range steps {
		s := all[random(n)]
		switch {
		case step < 35:
			write(s, 1+random(5))
		case step < 38:
			write(s, 200)
		case step < 60:
			m := &mergeSub{testSink: newSink(), from: int64(random(int(end) + 1))}
			if random(2) == 0 {
				m.room = 1 + random(4)
			}
			m.sub = tail.Subscribe(sessionID(s.id), m.from, m)
			s.subs = append(s.subs, m)
		case step < 80 && len(s.subs) > 0:
			m := s.subs[random(len(s.subs))]
			m.mu.Lock()
			full := m.parked
			m.mu.Unlock()
			if room := 2 + random(30); full && !m.gone {
				from, _ := m.unpark(room)
				m.sub.Resume(from)
			}
		case step < 84 && len(s.subs) > 0:
			m := s.subs[random(len(s.subs))]
			m.sub.Cancel()
			m.gone = true
		case step < 87:
			if err := k.cluster.MoveTopicPartition(testTopic, 0, int32(random(2))); err != nil {
				t.Fatal(err)
			}
		case step < 90:
			k.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Err: kerr.NotLeaderForPartition, Count: 1 + random(2)})
		default:
			time.Sleep(time.Duration(random(400)) * time.Millisecond)
		}
	}
	time.Sleep(2 * time.Second)
	for _, s := range all {
		for i, m := range s.subs {
			m.wantMerged(t, fmt.Sprintf("session %d, subscription %d", s.id, i), s.written)
			if m.gone {
				continue
			}
			if from, parked := m.unpark(0); parked {
				m.sub.Resume(from)
			}
		}
	}
	time.Sleep(5 * time.Second)
	for _, s := range all {
		for i, m := range s.subs {
			what := fmt.Sprintf("session %d, subscription %d, at the end", s.id, i)
			m.wantMerged(t, what, s.written)
			if !m.gone && (m.next != end && m.from != end) {
				t.Errorf("%s: told %d, the log ends at %d", what, m.next, end)
			}
		}
	}
}

// wantMerged checks that the sink saw its session's records from its first
// offset on, each once, in order, up to where it took them.
func (m *mergeSub) wantMerged(t *testing.T, what string, written []int64) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	var want []int64
	for _, offset := range written {
		if offset >= m.from {
			want = append(want, offset)
		}
	}
	if m.err != nil {
		t.Errorf("%s: failed: %v", what, m.err)
	}
	for i, offset := range m.offsets {
		if i >= len(want) || offset != want[i] {
			t.Fatalf("%s from %d: saw %v, want %v", what, m.from, m.offsets, want)
		}
	}
	if len(m.offsets) < len(want) && !m.gone && m.room != 1 {
		t.Fatalf("%s from %d: saw %d records, want %d", what, m.from, len(m.offsets), len(want))
	}
}

// BenchmarkForeignRecord passes blocks of records through the real handler of
// a followed tail; 1 of 1,000 is ours.
func BenchmarkForeignRecord(b *testing.B) {
	tail := &Tail{r: &Reader{}, subs: make(map[envelope.SessionID]*Subscription), live: new(feed)}
	tail.told = time.Now().Add(time.Hour)
	sink := discardSink{}
	sub := &Subscription{t: tail, id: sessionID(1), sink: sink, state: live}
	tail.subs[sub.id] = sub
	blk := benchBlock(1000, 256)
	side := liveSide{tail, 0}
	b.ReportAllocs()
	for b.Loop() {
		side.take(blk)
		sub.next.Store(0)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/record")
}

type discardSink struct{}

func (discardSink) Record(int64, []byte) bool { return true }
func (discardSink) Advanced(int64)            {}
func (discardSink) Failed(error)              {}
