package controller

import (
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	logv1 "github.com/moorage-dev/moorage/proto/moorage/log/v1"
	"github.com/moorage-dev/moorage/session"
)

const (
	// bequestWithin bounds how long older presence is looked for.
	bequestWithin = time.Minute
	// bequestAgain is when it is looked for once more: an older process that
	// was still alive may have written a little longer.
	bequestAgain = 30 * time.Second
)

func (c *Controller) bequests() {
	seen := make(map[int32]int64)
	c.bequest(seen)
	select {
	case <-time.After(bequestAgain):
		c.bequest(seen)
	case <-c.life.Done():
	}
}

// bequest takes over the presence that older incarnations have left: their
// sessions have ended with them, and nobody else would say so. It is news for
// operators, so a failure is only logged. seen has, by partition, up to where
// an earlier look has counted what nobody can read.
func (c *Controller) bequest(seen map[int32]int64) {
	t := c.topics.sessions
	var mu sync.Mutex
	left := make(map[string]*logv1.SessionPresence)
	take := func(partition int32, m bridge.Message) {
		mu.Lock()
		defer mu.Unlock()
		delete(left, string(m.Key))
		if m.Value == nil {
			return
		}
		p, inc, err := parsePresence(m.Value)
		switch {
		case err != nil && m.Offset >= seen[partition]:
			c.unreadable(t.Name, partition, m.Offset, err)
		case err == nil && c.incarnation.NewerThan(inc):
			left[string(m.Key)] = p
		}
	}
	reader, err := c.client.NewReader()
	if err != nil {
		return // the client is closed
	}
	defer reader.Close()
	until := time.Now().Add(bequestWithin)
	for i := range t.Partitions {
		if c.life.Err() != nil {
			return
		}
		oldest, next, err := c.client.Bounds(c.life, t.Name, i)
		if err != nil {
			c.log.Warn("older presence not seen", "topic", t.Name, "partition", i, "err", err)
			continue
		}
		if oldest == next {
			continue
		}
		failed := make(chan error, 1)
		f := reader.Follow(t, i, oldest, func(m bridge.Message) { take(i, m) }, func(err error) { failed <- err })
		if !c.readTo(f, next, failed, until) {
			c.log.Warn("older presence not seen", "topic", t.Name, "partition", i)
		}
		f.Stop()
		seen[i] = max(seen[i], f.Next())
	}
	mu.Lock()
	defer mu.Unlock()
	now := time.Now()
	for _, p := range left {
		h := heirloom{epitaph: epitaph{envelope.SessionID(p.GetSessionId()), now.Add(keepEnded)}}
		if p.GetState() != logv1.SessionState_SESSION_STATE_ENDED {
			p.State, p.SinceMs = logv1.SessionState_SESSION_STATE_ENDED, now.UnixMilli()
			p.Reason, p.Text = linkv1.Reason_REASON_CONTROLLER_GONE, "the controller process that held it is gone"
			h.value = marshal(p)
		}
		c.presence.inherit(h)
	}
	c.stir()
}

// parsePresence reads one record of the sessions topic.
func parsePresence(value []byte) (p *logv1.SessionPresence, inc envelope.Incarnation, err error) {
	p = new(logv1.SessionPresence)
	if err := proto.Unmarshal(value, p); err != nil {
		return nil, inc, err
	}
	if n := len(p.GetSessionId()); n != len(envelope.SessionID{}) {
		return nil, inc, fmt.Errorf("controller: presence of a session id of %d bytes", n)
	}
	inc, err = session.ParseIncarnation(p.GetIncarnation())
	return p, inc, err
}

// readTo waits until f has read up to next.
func (c *Controller) readTo(f *bridge.Follower, next int64, failed <-chan error, until time.Time) bool {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for f.Next() < next {
		select {
		case <-tick.C:
			if time.Now().After(until) {
				return false
			}
		case <-failed:
			return false
		case <-c.life.Done():
			return false
		}
	}
	return true
}
