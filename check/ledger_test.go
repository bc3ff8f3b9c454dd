package check

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// talk is a session in order between two Books, but for its last messages down.
func talk(agents, controllers *Book, key string, messages, lost int) {
	a, c := agents.Open(key), controllers.Open(key)
	for i := range messages {
		at := agents.cfg.Now()
		c.Received(a.Next(at), at)
		if m := c.Next(at); i < messages-lost {
			a.Received(m, at.Add(time.Second))
		}
	}
	a.Ended(OK)
	c.Ended(OK)
}

// TestWhatIsOverTakesNoMemory: however many sessions there were, Books and
// Ledger know those of the last seconds, and of the others what all came to.
func TestWhatIsOverTakesNoMemory(t *testing.T) {
	now := time.Unix(1e9, 0)
	clock := Config{Now: func() time.Time { return now }}
	agents, controllers := NewBook(Agent, clock), NewBook(Controller, clock)
	agents.Fault(0, now)
	stays := agents.Open("stays/0/0")
	var l Ledger
	const sessions, each = 5000, 4
	most := 0
	for i := range sessions {
		talk(agents, controllers, fmt.Sprintf("g/%d/%d", i%10, i/10), each, 0)
		now = now.Add(100 * time.Millisecond)
		l.Add(Agent, agents.HandOver())
		if i%7 == 0 { // the other side may be late
			l.Add(Controller, controllers.HandOver())
		}
		most = max(most, len(agents.leaves), len(agents.opened)/2, len(agents.over), len(controllers.leaves), len(l.waiting[Agent]))
	}
	if most > 120 { // 100 in ten seconds, and what has not been asked for
		t.Errorf("%d sessions are kept of %d", most, sessions)
	}
	stays.Next(now)
	controllers.Open("stays/0/0")
	now = now.Add(rests)
	l.Add(Agent, agents.HandOver())
	l.Add(Controller, controllers.HandOver())
	if l.Sessions != sessions || l.Rest(Agent) != nil || l.Rest(Controller) != nil {
		t.Errorf("%d sessions fit, want %d; the rest is %v and %v", l.Sessions, sessions, l.Rest(Agent), l.Rest(Controller))
	}

	r := Settle([]Account{agents.Account()}, []Account{controllers.Account()}, Terms{})
	if r.Sessions != 1 || r.Stuck != 1 || len(r.Anomalies) != 1 || r.Sent != [2]uint64{sessions*each + 1, sessions * each} {
		t.Errorf("what is left: %+v", r)
	}
	for what, encoded := range map[string][]byte{"silence": agents.Silence(), "recovery": agents.Recovery()[0]} {
		h, err := hdrhistogram.Decode(encoded)
		want := map[string]int64{"silence": sessions, "recovery": 10}[what] // sessions that met the fault
		if err != nil || h.TotalCount() < min(want, 1) || what == "silence" && h.TotalCount() != want {
			t.Errorf("%s of %d sessions, want %d; %v", what, h.TotalCount(), want, err)
		}
	}
}

// TestWhatDoesNotFitIsSettledAtTheEnd: nothing that Settle would have found is
// missed because a Book gave it away before.
func TestWhatDoesNotFitIsSettledAtTheEnd(t *testing.T) {
	for _, c := range []struct {
		what  string
		story func(agents, controllers *Book, rest func())
		want  Verdict
	}{
		{"in order", func(a, c *Book, rest func()) { talk(a, c, "s", 3, 0); rest() }, Verdict{}},
		{"the last two are missing", func(a, c *Book, rest func()) { talk(a, c, "s", 5, 2); rest() }, Verdict{Lost: 2}},
		{"one is missing in the middle", func(a, c *Book, rest func()) {
			l := a.Open("s")
			far := c.Open("s")
			for range 2 {
				far.Next(time.Unix(1e9, 0))
			}
			l.Received(Message{From: Controller, Seq: 2}, time.Unix(1e9, 0))
			l.Ended(OK)
			far.Ended(OK)
			rest()
		}, Verdict{Lost: 1}},
		{"one side never heard of it", func(a, _ *Book, rest func()) {
			a.Open("s").Ended(OK)
			rest()
		}, Verdict{Untold: 1}},
		{"the sides were told different ends", func(a, c *Book, rest func()) {
			a.Open("s").Ended(OK)
			c.Open("s").Ended("GRACE")
			rest()
		}, Verdict{Misjudged: 1}},
		{"a message after the end", func(a, c *Book, rest func()) {
			talk(a, c, "s", 1, 0)
			a.Open("s").Received(c.Open("s").Next(time.Unix(1e9, 0)), time.Unix(1e9, 0))
			rest()
		}, Verdict{Revived: 1}},
		{"it came again", func(a, c *Book, rest func()) {
			talk(a, c, "s", 1, 0)
			rest()
			c.Open("s").Ended(OK)
			rest()
		}, Verdict{Untold: 1}},
		{"it came again before the other side was done", func(a, c *Book, rest func()) {
			c.Open("s").Ended(OK)
			rest()
			c.Open("s").Ended(OK)
			rest()
			a.Open("s").Ended(OK)
		}, Verdict{Misjudged: 1}},
		{"its process died after the end", func(a, c *Book, rest func()) {
			talk(a, c, "s", 1, 0)
			a.Open("s").Gone()
			rest()
		}, Verdict{}},
	} {
		now := time.Unix(1e9, 0)
		clock := Config{Now: func() time.Time { return now }}
		a, b := NewBook(Agent, clock), NewBook(Controller, clock)
		var l Ledger
		c.story(a, b, func() {
			now = now.Add(rests)
			l.Add(Agent, a.HandOver())
			l.Add(Controller, b.HandOver())
		})
		r := Settle(append(l.Rest(Agent), a.Account()), append(l.Rest(Controller), b.Account()), Terms{})
		if r.Verdict != c.want {
			t.Errorf("%s: %+v, want %+v", c.what, r.Verdict, c.want)
		}
	}
}

func TestEntriesAreHandedOverWhenTheyHaveRested(t *testing.T) {
	now := time.Unix(1e9, 0)
	b := NewBook(Agent, Config{Now: func() time.Time { return now }})
	for i := range mostHanded + 10 {
		b.Open(fmt.Sprint(i)).Ended(OK)
	}
	if e := b.HandOver(); e != nil {
		t.Errorf("%d are handed over at once", len(e))
	}
	now = now.Add(rests)
	first, second, third := b.HandOver(), b.HandOver(), b.HandOver()
	if len(first) != mostHanded || len(second) != 10 || third != nil {
		t.Errorf("%d, %d and %d are handed over", len(first), len(second), len(third))
	}
	maps.Copy(first, second)
	if len(first) != mostHanded+10 || len(b.Account().Sessions) != 0 {
		t.Errorf("%d in all, %d are still there", len(first), len(b.Account().Sessions))
	}
}
