package proc_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/controller"
	"github.com/moorage-dev/moorage/e2e/rig"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

// toldWithin is the "within seconds" in which both ends must know.
const toldWithin = 10 * time.Second

// Frames were sent while no gateway was there, and retention removed them
// before one came back. They can't be had again, and both ends are told so.
func TestRetentionDuringAnOutageIsToldAtBothEnds(t *testing.T) {
	t.Parallel()
	o := newOutage(t)
	for _, k := range o.talks {
		k.ends[check.Controller].sendNow(10)
		rig.Must(t, k.ctl.Flush(t.Context()))
	}
	k := o.f.dialKafka()
	k.removeBelow(k.ends("down"))
	o.wantDataLoss()
	if err := o.l.c.Err(); err != nil {
		t.Errorf("the controller stopped: %v", err)
	}
}

// A topic was removed and created again while no gateway was there. Offsets
// mean nothing any more: sessions end, at both ends, and the controller's
// process stops, so that a new one binds to the new topics.
func TestATopicCreatedAgainIsToldAtBothEnds(t *testing.T) {
	t.Parallel()
	for _, topics := range [][]string{{"down"}, {"up"}, {"up", "down"}} {
		t.Run(strings.Join(topics, " and "), func(t *testing.T) {
			t.Parallel()
			o := newOutage(t)
			o.f.recreate(topics...)
			o.wantDataLoss()
			select {
			case <-o.l.c.Done():
				if err := o.l.c.Err(); !errors.Is(err, controller.ErrTopicChanged) {
					t.Errorf("the controller stopped with %v, want %v", err, controller.ErrTopicChanged)
				}
			case <-time.After(toldWithin):
				t.Error("the controller goes on")
			}
		})
	}
}

// An outage is some sessions that were alive, and no gateway.
type outage struct {
	f     *fleet
	l     *load
	talks []*talk
	place string
}

func newOutage(t *testing.T) *outage {
	t.Helper()
	o := &outage{f: newSingle(t)}
	g := o.f.gateway(rig.FreeAddress(t))
	o.place = g.place
	o.l = o.f.newLoad(g.place)
	o.talks = o.l.openAll(4)
	o.l.exchange(o.talks, 10)
	for _, k := range o.talks {
		o.l.check.Expect(k.id, session.ReasonName(linkv1.Reason_REASON_DATA_LOSS))
	}
	g.Kill()
	return o
}

// wantDataLoss ends the outage, and wants every session to end with DATA_LOSS.
func (o *outage) wantDataLoss() {
	t := o.f.t
	t.Helper()
	o.f.gateway(o.place)
	back := time.Now()
	for _, k := range o.talks {
		for _, e := range k.ends {
			select {
			case <-e.conn.Done():
			case <-time.After(time.Until(back.Add(toldWithin))):
				t.Errorf("session %s: the %v knows nothing %v after the return", k.id, e.side, time.Since(back).Round(time.Millisecond))
				continue
			}
			ended, ok := errors.AsType[*session.EndedError](e.conn.Err())
			if !ok || ended.Reason != linkv1.Reason_REASON_DATA_LOSS {
				t.Errorf("session %s: the %v was told %v, want DATA_LOSS", k.id, e.side, e.conn.Err())
			}
		}
	}
	t.Logf("both ends of %d sessions knew within %v of the return", len(o.talks), time.Since(back).Round(time.Millisecond))
	if t.Failed() {
		for _, k := range o.talks {
			_ = k.agent.Close() // ends what would wait for grace
			_ = k.ctl.Close()
		}
		return
	}
	o.l.wantEnds(o.talks)
}

// recreate removes topics of the fleet and makes them again.
func (f *fleet) recreate(topics ...string) {
	t := f.t
	t.Helper()
	admin := newAdmin(t, oneKafka.start(t))
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.TimeoutMillis = 10_000
	for _, topic := range topics {
		rt := kmsg.NewDeleteTopicsRequestTopic()
		rt.Topic = new(f.topic(topic))
		req.Topics = append(req.Topics, rt)
		req.TopicNames = append(req.TopicNames, f.topic(topic))
	}
	resp, err := req.RequestWith(t.Context(), admin)
	rig.Must(t, err)
	for _, r := range resp.Topics {
		rig.Must(t, kerr.ErrorForCode(r.ErrorCode))
	}
	rig.Output(t, f.program, "topics", "create", "--kafka", f.kafka, "--controller", f.controller, "--single-broker")
}
