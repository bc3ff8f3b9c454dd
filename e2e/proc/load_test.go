package proc_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/controller"
	"github.com/moorage-dev/moorage/e2e/rig"
	"github.com/moorage-dev/moorage/link"
	"github.com/moorage-dev/moorage/proto/envelope"
	"github.com/moorage-dev/moorage/session"
)

// A load is numbered messages on sessions of a fleet, both ways. Its two ends
// live in the test; gateways and brokers, which they reach, are processes. The
// checker hears from both ends.
type load struct {
	t    *testing.T
	c    *controller.Controller
	log  *slog.Logger
	gws  []string
	name string // of the controller

	check *check.Checker

	mu     sync.Mutex
	opened map[envelope.SessionID]chan *controller.Session // until both have met
}

// newLoad becomes the fleet's controller; agents reach gateways at places.
func (f *fleet) newLoad(places ...string) *load {
	t := f.t
	t.Helper()
	l := &load{t: t, gws: places, name: f.controller, check: check.New(check.Config{}), opened: map[envelope.SessionID]chan *controller.Session{}}
	file, err := os.Create(filepath.Join(t.ArtifactDir(), "load.log"))
	rig.Must(t, err)
	t.Cleanup(func() { _ = file.Close() })
	l.log = slog.New(slog.NewTextHandler(file, nil))
	l.c, err = controller.Start(t.Context(), controller.Config{Bridge: f.bridge(), Name: f.controller, SingleBroker: true, Logger: l.log})
	rig.Must(t, err)
	var accepting sync.WaitGroup
	accepting.Go(l.accept)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := l.c.Close(ctx); err != nil && l.c.Err() == nil {
			t.Errorf("closing the controller: %v", err)
		}
		accepting.Wait()
	})
	return l
}

// accept answers sessions until the controller is closed.
func (l *load) accept() {
	for {
		s, err := l.c.Accept(context.Background())
		if err != nil {
			return // closed, or the test that wants it stopped looks at Err
		}
		s.Accept()
		l.meeting(s.Info().ID) <- s
	}
}

// meeting is where the two ends of a session find each other.
func (l *load) meeting(id envelope.SessionID) chan *controller.Session {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.opened[id] == nil {
		l.opened[id] = make(chan *controller.Session, 1)
	}
	return l.opened[id]
}

// A talk is one session with both its ends.
type talk struct {
	l     *load
	id    check.Session
	agent *link.Session
	ctl   *controller.Session
	ends  [2]*end // by check.Side

	receiving sync.WaitGroup
}

// An end is one application: what it sends, and what it has received.
type end struct {
	talk *talk
	side check.Side
	conn messages
	sent uint64 // one sender at a time

	mu   sync.Mutex
	came []arrival
}

// messages is what both kinds of session are to their applications.
type messages interface {
	Send(context.Context, []byte) error
	Receive(context.Context) ([]byte, error)
	CloseWrite() error
	Close() error
	Done() <-chan struct{}
	Err() error
}

// An arrival is a message that came, and when it should have been sent.
type arrival struct {
	due, at time.Time
}

// open opens a session of a new agent and begins to receive at both ends.
func (l *load) open(agent string) *talk {
	l.t.Helper()
	client, err := link.New(link.Config{Gateways: l.gws, Controller: l.name, Agent: agent, Logger: l.log})
	rig.Must(l.t, err)
	l.t.Cleanup(func() { _ = client.Close() }) // a session that a failed test left open has been told of
	ctx, cancel := context.WithTimeout(l.t.Context(), 30*time.Second)
	defer cancel()
	s, err := client.Open(ctx, link.Target{})
	rig.Must(l.t, err)
	k := &talk{l: l, id: check.Session(s.ID().String()), agent: s}
	select {
	case k.ctl = <-l.meeting(s.ID()):
	case <-ctx.Done():
		l.t.Fatalf("the controller never saw session %v of %s", s.ID(), agent)
	}
	k.ends[check.Agent] = &end{talk: k, side: check.Agent, conn: s}
	k.ends[check.Controller] = &end{talk: k, side: check.Controller, conn: k.ctl}
	for _, e := range k.ends {
		k.receiving.Go(e.receive)
	}
	return k
}

// openAll opens n sessions.
func (l *load) openAll(n int) []*talk {
	l.t.Helper()
	talks := make([]*talk, n)
	for i := range talks {
		talks[i] = l.open(fmt.Sprintf("agent-%03d", i))
	}
	return talks
}

// partition is where a session's records stand in both topics.
func (k *talk) partition(partitions int32) int32 {
	return envelope.PartitionOf(envelope.SlotOf(k.ctl.Info().Agent, k.agent.ID()), partitions)
}

// messageSize is the payload of each message.
const messageSize = 256

// send hands one message over; due is when it should have been. It returns
// false when the session is over, which the verdict is about.
func (e *end) send(due time.Time) bool {
	p := make([]byte, messageSize)
	binary.BigEndian.PutUint64(p, e.sent+1)
	binary.BigEndian.PutUint64(p[8:], uint64(due.UnixNano()))
	e.sent++
	e.talk.l.check.Sent(e.talk.id, e.side, e.sent, p)
	return e.conn.Send(e.talk.l.t.Context(), p) == nil
}

// receive tells the checker of everything that comes, and of the end.
func (e *end) receive() {
	for {
		p, err := e.conn.Receive(context.Background())
		if err == io.EOF && e.side == check.Agent {
			// wantClean has half-closed here too, so both are done.
			_ = e.conn.Close()
		}
		if err != nil {
			break // Err has it too
		}
		e.talk.l.check.Received(e.talk.id, e.side, binary.BigEndian.Uint64(p), p)
		e.mu.Lock()
		e.came = append(e.came, arrival{time.Unix(0, int64(binary.BigEndian.Uint64(p[8:]))), time.Now()})
		e.mu.Unlock()
	}
	<-e.conn.Done()
	if ended, ok := errors.AsType[*session.EndedError](e.conn.Err()); ok {
		e.talk.l.check.Ended(e.talk.id, e.side, session.ReasonName(ended.Reason), ended.Text)
		return
	}
	e.talk.l.t.Errorf("session %s ended at the %v without a reason: %v", e.talk.id, e.side, e.conn.Err())
}

// steady sends at both ends of each talk, one message every interval each,
// until stop is called, which returns when all that was begun is handed over.
// Latency counts from when a message was due, whatever held its sender back.
func steady(talks []*talk, every time.Duration) (stop func()) {
	var senders sync.WaitGroup
	stopped := make(chan struct{})
	begin := time.Now()
	for i, k := range talks {
		for j, e := range k.ends {
			// Evenly spread over the interval, so that there are no bursts.
			due := begin.Add(every * time.Duration(2*i+j) / time.Duration(2*len(talks)))
			senders.Go(func() {
				for ; ; due = due.Add(every) {
					select {
					case <-stopped:
						return
					case <-time.After(time.Until(due)):
					}
					if !e.send(due) {
						return
					}
				}
			})
		}
	}
	return func() {
		close(stopped)
		senders.Wait()
	}
}

// sendNow sends some messages as fast as the window allows.
func (e *end) sendNow(n int) {
	for range n {
		e.send(time.Now())
	}
}

// exchange sends some messages each way on each talk, and waits for all.
func (l *load) exchange(talks []*talk, n int) {
	l.t.Helper()
	for _, k := range talks {
		for _, e := range k.ends {
			e.sendNow(n)
		}
	}
	l.wantAll(talks, 30*time.Second)
}

// wantAll waits until everything that was sent has arrived.
func (l *load) wantAll(talks []*talk, within time.Duration) {
	l.t.Helper()
	rig.Eventually(l.t, "everything sent arrives", within, func() bool {
		sent := 0
		for _, k := range talks {
			sent += int(k.ends[check.Agent].sent + k.ends[check.Controller].sent)
		}
		return arrived(talks) == sent
	})
}

// wantDue waits until at every end something has come that was due after begin.
// As order is kept, all that was due before has come then.
func (l *load) wantDue(talks []*talk, begin time.Time, within time.Duration) {
	l.t.Helper()
	for _, k := range talks {
		for _, e := range k.ends {
			rig.Eventually(l.t, "a frozen session goes on", within, func() bool {
				e.mu.Lock()
				defer e.mu.Unlock()
				return len(e.came) > 0 && e.came[len(e.came)-1].due.After(begin)
			})
		}
	}
}

func arrived(talks []*talk) (n int) {
	for _, k := range talks {
		for _, e := range k.ends {
			e.mu.Lock()
			n += len(e.came)
			e.mu.Unlock()
		}
	}
	return n
}

// latencies returns those of messages that were due between two times, sorted.
func latencies(talks []*talk, from, to time.Time) []time.Duration {
	var all []time.Duration
	for _, k := range talks {
		for _, e := range k.ends {
			e.mu.Lock()
			for _, a := range e.came {
				if !a.due.Before(from) && a.due.Before(to) {
					all = append(all, a.at.Sub(a.due))
				}
			}
			e.mu.Unlock()
		}
	}
	slices.Sort(all)
	return all
}

// quantile of a sorted list; 0 of an empty one.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// wantClean half-closes every talk at both ends, waits for their ends, and
// wants a verdict without blame.
func (l *load) wantClean(talks []*talk) check.Report {
	l.t.Helper()
	for _, k := range talks {
		for _, e := range k.ends {
			if err := e.conn.CloseWrite(); err != nil {
				l.t.Errorf("session %s: half-closing at the %v: %v", k.id, e.side, err)
			}
		}
	}
	return l.wantEnds(talks)
}

// wantEnds waits for ends that are on their way, and wants a clean verdict.
func (l *load) wantEnds(talks []*talk) check.Report {
	l.t.Helper()
	over := make(chan struct{})
	go func() {
		defer close(over)
		for _, k := range talks {
			k.receiving.Wait()
		}
	}()
	select {
	case <-over:
	case <-time.After(60 * time.Second):
		l.t.Errorf("not all sessions have ended:\n%v", l.check.Report(true))
	}
	r := l.check.Report(true)
	if !r.Clean() {
		l.t.Errorf("verdict:\n%v", r)
	}
	return r
}
