package gateway

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

func TestOpenCarriesBothWays(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		r.foreign(3)
		a := r.agent("a1")
		a.attach(g)
		if got := a.hello.StartPosition.GetOffset(); got != 3 {
			t.Errorf("start position %d, want the end of the log, 3", got)
		}
		open, _ := proto.Marshal(&linkv1.Open{Agent: "a1"})
		a.frame(envelope.Open, open)
		rec := a.want("OPEN", envelope.Open)
		var v linkv1.Verified
		if err := proto.Unmarshal(rec.Appendix, &v); err != nil || v.GetIdentity() != "a1" || v.GetGateway() != "gw" || v.GetBoot() != g.self.Boot || v.GetRemoteAddress() == "" {
			t.Errorf("verified %v, %v", &v, err)
		}
		a.say(envelope.Accept, 1, "")
		a.wantFrame("ACCEPT", envelope.Accept, "")
		for i := range 50 {
			a.frame(envelope.Data, []byte(payload(i)))
			a.say(envelope.Data, uint64(i+2), payload(i))
		}
		for i := range 50 {
			if rec := a.want("data", envelope.Data); string(rec.Payload) != payload(i) || rec.Seq != uint64(i+2) {
				t.Fatalf("up frame %d %q", rec.Seq, rec.Payload)
			}
			a.wantFrame("data", envelope.Data, payload(i))
		}
		a.wantPersisted(51)
		a.heartbeat(&linkv1.Heartbeat{Delivered: 51})
		if rec := a.want("delivered with nothing to carry it", envelope.Delivered); rec.Delivered != 51 || rec.Stable != 51 {
			t.Errorf("delivered %d stable %d, want 51 and 51", rec.Delivered, rec.Stable)
		}
		a.drop()
		a.want("the end of the stream is hinted at", envelope.Detached)
	})
}

func TestResumeElsewhereReadsFromKafka(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		a := r.agent("a1").open(g)
		a.say(envelope.Accept, 1, "")
		a.wantFrame("before", envelope.Accept, "")
		a.drop()
		a.want("hint", envelope.Detached)
		for i := range 30 {
			a.say(envelope.Data, uint64(i+2), payload(i))
			r.foreign(1)
		}
		g.stop(g.Kill)

		other := r.gateway(func(cfg *Config) { cfg.Name = "other" })
		defer other.shut()
		a.attach(other)
		for i := range 30 {
			a.wantFrame("missed", envelope.Data, payload(i))
		}
		a.say(envelope.Data, 32, "live")
		a.wantFrame("live", envelope.Data, "live")
	})
}

func TestResumeAtOnceNeedsNoKafkaRead(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		a := r.agent("a1").open(g)
		a.say(envelope.Accept, 1, "")
		a.wantFrame("before", envelope.Accept, "")
		a.drop()
		a.want("hint", envelope.Detached)
		a.say(envelope.Data, 2, "missed")
		time.Sleep(10 * time.Second)
		a.attach(g)
		a.wantFrame("out of memory", envelope.Data, "missed")
		if n := counted(g.metrics.attached, "memory"); n != 1 {
			t.Errorf("%v resumes out of memory, want 1", n)
		}
		a.drop()
		a.want("hint", envelope.Detached)
		time.Sleep(time.Minute)
		g.mu.Lock()
		if len(g.feeds) != 0 || len(g.lingering) != 0 || g.cache.Len() != 0 {
			t.Errorf("left after the linger time: %d feeds, %d lingering, %d tails", len(g.feeds), len(g.lingering), g.cache.Len())
		}
		g.mu.Unlock()
	})
}

func TestNewerStreamCutsTheOlder(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		other := r.gateway(func(cfg *Config) { cfg.Name = "other" })
		defer other.shut()
		a := r.agent("a1").open(g)

		here := *a
		here.attach(g)
		a.wantCut("taken-over")

		there := here
		there.attach(other)
		// The echo of the controller side is what the first gateway learns it by.
		there.say(envelope.Delivered, 0, "")
		here.wantCut("taken-over")

		late := there
		late.hello = proto.CloneOf(there.hello)
		late.hello.Attempt -= 2
		late.dial(other)
		late.wantEnd(codes.Aborted)
		there.say(envelope.Accept, 1, "")
		there.wantFrame("the newest goes on", envelope.Accept, "")
	})
}

func TestHeartbeatsTellThePosition(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		a := r.agent("a1").open(g)
		a.alive()
		a.say(envelope.Accept, 1, "")
		a.wantFrame("accept", envelope.Accept, "")
		r.foreign(5)
		for a.hello.Position.GetOffset() < 6 {
			a.heard(a.next().GetHeartbeat())
		}
		began, beats := time.Now(), 0
		for time.Since(began) < time.Minute {
			if a.next().GetHeartbeat() == nil {
				t.Fatal("not a heartbeat")
			}
			beats++
		}
		if beats < 8 || beats > 16 {
			t.Errorf("%d heartbeats in a minute of silence", beats)
		}
	})
}

func TestPositionIsToldWhileDataFlows(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		a := r.agent("a1").open(g)
		a.alive()
		a.say(envelope.Accept, 1, "")
		for i := range 60 {
			a.say(envelope.Data, uint64(i+2), "tick")
			time.Sleep(time.Second)
		}
		a.wantFrame("accept", envelope.Accept, "")
		for range 60 {
			a.wantFrame("tick", envelope.Data, "tick")
		}
		if got := a.hello.Position.GetOffset(); got < 50 {
			t.Errorf("position %d after 61 records, the last told in a minute", got)
		}
	})
}

func TestSilentAgentIsGivenUp(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		a := r.agent("a1").open(g)
		began := time.Now()
		a.wantCut("dead")
		if took := time.Since(began); took < 14*time.Second || took > 20*time.Second {
			t.Errorf("given up after %v, want three intervals", took)
		}
		a.want("hint", envelope.Detached)
	})
}

func TestLeasesNameWhatIsAttached(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		a := r.agent("a1").open(g)
		a.alive()
		b := r.agent("a2").open(g)
		b.alive()
		began := time.Now()
		for range 3 {
			entries := <-r.leases
			if len(entries) != 2 {
				t.Fatalf("a lease of %d entries, want 2", len(entries))
			}
			for _, e := range entries {
				if e.Session == a.id && (e.Attempt != 1 || e.Stable != 1 || e.Incarnation != r.inc) {
					t.Errorf("entry %+v", e)
				}
			}
		}
		if took := time.Since(began); took < 28*time.Second || took > 34*time.Second {
			t.Errorf("three leases in %v, want one in 10 s", took)
		}
		b.drop()
		time.Sleep(time.Second)
		if entries := <-r.leases; len(entries) != 1 {
			t.Errorf("%d entries after one left", len(entries))
		}
	})
}

func TestTicketIsRenewed(t *testing.T) {
	story(t, func(r *rig) {
		g := r.gateway(nil)
		defer g.shut()
		a := r.agent("a1").open(g)
		a.alive()
		old := string(a.hello.Ticket)
		began := time.Now()
		for string(a.hello.Ticket) == old {
			a.heard(a.next().GetHeartbeat())
		}
		if took := time.Since(began); took < 9*time.Minute || took > 11*time.Minute {
			t.Errorf("a fresh ticket after %v, want 10 min", took)
		}
		a.drop()
		a.want("hint", envelope.Detached)
		a.attach(g)
	})
}
