package controller

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	logv1 "github.com/moorage-dev/moorage/proto/moorage/log/v1"
	"github.com/moorage-dev/moorage/session"
)

// lastHeartbeat reads the meta topic's last record.
func (r *rig) lastHeartbeat() *logv1.ControllerHeartbeat {
	r.Helper()
	t, err := r.client.Topic(r.Context(), r.names.Meta)
	if err != nil {
		r.Fatal(err)
	}
	_, next, err := r.client.Bounds(r.Context(), r.names.Meta, 0)
	if err != nil {
		r.Fatal(err)
	}
	hb := new(logv1.ControllerHeartbeat)
	read := make(chan error, 1)
	f := r.reader.Follow(t, 0, next-1, func(m bridge.Message) {
		if m.Offset == next-1 {
			read <- proto.Unmarshal(m.Value, hb)
		}
	}, func(err error) { read <- err })
	if err := <-read; err != nil {
		r.Fatal(err)
	}
	f.Stop()
	return hb
}

func TestHeartbeats(t *testing.T) {
	story(t, func(r *rig) {
		cfg := r.config()
		cfg.Services = []string{"web", "ssh"}
		c := r.start(cfg)
		time.Sleep(4500 * time.Millisecond)
		hb := r.lastHeartbeat()
		inc, err := session.ParseIncarnation(hb.GetIncarnation())
		if err != nil || inc != c.Incarnation() {
			r.Errorf("incarnation %v, %v; want %v", inc, err, c.Incarnation())
		}
		if hb.GetBeat() < 4 || hb.GetBeat() > 6 {
			r.Errorf("beat %d after 4.5 s", hb.GetBeat())
		}
		if hb.GetPartitions() != 1 || hb.GetGraceMs() != 60_000 || strings.Join(hb.GetServices(), " ") != "ssh web" || hb.GetUpWindow() != session.DefaultWindow {
			r.Errorf("heartbeat: %v", hb)
		}
	})
}

func TestTheNewerProcessWins(t *testing.T) {
	story(t, func(r *rig) {
		first := r.start(r.config())
		p := r.peer(first).open(r.gateway("gw", 1), nil)
		s := r.accept(first)
		second := r.start(r.config())
		select {
		case <-first.Done():
		case <-time.After(2 * time.Second):
			r.Fatal("the older process goes on")
		}
		if err := first.Err(); !errors.Is(err, ErrSuperseded) || !strings.Contains(err.Error(), "of controller test took over") {
			r.Errorf("the older process ends with %v", err)
		}
		if _, err := first.Accept(r.Context()); !errors.Is(err, ErrSuperseded) {
			r.Errorf("Accept: %v", err)
		}
		r.wantEnded(s, linkv1.Reason_REASON_CONTROLLER_GONE, time.Second)
		p.data("for the older one") // the newer one lets it lie
		q := r.peer(second).open(r.gateway("gw", 1), nil)
		r.accept(second)
		q.want(envelope.Accept, time.Second)
		if second.Err() != nil || second.Stats().Opened != 1 {
			r.Errorf("the newer process: %v, %+v", second.Err(), second.Stats())
		}
		if err := first.Close(r.Context()); err != nil && !errors.Is(err, ErrSuperseded) {
			r.Errorf("Close after the end: %v", err)
		}
	})
}

// What anybody else writes into the topics of processes ends nobody: only
// what gateways would believe too supersedes. A burst of it is one line.
func TestForeignHeartbeatsEndNobody(t *testing.T) {
	story(t, func(r *rig) {
		var log lines
		cfg := r.config()
		cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
		c := r.start(cfg)
		inc := session.IncarnationMessage(c.Incarnation())
		inc.Offset = 1 << 40
		ahead := &logv1.ControllerHeartbeat{
			Incarnation: inc, Partitions: 1, DownTopicId: r.down.ID[:], UpWindow: 1, MaxFrame: 1,
		}
		foreign := [][]byte{
			{}, // a message without fields is a readable one
			[]byte("\xff what is this?"),
			marshal(&logv1.ControllerHeartbeat{Boot: 7, Process: "half a heartbeat"}),
			marshal(ahead), // its place is not written yet
		}
		for _, value := range foreign {
			r.written(func(done func(int64, error)) { r.producer.Send(r.names.Meta, 0, []byte(heartbeatKey), value, done) })
		}
		for range 10 {
			r.written(func(done func(int64, error)) {
				r.producer.Send(r.client.GatewaysTopic(), 0, []byte("gw"), []byte("\xff garbage"), done)
			})
		}
		r.peer(c).open(r.gateway("gw", 1), nil)
		r.accept(c)
		time.Sleep(time.Second)
		if err := c.Err(); err != nil {
			r.Errorf("ended: %v", err)
		}
		if st := c.Stats(); st.Unreadable != 14 {
			r.Errorf("%d unreadable records, want 14", st.Unreadable)
		}
		if n := strings.Count(log.String(), "unreadable"); n != 1 {
			r.Errorf("%d lines for a burst:\n%s", n, log.String())
		}
	})
}

// What anybody else writes among the sessions' presence is counted once,
// however often it is read.
func TestForeignPresenceIsCounted(t *testing.T) {
	story(t, func(r *rig) {
		var log lines
		cfg := r.config()
		cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
		write := func(value []byte) {
			r.written(func(done func(int64, error)) { r.producer.Send(r.names.Sessions, 0, []byte("key"), value, done) })
		}
		write([]byte("\xff what is this?"))
		write(marshal(&logv1.SessionPresence{SessionId: []byte("short")}))
		c := r.start(cfg)
		time.Sleep(time.Second)
		if st := c.Stats(); st.Unreadable != 2 {
			r.Errorf("%d unreadable records at the start, want 2", st.Unreadable)
		}
		write(nil) // a tombstone is none
		write([]byte("\xff again"))
		time.Sleep(bequestAgain)
		if st := c.Stats(); st.Unreadable != 3 {
			r.Errorf("%d unreadable records after a second look, want 3", st.Unreadable)
		}
		if n := strings.Count(log.String(), "topic="+r.names.Sessions); n != 2 {
			r.Errorf("%d lines for two bursts:\n%s", n, log.String())
		}
	})
}

// lines is a log to look at.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// A process that slept through its successor's start stops when it wakes.
func TestAFrozenProcessIsFenced(t *testing.T) {
	story(t, func(r *rig) {
		first := r.start(r.config())
		thaw := r.net.freeze()
		cfg := r.config()
		cfg.Bridge = r.bridge(false)
		second := r.start(cfg)
		time.Sleep(30 * time.Second)
		thaw()
		select {
		case <-first.Done():
		case <-time.After(10 * time.Second):
			r.Fatal("the older process goes on")
		}
		if !errors.Is(first.Err(), ErrSuperseded) || second.Err() != nil {
			r.Errorf("older: %v; newer: %v", first.Err(), second.Err())
		}
	})
}

func TestGraceEndsADetachedSession(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		p := r.peer(c).open(r.gateway("gw", 1), nil)
		s := r.accept(c)
		p.want(envelope.Accept, time.Second)
		p.record(envelope.Detached, nil)
		detached := time.Now()
		p.wantEnd(envelope.Close, linkv1.Reason_REASON_GRACE, 2*time.Minute)
		if d := time.Since(detached); d < 59*time.Second || d > 63*time.Second {
			r.Errorf("grace of 1 min took %v", d)
		}
		r.wantEnded(s, linkv1.Reason_REASON_GRACE, time.Second)
	})
}

// While a partition takes no writes, its applications learn what is due all
// the same, and nobody spins; afterwards the agent learns it too.
func TestAPartitionThatTakesNoWrites(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		p := r.peer(c).open(r.gateway("gw", 1), nil)
		s := r.accept(c)
		p.want(envelope.Accept, time.Second)
		fault := r.kafka.PartitionFailed(r.names.Down, 0, -1)
		if err := s.Send(r.Context(), []byte("late")); err != nil {
			r.Fatal(err)
		}
		p.data("news to acknowledge")
		r.wantMessage(s, "news to acknowledge")
		p.record(envelope.Detached, nil)
		r.wantEnded(s, linkv1.Reason_REASON_GRACE, 65*time.Second)
		fault.Remove()
		p.wantData("late")
		p.wantEnd(envelope.Close, linkv1.Reason_REASON_GRACE, patience)
	})
}

func TestLeasesKeepASessionAttached(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		g := r.gateway("gw", 1)
		p := r.peer(c).open(g, nil)
		s := r.accept(c)
		p.want(envelope.Accept, time.Second)
		p.got = 1
		for range 30 {
			time.Sleep(10 * time.Second)
			p.lease(g)
		}
		if i := s.Info(); !i.Attached {
			r.Error("detached in spite of leases")
		}
		last := time.Now()
		p.wantEnd(envelope.Close, linkv1.Reason_REASON_GRACE, 5*time.Minute)
		if d := time.Since(last); d < 59*time.Second || d > 64*time.Second {
			r.Errorf("ended %v after the last lease; grace of 1 min counts from it", d)
		}
	})
}

// A gateway that lives can't write its leases: neither they nor anybody's
// grace runs out. When it can again, time counts from there.
func TestAPartitionThatGatewaysCannotWrite(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		g := r.gateway("gw", 1)
		held, gone := r.peer(c).open(g, nil), r.peer(c).open(g, nil)
		s, away := r.accept(c), r.accept(c)
		gone.want(envelope.Accept, time.Second)
		gone.record(envelope.Detached, nil)
		g.stalled.Store(true)
		time.Sleep(10 * time.Minute)
		if s.Err() != nil || away.Err() != nil || !s.Info().Attached {
			r.Fatalf("attached: %v, %v; detached: %v", s.Info().Attached, s.Err(), away.Err())
		}
		g.stalled.Store(false)
		r.wantEnded(away, linkv1.Reason_REASON_GRACE, session.LeaseFresh+5*time.Second)
		held.got = 1
		held.lease(g)
		time.Sleep(session.LeaseFresh - 5*time.Second)
		if err := s.Err(); err != nil || !s.Info().Attached {
			r.Errorf("its lease came again: %v", err)
		}
		r.wantEnded(s, linkv1.Reason_REASON_GRACE, time.Minute)
	})
}

// However long Kafka is away, nobody's grace runs out meanwhile.
func TestAnOutageOfKafkaTakesNoGrace(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		g := r.gateway("gw", 1)
		gone, tier0 := r.peer(c).open(g, nil), r.peer(c).open(g, func(o *linkv1.Open) { o.Resumable = false })
		s, s0 := r.accept(c), r.accept(c)
		gone.want(envelope.Accept, time.Second)
		gone.record(envelope.Detached, nil)
		time.Sleep(20 * time.Second)
		thaw := r.net.freeze()
		time.Sleep(10 * time.Minute)
		thaw()
		time.Sleep(5 * time.Second)
		tier0.got = 1
		tier0.lease(g)
		time.Sleep(10 * time.Second)
		if err := s.Err(); err != nil {
			r.Errorf("after 35 s of grace: %v", err)
		}
		if err := s0.Err(); err != nil {
			r.Errorf("the gateway went on beating, but its session ended: %v", err)
		}
		gone.wantEnd(envelope.Close, linkv1.Reason_REASON_GRACE, 40*time.Second)
		if c.Err() != nil {
			r.Error(c.Err())
		}
	})
}

func TestASilentGateway(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		g, other := r.gateway("gw", 1), r.gateway("other", 2)
		tier0 := r.peer(c).open(g, func(o *linkv1.Open) { o.Resumable = false })
		s0 := r.accept(c)
		tier2 := r.peer(c).open(g, nil)
		s2 := r.accept(c)
		elsewhere := r.peer(c).open(other, func(o *linkv1.Open) { o.Resumable = false })
		s3 := r.accept(c)
		for _, p := range []*peer{tier0, tier2, elsewhere} {
			p.want(envelope.Accept, time.Second)
		}
		time.Sleep(10 * time.Second)
		g.kill()
		died := time.Now()
		tier0.wantEnd(envelope.Close, linkv1.Reason_REASON_GATEWAY_GONE, 10*time.Second)
		if d := time.Since(died); d < 3*time.Second || d > 6*time.Second {
			r.Errorf("a gateway counts as dead after %v", d)
		}
		r.wantEnded(s0, linkv1.Reason_REASON_GATEWAY_GONE, time.Second)
		synctest.Wait()
		if i := s2.Info(); i.Attached || s2.Err() != nil {
			r.Errorf("the resumable session: %+v, %v", i, s2.Err())
		}
		if s3.Err() != nil || !s3.Info().Attached {
			r.Errorf("the other gateway's session: %+v, %v", s3.Info(), s3.Err())
		}
		tier2.attempt++ // it comes back elsewhere
		tier2.attach(other)
		tier2.want(envelope.Delivered, time.Second)
		if i := s2.Info(); !i.Attached || i.Gateway != "other" || i.Attempt != 2 {
			r.Errorf("the resumed session: %+v", i)
		}
	})
}

// A gateway that was restarted under its name is another process.
func TestAReplacedGateway(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		g := r.gateway("gw", 1)
		p := r.peer(c).open(g, func(o *linkv1.Open) { o.Resumable = false })
		r.accept(c)
		p.want(envelope.Accept, time.Second)
		time.Sleep(2 * time.Second)
		g.kill()
		r.gateway("gw", 2)
		p.wantEnd(envelope.Close, linkv1.Reason_REASON_GATEWAY_GONE, time.Second)
	})
}

func TestCloseInOrder(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		g := r.gateway("gw", 1)
		p, q := r.peer(c).open(g, nil), r.peer(c).open(g, nil)
		s := r.accept(c)
		p.want(envelope.Accept, time.Second)
		if _, err := s.Write([]byte("last words")); err != nil {
			r.Fatal(err)
		}
		for until := time.Now().Add(time.Second); len(c.Sessions()) < 2; time.Sleep(time.Millisecond) {
			if time.Now().After(until) {
				r.Fatal("an OPEN is not read") // and so would be answered by nobody
			}
		}
		if err := c.Close(r.Context()); err != nil {
			r.Errorf("Close: %v", err)
		}
		p.wantData("last words")
		p.wantEnd(envelope.Close, linkv1.Reason_REASON_CONTROLLER_GONE, time.Second)
		q.wantEnd(envelope.Reject, linkv1.Reason_REASON_CONTROLLER_GONE, time.Second)
		if hb := r.lastHeartbeat(); !hb.GetLeaving() {
			r.Errorf("last heartbeat: %v", hb)
		}
		for id, pr := range r.presence() {
			if pr.GetState() != logv1.SessionState_SESSION_STATE_ENDED || pr.GetReason() != linkv1.Reason_REASON_CONTROLLER_GONE {
				r.Errorf("presence of %s: %v", id, pr)
			}
		}
		if err := c.Err(); err != nil {
			r.Errorf("Err after Close: %v", err)
		}
		if _, err := c.Accept(r.Context()); !errors.Is(err, net.ErrClosed) {
			r.Errorf("Accept after Close: %v", err)
		}
	})
}

func TestCloseIsBounded(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		p := r.peer(c).open(r.gateway("gw", 1), nil)
		r.accept(c)
		p.want(envelope.Accept, time.Second)
		thaw := r.net.freeze()
		defer thaw()
		began := time.Now()
		if err := c.Close(r.Context()); !errors.Is(err, context.DeadlineExceeded) {
			r.Errorf("Close without Kafka: %v", err)
		}
		if d := time.Since(began); d > 2*closeWithin {
			r.Errorf("Close took %v", d)
		}
	})
}

func TestPresence(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		p := r.peer(c).open(r.gateway("gw", 1), nil)
		s := r.accept(c)
		p.want(envelope.Accept, time.Second)
		synctest.Wait()
		now := r.presence()[p.id.String()]
		if now.GetState() != logv1.SessionState_SESSION_STATE_ATTACHED || now.GetAgent() != "agent" || now.GetGateway() != "gw" ||
			now.GetLabels()["os"] != "linux" || now.GetRemoteAddress() != "192.0.2.1:5000" || now.GetOpenedMs() == 0 {
			r.Errorf("attached: %v", now)
		}
		p.record(envelope.Detached, nil)
		time.Sleep(2 * time.Second)
		if now := r.presence()[p.id.String()]; now.GetState() != logv1.SessionState_SESSION_STATE_DETACHED || now.GetSinceMs() == 0 {
			r.Errorf("detached: %v", now)
		}
		s.CloseWithReason(ending(linkv1.Reason_REASON_OPERATOR, "enough"))
		time.Sleep(2 * time.Second)
		if now := r.presence()[p.id.String()]; now.GetState() != logv1.SessionState_SESSION_STATE_ENDED || now.GetReason() != linkv1.Reason_REASON_OPERATOR || now.GetText() != "enough" {
			r.Errorf("ended: %v", now)
		}
		time.Sleep(keepEnded)
		if left := r.presence(); len(left) > 0 {
			r.Errorf("left for ever: %v", left)
		}
	})
}

// What an operator sees of a session's bytes is at most a lease old, and at the
// end exact.
func TestPresenceCountsBytes(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		g := r.gateway("gw", 1)
		p := r.peer(c).open(g, nil)
		s := r.accept(c)
		p.want(envelope.Accept, patience)
		p.data("four")
		r.wantMessage(s, "four")
		if err := s.Send(r.Context(), []byte("fifteen bytes..")); err != nil {
			r.Fatal(err)
		}
		p.wantData("fifteen bytes..")
		time.Sleep(2 * time.Second)
		p.lease(g)
		time.Sleep(2 * time.Second)
		if now := r.presence()[p.id.String()]; now.GetUpBytes() != 4 || now.GetDownBytes() != 15 {
			r.Errorf("attached: %d up, %d down; want 4 and 15", now.GetUpBytes(), now.GetDownBytes())
		}
		p.data("more")
		r.wantMessage(s, "more")
		s.CloseWithReason(ending(linkv1.Reason_REASON_OPERATOR, "enough"))
		time.Sleep(2 * time.Second)
		if now := r.presence()[p.id.String()]; now.GetUpBytes() != 8 || now.GetDownBytes() != 15 {
			r.Errorf("ended: %d up, %d down; want 8 and 15", now.GetUpBytes(), now.GetDownBytes())
		}
	})
}

// A session may end before its agent side has said how much it took.
func TestPresenceCountsWhatStandsBeforeTheEnd(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		g := r.gateway("gw", 1)
		p := r.peer(c).open(g, nil)
		s := r.accept(c)
		p.want(envelope.Accept, patience)
		if err := s.Send(r.Context(), []byte("fifteen bytes..")); err != nil {
			r.Fatal(err)
		}
		if err := s.Close(); err != nil {
			r.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if now := r.presence()[p.id.String()]; now.GetDownBytes() != 15 {
			r.Errorf("ended: %d down, want 15", now.GetDownBytes())
		}
	})
}

func TestPresenceOfOlderIncarnations(t *testing.T) {
	story(t, func(r *rig) {
		first := r.start(r.config())
		p := r.peer(first).open(r.gateway("gw", 1), nil)
		r.accept(first)
		p.want(envelope.Accept, time.Second)
		time.Sleep(time.Second)
		first.Kill()
		second := r.start(r.config())
		q := r.peer(second).open(r.gateway("gw", 1), nil)
		r.accept(second)
		q.want(envelope.Accept, time.Second)
		time.Sleep(2 * time.Second)
		all := r.presence()
		if was := all[p.id.String()]; was.GetState() != logv1.SessionState_SESSION_STATE_ENDED || was.GetReason() != linkv1.Reason_REASON_CONTROLLER_GONE {
			r.Errorf("the older one's: %v", was)
		}
		if is := all[q.id.String()]; is.GetState() != logv1.SessionState_SESSION_STATE_ATTACHED {
			r.Errorf("the newer one's: %v", is)
		}
		q.got = 1
		for range int(keepEnded/(10*time.Second)) + 1 {
			time.Sleep(10 * time.Second)
			q.lease(&gate{Gateway: envelope.Gateway{Name: "gw", Boot: 1}})
		}
		if all := r.presence(); len(all) != 1 || all[q.id.String()] == nil {
			r.Errorf("after a while: %v", all)
		}
	})
}

func TestRecordsGoneBeforeTheyWereRead(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		g := r.gateway("gw", 1)
		p := r.peer(c).open(g, nil)
		s := r.accept(c)
		p.want(envelope.Accept, time.Second)
		thaw := r.net.freeze()
		p.data("the answer to the fetch that was under way")
		time.Sleep(100 * time.Millisecond)
		p.data("lost")
		_, next, err := r.client.Bounds(r.Context(), r.names.Up, 0)
		if err != nil {
			r.Fatal(err)
		}
		if err := r.client.DeleteRecords(r.Context(), r.names.Up, 0, next); err != nil {
			r.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		thaw()
		p.wantEnd(envelope.Close, linkv1.Reason_REASON_DATA_LOSS, patience)
		r.wantEnded(s, linkv1.Reason_REASON_DATA_LOSS, time.Second)
		q := r.peer(c).open(g, nil)
		r.accept(c)
		q.want(envelope.Accept, patience)
	})
}

func TestATopicCreatedAgain(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		p := r.peer(c).open(r.gateway("gw", 1), nil)
		s := r.accept(c)
		p.want(envelope.Accept, time.Second)
		r.recreate(r.names.Up)
		select {
		case <-c.Done():
		case <-time.After(patience):
			r.Fatal("the controller goes on")
		}
		if !errors.Is(c.Err(), ErrTopicChanged) {
			r.Errorf("stopped with %v", c.Err())
		}
		p.wantEnd(envelope.Close, linkv1.Reason_REASON_DATA_LOSS, time.Second)
		r.wantEnded(s, linkv1.Reason_REASON_DATA_LOSS, time.Second)
	})
}

func TestPartitionsAdded(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		r.addPartitions(2)
		time.Sleep(2*watchEvery + 2*time.Second)
		if hb := r.lastHeartbeat(); hb.GetPartitions() != 2 {
			r.Errorf("the heartbeat names %d partitions, want 2", hb.GetPartitions())
		}
		if c.Err() != nil {
			r.Error(c.Err())
		}
	})
}

func TestStartSaysThatNothingIsTaken(t *testing.T) {
	story(t, func(r *rig) {
		f := r.kafka.TopicStalled(r.names.Meta)
		defer f.Remove()
		ctx, cancel := context.WithTimeout(r.Context(), time.Hour)
		defer cancel()
		began := time.Now()
		c, err := Start(ctx, r.config())
		if err == nil {
			c.Kill()
			r.Fatal("started")
		}
		if took := time.Since(began); took > 2*startWithin || !strings.Contains(err.Error(), r.names.Meta) || !strings.Contains(err.Error(), startWithin.String()) {
			r.Errorf("after %v: %v; want to hear soon which topic takes nothing", took, err)
		}
	})
}

func TestStartRefuses(t *testing.T) {
	story(t, func(r *rig) {
		for _, tc := range []struct {
			desc   string
			change func(*Config)
			want   string
		}{
			{"a bad name", func(c *Config) { c.Name = "Test" }, `controller name "Test"`},
			{"no topics", func(c *Config) { c.Name = "other" }, "moorage.other."},
			{"grace near retention", func(c *Config) { c.Grace = 59 * time.Minute }, "retention"},
			{"negative grace", func(c *Config) { c.Grace = -1 }, "grace"},
			{"one broker", func(c *Config) { c.SingleBroker = false }, "replica"},
			{"no broker", func(c *Config) { c.Bridge.Brokers = []string{"localhost:1"} }, "localhost:1"},
		} {
			cfg := r.config()
			tc.change(&cfg)
			c, err := Start(r.Context(), cfg)
			if err == nil {
				c.Kill()
				r.Errorf("%s: started", tc.desc)
				continue
			}
			if !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") || len(err.Error()) > 250 {
				r.Errorf("%s: %v; want one short line with %q", tc.desc, err, tc.want)
			}
		}
	})
}
