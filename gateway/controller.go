package gateway

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	logv1 "github.com/moorage-dev/moorage/proto/moorage/log/v1"
	"github.com/moorage-dev/moorage/session"
)

// A controller is what the gateway knows of one controller: the heartbeat in
// force, read from its meta topic, shared by all its sessions here.
type controller struct {
	g      *Gateway
	name   string
	topics bridge.Topics
	known  chan struct{} // closed when view is the newest there was, or err is set

	mu         sync.Mutex // guards the following
	err        error      // why it is not known; nil once known is closed and view is set
	meta       bridge.Topic
	upTo       int64 // end of the meta topic when it began to be read; older heartbeats may be of older incarnations
	told       bool  // known is closed
	view       view
	follow     follower
	stopped    bool
	used       time.Duration // last time somebody asked
	partitions map[int32]*partition
}

// A view is the newest incarnation's last heartbeat.
type view struct {
	incarnation envelope.Incarnation
	boot        uint64 // of its process
	partitions  int32
	down        envelope.TopicID
	upWindow    int
	maxFrame    int
	grace       time.Duration
	services    []string
	jenkins     *linkv1.Jenkins // nil: none, or not looked up yet
	leaving     bool
	read        time.Duration // when it was
	silent      int           // the gateway's own beats that Kafka acknowledged since, or since the process beat elsewhere
}

// meta heartbeats come every second, so the last records tell; what is further
// back is read only if they don't.
const metaTail = 64

// find returns the controller, known. It waits for its heartbeat a few seconds.
func (g *Gateway) find(ctx context.Context, name string) (*controller, view, error) {
	if err := bridge.ValidController(name); err != nil {
		return nil, view{}, fmt.Errorf("%w: %w", errNoName, err)
	}
	g.mu.Lock()
	c := g.controllers[name]
	if c == nil {
		if len(g.controllers) >= g.cfg.Controllers {
			g.mu.Unlock()
			return nil, view{}, errControllers
		}
		c = &controller{
			g: g, name: name, topics: g.k.Topics(name),
			known: make(chan struct{}), partitions: make(map[int32]*partition),
		}
		g.controllers[name] = c
		g.wg.Go(c.start)
	}
	c.mu.Lock()
	c.used = g.now()
	c.mu.Unlock()
	g.mu.Unlock()
	wait := time.NewTimer(controllerWait)
	defer wait.Stop()
	select {
	case <-c.known:
	case <-wait.C:
		return nil, view{}, fmt.Errorf("%w: %s has no heartbeat", errSilent, name)
	case <-ctx.Done():
		return nil, view{}, context.Cause(ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c, c.view, c.err
}

// start looks the meta topic up and follows it.
func (c *controller) start() {
	ctx, cancel := context.WithTimeout(c.g.ctx, controllerWait)
	defer cancel()
	err := c.begin(ctx, metaTail)
	if err == nil {
		err = c.search(ctx)
	}
	if err == nil {
		return
	}
	if errors.Is(err, bridge.ErrNoTopic) {
		err = fmt.Errorf("%w: %s has no topics", errUnknownController, c.name)
	}
	c.mu.Lock()
	if c.told { // the gateway is ending
		c.mu.Unlock()
		return
	}
	c.err, c.stopped = err, true // what is heard from now on changes nothing
	c.tellLocked()
	c.mu.Unlock()
	// Forgotten a little later, so that asking for what isn't there costs
	// Kafka no more than a look-up a second.
	c.g.after(unknownFor, func() { c.g.forget(c) })
}

// search reads the whole meta topic if its last records held no heartbeat.
func (c *controller) search(ctx context.Context) error {
	for whole := false; ; {
		c.mu.Lock()
		f, upTo, heard := c.follow, c.upTo, !c.view.incarnation.IsZero()
		if heard && f != nil && f.Next() >= upTo {
			c.tellLocked() // the last record was no heartbeat, or compaction took it
		}
		told := c.told
		c.mu.Unlock()
		switch {
		case told || f == nil || ctx.Err() != nil:
			return nil // or a heartbeat is waited for
		case heard || whole || f.Next() < upTo:
			sleep(ctx, 20*time.Millisecond)
			continue
		}
		whole = true
		if err := c.begin(ctx, 0); err != nil {
			return err
		}
	}
}

// tellLocked lets go on who waits for the controller to be known.
func (c *controller) tellLocked() {
	if !c.told {
		c.told = true
		close(c.known)
	}
}

// begin follows the meta topic from its last n records on; all of them for 0.
func (c *controller) begin(ctx context.Context, n int64) error {
	meta, err := c.g.k.Topic(ctx, c.topics.Meta)
	if err != nil {
		return err
	}
	oldest, next, err := c.g.k.Bounds(ctx, meta.Name, 0)
	if err != nil {
		return err
	}
	from := oldest
	if n > 0 {
		from = max(oldest, next-n)
	}
	c.mu.Lock()
	if c.stopped {
		c.mu.Unlock()
		return errClosing
	}
	old := c.follow
	c.meta, c.upTo = meta, next
	c.follow = c.g.k.Follow(meta, 0, from, c.heard, c.failed)
	c.mu.Unlock()
	if old != nil {
		old.Stop()
	}
	return nil
}

// failed begins anew: the meta topic was created again, or its records went
// faster than they were read.
func (c *controller) failed(err error) {
	if errors.Is(err, bridge.ErrClosed) {
		return
	}
	c.g.cfg.Logger.Warn("controller's meta topic has to be read anew", "controller", c.name, "error", err)
	c.g.wg.Go(func() {
		for c.g.ctx.Err() == nil && !c.isStopped() {
			ctx, cancel := context.WithTimeout(c.g.ctx, controllerWait)
			err := c.begin(ctx, metaTail)
			cancel()
			if err == nil || errors.Is(err, errClosing) {
				return
			}
			sleep(c.g.ctx, time.Second)
		}
	})
}

func (c *controller) isStopped() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stopped
}

// heard takes a record of the meta topic.
func (c *controller) heard(m bridge.Message) {
	if string(m.Key) != "heartbeat" || m.Value == nil {
		return
	}
	var beat logv1.ControllerHeartbeat
	if err := proto.Unmarshal(m.Value, &beat); err != nil {
		c.g.unreadable(c.topics.Meta, m.Offset, err)
		return
	}
	c.mu.Lock()
	if c.stopped {
		c.mu.Unlock()
		return
	}
	v, ok := c.read(&beat, m.Offset)
	if !ok {
		c.mu.Unlock()
		c.g.unreadable(c.topics.Meta, m.Offset, errors.New("no heartbeat of a controller side"))
		return
	}
	if c.view.incarnation.NewerThan(v.incarnation) && c.view.incarnation.Topic == v.incarnation.Topic {
		c.mu.Unlock() // an older process that has not noticed yet
		return
	}
	first := c.view.incarnation.IsZero()
	superseded := !first && v.incarnation != c.view.incarnation
	v.read = c.g.now()
	c.view = v
	if m.Offset+1 >= c.upTo {
		c.tellLocked()
	}
	c.mu.Unlock()
	if superseded {
		c.endOlder(v.incarnation)
	}
}

// read checks a heartbeat that stands at the offset. c.mu is held.
func (c *controller) read(beat *logv1.ControllerHeartbeat, offset int64) (v view, ok bool) {
	v.incarnation = envelope.Incarnation{Topic: c.meta.ID, Offset: offset}
	if beat.GetIncarnation() != nil {
		inc, err := session.ParseIncarnation(beat.GetIncarnation())
		if err != nil || inc.Topic != c.meta.ID || inc.Offset > offset {
			return v, false
		}
		v.incarnation = inc
	}
	v.boot, v.partitions = beat.GetBoot(), beat.GetPartitions()
	if v.partitions < 1 || v.partitions > envelope.Slots || v.partitions&(v.partitions-1) != 0 {
		return v, false
	}
	if copy(v.down[:], beat.GetDownTopicId()) != len(v.down) {
		return v, false
	}
	v.upWindow, v.maxFrame = int(beat.GetUpWindow()), int(beat.GetMaxFrame())
	if v.upWindow <= 0 || v.maxFrame <= 0 {
		return v, false
	}
	v.maxFrame = min(v.maxFrame, session.MaxFrame)
	v.grace = time.Duration(min(beat.GetGraceMs(), uint64(mostGrace.Milliseconds()))) * time.Millisecond
	v.services, v.leaving, v.jenkins = beat.GetServices(), beat.GetLeaving(), beat.GetJenkins()
	return v, true
}

// beat notes that Kafka advanced by one of the gateway's own beats.
func (c *controller) beat() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.view.silent++
}

// gone reports whether the controller was silent for its grace time while
// Kafka advanced.
func (v *view) gone() bool {
	return v.grace > 0 && time.Duration(v.silent)*beatEvery > v.grace+10*beatEvery
}

// current returns the heartbeat in force.
func (c *controller) current() view {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.view
}

// behind reports whether the session's incarnation is of the meta topic that
// is there now, and v of one that is no more: the heartbeat read here is old.
func (c *controller) behind(ctx context.Context, v *view, inc envelope.Incarnation) (bool, error) {
	if v.incarnation.Topic == inc.Topic {
		return false, nil
	}
	meta, err := c.g.k.Topic(ctx, c.topics.Meta) // the broker knows
	return err == nil && meta.ID == inc.Topic, err
}

// endOlder tells the sessions of older incarnations that theirs is gone.
func (c *controller) endOlder(inc envelope.Incarnation) {
	for _, s := range c.streams() {
		if inc.NewerThan(s.relay.Incarnation()) {
			s.end(goneClose(inc, "a newer process of controller "+c.name+" has taken over"))
		}
	}
}

// endSilent tells all sessions that the controller is gone, if its meta topic
// can be read and says so.
func (c *controller) endSilent() {
	ctx, cancel := context.WithTimeout(c.g.ctx, controllerWait)
	defer cancel()
	_, next, err := c.g.k.Bounds(ctx, c.topics.Meta, 0)
	c.mu.Lock()
	v, f := c.view, c.follow
	c.mu.Unlock()
	if err != nil || f == nil || f.Next() < next || !v.gone() {
		return
	}
	for _, s := range c.streams() {
		s.end(goneClose(s.relay.Incarnation(), "controller "+c.name+" is silent for longer than "+v.grace.String()))
	}
}

func goneClose(inc envelope.Incarnation, text string) session.Close {
	return session.Close{
		Ending:      session.Ending{Reason: linkv1.Reason_REASON_CONTROLLER_GONE, Text: text},
		Incarnation: inc,
	}
}

// streams returns the streams attached to the controller.
func (c *controller) streams() []*stream {
	var all []*stream
	for _, p := range c.inUse() {
		all = p.appendStreams(all)
	}
	return all
}

// inUse returns the partitions there are.
func (c *controller) inUse() []*partition {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]*partition, 0, len(c.partitions))
	for _, p := range c.partitions {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b *partition) int { return int(a.index - b.index) })
	return all
}

// partition returns one of the controller's partitions, always the same one.
func (c *controller) partition(index int32) *partition {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.partitions[index]
	if p == nil {
		p = &partition{
			c: c, index: index, queue: c.g.k.Queue(c.topics.Up, index),
			streams: make(map[*stream]struct{}), leased: c.g.now(),
		}
		c.partitions[index] = p
	}
	return p
}

// stop ends the following.
func (c *controller) stop() {
	c.mu.Lock()
	c.stopped = true
	f := c.follow
	c.follow = nil
	c.mu.Unlock()
	if f != nil {
		f.Stop()
	}
	for _, p := range c.inUse() {
		p.close()
	}
}

// forget drops the controller; whoever asks again starts anew.
func (g *Gateway) forget(c *controller) {
	g.mu.Lock()
	if g.controllers[c.name] == c {
		delete(g.controllers, c.name)
	}
	g.mu.Unlock()
	c.stop()
}

// retire drops a controller for which nobody has asked for long, unless a
// session of it is here: its feed, its leases and its breaker hang on the
// controller's partitions, and an agent that comes back must find the same.
func (g *Gateway) retire(c *controller, now time.Duration) {
	if g.dropUnused(c, now) {
		c.stop()
	}
}

func (g *Gateway) dropUnused(c *controller, now time.Duration) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if g.controllers[c.name] != c || now-c.used <= controllerIdle {
		return false
	}
	for _, f := range g.feeds {
		if f.p.c == c {
			c.used = now // not to be looked for every second
			return false
		}
	}
	delete(g.controllers, c.name)
	return true
}

// everyController returns the controllers known now.
func (g *Gateway) everyController() []*controller {
	return slices.DeleteFunc(g.askedFor(), func(c *controller) bool {
		select {
		case <-c.known:
			return false
		default:
			return true
		}
	})
}

// askedFor returns the controllers somebody asked for, known or not.
func (g *Gateway) askedFor() []*controller {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := slices.Collect(maps.Values(g.controllers))
	slices.SortFunc(all, func(a, b *controller) int { return strings.Compare(a.name, b.name) })
	return all
}
