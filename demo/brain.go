package demo

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/controller"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

// A brain is one life of the controller-side process.
type brain struct {
	*controller.Controller
	host   string
	killed chan struct{} // closed: not a word more gets out
}

func (w *World) startController() error {
	w.mu.Lock()
	host := hostOf("controller", len(w.brains))
	w.mu.Unlock()
	killed := make(chan struct{})
	cfg := w.kafka(host)
	cfg.Dial = func(ctx context.Context, _, addr string) (net.Conn, error) {
		if isClosed(killed) {
			return nil, net.ErrClosed
		}
		return w.net.Dial(ctx, host, addr)
	}
	c, err := controller.Start(w.ctx, controller.Config{
		Bridge: cfg, Name: controllerName, Grace: w.cfg.Grace, Window: w.cfg.Window,
		SingleBroker: true, AllowSmall: true, Logger: w.cfg.Log.With("process", host),
	})
	if err != nil {
		return err
	}
	b := &brain{c, host, killed}
	w.mu.Lock()
	w.ctrl, w.brains = b, append(w.brains, b)
	w.mu.Unlock()
	w.serving.Go(func() { w.serve(b) })
	return nil
}

// brain returns the controller-side process; nil: it is down.
func (w *World) brain() *brain {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ctrl
}

// serve is the controller's application. It outlives a process that stops by
// itself, as a supervisor does.
func (w *World) serve(b *brain) {
	for {
		s, err := b.Accept(w.ctx)
		if err != nil {
			break
		}
		w.users.Go(func() { w.host(&brainEnd{s, b}) })
	}
	err := b.Err()
	if w.ctx.Err() != nil || err == nil || errors.Is(err, controller.ErrSuperseded) {
		return
	}
	w.cfg.Log.Info("controller stopped", "err", err)
	w.insist(b.host, w.startController)
}

// host is the controller's application for one session.
func (w *World) host(e *brainEnd) {
	id := check.Session(e.Info().ID.String())
	w.mu.Lock()
	again := w.known[id]
	w.known[id] = true
	w.mu.Unlock()
	if again {
		w.complain("session %v was opened a second time", id)
		e.CloseWithReason(session.Ending{Reason: linkv1.Reason_REASON_REFUSED})
		w.await(id, check.Controller, e)
		return
	}
	rng := w.rng(hash(e.Info().ID))
	if rng.IntN(4) == 0 { // some think before they answer
		w.sleep(time.Duration(rng.IntN(200)) * time.Millisecond)
	}
	e.Accept()
	if isByHand(e.Info().Agent) {
		w.answer(id, e)
		return
	}
	w.talk(id, check.Controller, w.spoken(e), rng)
}

// answer is the application for an agent by hand: it says what it is asked for.
func (w *World) answer(id check.Session, e *brainEnd) {
	for heard, said := uint64(1), uint64(1); ; heard++ {
		m, err := e.Receive(w.ctx)
		if err != nil {
			break
		}
		w.check.Received(id, check.Controller, heard, m)
		if string(m) != ask {
			continue
		}
		w.sleep(answerAfter)
		w.check.Sent(id, check.Controller, said, m)
		if err := e.Send(w.ctx, m); err != nil {
			break
		}
		said++
	}
	w.await(id, check.Controller, e)
}

// A brainEnd is the controller's end of a session.
type brainEnd struct {
	*controller.Session
	b *brain
}

func (e *brainEnd) dead() bool { return isClosed(e.b.killed) }

func (*brainEnd) pause(context.Context) {}
func (*brainEnd) ebbed()                {}

// replaceController kills the controller-side process and starts another.
func (w *World) replaceController(f Fault) {
	b := w.brain()
	if b == nil {
		return // down already
	}
	w.struck(f.Kind, 1, w.agents...)
	w.mu.Lock()
	w.ctrl = nil
	w.mu.Unlock()
	close(b.killed)
	reset(w.net.Links(linksFrom(b.host)))
	w.restart.Go(func() {
		b.Kill()
		w.sleep(f.For)
		w.insist("controller", w.startController)
	})
}

// fencedWithin bounds how long a superseded process goes on once it can know.
const fencedWithin = 30 * time.Second

// supersede lets the controller-side process stand still while another takes
// over, and then go on: it must find out by itself.
func (w *World) supersede(f Fault) {
	b := w.brain()
	if b == nil {
		return
	}
	w.struck(f.Kind, 1, w.agents...)
	w.net.Freeze(b.host)
	w.restart.Go(func() {
		w.insist("controller", w.startController)
		w.sleep(f.For)
		w.net.Thaw(b.host)
		select {
		case <-b.Done():
		case <-time.After(fencedWithin):
			w.complain("a superseded controller goes on")
		case <-w.ctx.Done():
			b.Kill()
		}
	})
}
