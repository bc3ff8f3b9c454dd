package check

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// A history plays two honest applications and the system between them, on a
// clock of its own.
type history struct {
	*Checker
	now      time.Time
	sent     [2]uint64
	received [2]uint64
}

func newHistory() *history {
	h := &history{now: time.Unix(1e9, 0)}
	h.Checker = New(Config{Now: func() time.Time { return h.now }, Settle: time.Minute})
	return h
}

const sess Session = "s"

func payload(from Side, seq uint64) []byte { return fmt.Appendf(nil, "%v-%d", from, seq) }

func (h *history) send(from Side) {
	h.sent[from]++
	h.Sent(sess, from, h.sent[from], payload(from, h.sent[from]))
	h.now = h.now.Add(time.Millisecond)
}

// deliver hands over the next message that from sent, if one is under way.
func (h *history) deliver(from Side) {
	if h.received[from] < h.sent[from] {
		h.received[from]++
		h.again(from, h.received[from])
	}
}

func (h *history) again(from Side, seq uint64) {
	h.Received(sess, from.other(), seq, payload(from, seq))
	h.now = h.now.Add(time.Millisecond)
}

func (h *history) drain() {
	for _, from := range []Side{Agent, Controller} {
		for h.received[from] < h.sent[from] {
			h.deliver(from)
		}
	}
}

func (h *history) end(reason string) {
	h.Ended(sess, Agent, reason, "")
	h.Ended(sess, Controller, reason, "")
}

// ramble sends and delivers at random, in order, both ways.
func (h *history) ramble(t *rapid.T) {
	for range rapid.IntRange(0, 40).Draw(t, "steps") {
		from := Side(rapid.IntRange(0, 1).Draw(t, "from"))
		if rapid.Bool().Draw(t, "send") {
			h.send(from)
		} else {
			h.deliver(from)
		}
	}
}

func TestCleanHistoriesAreClean(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newHistory()
		h.ramble(t)
		if r := h.Report(false); !r.Clean() {
			t.Fatalf("under way: %v", r)
		}
		switch rapid.IntRange(0, 3).Draw(t, "ending") {
		case 0: // stays open
			h.drain()
		case 1:
			h.drain()
			h.end(OK)
		case 2: // what was under way is cut off
			h.Expect(sess, "CONTROLLER_GONE")
			h.Gone(sess, Controller)
			h.Ended(sess, Agent, "CONTROLLER_GONE", "")
		case 3:
			h.Expect(sess, "GRACE")
			h.end("GRACE")
		}
		r := h.Report(true)
		if !r.Clean() {
			t.Fatalf("at rest: %v", r)
		}
		if got, want := r.CutOff+r.Received[0]+r.Received[1], h.sent[0]+h.sent[1]; got != want {
			t.Fatalf("cut off + received = %d, sent %d", got, want)
		}
		if got, want := r.Up.Count+r.Down.Count, int64(h.received[0]+h.received[1]); got != want {
			t.Fatalf("%d latencies for %d receipts", got, want)
		}
	})
}

// Each defect is put into a random history and must be found, as what it is
// and as nothing else.
func TestDefectsAreFound(t *testing.T) {
	defects := map[string]struct {
		seed func(t *rapid.T, h *history, from Side)
		want Verdict
	}{
		"hole": {func(t *rapid.T, h *history, from Side) {
			h.drain()
			h.send(from)
			h.received[from]++ // skipped for ever
			h.send(from)
			h.drain()
		}, Verdict{Lost: 1}},
		"hole in a session that was cut off": {func(t *rapid.T, h *history, from Side) {
			h.Expect(sess, "GRACE")
			h.drain()
			h.send(from)
			h.received[from]++
			h.send(from)
			h.drain()
			h.end("GRACE")
		}, Verdict{Lost: 1}},
		"tail missing at an orderly end": {func(t *rapid.T, h *history, from Side) {
			h.drain()
			h.send(from)
			h.send(from)
			h.end(OK)
		}, Verdict{Lost: 2}},
		"repeat": {func(t *rapid.T, h *history, from Side) {
			h.send(from)
			h.drain()
			h.again(from, rapid.Uint64Range(1, h.sent[from]).Draw(t, "seq"))
		}, Verdict{Repeated: 1}},
		"swap": {func(t *rapid.T, h *history, from Side) {
			h.drain()
			h.send(from)
			h.send(from)
			h.again(from, h.sent[from])
			h.again(from, h.sent[from]-1)
			h.received[from] = h.sent[from]
		}, Verdict{Reordered: 1}},
		"tail that never comes": {func(t *rapid.T, h *history, from Side) {
			h.drain()
			h.send(from)
		}, Verdict{Stuck: 1}},
		"wrong bytes": {func(t *rapid.T, h *history, from Side) {
			h.drain()
			h.send(from)
			h.received[from]++
			h.Received(sess, from.other(), h.sent[from], []byte("other"))
		}, Verdict{Corrupted: 1}},
		"never sent": {func(t *rapid.T, h *history, from Side) {
			h.drain()
			h.again(from, h.sent[from]+1)
		}, Verdict{Corrupted: 1}},
		"message after the end": {func(t *rapid.T, h *history, from Side) {
			h.Expect(sess, "GRACE")
			h.send(from)
			h.end("GRACE")
			h.deliver(from)
		}, Verdict{Revived: 1}},
		"end without reason": {func(t *rapid.T, h *history, from Side) {
			h.drain()
			h.Ended(sess, from, OK, "")
			h.Ended(sess, from.other(), "", "broken pipe")
		}, Verdict{Unexplained: 1}},
		"unexpected reason": {func(t *rapid.T, h *history, from Side) {
			h.drain()
			h.Ended(sess, from, OK, "")
			h.Ended(sess, from.other(), "DATA_LOSS", "")
		}, Verdict{Misjudged: 1}},
		"told twice": {func(t *rapid.T, h *history, from Side) {
			h.drain()
			h.end(OK)
			h.Ended(sess, from, OK, "")
		}, Verdict{Misjudged: 1}},
		"one side not told": {func(t *rapid.T, h *history, from Side) {
			h.drain()
			h.Ended(sess, from, OK, "")
		}, Verdict{Untold: 1}},
		"gone and nobody told": {func(t *rapid.T, h *history, from Side) {
			h.drain()
			h.Gone(sess, from)
		}, Verdict{Untold: 1}},
	}
	for name, d := range defects {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				h := newHistory()
				h.ramble(t)
				d.seed(t, h, Side(rapid.IntRange(0, 1).Draw(t, "direction")))
				r := h.Report(true)
				if r.Verdict != d.want || r.Clean() {
					t.Fatalf("verdict %+v, want %+v", r.Verdict, d.want)
				}
				if len(r.Anomalies) == 0 || len(r.Anomalies[0].Events) == 0 {
					t.Fatal("no anomaly with events to look at")
				}
			})
		})
	}
}

func TestWaitingBecomesStuckAfterSettling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Config{Settle: 10 * time.Second})
		c.Sent("a", Agent, 1, nil)
		time.Sleep(9 * time.Second)
		if r := c.Report(false); !r.Clean() {
			t.Errorf("before the settle time: %v", r)
		}
		time.Sleep(time.Second)
		if r := c.Report(false); r.Stuck != 1 || r.Silence.Max < 10*time.Second {
			t.Errorf("after it: %v", r)
		}
		c.Received("a", Controller, 1, nil)
		if r := c.Report(true); !r.Clean() {
			t.Errorf("it came after all: %v", r)
		}
	})
}

func TestRecoveryIsTheLongestWaitAFaultCaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Config{})
		c.Sent("a", Controller, 1, nil)
		time.Sleep(time.Second)
		c.Fault("cut")
		time.Sleep(500 * time.Millisecond)
		c.Sent("a", Controller, 2, nil) // meets the fault before anyone noticed it
		time.Sleep(2 * time.Second)
		c.Received("a", Agent, 1, nil)
		c.Received("a", Agent, 2, nil)
		time.Sleep(time.Minute)
		c.Sent("a", Controller, 3, nil) // the calm after
		time.Sleep(10 * time.Second)
		c.Received("a", Agent, 3, nil)

		got := c.Report(true).Recovery["cut"]
		if got.Count != 1 || got.Max.Round(100*time.Millisecond) != 2500*time.Millisecond {
			t.Errorf("recovery %v, want 2.5 s once", got)
		}
	})
}

func TestReportForms(t *testing.T) {
	h := newHistory()
	h.send(Agent)
	h.drain()
	h.again(Agent, 1)
	r := h.Report(true)
	first, _, _ := strings.Cut(r.String(), "\n")
	if want := "lost=0 repeated=1 reordered=0 stuck=0"; first != want {
		t.Errorf("first line %q, want %q", first, want)
	}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"repeated":1`, `"what":"repeated"`, `"side":"controller"`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("JSON lacks %s: %s", want, b)
		}
	}
}

func TestAnomaliesAreBounded(t *testing.T) {
	h := newHistory()
	h.send(Agent)
	h.drain()
	for range 1000 {
		h.again(Agent, 1)
	}
	r := h.Report(true)
	if r.Repeated != 1000 || len(r.Anomalies) != 20 || len(r.Anomalies[0].Events) > 12 {
		t.Errorf("repeated %d, anomalies %d, events %d", r.Repeated, len(r.Anomalies), len(r.Anomalies[0].Events))
	}
}

func BenchmarkMessage(b *testing.B) {
	c, p, seq := New(Config{}), make([]byte, 256), uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		seq++
		c.Sent(sess, Agent, seq, p)
		c.Received(sess, Controller, seq, p)
	}
}
