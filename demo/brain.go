package demo

import (
	"context"
	"net"
	"time"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/controller"
)

// A brain is one life of the controller-side process.
type brain struct {
	*controller.Controller
	killed chan struct{} // closed: not a word more gets out
}

const brainHost = "controller"

func (w *World) startController() error {
	killed := make(chan struct{})
	cfg := w.kafka(brainHost)
	cfg.Dial = func(ctx context.Context, _, addr string) (net.Conn, error) {
		select {
		case <-killed:
			return nil, net.ErrClosed
		default:
			return w.net.Dial(ctx, brainHost, addr)
		}
	}
	c, err := controller.Start(w.ctx, controller.Config{
		Bridge: cfg, Name: controllerName, Grace: w.cfg.Grace, Window: w.cfg.Window,
		SingleBroker: true, AllowSmall: true, Logger: w.cfg.Log.With("process", brainHost),
	})
	if err != nil {
		return err
	}
	b := &brain{c, killed}
	w.mu.Lock()
	w.ctrl = b
	w.mu.Unlock()
	w.serving.Go(func() { w.serve(b) })
	return nil
}

// serve is the controller's application.
func (w *World) serve(b *brain) {
	for {
		s, err := b.Accept(w.ctx)
		if err != nil {
			return
		}
		s.Accept()
		w.users.Go(func() {
			id := s.Info().ID
			w.talk(check.Session(id.String()), check.Controller, &brainEnd{s, b}, w.rng(hash(id)))
		})
	}
}

// A brainEnd is the controller's end of a session.
type brainEnd struct {
	*controller.Session
	b *brain
}

func (e *brainEnd) dead() bool {
	select {
	case <-e.b.killed:
		return true
	default:
		return false
	}
}

// replaceController kills the controller-side process and starts another.
func (w *World) replaceController(f Fault) {
	w.mu.Lock()
	b := w.ctrl
	w.ctrl = nil
	w.mu.Unlock()
	if b == nil {
		return // down already
	}
	for _, a := range w.agents {
		w.struck(f.Kind, a, 0)
	}
	w.struck(f.Kind, nil, 1)
	close(b.killed)
	for _, l := range w.net.Links(linksFrom(brainHost)) {
		l.Reset()
	}
	w.restart.Go(func() {
		b.Kill()
		select {
		case <-time.After(f.For):
		case <-w.ctx.Done():
			return
		}
		w.insist("controller", w.startController)
	})
}
