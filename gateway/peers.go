package gateway

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/bridge"
	logv1 "github.com/moorage-dev/moorage/proto/moorage/log/v1"
)

const (
	// peerFor is how long a gateway counts as there after its last heartbeat.
	peerFor = 5 * time.Second
	// mostPeers is how many gateways an agent is told of.
	mostPeers = 8
	// mostHeard is above how many gateways those are forgotten that beat no more.
	mostHeard = 64
	// beatsTail is how much of the gateways topic is read at the start: what
	// lives is heard again within a second.
	beatsTail = 64
)

// peers are the other gateways of the fleet, as they beat. They are hints for
// agents that have to leave, nothing more.
type peers struct {
	twin burst // another process of our own name beats

	mu    sync.Mutex // guards the following
	heard map[string]peerBeat
	self  bool // an own beat was read: what beats under our name from now on is no former life
}

type peerBeat struct {
	address string
	at      time.Duration
}

// followPeers reads the gateways topic until the gateway ends.
func (g *Gateway) followPeers() {
	for g.ctx.Err() == nil {
		failed := make(chan error, 1)
		f, err := g.readPeers(failed)
		if err == nil {
			select {
			case err = <-failed:
			case <-g.ctx.Done():
			}
			f.Stop()
		}
		if err != nil && !errors.Is(err, bridge.ErrClosed) && g.ctx.Err() == nil {
			g.cfg.Logger.Warn("the gateways topic has to be read anew", "error", err)
		}
		sleep(g.ctx, time.Second)
	}
}

func (g *Gateway) readPeers(failed chan<- error) (follower, error) {
	ctx, cancel := context.WithTimeout(g.ctx, controllerWait)
	defer cancel()
	topic, err := g.k.Topic(ctx, g.k.GatewaysTopic())
	if err != nil {
		return nil, err
	}
	oldest, next, err := g.k.Bounds(ctx, topic.Name, 0)
	if err != nil {
		return nil, err
	}
	g.peers.mu.Lock()
	g.peers.self = false
	g.peers.mu.Unlock()
	return g.k.Follow(topic, 0, max(oldest, next-beatsTail), g.heardPeer, func(err error) { failed <- err }), nil
}

func (g *Gateway) heardPeer(m bridge.Message) {
	var beat logv1.GatewayHeartbeat
	if m.Value == nil {
		return
	}
	if err := proto.Unmarshal(m.Value, &beat); err != nil {
		g.unreadable(g.k.GatewaysTopic(), m.Offset, err)
		return
	}
	if beat.GetController() {
		g.alive(beat.GetName(), beat.GetBoot())
		return
	}
	p := &g.peers
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case beat.GetBoot() == g.self.Boot:
		p.self = true
		return
	case beat.GetName() == g.cfg.Name && p.self:
		// To controller sides each of the two replaces the other, every second.
		p.twin.log(g, "another gateway has the same name; give each its own", "name", g.cfg.Name, "address", beat.GetAddress())
		return
	}
	if len(p.heard) >= mostHeard {
		maps.DeleteFunc(p.heard, func(_ string, b peerBeat) bool { return g.now()-b.at > peerFor })
	}
	if beat.GetDraining() || beat.GetAddress() == "" {
		delete(p.heard, beat.GetName())
		return
	}
	if p.heard == nil {
		p.heard = make(map[string]peerBeat)
	}
	p.heard[beat.GetName()] = peerBeat{beat.GetAddress(), g.now()}
}

// alive notes that a controller's process beats in the gateways topic. It does
// so whenever it beats in its own, whose partition may be out of order alone.
func (g *Gateway) alive(name string, boot uint64) {
	g.mu.Lock()
	c := g.controllers[name]
	g.mu.Unlock()
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.view.boot == boot {
		c.view.silent = 0
	}
}

// elsewhere returns where agents may go, in an order of its own each time.
func (p *peers) elsewhere(now time.Duration) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []string
	for name, b := range p.heard {
		if now-b.at > peerFor {
			delete(p.heard, name)
			continue
		}
		all = append(all, b.address)
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:min(len(all), mostPeers)]
}
