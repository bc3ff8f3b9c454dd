package demo

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/moorage-dev/moorage/check"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

// A peer is one end of a session as its application sees it.
type peer interface {
	Send(ctx context.Context, p []byte) error
	Receive(ctx context.Context) ([]byte, error)
	CloseWrite() error
	Close() error
	Done() <-chan struct{}
	Err() error
	dead() bool                // its process is gone, so the application hears nothing more
	pause(ctx context.Context) // before it reads on
	ebbed()                    // it has read the last
}

// talk is what both applications do: send numbered messages until it is
// quiet, then half-close; receive until the other side did; and note the end.
func (w *World) talk(id check.Session, side check.Side, p peer, rng *rand.Rand) {
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	var sending sync.WaitGroup
	sending.Go(func() { w.send(ctx, id, side, p, rng) })
	w.receive(ctx, id, side, p)
	sending.Wait()
	if side == check.Agent {
		p.Close()
	}
	w.await(id, side, p)
}

// await notes how the session ends at one side.
func (w *World) await(id check.Session, side check.Side, p peer) {
	select {
	case <-p.Done():
		if p.dead() {
			w.check.Gone(id, side)
		} else {
			w.ended(id, side, p.Err())
		}
	case <-w.ctx.Done():
	}
}

func (w *World) send(ctx context.Context, id check.Session, side check.Side, p peer, rng *rand.Rand) {
	for seq := uint64(1); w.cfg.Messages == 0 || seq <= uint64(w.cfg.Messages); seq++ {
		select {
		case <-w.quiet:
			p.CloseWrite()
			return
		case <-p.Done():
			return
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(rng.ExpFloat64() * float64(w.cfg.Every))):
		}
		m := message(seq, rng, w.cfg.MaxSize)
		w.check.Sent(id, side, seq, m)
		if err := p.Send(ctx, m); err != nil {
			return
		}
	}
	p.CloseWrite()
}

func (w *World) receive(ctx context.Context, id check.Session, side check.Side, p peer) {
	for {
		p.pause(ctx)
		m, err := p.Receive(ctx)
		if err != nil {
			p.ebbed()
			return
		}
		if p.dead() {
			return
		}
		w.check.Received(id, side, number(m), m)
	}
}

func (w *World) ended(id check.Session, side check.Side, err error) {
	var end *session.EndedError
	switch {
	case errors.As(err, &end):
		switch {
		case side != check.Agent:
		case end.Reason == linkv1.Reason_REASON_CONTROLLER_GONE:
			w.check.Gone(id, check.Controller)
		case end.Reason == linkv1.Reason_REASON_DATA_LOSS:
			w.orphan(id)
		}
		w.check.Ended(id, side, session.ReasonName(end.Reason), end.Text)
	case err != nil:
		w.check.Ended(id, side, "", err.Error())
	default:
		w.check.Ended(id, side, check.OK, "")
	}
}

// message returns message seq: its number, and random bytes.
func message(seq uint64, rng *rand.Rand, most int) []byte {
	m := make([]byte, 8+rng.IntN(most))
	for i := range 8 {
		m[i] = byte(seq >> (56 - 8*i))
	}
	for i := 8; i < len(m); i++ {
		m[i] = byte(rng.Uint32())
	}
	return m
}

func number(m []byte) (seq uint64) {
	if len(m) < 8 {
		return 0
	}
	for _, b := range m[:8] {
		seq = seq<<8 | uint64(b)
	}
	return seq
}

// isClosed reports whether a channel is closed that nobody sends to.
func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
