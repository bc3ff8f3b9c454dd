package check

import (
	"encoding/json"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"pgregory.net/rapid"
)

// A pair plays both sides of sessions with a Book each, and the system between
// them, on a clock of its own. A Checker sees the same.
type pair struct {
	books   [2]*Book
	checker *Checker
	now     time.Time
	wire    map[string][2][]uint64 // seqs under way, by who sent them
	sent    map[string][2]uint64
	allowed []string
}

func newPair() *pair {
	p := &pair{now: time.Unix(1e9, 0), wire: map[string][2][]uint64{}, sent: map[string][2]uint64{}}
	cfg := Config{Now: func() time.Time { return p.now }}
	p.books = [2]*Book{NewBook(Agent, cfg), NewBook(Controller, cfg)}
	p.checker = New(cfg)
	return p
}

func (p *pair) after(d time.Duration) { p.now = p.now.Add(d) }

func (p *pair) send(key string, from Side) {
	m := p.books[from].Open(key).Next(p.now)
	p.checker.Sent(Session(key), from, m.Seq, payload(from, m.Seq))
	wire, sent := p.wire[key], p.sent[key]
	wire[from] = append(wire[from], m.Seq)
	sent[from] = m.Seq
	p.wire[key], p.sent[key] = wire, sent
	p.after(time.Millisecond)
}

// arrive brings message seq to the other side, as it was sent or changed.
func (p *pair) arrive(key string, from Side, seq uint64, changed bool) {
	l := p.books[from.other()].Open(key)
	b := AppendMessage(nil, Message{Session: l.Hash, From: from, Seq: seq, At: p.now}, 100)
	told := payload(from, seq)
	if changed {
		b[99]++
		told = append(told, '!')
	}
	l.Take(b, p.now)
	p.checker.Received(Session(key), from.other(), seq, told)
	p.after(time.Millisecond)
}

// take takes the i-th message out of the wire.
func (p *pair) take(key string, from Side, i int) uint64 {
	wire := p.wire[key]
	seq := wire[from][i]
	wire[from] = append(wire[from][:i:i], wire[from][i+1:]...)
	p.wire[key] = wire
	return seq
}

func (p *pair) drain(key string) {
	for _, from := range []Side{Agent, Controller} {
		for len(p.wire[key][from]) > 0 {
			p.arrive(key, from, p.take(key, from, 0), false)
		}
	}
}

func (p *pair) end(key string, at Side, reason string) {
	p.books[at].Open(key).Ended(reason)
	p.checker.Ended(Session(key), at, reason, "")
	p.after(time.Millisecond)
}

func (p *pair) gone(key string, at Side) {
	p.books[at].Open(key).Gone()
	p.checker.Gone(Session(key), at)
}

func (p *pair) settle(t Terms) Report {
	if t.Expect == nil {
		t.Expect = func(Ending) []string { return p.allowed }
	}
	return Settle([]Account{p.books[Agent].Account()}, []Account{p.books[Controller].Account()}, t)
}

// Two Books, which keep nothing that is under way, come to the same verdict as
// a Checker, which keeps everything; whatever the system does.
func TestBooksAgreeWithTheChecker(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newPair()
		keys := []string{"a/0/1", "a/1/1"}
		for _, k := range keys { // both sides know both; what only one knows is another test's
			p.books[Agent].Open(k)
			p.books[Controller].Open(k)
		}
		p.checker.Expect("a/0/1")
		p.checker.Expect("a/1/1")
		if rapid.Bool().Draw(t, "may end") {
			p.allowed = []string{"GRACE"}
			for _, k := range keys {
				p.checker.Expect(Session(k), "GRACE")
			}
		}
		twice := map[uint64]bool{}
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			key := rapid.SampledFrom(keys).Draw(t, "session")
			from := Side(rapid.IntRange(0, 1).Draw(t, "from"))
			wire := p.wire[key][from]
			whichever := func() int { return rapid.IntRange(0, len(wire)-1).Draw(t, "which") }
			switch act := rapid.IntRange(0, 19).Draw(t, "act"); {
			case act < 8:
				p.send(key, from)
			case act < 14 && len(wire) > 0:
				p.arrive(key, from, p.take(key, from, 0), false)
			case act == 14 && len(wire) > 0: // out of order
				p.arrive(key, from, p.take(key, from, whichever()), false)
			case act == 15 && len(wire) > 0: // lost
				p.take(key, from, whichever())
			case act == 16 && len(wire) > 0: // twice
				seq := wire[whichever()]
				twice[seq] = true
				p.arrive(key, from, seq, false)
			case act == 17 && len(wire) > 0 && !twice[wire[0]]: // changed; of a repeat only a Book sees it
				p.arrive(key, from, p.take(key, from, 0), true)
			case act == 18:
				p.end(key, from, rapid.SampledFrom([]string{OK, "GRACE", "OPERATOR", ""}).Draw(t, "reason"))
			case act == 19 && rapid.IntRange(0, 3).Draw(t, "dies") == 0:
				p.gone(key, from)
			}
		}
		got, want := p.settle(Terms{}), p.checker.Report(true)
		if got.Verdict != want.Verdict || got.CutOff != want.CutOff || got.Sent != want.Sent || got.Received != want.Received {
			t.Fatalf("settled\n%v\nthe checker\n%v", got, want)
		}
		if fmt.Sprint(got.Ended) != fmt.Sprint(want.Ended) || got.Disagree != want.Disagree {
			t.Fatalf("ended %v, %d; the checker %v, %d", got.Ended, got.Disagree, want.Ended, want.Disagree)
		}
	})
}

func TestAccountsTravel(t *testing.T) {
	p := newPair()
	p.send("a/0/1", Agent)
	p.send("a/0/1", Agent)
	p.drain("a/0/1")
	p.arrive("a/0/1", Agent, 1, false)
	p.end("a/0/1", Controller, "GRACE")

	b, err := json.Marshal(p.books[Controller].Account())
	if err != nil {
		t.Fatal(err)
	}
	var a Account
	if err := json.Unmarshal(b, &a); err != nil {
		t.Fatal(err)
	}
	r := Settle([]Account{p.books[Agent].Account()}, []Account{a}, Terms{Expect: func(e Ending) []string {
		if e.Key != "a/0/1" || e.Side != Controller || e.Reason != "GRACE" || !e.Over.Equal(time.Unix(1e9, 5e6)) {
			t.Errorf("asked about %+v", e)
		}
		return []string{"GRACE"}
	}})
	if want := (Verdict{Repeated: 1, Untold: 1}); r.Verdict != want || r.Sessions != 1 || r.Ended["GRACE"] != 1 {
		t.Errorf("got %v", r)
	}
	if len(r.Anomalies) != 2 || len(r.Anomalies[0].Events) != 3 || len(r.Anomalies[1].Events) != 6 {
		t.Errorf("anomalies %+v", r.Anomalies)
	}
}

func TestWhatSettleExcuses(t *testing.T) {
	const key = "a/0/1"
	mortal := Terms{Expect: func(e Ending) []string {
		if e.PeerGone {
			return []string{"GRACE"}
		}
		return []string{"CONTROLLER_GONE"}
	}}
	for _, tt := range []struct {
		desc  string
		play  func(p *pair)
		terms Terms
		want  Verdict
	}{
		{"an application's account that was lost with it", func(p *pair) {
			p.send(key, Agent)
			p.end(key, Agent, "CONTROLLER_GONE")
		}, mortal, Verdict{}},
		{"but not with any reason", func(p *pair) {
			p.send(key, Agent)
			p.end(key, Agent, "DATA_LOSS")
		}, mortal, Verdict{Misjudged: 1, Stuck: 1, Untold: 1}},
		{"and not without one", func(p *pair) { p.send(key, Agent) }, mortal, Verdict{Stuck: 1}},
		{"an agent that died, and grace has run", func(p *pair) {
			p.send(key, Agent)
			p.send(key, Controller)
			p.gone(key, Agent)
			p.end(key, Controller, "GRACE")
		}, mortal, Verdict{}},
		{"grace without a dead agent is no excuse", func(p *pair) {
			p.send(key, Agent)
			p.end(key, Agent, "GRACE")
			p.end(key, Controller, "GRACE")
		}, mortal, Verdict{Misjudged: 2, Lost: 1}},
		{"an agent that died just now", func(p *pair) {
			p.send(key, Controller)
			p.gone(key, Agent)
			p.after(time.Minute)
		}, Terms{Within: 2 * time.Minute}, Verdict{}},
		{"an agent that died long ago", func(p *pair) {
			p.send(key, Controller)
			p.gone(key, Agent)
			p.after(time.Hour)
		}, Terms{Within: 2 * time.Minute}, Verdict{Untold: 1}},
		{"an agent that died long ago, but nobody could find out", func(p *pair) {
			p.send(key, Controller)
			p.gone(key, Agent)
			p.after(time.Hour)
		}, Terms{Within: 2 * time.Minute, Stood: allBut(time.Minute)}, Verdict{}},
		{"and somebody could", func(p *pair) {
			p.send(key, Controller)
			p.gone(key, Agent)
			p.after(time.Hour)
		}, Terms{Within: 2 * time.Minute, Stood: allBut(2 * time.Minute)}, Verdict{Untold: 1}},
		{"an end in order, of which the other side has not heard, is on its way like the rest", func(p *pair) {
			p.send(key, Controller)
			p.send(key, Controller)
			p.end(key, Controller, OK)
		}, Terms{}, Verdict{Stuck: 1, Untold: 1}},
		{"an end that one side was told just now", func(p *pair) {
			p.send(key, Agent)
			p.drain(key)
			p.end(key, Agent, OK)
		}, Terms{Within: time.Hour}, Verdict{Untold: 1}},
		{"an agent that died before anyone knew of it", func(p *pair) {
			p.send(key, Agent)
			p.gone(key, Agent)
		}, Terms{}, Verdict{}},
		{"a message that nobody sent", func(p *pair) {
			p.send(key, Agent)
			p.drain(key)
			p.send(key, Agent)
			p.drain(key)
			p.arrive(key, Agent, 3, false)
		}, Terms{}, Verdict{Corrupted: 1}},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			p := newPair()
			tt.play(p)
			if r := p.settle(tt.terms); r.Verdict != tt.want {
				t.Errorf("got %+v, want %+v", r.Verdict, tt.want)
			}
		})
	}
}

func TestASessionHasOneProcess(t *testing.T) {
	p, q := newPair(), newPair()
	p.send("a/0/1", Agent)
	p.drain("a/0/1")
	q.send("a/0/1", Agent)
	r := Settle([]Account{p.books[Agent].Account(), q.books[Agent].Account()}, []Account{p.books[Controller].Account()}, Terms{})
	if want := (Verdict{Misjudged: 1}); r.Verdict != want {
		t.Errorf("got %+v, want %+v", r.Verdict, want)
	}
}

// What comes back to its sender, or belongs to another session, is as wrong as
// changed bytes.
func TestStrayMessagesAreCorrupt(t *testing.T) {
	b := NewBook(Agent, Config{})
	l := b.Open("a/0/1")
	for desc, m := range map[string]Message{
		"its own":         {Session: l.Hash, Seq: 1, From: Agent},
		"another's":       {Session: Hash("a/1/1"), Seq: 1, From: Controller},
		"without its seq": {Session: l.Hash, From: Controller},
	} {
		if _, _, fresh := l.Take(AppendMessage(nil, m, 64), time.Now()); fresh {
			t.Errorf("%s was taken", desc)
		}
	}
	if c := b.Account().Counts; c["corrupted"] != 3 || c["lost"] != 0 {
		t.Errorf("counted %v", c)
	}
}

func TestSilenceCountsFromWhenSomethingWasDue(t *testing.T) {
	b := NewBook(Agent, Config{})
	l := b.Open("a/0/1")
	at := time.Unix(1e9, 0)
	receive := func(seq uint64, due, arrived time.Duration) time.Duration {
		d, fresh := l.Received(Message{From: Controller, Seq: seq, At: at.Add(due)}, at.Add(arrived))
		if !fresh {
			t.Errorf("message %d is not fresh", seq)
		}
		return d
	}
	receive(1, 0, 10*time.Millisecond)
	receive(2, time.Minute, time.Minute+20*time.Millisecond) // a minute without anything to deliver is no silence
	if d := receive(3, time.Minute, time.Minute+50*time.Millisecond); d != 50*time.Millisecond {
		t.Errorf("latency %v, want 50 ms", d)
	}
	h, err := hdrhistogram.Decode(b.Silence())
	if err != nil {
		t.Fatal(err)
	}
	if got := times(h); got.Count != 1 || got.Max.Round(time.Millisecond) != 30*time.Millisecond {
		t.Errorf("silence %v, want 30 ms once", got)
	}
}

func TestEachFaultHasItsRecoveries(t *testing.T) {
	b := NewBook(Agent, Config{})
	start := time.Unix(1e9, 0)
	seq := map[string]uint64{}
	// receive brings a message to a session; times are seconds after the start.
	receive := func(key string, due, arrived float64) {
		seq[key]++
		at := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
		b.Open(key).Received(Message{From: Controller, Seq: seq[key], At: at(due)}, at(arrived))
	}
	fault := func(n int, at float64) { b.Fault(n, start.Add(time.Duration(at*float64(time.Second)))) }

	receive("a", 9, 9.1) // the calm before
	fault(0, 10)
	receive("a", 9.9, 14)    // under way when it struck
	receive("a", 10.5, 14.1) // met it before anyone noticed
	receive("b", 10.5, 10.6) // was spared
	receive("c", 11.5, 11.9) // the calm after
	fault(1, 20)
	fault(2, 22)
	receive("a", 21.5, 26) // due a second and a half after 1, half a second before 2
	receive("b", 19, 26)   // met both: the first one is to blame
	receive("a", 19.5, 27) // an answer, to a request long ago
	receive("c", 40, 50)   // somebody else's fault

	got := map[int]string{}
	for n, encoded := range b.Recovery() {
		h, err := hdrhistogram.Decode(encoded)
		if err != nil {
			t.Fatal(err)
		}
		got[n] = fmt.Sprintf("%d up to %v", h.TotalCount(), (time.Duration(h.Max()) * time.Microsecond).Round(100*time.Millisecond))
	}
	want := map[int]string{0: "2 up to 4s", 1: "2 up to 7s", 2: "1 up to 4s"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("recoveries %v, want %v", got, want)
	}
}

// Many faults take no more memory for open histograms than a few.
func TestOldFaultsAreFoldedUp(t *testing.T) {
	b := NewBook(Agent, Config{})
	l := b.Open("a/0/1")
	at := time.Unix(1e9, 0)
	const n = 500
	for i := range n {
		at = at.Add(5 * time.Second)
		b.Fault(i, at)
		l.Received(Message{From: Controller, Seq: uint64(i + 1), At: at}, at.Add(300*time.Millisecond))
		if len(b.faults.open) > openFaults+1 {
			t.Fatalf("after %d faults %d histograms are open", i, len(b.faults.open))
		}
	}
	all := b.Recovery()
	for i := range n {
		h, err := hdrhistogram.Decode(all[i])
		if err != nil || h.TotalCount() != 1 {
			t.Fatalf("fault %d: %v", i, err)
		}
	}
}

func TestABookIsBounded(t *testing.T) {
	b := NewBook(Agent, Config{Anomalies: 5})
	at := time.Unix(1e9, 0)
	l := b.Open("first")
	for i := range 1000 { // every second message is lost
		l.Received(Message{From: Controller, Seq: uint64(2*i + 2), At: at}, at)
	}
	if n := len(l.bad.holes); n != maxHoles {
		t.Errorf("%d holes are kept", n)
	}
	for range 1000 {
		l.Received(Message{From: Controller, Seq: 2000, At: at}, at)
	}
	for i := range ownTraces + 100 {
		late := b.Open(fmt.Sprint("late/", i))
		for range 20 {
			late.Next(at)
		}
		if i == ownTraces+99 {
			if n := len(late.events()); n != ownEvents {
				t.Errorf("a late session has %d events, want %d", n, ownEvents)
			}
		}
	}
	a := b.Account()
	if a.Counts["lost"] != 1000 || a.Counts["repeated"] != 1000 || b.Anomalies() != 2000 {
		t.Errorf("counted %v", a.Counts)
	}
	if len(a.Seen) != 5 || len(a.Events) != keptEvents {
		t.Errorf("%d anomalies and %d sessions' events", len(a.Seen), len(a.Events))
	}
	again := b.Account()
	if again.Counts["lost"] != 1000 || len(again.Seen) != 5 {
		t.Errorf("the second account differs: %v", again.Counts)
	}
}

// The figure is bytes per session beyond its key: of sessions that keep their
// own events, and of those that came later.
func BenchmarkBookMemory(b *testing.B) {
	for _, n := range []int{ownTraces, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			keys := make([]string, n)
			for i := range keys {
				keys[i] = fmt.Sprintf("builders/%d/1", i)
			}
			for b.Loop() {
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				book := NewBook(Agent, Config{})
				for _, k := range keys {
					l := book.Open(k)
					l.Received(Message{From: Controller, Seq: 1, At: time.Now()}, time.Now())
				}
				runtime.GC()
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n), "B/session")
				runtime.KeepAlive(book)
			}
		})
	}
}

func BenchmarkBook(b *testing.B) {
	for _, faults := range []int{0, openFaults} {
		b.Run(fmt.Sprintf("%d faults", faults), func(b *testing.B) {
			book, other := NewBook(Agent, Config{}), NewBook(Controller, Config{})
			for i := range faults {
				book.Fault(i, time.Now())
			}
			l, far := book.Open("builders/1/1"), other.Open("builders/1/1")
			buf := make([]byte, 0, 256)
			b.ReportAllocs()
			for b.Loop() {
				now := time.Now()
				buf = AppendMessage(buf[:0], far.Next(now), 256)
				l.Take(buf, now)
			}
		})
	}
}

// allBut is a time that stood still but for so much of it.
func allBut(ran time.Duration) func(from, to time.Time) time.Duration {
	return func(from, to time.Time) time.Duration { return to.Sub(from) - ran }
}
