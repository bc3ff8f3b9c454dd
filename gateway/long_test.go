package gateway

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"google.golang.org/grpc/codes"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

// What shows only after minutes: things kept for too short a time, and things
// that pile up.

func TestLoneAgentComesBackAfterLong(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		a := r.agent("a1").open(g)
		a.alive()
		for began := time.Now(); time.Since(began) < 2*controllerIdle; {
			a.heard(a.next().GetHeartbeat())
		}
		a.drop()
		a.want("hint", envelope.Detached)
		time.Sleep(3 * time.Second)
		a.attach(g)
	})
}

func TestControllerIsForgottenWhenNobodyIsLeft(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		known := func() int {
			g.mu.Lock()
			defer g.mu.Unlock()
			return len(g.controllers)
		}
		a := r.agent("a1").open(g)
		a.alive()
		time.Sleep(2 * controllerIdle)
		if known() != 1 {
			t.Fatal("the controller of an attached session is not followed")
		}
		a.drop()
		time.Sleep(controllerIdle + g.cfg.Linger + 5*time.Second)
		if n := known(); n != 0 {
			t.Errorf("%d controllers followed, long after the last agent left", n)
		}
	})
}

func TestForgottenControllerIsNotStalled(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		a := r.agent("a1").open(g)
		f := r.kafka.TopicStalled(r.names.Up)
		a.frame(envelope.Data, []byte("waits"))
		time.Sleep(10 * time.Second)
		stalled := func() float64 {
			var m dto.Metric
			if err := g.metrics.stalled.Write(&m); err != nil {
				t.Error(err)
			}
			return m.GetGauge().GetValue()
		}
		if stalled() != 1 {
			t.Errorf("%v partitions stalled, want 1", stalled())
		}
		a.drop()
		time.Sleep(2*controllerIdle + g.cfg.Linger)
		f.Remove()
		time.Sleep(10 * time.Second)
		if stalled() != 0 {
			t.Errorf("%v partitions stalled, and none is followed", stalled())
		}
	})
}

// An up partition takes nothing, while all else of Kafka works: no lease gets
// through, and the controller side knows from the heartbeats that this proves
// nothing.
func TestGraceStandsWhileAnUpPartitionDoes(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		c := r.realController(time.Minute)
		defer c.Close(context.Background())
		l, far := r.pair(g, c)
		f := r.kafka.TopicStalled(r.client.Topics("real").Up)
		time.Sleep(15 * time.Minute)
		if err := far.Err(); err != nil {
			t.Fatalf("the controller side gave the session up: %v", err)
		}
		f.Remove()
		time.Sleep(time.Minute)
		if far.Err() != nil || l.Err() != nil {
			t.Fatalf("ended afterwards: %v, %v", far.Err(), l.Err())
		}
		g.stop(func() { g.Kill() })
		select {
		case <-far.Done():
		case <-time.After(2 * time.Minute):
			t.Error("held for a gateway that is dead")
		}
	})
}

func TestControllerThatNeverBeatIsForgotten(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		if err := r.client.CreateTopics(context.Background(), "quiet", bridge.TopicSpec{Partitions: 1, SingleBroker: true, AllowSmall: true}); err != nil {
			t.Fatal(err)
		}
		a := r.agent("a1")
		a.hello.Controller = "quiet"
		a.dial(g)
		a.wantEnd(codes.Unavailable)
		time.Sleep(controllerIdle + 10*time.Second)
		g.mu.Lock()
		defer g.mu.Unlock()
		if n := len(g.controllers); n != 0 {
			t.Errorf("%d controllers followed; it never said anything and nobody asks", n)
		}
	})
}

// queued returns how many bytes wait for Kafka in the up partition.
func (g *gate) queued() int {
	n := 0
	for _, q := range g.k.(*cluster).records.Stats() {
		n += q.Queued
	}
	return n
}

func TestLongOutagePilesNothingUp(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		a := r.agent("a1").open(g)
		a.alive()
		flapping := r.agent("a2").open(g)
		flapping.drop()
		flapping.want("hint", envelope.Detached)
		f := r.kafka.ProduceFailed(-1)
		for began := time.Now(); time.Since(began) < 10*time.Minute; {
			flapping.dial(g)
			time.Sleep(5 * time.Second)
			flapping.drop()
		}
		if n := g.queued(); n > 2<<10 {
			t.Errorf("%d bytes wait for Kafka after 10 min, for two sessions that say nothing", n)
		}
		f.Remove()
		time.Sleep(5 * time.Second)
		a.heartbeat(&linkv1.Heartbeat{Probe: true})
		a.want("its stream lives", envelope.Probe)
		for len(flapping.ups) > 0 {
			<-flapping.ups
		}
		flapping.attach(g)
	})
}

func TestProbesWaitForRoom(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(func(cfg *Config) { cfg.QueueBytes = 4 << 10 })
		defer g.shut()
		a := r.agent("a1").open(g)
		f := r.kafka.ProduceFailed(-1)
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			for range 1000 {
				a.heartbeat(&linkv1.Heartbeat{Probe: true})
			}
		}()
		time.Sleep(4 * time.Second) // the breaker is not open yet
		if n := g.queued(); n > 8<<10 {
			t.Errorf("%d bytes are queued, at a bound of 4 KiB", n)
		}
		f.Remove()
		<-sent
		a.want("probes come", envelope.Probe)
	})
}

func TestForbiddenReadingIsNotDataLoss(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		elsewhere := r.gateway(func(cfg *Config) { cfg.Name = "elsewhere" })
		defer elsewhere.shut()
		a := r.agent("a1").open(g)
		a.alive()
		f := r.kafka.Cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: r.names.Down, Err: kerr.TopicAuthorizationFailed, Count: 1})
		a.wantEnd(codes.Canceled)
		if f.Hits() == 0 {
			t.Fatal("nothing was forbidden")
		}
		a.want("no gap is reported, for there is none", envelope.Detached)
		a.attach(elsewhere)
		a.say(envelope.Accept, 1, "")
		a.wantFrame("the log has it all", envelope.Accept, "")
	})
}

func TestTicketOutlivesGrace(t *testing.T) {
	story(t, func(r *rig) {
		r.silence()
		r.grace = 90 * time.Minute
		r.live()
		g := r.gateway(nil)
		defer g.shut()
		a := r.agent("a1").open(g)
		a.drop()
		a.want("hint", envelope.Detached)
		time.Sleep(89 * time.Minute)
		a.attach(g)
	})
}

func TestTwinIsNoticed(t *testing.T) {
	story(t, func(r *rig) {
		var said recorder
		quiet := func(cfg *Config) { cfg.Logger = slog.New(slog.NewTextHandler(&said, nil)) }
		g := r.gateway(quiet)
		time.Sleep(3 * time.Second)
		g.shut()
		g = r.gateway(quiet) // the next of the name, not a twin
		defer g.shut()
		time.Sleep(20 * time.Second)
		if s := said.String(); strings.Contains(s, "same name") {
			t.Errorf("a restarted gateway takes its former self for another: %s", s)
		}
		twin := r.gateway(nil)
		defer twin.shut()
		time.Sleep(20 * time.Second)
		if n := strings.Count(said.String(), "same name"); n == 0 || n > 3 {
			t.Errorf("%d warnings of a twin in 20 s, want one or two: %s", n, said.String())
		}
	})
}

func TestDeletedMetaTopicIsNotAskedForForEver(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		a := r.agent("a1").open(g)
		a.drop()
		a.want("hint", envelope.Detached)
		r.silence()
		if err := r.kafka.Cluster.DeleteTopic(r.names.Meta); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2*controllerIdle + 30*time.Second)
		g.mu.Lock()
		n := len(g.controllers)
		g.mu.Unlock()
		if n != 0 {
			t.Fatalf("%d controllers followed", n)
		}
		asked := 0
		r.kafka.Cluster.ControlKey(int16(kmsg.Metadata), func(req kmsg.Request) (kmsg.Response, error, bool) {
			r.kafka.Cluster.KeepControl()
			for _, topic := range req.(*kmsg.MetadataRequest).Topics {
				if topic.Topic != nil && *topic.Topic == r.names.Meta {
					asked++
				}
			}
			return nil, nil, false
		})
		time.Sleep(time.Minute)
		if asked > 0 {
			t.Errorf("the topic was asked for %d times in a minute, for nobody", asked)
		}
	})
}

// A recorder keeps what is logged.
type recorder struct {
	mu   sync.Mutex
	said bytes.Buffer
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.said.Write(p)
}

func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.said.String()
}
