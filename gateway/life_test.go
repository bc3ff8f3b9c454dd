package gateway

import (
	"bytes"
	"context"
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	logv1 "github.com/moorage-dev/moorage/proto/moorage/log/v1"
	"github.com/moorage-dev/moorage/session"
)

func TestNewerControllerEndsOlderSessions(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		a := r.agent("a1").open(g)
		away := r.agent("a2").open(g)
		away.drop()
		away.want("hint", envelope.Detached)
		r.silence()
		r.live()
		c := a.wantClose(linkv1.Reason_REASON_CONTROLLER_GONE)
		if inc, _ := session.ParseIncarnation(c.GetIncarnation()); inc != r.inc {
			t.Errorf("told by %v, want the newer incarnation %v", inc, r.inc)
		}
		away.dial(g)
		away.wantClose(linkv1.Reason_REASON_CONTROLLER_GONE)
		r.agent("a3").open(g)
	})
}

// A gateway that reads the meta topic for the first time meets beats of older
// incarnations. None of them may bind a session, however slowly they come.
func TestFirstLookFindsTheNewestIncarnation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &takenOver{newVoid()}
		cfg, err := Config{Name: "gw", Insecure: true, Logger: slog.New(slog.DiscardHandler)}.resolve()
		if err != nil {
			t.Fatal(err)
		}
		defer time.Sleep(2 * time.Second) // until the last record has come
		g := start(cfg, v)
		defer g.Close()
		_, view, err := g.find(t.Context(), "test")
		if err != nil || view.incarnation.Offset != 1 {
			t.Errorf("found incarnation %v, %v; want the one of offset 1", view.incarnation, err)
		}
	})
}

// A takenOver is a void whose controller was taken over: its meta topic's two
// records come a second apart.
type takenOver struct{ *void }

func (v *takenOver) Bounds(context.Context, string, int32) (int64, int64, error) { return 0, 2, nil }
func (v *takenOver) Follow(_ bridge.Topic, _ int32, _ int64, h func(bridge.Message), _ func(error)) follower {
	f := new(slowFollower)
	go v.void.Follow(bridge.Topic{}, 0, 0, func(m bridge.Message) {
		for offset := range int64(2) {
			m.Offset = offset
			h(m)
			f.next.Store(offset + 1)
			time.Sleep(time.Second)
		}
	}, nil)
	return f
}

type slowFollower struct{ next atomic.Int64 }

func (f *slowFollower) Next() int64 { return f.next.Load() }
func (f *slowFollower) Stop()       {}

func TestStaleViewLetsNewerSessionsIn(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		a := r.agent("a1").open(g)
		a.drop()
		a.want("hint", envelope.Detached)
		// Another gateway has seen an incarnation that this one has not.
		newer := r.inc
		newer.Offset += 1000
		a.hello.Incarnation = session.IncarnationMessage(newer)
		a.hello.Ticket = g.cfg.Keys.ticket(&claim{a.id, "a1", "test", 0, newer}, time.Now())
		a.attach(g)
	})
}

// The meta topic was created again, a new process of the controller lives in
// it, and this gateway has not noticed: it must not take its own heartbeat for
// the newer one.
func TestStaleViewOfAnotherMetaTopic(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		old := r.agent("a0").open(g)
		old.drop()
		old.want("hint", envelope.Detached)
		r.silence()
		if err := r.kafka.Cluster.DeleteTopic(r.names.Meta); err != nil {
			t.Fatal(err)
		}
		if err := r.kafka.Cluster.CreateTopic(r.names.Meta, 1, nil); err != nil {
			t.Fatal(err)
		}
		r.meta = r.topic(r.names.Meta)
		var err error
		if r.producer, err = r.client.NewProducer(); err != nil {
			t.Fatal(err)
		}
		r.live()
		a := r.agent("a1")
		a.hello.StartPosition, a.hello.Position = old.hello.StartPosition, old.hello.Position
		a.hello.Incarnation = session.IncarnationMessage(r.inc)
		a.hello.Ticket = g.cfg.Keys.ticket(&claim{a.id, "a1", "test", 0, r.inc}, time.Now())
		a.attach(g)
		a.alive()
		time.Sleep(20 * time.Second) // now it has noticed
		a.heartbeat(&linkv1.Heartbeat{Probe: true})
		a.want("the session goes on", envelope.Probe)
		old.dial(g)
		old.wantClose(linkv1.Reason_REASON_CONTROLLER_GONE)
		r.agent("a2").open(g)
	})
}

func TestSilentControllerIsGoneAfterItsGrace(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		a := r.agent("a1").open(g)
		a.alive()
		r.silence()
		began := time.Now()
		time.Sleep(20 * time.Second)
		b := r.agent("a2")
		b.dial(g)
		b.wantEnd(codes.Unavailable)
		a.wantClose(linkv1.Reason_REASON_CONTROLLER_GONE)
		if took := time.Since(began); took < 60*time.Second || took > 90*time.Second {
			t.Errorf("gone after %v of silence, want a little more than its grace of 60 s", took)
		}
	})
}

// The controller's heartbeats reach the gateways topic and not its own, say
// because that one's leader lacks a replica: it lives.
func TestControllerThatBeatsElsewhereIsNotGone(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		a := r.agent("a1").open(g)
		a.alive()
		r.silence()
		for range 120 {
			r.send(r.client.GatewaysTopic(), "controller/test", &logv1.GatewayHeartbeat{Name: "test", Boot: r.beat, Controller: true})
			time.Sleep(time.Second)
		}
		a.heartbeat(&linkv1.Heartbeat{Probe: true})
		a.want("the session goes on", envelope.Probe)
		r.agent("a2").open(g)
		for range 90 { // another process of its name proves nothing
			r.send(r.client.GatewaysTopic(), "controller/test", &logv1.GatewayHeartbeat{Name: "test", Boot: r.beat + 1, Controller: true})
			time.Sleep(time.Second)
		}
		a.wantClose(linkv1.Reason_REASON_CONTROLLER_GONE)
	})
}

func TestKafkaOutageEndsNobody(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		a := r.agent("a1").open(g)
		a.alive()
		f := r.kafka.ProduceFailed(-1)
		time.Sleep(10 * time.Second)

		a.frame(envelope.Data, []byte("waits"))
		b := r.agent("a2")
		b.dial(g)
		if st := b.wantEnd(codes.Unavailable); len(st.Details()) != 1 {
			t.Errorf("no time to come again in %v", st)
		}
		if why := g.unready(); why == "" {
			t.Error("ready without Kafka")
		}
		time.Sleep(80 * time.Second)
		f.Remove()
		a.want("the frame of the outage", envelope.Data)
		a.wantPersisted(2)
		time.Sleep(5 * time.Second)
		r.agent("a3").open(g)
		if why := g.unready(); why != "" {
			t.Errorf("not ready: %s", why)
		}
	})
}

// An agent side that has read of its session's end drops the stream. That is
// no broken link, and whoever watches these must not be woken by it.
func TestEndInGoodOrderIsNotCountedAsBroken(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		a := r.agent("a1").open(g)
		a.say(envelope.Accept, 1, "")
		a.wantFrame("ACCEPT", envelope.Accept, "")
		a.say(envelope.Close, 2, "")
		a.wantFrame("CLOSE", envelope.Close, "")
		a.drop()
		b := r.agent("a2").open(g)
		b.drop()
		time.Sleep(time.Second)
		if over, broken := counted(g.metrics.ended, "over"), counted(g.metrics.ended, "broken"); over != 1 || broken != 1 {
			t.Errorf("%v streams over, %v broken; want one each", over, broken)
		}
	})
}

func TestEndedReachesTheAgent(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		a := r.agent("a1").open(g)
		a.say(envelope.Ended, 0, string(session.MarshalEnding(session.Ending{Reason: linkv1.Reason_REASON_UNKNOWN_SESSION})))
		a.wantClose(linkv1.Reason_REASON_UNKNOWN_SESSION)
		a.wantNothingUp("no DETACHED for what is over")
	})
}

func TestGapIsDataLoss(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		a := r.agent("a1").open(g)
		a.say(envelope.Data, 3, "two is missing", func(rec *envelope.Record) { rec.Stable = 2 })
		if rec := a.want("the gap is reported", envelope.Lost); rec.Attempt != 1 {
			t.Errorf("attempt %d", rec.Attempt)
		}
		a.wantClose(linkv1.Reason_REASON_DATA_LOSS)
	})
}

func TestRetentionPassedIsDataLoss(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		a := r.agent("a1").open(g)
		a.drop()
		a.want("hint", envelope.Detached)
		g.shut()
		a.say(envelope.Accept, 1, "")
		r.foreign(1)
		if err := r.client.DeleteRecords(context.Background(), r.names.Down, 0, 2); err != nil {
			t.Fatal(err)
		}
		g = r.gateway(nil)
		defer g.shut()
		a.attach(g)
		a.want("the gap is reported", envelope.Lost)
		a.wantClose(linkv1.Reason_REASON_DATA_LOSS)
	})
}

func TestForeignTopicIsDataLoss(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		a := r.agent("a1").open(g)
		a.drop()
		a.want("hint", envelope.Detached)
		old := make([]byte, 16)
		old[3] = 7
		a.hello.StartPosition.TopicId, a.hello.Position.TopicId = old, old
		a.attach(g)
		a.want("the gap is reported", envelope.Lost)
		a.wantClose(linkv1.Reason_REASON_DATA_LOSS)
	})
}

// A session that would open in a log that is gone waits for one that is there.
func TestNothingOpensInALogThatIsGone(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		if err := r.kafka.Cluster.DeleteTopic(r.names.Down); err != nil {
			t.Fatal(err)
		}
		if err := r.kafka.Cluster.CreateTopic(r.names.Down, 1, nil); err != nil {
			t.Fatal(err)
		}
		a := r.agent("a1")
		a.dial(g)
		a.wantEnd(codes.Unavailable)
	})
}

// flood writes ACCEPT and n-1 frames of data down, and does not wait.
func (a *agent) flood(n int, data string) {
	for i := range n {
		rec := a.record(envelope.Data, uint64(i+1), data)
		if i == 0 {
			rec.Kind = envelope.Accept
		}
		a.producer.Queue(a.names.Down, 0).Put(a.id, rec, func(int64, error) {})
	}
}

func (a *agent) wantFlood(n int, data string) {
	a.Helper()
	a.wantFrame("accept", envelope.Accept, "")
	for range n - 1 {
		a.wantFrame("all of it comes, in order", envelope.Data, data)
	}
}

func TestSlowAgentIsReadAgainFromKafka(t *testing.T) {
	for desc, cache := range map[string]int{"a cache smaller than a frame's share": 32 << 10, "a small cache": 256 << 10, "an ample cache": 64 << 20} {
		t.Run(desc, func(t *testing.T) {
			story(t, func(r *rig) {
				g := r.gateway(func(cfg *Config) { cfg.CacheBytes = cache })
				defer g.shut()
				big := strings.Repeat("x", 32<<10)
				a := r.agent("slow")
				a.gate = make(chan struct{})
				a.attach(g)
				a.alive()
				a.flood(40, big)
				other := r.agent("quick").open(g)
				other.say(envelope.Accept, 1, "")
				other.wantFrame("a slow agent disturbs no other", envelope.Accept, "")
				time.Sleep(30 * time.Second)
				if n, most := g.cache.Bytes(), min(cache, maxLag+1<<20); n > most {
					t.Errorf("the cache holds %d bytes, want at most %d", n, most)
				}
				close(a.gate)
				a.wantFlood(40, big)
			})
		})
	}
}

func TestIdleSessionNeedsNoPlaceInTheCache(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(func(cfg *Config) { cfg.CacheBytes = 2 << 10 }) // a few empty tails
		defer g.shut()
		var idle []*agent
		for range 20 {
			a := r.agent("idle").open(g)
			a.alive()
			idle = append(idle, a)
		}
		r.foreign(10)
		time.Sleep(5 * time.Second)
		for _, a := range idle {
			a.say(envelope.Accept, 1, "")
			a.wantFrame("first after a while", envelope.Accept, "")
		}
		var m dto.Metric
		if err := g.metrics.reread.Write(&m); err != nil || m.GetCounter().GetValue() > 0 {
			t.Errorf("%v of 20 were read again from Kafka, %v", m.GetCounter().GetValue(), err)
		}
	})
}

func TestNewerStreamPassesAStuckOne(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		big := strings.Repeat("x", 32<<10)
		stuck := r.agent("stuck")
		stuck.gate = make(chan struct{})
		stuck.attach(g)
		stuck.flood(100, big)
		time.Sleep(time.Second)
		began := time.Now()
		a := *stuck
		a.gate = nil
		a.attach(g)
		a.wantFlood(100, big)
		if took := time.Since(began); took > time.Second {
			t.Errorf("the newer stream waited %v for the older one", took)
		}
		close(stuck.gate)
		stuck.wantCut("taken-over")
	})
}

func TestFullQueueStopsTheAgent(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(func(cfg *Config) { cfg.QueueBytes = 64 << 10 })
		defer g.shut()
		a := r.agent("a1").open(g)
		f := r.kafka.ProduceFailed(-1)
		big := []byte(strings.Repeat("x", 16<<10))
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			for range 100 {
				a.frame(envelope.Data, big)
			}
		}()
		time.Sleep(4 * time.Second)
		if n := g.inFlight.Load(); n > 10 {
			t.Errorf("%d records of 16 KiB are queued, at a bound of 64 KiB", n)
		}
		paused := false
		for began := time.Now(); time.Since(began) < time.Minute; {
			h := a.next().GetHeartbeat()
			if h == nil {
				t.Fatalf("an agent that is not read is not dead: %v", a.why())
			}
			paused = paused || h.GetPaused()
		}
		if !paused {
			t.Error("it is not told that it is not read")
		}
		f.Remove()
		for i := range 100 {
			if rec := a.want("all of it comes", envelope.Data); rec.Seq != uint64(i+2) {
				t.Fatalf("frame %d, want %d", rec.Seq, i+2)
			}
		}
		<-sent
	})
}

func TestCorruptRecordIsPassedOver(t *testing.T) {
	story(t, func(r *rig) {
		var log bytes.Buffer
		g := r.gateway(func(cfg *Config) { cfg.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		a := r.agent("a1").open(g)
		time.Sleep(time.Second)
		broken := envelope.Append(nil, a.record(envelope.Accept, 1, "accept"))
		broken[len(broken)-1] ^= 1
		r.written(func(done func(int64, error)) { r.producer.Send(r.names.Down, 0, nil, broken, done) })
		r.written(func(done func(int64, error)) { r.producer.Send(r.names.Down, 0, nil, []byte("not ours"), done) })
		a.say(envelope.Accept, 1, "")
		a.wantFrame("the next that is whole", envelope.Accept, "")
		// In the topics of processes, too.
		for _, topic := range []string{r.names.Meta, r.client.GatewaysTopic()} {
			r.written(func(done func(int64, error)) {
				r.producer.Send(topic, 0, []byte("heartbeat"), []byte("\xff\xff"), done)
			})
		}
		r.send(r.names.Meta, "heartbeat", &logv1.ControllerHeartbeat{Partitions: 3})
		time.Sleep(2 * time.Second)
		r.agent("a2").open(g)
		var m dto.Metric
		if err := g.metrics.corrupt.Write(&m); err != nil || m.GetCounter().GetValue() != 4 {
			t.Errorf("%v corrupt records (%v), want 4", m.GetCounter().GetValue(), err)
		}
		if live, _ := g.k.Fetched(); live.Foreign != 1 {
			t.Errorf("%d foreign records, want 1", live.Foreign)
		}
		g.shut()
		if n := strings.Count(log.String(), "cannot be read"); n != 1 {
			t.Errorf("%d lines for a burst:\n%s", n, log.String())
		}
	})
}

func TestDrainMovesAgentsAndSaysDetached(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		var willing []*agent
		for range 30 {
			willing = append(willing, r.agent("w").open(g))
		}
		stubborn := r.agent("s").open(g)
		stubborn.alive()
		for _, a := range willing {
			go func() {
				for m := a.next(); m != nil; m = a.next() {
					if m.GetDrain() != nil {
						a.drop()
					}
				}
			}()
		}
		health := healthv1.NewHealthClient(g.conn)
		ctx := context.Background()
		if resp, err := health.Check(ctx, &healthv1.HealthCheckRequest{}); err != nil || resp.GetStatus() != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("health before: %v, %v", resp, err)
		}
		began := time.Now()
		drained := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
			defer cancel()
			drained <- g.Drain(ctx)
		}()
		time.Sleep(5 * time.Second)
		if n := g.sessions.Load(); n != 1 {
			t.Errorf("%d sessions are left, want the one that does not go", n)
		}
		late := r.agent("late")
		late.dial(g)
		late.wantEnd(codes.Unavailable)
		if resp, err := health.Check(ctx, &healthv1.HealthCheckRequest{}); err != nil || resp.GetStatus() != healthv1.HealthCheckResponse_NOT_SERVING {
			t.Errorf("health while draining: %v, %v", resp, err)
		}
		if err := <-drained; err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took < 19*time.Second || took > 25*time.Second {
			t.Errorf("drained in %v", took)
		}
		for _, a := range append(willing, stubborn) {
			a.want("hint", envelope.Detached)
		}
		g.shut()
	})
}

func TestDrainNamesOtherGateways(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		var others []*gate
		for _, name := range []string{"stays", "drains", "dead"} {
			other := r.gateway(func(cfg *Config) { cfg.Name, cfg.Advertise = name, name+":7443" })
			defer other.shut()
			others = append(others, other)
		}
		a := r.agent("a1").open(g)
		a.alive()
		time.Sleep(2 * time.Second)
		others[2].Kill()
		others[1].draining.Store(true)
		time.Sleep(10 * time.Second)
		go g.Drain(context.Background())
		for {
			if d := a.next().GetDrain(); d != nil {
				if got := d.GetReconnectTo(); len(got) != 1 || got[0] != "stays:7443" {
					t.Errorf("go to %v, want the one that stays", got)
				}
				break
			}
		}
		a.drop()
		<-g.served
		g.shut()
	})
}

func TestKillSaysNothing(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		a := r.agent("a1").open(g)
		g.Kill()
		a.wantEnd(codes.Unavailable)
		g.stop(g.Kill)
		a.wantNothingUp("as after SIGKILL")
	})
}

func TestFailedProduceEndsTheStream(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		a := r.agent("a1").open(g)
		a.frame(envelope.Data, []byte("taken"))
		a.want("data", envelope.Data)
		a.wantPersisted(2)
		r.kafka.Cluster.Fault(kfake.Fault{
			Keys: []kmsg.Key{kmsg.Produce}, Topic: r.names.Up, Partitions: []int32{0}, Err: kerr.TopicAuthorizationFailed, Count: 1,
		})
		a.frame(envelope.Data, []byte("refused"))
		a.wantCut("produce")
		a.want("hint", envelope.Detached)
		a.seq--
		a.attach(g)
		a.frame(envelope.Data, []byte("again"))
		if rec := a.want("comes again", envelope.Data); rec.Seq != 3 {
			t.Errorf("seq %d", rec.Seq)
		}
	})
}

func TestGatewayBeats(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(func(cfg *Config) { cfg.Advertise, cfg.Version = "gw.example:7443", "v1" })
		defer g.shut()
		r.agent("a1").open(g)
		beats := make(chan *logv1.GatewayHeartbeat, 100)
		f := r.reader.Follow(r.topic(r.client.GatewaysTopic()), 0, 0, func(m bridge.Message) {
			var beat logv1.GatewayHeartbeat
			if err := proto.Unmarshal(m.Value, &beat); err != nil || string(m.Key) != "gw" {
				t.Errorf("beat %q: %v", m.Key, err)
			}
			beats <- &beat
		}, func(error) {})
		defer f.Stop()
		time.Sleep(10*time.Second + time.Millisecond)
		if n := len(beats); n < 10 || n > 12 {
			t.Errorf("%d beats in 10 s", n)
		}
		var last *logv1.GatewayHeartbeat
		for len(beats) > 0 {
			last = <-beats
		}
		if last.GetBoot() != g.self.Boot || last.GetSessions() != 1 || last.GetStreams() != 1 || last.GetAddress() != "gw.example:7443" || last.GetVersion() != "v1" {
			t.Errorf("last beat %v", last)
		}
	})
}

func TestAdmin(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		time.Sleep(time.Second)
		r.agent("a1").open(g)
		for path, want := range map[string]string{
			"/healthz": "ok", "/readyz": "ready", "/metrics": "moorage_gateway_sessions 1",
		} {
			w := httptest.NewRecorder()
			g.Admin().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
			if w.Code != 200 || !strings.Contains(w.Body.String(), want) {
				t.Errorf("%s: %d, no %q in %.300s", path, w.Code, want, w.Body)
			}
			if path == "/metrics" && !strings.Contains(w.Body.String(), "\nmoorage_gateway_fetched_records_total ") {
				t.Error("/metrics: nothing of what was read from Kafka")
			}
		}
	})
}

func TestDescribe(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		c := linkv1.NewLinkServiceClient(g.conn)
		time.Sleep(3 * time.Second)
		d, err := c.Describe(context.Background(), &linkv1.DescribeRequest{Controller: "test", Agent: "a1", Credential: NewToken(testKey, "a1")})
		if err != nil || strings.Join(d.GetServices(), " ") != "ssh web" || d.GetAgeMs() > 1000 {
			t.Errorf("%v, %v", d, err)
		}
		if inc, _ := session.ParseIncarnation(d.GetIncarnation()); inc != r.inc {
			t.Errorf("incarnation %v, want %v", inc, r.inc)
		}
	})
}
