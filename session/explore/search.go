package explore

import (
	"fmt"
	"hash/maphash"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A Result is what an exploration found.
type Result struct {
	States   int
	Depth    int
	Took     time.Duration
	Complete bool     // every state was visited
	Bad      string   // what was violated first; "" when nothing was
	Trace    []string // how to get there
}

func (r Result) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d states, depth %d, %v", r.States, r.Depth, r.Took.Round(time.Millisecond))
	if !r.Complete && r.Bad == "" {
		b.WriteString(", INCOMPLETE")
	}
	if r.Bad != "" {
		fmt.Fprintf(&b, "\nviolated: %s", r.Bad)
		for i, line := range r.Trace {
			fmt.Fprintf(&b, "\n%3d  %s", i+1, line)
		}
	}
	return b.String()
}

// visit is how a state was first reached.
type visit struct {
	parent int32
	move   move
}

type edge struct{ from, to int32 }

// next is a state found from another one.
type next struct {
	hash  uint64
	visit visit
	world *world // nil: looked like one visited before
}

type searcher struct {
	cfg    *Config
	seed   maphash.Seed
	ids    map[uint64]int32
	visits []visit
	goals  []int32
	edges  []edge
}

// Explore visits every state of cfg's world, nearest first, up to the first violation.
func Explore(cfg Config) Result {
	began := time.Now()
	if cfg.Limit == 0 {
		cfg.Limit = 500_000
	}
	s := &searcher{cfg: &cfg, seed: maphash.MakeSeed(), ids: map[uint64]int32{}}
	w := newWorld(&cfg)
	w.run()
	s.ids[s.hash(w, nil)] = 0
	s.visits = append(s.visits, visit{parent: -1})
	level := []*world{w}
	ids := []int32{0}
	var r Result
	for len(level) > 0 && r.Bad == "" {
		if len(s.visits) > cfg.Limit {
			r.States, r.Took = len(s.visits), time.Since(began)
			return r
		}
		level, ids = s.expand(level, ids, &r)
		r.Depth++
	}
	r.States, r.Complete = len(s.visits), true
	if r.Bad == "" {
		if doomed := s.doomed(); doomed >= 0 {
			r.Bad = "from here on no end can be reached without a further fault"
			r.Trace = s.trace(doomed)
		}
	}
	r.Took = time.Since(began)
	return r
}

func (s *searcher) hash(w *world, buf *[]byte) uint64 {
	if buf == nil {
		buf = new([]byte)
	}
	*buf = w.state((*buf)[:0])
	return maphash.Bytes(s.seed, *buf)
}

const chunk = 64

// expand finds everything that is one move away from a level's states.
func (s *searcher) expand(level []*world, ids []int32, r *Result) (out []*world, outIDs []int32) {
	chunks := (len(level) + chunk - 1) / chunk
	found := make([][]next, chunks)
	var at atomic.Int64
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), chunks) {
		wg.Go(func() {
			var buf []byte
			var ms []move
			for !stop.Load() {
				c := int(at.Add(1)) - 1
				if c >= chunks {
					return
				}
				for i := c * chunk; i < min(len(level), (c+1)*chunk); i++ {
					w := level[i]
					ms = w.moves(ms[:0])
					for _, m := range ms {
						v := w.clone()
						v.do(m)
						n := next{s.hash(v, &buf), visit{ids[i], m}, v}
						if v.bad != "" {
							stop.Store(true)
						} else if _, known := s.ids[n.hash]; known {
							n.world = nil
						}
						found[c] = append(found[c], n)
					}
					level[i] = nil
				}
			}
		})
	}
	wg.Wait()
	for _, ns := range found {
		for _, n := range ns {
			id, known := s.ids[n.hash]
			if !known {
				id = int32(len(s.visits))
				s.ids[n.hash] = id
				s.visits = append(s.visits, n.visit)
				out, outIDs = append(out, n.world), append(outIDs, id)
				if n.world.done() {
					s.goals = append(s.goals, id)
				}
			}
			if n.visit.move.kind.fair() {
				s.edges = append(s.edges, edge{n.visit.parent, id})
			}
			if n.world != nil && n.world.bad != "" && r.Bad == "" {
				r.Bad, r.Trace = n.world.bad, s.trace(n.visit.parent, n.visit.move)
			}
		}
	}
	return out, outIDs
}

// doomed returns the nearest state from which no goal can be reached by fair moves; -1: none.
func (s *searcher) doomed() int32 {
	n := len(s.visits)
	first := make([]int32, n+1) // incoming edges of a state, by counting sort
	for _, e := range s.edges {
		first[e.to+1]++
	}
	for i := range n {
		first[i+1] += first[i]
	}
	fill := append([]int32(nil), first[:n]...)
	from := make([]int32, len(s.edges))
	for _, e := range s.edges {
		from[fill[e.to]] = e.from
		fill[e.to]++
	}
	safe := make([]bool, n)
	work := append([]int32(nil), s.goals...)
	for _, g := range work {
		safe[g] = true
	}
	for len(work) > 0 {
		id := work[len(work)-1]
		work = work[:len(work)-1]
		for _, p := range from[first[id]:first[id+1]] {
			if !safe[p] {
				safe[p] = true
				work = append(work, p)
			}
		}
	}
	for id := range safe {
		if !safe[id] {
			return int32(id)
		}
	}
	return -1
}

// trace plays the way to a state once more and writes it down.
func (s *searcher) trace(id int32, then ...move) (lines []string) {
	moves := then
	for ; s.visits[id].parent >= 0; id = s.visits[id].parent {
		moves = append(moves, s.visits[id].move)
	}
	w := newWorld(s.cfg)
	w.run()
	for i := len(moves) - 1; i >= 0; i-- {
		lines = append(lines, w.tell(moves[i]))
		w.do(moves[i])
	}
	return lines
}
