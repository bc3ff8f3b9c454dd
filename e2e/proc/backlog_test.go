package proc_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/e2e/rig"
)

// All gateways are gone while the controller goes on. What waits in Kafka then
// comes through a gateway that has never seen these sessions.
func TestAFreshGatewayReplaysABacklog(t *testing.T) {
	t.Parallel()
	f := newSingle(t)
	first := f.gateway(rig.FreeAddress(t))
	l := f.newLoad(first.place)
	talks := l.openAll(24)
	l.exchange(talks, 20)

	first.Kill()
	const backlog = 3000 // 750 KiB each: within the windows, so all of it is sent into the void
	for _, k := range talks {
		k.ends[check.Controller].sendNow(backlog)
	}
	for _, k := range talks {
		rig.Must(t, k.ctl.Flush(t.Context()))
	}
	begin := time.Now()
	fresh := f.gateway(first.place)
	l.wantAll(talks, 60*time.Second)
	t.Logf("%d messages replayed within %v of the fresh gateway's start", backlog*len(talks), time.Since(begin).Round(time.Millisecond))
	if n := bytes.Count(fresh.Said(), []byte(`"how":"kafka"`)); n < len(talks) {
		t.Errorf("%d sessions were replayed from Kafka, want %d", n, len(talks))
	}
	l.exchange(talks, 20)
	l.wantClean(talks)
}

// A session says nothing for longer than records are kept: everything older
// than what heartbeats have passed is removed from its partitions. It lost
// nothing, so a gateway that has never seen it must take it on.
func TestAnIdleSessionOutlivesRetention(t *testing.T) {
	t.Parallel()
	f := newSingle(t)
	first := f.gateway(rig.FreeAddress(t))
	l := f.newLoad(first.place)
	talks := l.openAll(4)
	l.exchange(talks, 50)

	k := f.dialKafka()
	ends := k.ends("up", "down")
	rig.Pass(t, 12*time.Second) // two heartbeats, which carry the positions beyond these ends
	k.removeBelow(ends)
	first.Kill()
	fresh := f.gateway(first.place)
	l.exchange(talks, 50)
	if n := bytes.Count(fresh.Said(), []byte(`"msg":"attach"`)); n < len(talks) {
		t.Errorf("%d sessions came to the fresh gateway, want %d", n, len(talks))
	}
	l.wantClean(talks)
}

// kafkaClient looks at and prunes a fleet's topics.
type kafkaClient struct {
	*bridge.Client
	f *fleet
}

func (f *fleet) dialKafka() kafkaClient {
	f.t.Helper()
	c, err := bridge.Dial(f.t.Context(), f.bridge())
	rig.Must(f.t, err)
	f.t.Cleanup(func() { _ = c.Close() }) // nothing is written through it
	return kafkaClient{c, f}
}

// A place is a partition of one of the fleet's topics.
type place struct {
	topic     string
	partition int32
}

// ends are where the next records of topics will stand.
func (k kafkaClient) ends(topics ...string) map[place]int64 {
	k.f.t.Helper()
	ends := map[place]int64{}
	for _, topic := range topics {
		for p := range int32(partitions) {
			_, next, err := k.Bounds(k.f.t.Context(), k.f.topic(topic), p)
			rig.Must(k.f.t, err)
			ends[place{k.f.topic(topic), p}] = next
		}
	}
	return ends
}

// removeBelow does what retention does, without its five minutes' wait.
func (k kafkaClient) removeBelow(ends map[place]int64) {
	k.f.t.Helper()
	for at, before := range ends {
		rig.Must(k.f.t, k.DeleteRecords(k.f.t.Context(), at.topic, at.partition, before))
	}
}
