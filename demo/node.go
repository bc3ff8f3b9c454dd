package demo

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/moorage-dev/moorage/demo/fabric"
	"github.com/moorage-dev/moorage/gateway"
)

// A node is a place for a gateway: the processes in it come and go.
type node struct {
	name, addr string
	gw         *gateway.Gateway
	serving    chan struct{} // closed when gw's Serve returned
}

func (w *World) startGateway(n *node) error {
	lis, err := w.net.Listen("tcp", n.addr)
	if err != nil {
		return err
	}
	gw, err := gateway.New(w.ctx, gateway.Config{
		Name: n.name, Advertise: n.addr, Bridge: w.kafka(n.name), Insecure: true, Heartbeat: w.cfg.Heartbeat,
		CacheBytes: w.cfg.CacheBytes, Logger: w.cfg.Log.With("process", n.name),
	})
	if err != nil {
		lis.Close()
		return err
	}
	serving := make(chan struct{})
	go func() {
		defer close(serving)
		if err := gw.Serve(lis); err != nil && !errors.Is(err, net.ErrClosed) {
			w.cfg.Log.Debug("gateway stopped", "gateway", n.name, "err", err)
		}
	}()
	w.mu.Lock()
	n.gw, n.serving = gw, serving
	w.mu.Unlock()
	return nil
}

// holdFor is how long Kafka takes nothing before a gateway is killed.
const holdFor = 50 * time.Millisecond

func (w *World) replaceGateway(f Fault) {
	w.mu.Lock()
	n := w.node(f.Target)
	for i := 1; n.gw == nil && i < len(w.gateways); i++ { // down already: another one
		n = w.node(f.Target + i)
	}
	gw, serving := n.gw, n.serving
	n.gw = nil
	w.mu.Unlock()
	if gw == nil {
		return // all are down
	}
	if f.Kind == GatewayKilled { // while it has something that it can lose
		defer w.broker.TopicStalled(w.topics.Up).Remove()
		w.sleep(holdFor)
	}
	w.struck(f.Kind, 1, w.heldBy(n.addr)...)
	dead := make(chan struct{})
	defer func() { <-dead }()
	w.restart.Go(func() {
		if f.Kind == GatewayDrained {
			close(dead)
			ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
			_ = gw.Drain(ctx) // who has not left in time is dropped
			cancel()
			gw.Close()
		} else {
			reset(w.net.Links(func(l *fabric.Link) bool { return l.From == n.name || l.To == n.addr }))
			close(dead) // not a word more of it gets out
			gw.Kill()
		}
		<-serving
		w.sleep(f.For)
		w.insist(n.name, func() error { return w.startGateway(n) })
	})
}
