package baseline

import (
	"context"
	"time"

	"github.com/IBM/sarama"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/loadtest/baseline/flow"
	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

// AppConfig says what RunApp reads.
type AppConfig struct {
	Topics Topics
	Ready  func() // called once all partitions are followed; nil: nobody waits
}

// RunApp is relay's application process. Each session does what its OPEN asks
// for; see Mode. It returns when ctx ends.
func RunApp(ctx context.Context, cfg AppConfig) error {
	side, err := newSide(cfg.Topics)
	if err != nil {
		return err
	}
	a := &app{side: side}
	return side.run(ctx, cfg.Ready, func(ctx context.Context, group *errgroup.Group, p int32, pc sarama.PartitionConsumer) error {
		return a.serve(ctx, group, p, pc)
	})
}

type app struct {
	*side
}

// A session is what the application knows of one agent. Its partition's
// goroutine owns it, but for what the source's goroutine shares.
type session struct {
	id        envelope.SessionID
	partition int32
	mode      Mode
	next      uint64      // down seq, owned by whoever sends: the echo or the source
	taken     uint64      // last up seq taken
	owed      int         // bytes taken and not reported
	delivered chan uint64 // down seq the agent has taken, latest only; source
	cancel    context.CancelFunc
}

// serve is the application's half of one partition.
func (a *app) serve(ctx context.Context, group *errgroup.Group, p int32, pc sarama.PartitionConsumer) error {
	sessions := map[envelope.SessionID]*session{}
	owing := map[*session]bool{}
	tick := time.NewTicker(flow.DeliveredAfter)
	defer tick.Stop()
	defer func() {
		for _, s := range sessions {
			s.cancel()
		}
	}()
	for {
		select {
		case m, ok := <-pc.Messages():
			if !ok {
				return nil
			}
			if len(m.Key) != len(envelope.SessionID{}) {
				continue
			}
			f := &linkv1.Frame{}
			if err := proto.Unmarshal(m.Value, f); err != nil {
				continue
			}
			id := envelope.SessionID(m.Key)
			s := sessions[id]
			if f.Kind == linkv1.FrameKind_FRAME_KIND_OPEN {
				s = a.open(ctx, group, id, p, f)
				sessions[id] = s
				continue
			}
			if s == nil {
				continue
			}
			a.take(s, f)
			if s.owed >= flow.DeliveredEvery {
				a.tell(s)
			} else if s.owed > 0 {
				owing[s] = true
			}
			if f.Kind == linkv1.FrameKind_FRAME_KIND_FIN || f.Kind == linkv1.FrameKind_FRAME_KIND_CLOSE {
				s.cancel()
				delete(sessions, id)
			}
		case <-tick.C:
			for s := range owing {
				if s.owed > 0 {
					a.tell(s)
				}
			}
			clear(owing)
		}
	}
}

func (a *app) open(ctx context.Context, group *errgroup.Group, id envelope.SessionID, p int32, f *linkv1.Frame) *session {
	open := &linkv1.Open{}
	mode := Mode{Do: "sink"}
	if proto.Unmarshal(f.Payload, open) == nil {
		if m, err := ParseMode(open.Labels); err == nil {
			mode = m
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &session{id: id, partition: p, mode: mode, taken: f.Seq, cancel: cancel, delivered: make(chan uint64, 1)}
	a.send(s, linkv1.FrameKind_FRAME_KIND_ACCEPT, nil, f.Seq)
	if mode.Do == "source" {
		group.Go(func() error {
			// It ends with the session or with its count: neither is news.
			_ = mode.Source(ctx, a.windowed(ctx, s))
			return nil
		})
	}
	return s
}

// take is the application's receipt of one frame.
func (a *app) take(s *session, f *linkv1.Frame) {
	if f.Delivered > 0 && s.mode.Do == "source" {
		select {
		case <-s.delivered:
		default:
		}
		s.delivered <- f.Delivered // the only writer; there is room
	}
	if f.Seq == 0 {
		return
	}
	s.taken = f.Seq
	if s.mode.Do == "echo" && f.Kind == linkv1.FrameKind_FRAME_KIND_DATA {
		a.send(s, linkv1.FrameKind_FRAME_KIND_DATA, f.Payload, f.Seq)
		return
	}
	s.owed += len(f.Payload)
}

// tell reports what was taken with a record of its own.
func (a *app) tell(s *session) {
	s.owed = 0
	a.produce(s.partition, s.id, &linkv1.Frame{Delivered: s.taken})
}

// windowed returns a send that waits while the agent is a window behind.
func (a *app) windowed(ctx context.Context, s *session) func([]byte) error {
	delivered := uint64(0)
	return func(payload []byte) error {
		for s.next > delivered && (s.next-delivered)*uint64(s.mode.Size) >= Window {
			select {
			case d := <-s.delivered:
				delivered = max(delivered, d)
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		a.send(s, linkv1.FrameKind_FRAME_KIND_DATA, payload, 0)
		return nil
	}
}

func (a *app) send(s *session, kind linkv1.FrameKind, payload []byte, delivered uint64) {
	s.next++
	a.produce(s.partition, s.id, &linkv1.Frame{Seq: s.next, Kind: kind, Payload: payload, Delivered: delivered})
}
