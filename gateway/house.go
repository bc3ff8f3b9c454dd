package gateway

import (
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	logv1 "github.com/moorage-dev/moorage/proto/moorage/log/v1"
)

// beats are the gateway's own heartbeats in the gateways topic.
type beats struct {
	count   uint64       // written; keepHouse's own
	waiting atomic.Int64 // without an outcome
	acked   atomic.Int64 // when the last was acknowledged, as Gateway.now, and 1 ns more; 0: none was
}

// maxBeatsWaiting heartbeats are enough to find out that Kafka is back.
const maxBeatsWaiting = 3

// keepHouse does every second what no session waits for.
func (g *Gateway) keepHouse() {
	g.beat()
	g.every(beatEvery, func() {
		g.beat()
		g.sweep()
		now := g.now()
		for _, c := range g.everyController() {
			for _, p := range c.inUse() {
				p.lease(now)
			}
		}
		for _, c := range g.askedFor() {
			g.seeTo(c, now)
		}
	})
}

// seeTo looks after one controller: is it silent for too long, is it wanted?
func (g *Gateway) seeTo(c *controller, now time.Duration) {
	c.mu.Lock()
	v, idle := c.view, now-c.used > controllerIdle
	c.mu.Unlock()
	if v.gone() && len(c.streams()) > 0 {
		g.wg.Go(c.endSilent)
	}
	if idle {
		g.retire(c, now)
	}
}

// beat writes one heartbeat. Each that Kafka takes also counts for every
// controller: if it is heard no more while these get through, it is silent.
func (g *Gateway) beat() {
	if g.beats.waiting.Load() >= maxBeatsWaiting {
		return
	}
	g.beats.count++
	value, err := proto.Marshal(&logv1.GatewayHeartbeat{
		Name: g.cfg.Name, Boot: g.self.Boot, Beat: g.beats.count, Address: g.cfg.Advertise,
		Sessions: uint32(g.sessions.Load()), Streams: uint32(g.streams.Load()),
		Draining: g.draining.Load(), Version: g.cfg.Version, Stalled: g.stalledUps(),
	})
	if err != nil {
		g.cfg.Logger.Error("own heartbeat", "error", err) // a name that is not UTF-8
		return
	}
	g.beats.waiting.Add(1)
	g.k.Beat([]byte(g.cfg.Name), value, func(_ int64, err error) {
		g.beats.waiting.Add(-1)
		if err != nil {
			g.metrics.beatsFailed.Inc()
			return
		}
		g.beats.acked.Store(int64(g.now()) + 1)
		for _, c := range g.everyController() {
			c.beat()
		}
	})
}

// maxStalledTold bounds what one heartbeat says of stalled partitions. Of more
// than that nothing is told, and their sessions' grace may run out.
const maxStalledTold = 1000

// stalledUps returns the up partitions that nothing gets into now. Our leases
// don't either, and this says that their silence proves nothing.
func (g *Gateway) stalledUps() (all []*logv1.StalledUp) {
	told := 0
	for _, c := range g.everyController() {
		var up *logv1.StalledUp
		for _, p := range c.inUse() {
			// A breaker that is half open has nothing through yet.
			since, open := g.k.Stalled(c.topics.Up, p.index)
			if !open && since < stallTold || told == maxStalledTold {
				continue
			}
			if up == nil {
				up = &logv1.StalledUp{Controller: c.name}
				all = append(all, up)
			}
			up.Partitions = append(up.Partitions, p.index)
			told++
		}
	}
	return all
}

// watchStalls asks the breakers of all partitions in use.
func (g *Gateway) watchStalls() {
	g.every(stallCheck, func() {
		for _, c := range g.everyController() {
			for _, p := range c.inUse() {
				p.check()
			}
		}
	})
}

// A burst logs what may come in masses once per so often.
type burst struct {
	mu   sync.Mutex
	last time.Time
}

func (b *burst) log(g *Gateway, msg string, args ...any) {
	b.mu.Lock()
	now := time.Now()
	quiet := now.Sub(b.last) < 10*time.Second
	b.last = now
	b.mu.Unlock()
	if !quiet {
		g.cfg.Logger.Warn(msg, args...)
	}
}

// unreadable notes a record that is not what its topic is for.
func (g *Gateway) unreadable(topic string, offset int64, err error) {
	g.metrics.corrupt.Inc()
	g.burst.log(g, "a record that cannot be read", "topic", topic, "offset", offset, "error", err)
}
