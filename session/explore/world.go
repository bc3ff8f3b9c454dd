package explore

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

// Directions.
const (
	up = iota
	down
)

// origin is the one moment at which everything happens but the firing of timers.
var origin = time.Unix(1_000_000_000, 0)

const (
	grace    = 240 * time.Second
	interval = 5 * time.Second
)

func incarnation(n int) envelope.Incarnation {
	return envelope.Incarnation{Topic: envelope.TopicID{1}, Offset: int64(n)}
}

func topicID(dir int, gen uint8) envelope.TopicID { return envelope.TopicID{byte(2 + dir), gen} }

// A world is one state of everything.
type world struct {
	cfg *Config

	agent  *session.Agent
	gone   bool // the agent side's process is no more
	wrote  int  // data frames its application wrote
	finish bool // its application is done, in a session that lingers
	read   int  // data frames its application got

	streams []*stream // at gateways, oldest first
	cur     *stream   // the agent side's; it may be dead at the gateway
	gates   [2]gate
	procs   []*proc
	logs    [2][2]log // by direction and partition
	parts   int       // partitions in use
	flies   []*fly
	meta    int // newest incarnation published

	faults  int    // left
	struck  uint32 // kinds that happened
	stalled bool   // the up log can't be written
	away    bool   // the agent side may stay away for longer than grace

	// What only the checks look at.
	truth    [2]uint64 // highest contiguous seq that any reader will accept
	got      int       // data frames the controller's application got
	taken    uint64    // last up seq the controller's application has
	openedBy int       // incarnation that opened the session; 0: none
	record   linkv1.Reason
	lastEnd  linkv1.Reason // what the agent side was told
	acceptAt uint64        // what the agent side had accepted when it was told
	lostPos  bool          // variant: the agent side never learned its position
	bad      string
}

// A gate is a gateway.
type gate struct {
	frozen bool
	view   int // newest incarnation it knows
}

// A stream is a relay and what surrounds it.
type stream struct {
	attempt uint32
	gate    int
	part    int
	gen     uint8
	relay   *session.Relay
	half    bool         // the agent side has left it and the gateway doesn't know
	queue   []message    // on the way to the agent side
	stuck   []session.Up // arrived while the gateway was frozen
	closing bool         // Close is on the way
	lost    bool         // LOST is being produced
	early   bool         // variant: welcomed before ATTACHED was persisted
}

// A message is what a gateway sends: exactly one is set.
type message struct {
	welcome   *session.Welcome
	frame     *session.Frame
	heartbeat *session.Heartbeat
	close     *session.Close
}

// A proc is a controller-side process.
type proc struct {
	inc   int // 0: not published yet
	taken bool
	pos   [2]int64
	gen   uint8
	ctl   *session.Controller
	reg   *session.Registry
	wrote int
	stale bool // superseded and not knowing it
	first bool // the one the exploration started with
}

type log struct {
	gen  uint8
	base int64 // lowest offset kept
	recs []entry
}

type entry struct {
	rec    *envelope.Record // nil: gone, or somebody else's
	reason linkv1.Reason    // of CLOSE, REJECT, ENDED
}

func (l *log) end() int64 { return l.base + int64(len(l.recs)) }

func (l *log) append(e entry) (offset int64) {
	offset = l.end()
	l.recs = append(l.recs[:len(l.recs):len(l.recs)], e)
	return offset
}

// What becomes of a fly's outcome.
type use uint8

const (
	frameUse    use = iota // an up frame
	attachedUse            // ATTACHED: Welcome waits for it
	loneUse                // DELIVERED or PROBE: its failure ends the stream
	lostUse                // LOST: Close(DATA_LOSS) waits for it
	controlUse             // anything a controller side produces
	quietUse               // nobody waits: DETACHED, ENDED
)

// A fly is a record on its way into the log.
type fly struct {
	owner   int // a stream's attempt, or minus a process' incarnation
	use     use
	dir     int
	part    int
	gen     uint8
	entry   entry
	produce session.Produce
	applied bool
	offset  int64
	zombie  bool // its producer is gone or was told that it failed
}

func newWorld(cfg *Config) *world {
	w := &world{cfg: cfg, faults: cfg.Faults, meta: 1, parts: 1}
	window := cfg.Window
	if window == 0 {
		window = 64
	}
	w.agent = session.NewAgent(session.AgentConfig{
		Secret: [16]byte{1}, Agent: "a", Kind: linkv1.ServiceKind_SERVICE_KIND_NATIVE, Resumable: true, DownWindow: window,
	})
	w.gates = [2]gate{{view: 1}, {view: 1}}
	w.procs = []*proc{{inc: 1, taken: true, first: true, reg: session.NewRegistry(incarnation(1))}}
	return w
}

func (w *world) clone() *world {
	c := *w
	c.agent = w.agent.Clone()
	c.streams = make([]*stream, len(w.streams))
	for i, s := range w.streams {
		c.streams[i] = s.clone()
		if w.cur == s {
			c.cur = c.streams[i]
		}
	}
	if w.cur != nil && c.cur == w.cur {
		c.cur = w.cur.clone() // dead at the gateway
	}
	c.procs = make([]*proc, len(w.procs))
	for i, p := range w.procs {
		q := *p
		q.reg = p.reg.Clone()
		if p.ctl != nil {
			q.ctl = p.ctl.Clone()
		}
		c.procs[i] = &q
	}
	c.flies = make([]*fly, len(w.flies))
	for i, f := range w.flies {
		c.flies[i] = new(*f)
	}
	return &c
}

func (s *stream) clone() *stream {
	c := *s
	c.relay = s.relay.Clone()
	c.queue, c.stuck = slices.Clone(s.queue), slices.Clone(s.stuck)
	return &c
}

func (w *world) fail(format string, args ...any) {
	if w.bad == "" {
		w.bad = fmt.Sprintf(format, args...)
	}
}

// ended reports the agent side's end.
func (w *world) ended() bool { _, ok := w.agent.Ended(); return ok }

// bound reports whether the agent side has a start position.
func (w *world) bound() bool { return !w.agent.Incarnation().IsZero() }

// state appends what decides the world's future: equal bytes, equal future.
func (w *world) state(b []byte) []byte {
	ref := session.Ref{Attempt: w.agent.Attempt(), Start: w.agent.Start().Offset}
	part := 0
	if w.bound() {
		part = int(w.agent.Start().Partition)
	}
	flags := func(fs ...bool) {
		var v byte
		for i, f := range fs {
			if f {
				v |= 1 << i
			}
		}
		b = append(b, v)
	}
	num := func(v int64) { b = binary.AppendVarint(b, v) }

	// What anybody may still read.
	var low [2][2]int64
	for dir := range w.logs {
		for p := range w.logs[dir] {
			low[dir][p] = w.logs[dir][p].end()
			if w.cfg.Variant == ReadOldest {
				low[dir][p] = w.logs[dir][p].base
			}
		}
	}
	for _, p := range w.procs {
		for i := range w.parts {
			if p.taken && p.gen == w.logs[up][i].gen {
				low[up][i] = min(low[up][i], p.pos[i])
			}
		}
	}
	for _, s := range w.streams {
		if s.gen == w.logs[down][s.part].gen {
			low[down][s.part] = min(low[down][s.part], s.relay.Position())
		}
	}
	if w.bound() && !w.ended() && !w.gone && w.agent.Start().Topic == topicID(down, w.logs[down][part].gen) {
		low[down][part] = min(low[down][part], w.agent.Followed())
	}
	ref.Up, ref.Down, ref.Base = w.logs[up][part].end(), w.logs[down][part].end(), low[down][part]
	for _, f := range w.flies {
		if f.applied && !f.zombie {
			if f.dir == up {
				ref.Up = min(ref.Up, f.offset)
			} else {
				ref.Down = min(ref.Down, f.offset)
			}
		}
	}

	b = w.agent.AppendState(b, ref)
	flags(w.gone, w.away, w.lostPos, w.cur != nil, w.ended(), w.finish, w.stalled)
	b = append(b, byte(w.wrote), byte(w.read), byte(w.got), byte(w.taken), byte(w.openedBy), byte(w.record),
		byte(w.truth[up]), byte(w.truth[down]), byte(w.faults), byte(w.parts), byte(w.meta))
	num(int64(w.struck))
	for _, g := range w.gates {
		flags(g.frozen)
		b = append(b, byte(g.view))
	}
	if w.cur != nil && !slices.Contains(w.streams, w.cur) {
		b = append(b, 0xee)
		b = w.streamState(b, w.cur, ref)
	}
	for _, s := range w.streams {
		b = append(b, 0xef)
		b = w.streamState(b, s, ref)
	}
	for _, p := range w.procs {
		b = append(b, 0xfa, byte(p.inc), byte(p.wrote), p.gen)
		flags(p.taken, p.stale, p.ctl != nil)
		if p.taken {
			for i := range w.parts {
				num(p.pos[i] - low[up][i])
			}
		}
		if p.ctl != nil {
			b = p.ctl.AppendState(b, ref)
		}
		b = p.reg.AppendState(b, w.agent.ID(), ref)
	}
	for dir := range w.logs {
		for p := range w.parts {
			l := &w.logs[dir][p]
			b = append(b, 0xfb, l.gen)
			num(max(l.base-low[dir][p], 0))
			for o := max(l.base, low[dir][p]); o < l.end(); o++ {
				b = entryState(b, l.recs[o-l.base], ref)
			}
		}
	}
	// Only the order within one owner matters.
	owners := make([]int, 0, 8)
	for _, f := range w.flies {
		if !slices.Contains(owners, f.owner) {
			owners = append(owners, f.owner)
		}
	}
	slices.Sort(owners)
	for _, o := range owners {
		b = append(b, 0xfc)
		if o > 0 {
			num(int64(ref.Attempt) - int64(o))
		} else {
			num(int64(o))
		}
		for _, f := range w.flies {
			if f.owner != o {
				continue
			}
			b = append(b, byte(f.use), byte(f.dir), byte(f.part), f.gen)
			flags(f.applied, f.zombie, f.use == controlUse && !f.zombie && w.awaited(f))
			if f.applied {
				num(f.offset - [2]int64{ref.Up, ref.Down}[f.dir])
			}
			b = entryState(b, f.entry, ref)
		}
	}
	return b
}

func (w *world) streamState(b []byte, s *stream, ref session.Ref) []byte {
	b = append(b, byte(s.gate), byte(s.part), s.gen, byte(len(s.queue)), byte(len(s.stuck)))
	var v byte
	for i, f := range []bool{s.half, s.closing, s.lost, s.early, s == w.cur} {
		if f {
			v |= 1 << i
		}
	}
	b = append(b, v)
	b = s.relay.AppendState(b, ref)
	for _, m := range s.queue {
		switch {
		case m.welcome != nil:
			b = append(b, 1, byte(m.welcome.Persisted), byte(m.welcome.Delivered))
		case m.frame != nil:
			b = append(b, 2, byte(m.frame.Seq), byte(m.frame.Kind), byte(m.frame.Persisted), byte(m.frame.Delivered))
		case m.heartbeat != nil:
			h := m.heartbeat
			b = append(b, 3, byte(h.Persisted), byte(h.Delivered))
			if h.Probe {
				b = append(b, 1)
			}
			b = binary.AppendVarint(b, max(h.Position.Offset-ref.Base, -1))
		case m.close != nil:
			b = append(b, 4, byte(m.close.Reason), byte(m.close.Incarnation.Offset))
		}
	}
	for _, u := range s.stuck {
		b = append(b, byte(u.Frame.Seq), byte(u.Frame.Delivered), byte(u.Heartbeat.Delivered))
		if u.Heartbeat.Probe {
			b = append(b, 1)
		}
	}
	return b
}

func entryState(b []byte, e entry, ref session.Ref) []byte {
	r := e.rec
	if r == nil {
		return append(b, 0xff)
	}
	b = append(b, byte(r.Kind), byte(r.Incarnation.Offset), byte(r.Seq), byte(r.Stable), byte(r.Delivered), byte(e.reason))
	b = binary.AppendVarint(b, int64(ref.Attempt)-int64(r.Attempt))
	if r.Kind == envelope.Attached || r.Kind == envelope.Lease {
		b = append(b, r.Payload[:9]...)
	}
	return b
}

// awaited reports whether the outcome of a controller side's produce still matters.
func (w *world) awaited(f *fly) bool {
	for _, p := range w.procs {
		if -p.inc == f.owner {
			return p.ctl != nil && p.ctl.Awaits(&f.produce)
		}
	}
	return false
}
