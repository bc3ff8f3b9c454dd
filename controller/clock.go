package controller

import (
	"sync"
	"time"
)

// beatEvery is the interval of heartbeats, this process's and the gateways'.
const beatEvery = time.Second

// beatMost is the most that one beat moves the log's clock on: an interval,
// and some patience for a broker that is a little late.
const beatMost = beatEvery + beatEvery/4

// A logClock is the time that roles are given. It runs only while our own
// beats come back from Kafka: an outage of any length takes no session's grace.
type logClock struct {
	mu    sync.Mutex
	base  time.Time // the log's time at the last beat that came back
	at    time.Time // when that was, by the machine's clock
	whole time.Time // the last beat that counted, by the machine's clock
}

// start sets the clock to now.
func (c *logClock) start(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.base, c.at, c.whole = now, now, now
}

// beat notes that an own beat came back. counts is false for one that came
// right behind another: such beats say nothing of how long others have been
// silent. stood reports that the clock had been standing.
func (c *logClock) beat(now time.Time) (counts, stood bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	passed := now.Sub(c.at)
	stood = passed > beatMost
	c.base, c.at = c.base.Add(min(passed, beatMost)), now
	if now.Sub(c.whole) < beatEvery/2 {
		return false, stood
	}
	c.whole = now
	return true, stood
}

// read returns the log's time, which never goes back, and whether it runs.
func (c *logClock) read(now time.Time) (t time.Time, runs bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	passed := now.Sub(c.at)
	return c.base.Add(min(passed, beatMost)), passed < beatMost
}

// now returns the log's time.
func (c *logClock) now() time.Time {
	t, _ := c.read(time.Now())
	return t
}
