package controller

import (
	"testing"
	"time"
)

func TestLogClock(t *testing.T) {
	began := time.Unix(1e9, 0)
	at := func(d time.Duration) time.Time { return began.Add(d) }
	var c logClock
	c.start(began)
	for _, step := range []struct {
		desc          string
		beat          bool // an own beat comes back, else the clock is read
		at            time.Duration
		want          time.Duration // what the clock shows then
		counts, stood bool
		runs          bool
	}{
		{desc: "it runs between beats", at: 400 * time.Millisecond, want: 400 * time.Millisecond, runs: true},
		{desc: "a beat in time", beat: true, at: time.Second, want: time.Second, counts: true, runs: true},
		{desc: "a beat a little late", beat: true, at: 2200 * time.Millisecond, want: 2200 * time.Millisecond, counts: true, runs: true},
		{desc: "no beat: it stands", at: 10 * time.Second, want: 3450 * time.Millisecond},
		{desc: "and stands", at: time.Hour, want: 3450 * time.Millisecond},
		{desc: "after an outage it goes on where it stood", beat: true, at: time.Hour, want: 3450 * time.Millisecond, counts: true, stood: true, runs: true},
		{desc: "a beat right behind another does not count", beat: true, at: time.Hour + 10*time.Millisecond, want: 3460 * time.Millisecond, runs: true},
		{desc: "the next one does", beat: true, at: time.Hour + time.Second, want: 4450 * time.Millisecond, counts: true, runs: true},
	} {
		if step.beat {
			counts, stood := c.beat(at(step.at))
			if counts != step.counts || stood != step.stood {
				t.Errorf("%s: counts %v, stood %v; want %v, %v", step.desc, counts, stood, step.counts, step.stood)
			}
		}
		now, runs := c.read(at(step.at))
		if now != at(step.want) || runs != step.runs {
			t.Errorf("%s: shows %v, runs %v; want %v, %v", step.desc, now.Sub(began), runs, step.want, step.runs)
		}
	}
}
