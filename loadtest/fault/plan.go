package fault

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/moorage-dev/moorage/loadtest/scenario"
)

// A Planned fault is one that will be done: its time, its target and all its
// settings are decided. Index is its place in the plan.
type Planned struct {
	scenario.Fault

	Index int `json:"index"`
}

// maxPlan bounds a plan, so that a slip of the pen does not fill the memory.
const maxPlan = 100_000

// Plan decides what a scenario breaks and when, on a target that can do the
// kinds in can. The same arguments give the same plan, in the order of time;
// and each planned fault draws by itself, so that one more in the scenario
// changes no other.
//
// Every and Times become single faults, as many as end with the scenario.
// "gateway" and "broker" become one that is drawn, "gateways" and "brokers"
// one fault for each in turn, but for kinds that go from one to the next
// themselves. What the scenario leaves open is filled in by the kind's Defaults.
//
// What the scenario asks for is done as it stands, survivable or not. Chaos is
// always survivable: see Chaos. Of what cannot be done an error tells, which is a
// [*scenario.Problem]: nothing is left out in silence.
func Plan(sc scenario.Scenario, can []string, seed uint64) ([]Planned, error) {
	w := worldOf(sc, can)
	var faults []scenario.Fault
	var adds []named
	for i, f := range sc.Faults {
		name := fmt.Sprintf("faults[%d]", i)
		if err := w.possible(name, f); err != nil {
			return nil, err
		}
		several, err := w.expand(f, draws(seed, name), maxPlan-len(faults))
		if err != nil {
			return nil, &scenario.Problem{Path: name, Text: err.Error()}
		}
		faults = append(faults, several...)
		for _, one := range several {
			if one.Do == AddPartitions {
				adds = append(adds, named{one, name})
			}
		}
	}
	partitions, err := w.grow(adds)
	if err != nil {
		return nil, err
	}
	if sc.Chaos != nil {
		random, err := w.chaos(*sc.Chaos, faults, partitions, draws(seed, "chaos"))
		if err != nil {
			return nil, err
		}
		faults = append(faults, random...)
	}
	slices.SortStableFunc(faults, func(a, b scenario.Fault) int { return cmp.Compare(a.At, b.At) })
	plan := make([]Planned, len(faults))
	for i, f := range faults {
		plan[i] = Planned{f, i}
	}
	return plan, nil
}

// draws returns the random numbers of one part of a plan.
func draws(seed uint64, part string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(part)) // a hash takes everything
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}

// expand makes single faults with single targets out of one of a scenario.
func (w world) expand(f scenario.Fault, rng *rand.Rand, room int) (faults []scenario.Fault, err error) {
	f = Defaults(f)
	if err := w.ends(f); err != nil {
		return nil, err
	}
	times := 1
	if f.Every > 0 {
		// The last one may still end within the scenario.
		times = max(1, 1+int((w.length-time.Duration(f.At)-time.Duration(f.For))/time.Duration(f.Every)))
		if f.Times > 0 {
			times = min(times, f.Times)
		}
	}
	every := time.Duration(f.Every)
	f.Every, f.Times = 0, 0
	for i := range times {
		one := f
		one.At += scenario.Duration(time.Duration(i) * every)
		one.With = maps.Clone(f.With)
		faults = append(faults, w.aim(one, rng)...)
		if len(faults) > room {
			return nil, fmt.Errorf("more than %d faults; make every longer", maxPlan)
		}
	}
	return faults, nil
}

// ends tells of a fault that goes from one target to the next, and would reach the
// last of them behind the end.
func (w world) ends(f scenario.Fault) error {
	n := 1
	switch f.To {
	case "gateways":
		n = w.gateways
	case "brokers":
		n = w.brokers
	}
	each, lasts := time.Duration(f.For)+between, time.Duration(f.For)
	if turns(f.Do) {
		each, lasts = time.Duration(f.For), 0 // and what an end and a start take
	}
	if last := time.Duration(f.At) + time.Duration(max(n-1, 0))*each + lasts; n > 1 && last >= w.length {
		return fmt.Errorf("%s to %s: the last of %d is over at %s, behind the end; length is %s: let it begin earlier or take less time (for)",
			f.Do, f.To, n, last, w.length)
	}
	return nil
}

// between is how long one has to come back before the next is struck, where a
// fault is for each of several in turn.
const between = 2 * time.Second

// aim decides whom a fault strikes.
func (w world) aim(f scenario.Fault, rng *rand.Rand) []scenario.Fault {
	switch {
	case f.To == "gateway":
		f.To = numbered("gateway", rng.IntN(w.gateways))
	case f.To == "broker" && w.brokers > 0 && !hook(f.Do):
		f.To = numbered("broker", rng.IntN(w.brokers))
	case (f.To == "gateways" || f.To == "brokers") && !turns(f.Do):
		one, n := "gateway", w.gateways
		if f.To == "brokers" {
			one, n = "broker", w.brokers
		}
		var each []scenario.Fault
		for i := range n {
			next := f
			next.To = numbered(one, i)
			next.At += scenario.Duration(time.Duration(i) * (time.Duration(f.For) + between))
			next.With = maps.Clone(f.With)
			each = append(each, next)
		}
		return each
	}
	return []scenario.Fault{f}
}

func numbered(what string, i int) string { return fmt.Sprintf("%s-%d", what, i+1) }

// turns reports whether a kind goes from one target to the next by itself.
func turns(kind string) bool { return kind == Rolling || kind == Upgrade }

// hook reports whether a kind is the brokers' answer rather than one's life.
func hook(kind string) bool {
	return slices.Contains([]string{ProduceUnanswered, ProduceRefused, FetchFailed, NotLeader, SlowBroker, AddPartitions, Quota}, kind)
}

// Defaults fills in what a fault leaves open: whom it strikes, for how long
// where that is its point, and its settings. For 0 of a kill or a stop stays: the
// process comes back at once.
func Defaults(f scenario.Fault) scenario.Fault {
	d, ok := defaults[f.Do]
	if !ok {
		return f
	}
	f.To = cmp.Or(f.To, d.to)
	f.For = cmp.Or(f.For, scenario.Duration(d.lasts))
	if len(d.with) > 0 {
		with := maps.Clone(d.with)
		maps.Copy(with, f.With)
		f.With = with
	}
	return f
}

// A kindOf is what is known of a kind.
type kindOf struct {
	to    string
	lasts time.Duration // 0: it strikes and is over, or comes back at once
	with  map[string]string
	needs string // what target can do it
}

const (
	processes = "processes that the harness starts itself do: use --local"
	legs      = "legs between processes that the harness starts itself do: use --local"
	embedded  = "the embedded broker does: use --local brokers=embedded"
	realOnes  = "a real Kafka that the harness starts does: use --local brokers=1 or brokers=3"
)

var defaults = map[string]kindOf{
	Kill:          {"gateway", 0, nil, processes},
	Stop:          {"gateway", 0, nil, processes},
	Rolling:       {"gateways", 2 * time.Second, nil, processes},
	Freeze:        {"gateway", 5 * time.Second, nil, processes},
	Upgrade:       {"gateways", 2 * time.Second, nil, "gateways of --local that started as another build do: use --old-binary"},
	CutAgents:     {"agents", 0, map[string]string{"share": "1"}, "every target does"},
	RestartAgents: {"agents", 0, map[string]string{"share": "0.1"}, "every target does"},

	Cut:       {"agent-gateway", 0, nil, legs},
	Reset:     {"agent-gateway", 0, nil, legs},
	HalfOpen:  {"agent-gateway", 20 * time.Second, nil, legs},
	Latency:   {"agent-gateway", 10 * time.Second, map[string]string{"latency": "50ms", "jitter": "20ms"}, legs},
	Bandwidth: {"agent-gateway", 10 * time.Second, map[string]string{"rate": "64KiB"}, legs},
	Slice:     {"agent-gateway", 10 * time.Second, map[string]string{"size": "64"}, legs},
	SlowClose: {"agent-gateway", 10 * time.Second, map[string]string{"latency": "500ms"}, legs},
	BlackHole: {"gateway", 20 * time.Second, nil, "gateways and brokers in network namespaces do: use --local on Linux, where unshare and nft work"},

	ProduceUnanswered: {"broker", 0, map[string]string{"count": "3"}, embedded},
	ProduceRefused:    {"broker", 0, map[string]string{"count": "3"}, embedded},
	FetchFailed:       {"broker", 0, map[string]string{"count": "3"}, embedded},
	NotLeader:         {"broker", 0, map[string]string{"count": "3"}, embedded},
	SlowBroker:        {"broker", 10 * time.Second, map[string]string{"latency": "200ms"}, "brokers that the harness starts itself do: use --local"},

	AddPartitions: {"broker", 0, nil, "brokers that the harness starts itself do: use --local"},
	Quota:         {"broker", 10 * time.Second, map[string]string{"rate": "256KiB"}, realOnes},
	DiskFull:      {"broker", 10 * time.Second, nil, realOnes + ", as root"},
}

// A world is what there is to break.
type world struct {
	can      []string
	length   time.Duration
	grace    time.Duration
	gateways int // at least 1
	brokers  int // processes of real Kafka; 0: embedded, or somebody else's
	starts   int // partitions of the topics at the start
	legacy   bool
	app      bool // there are native or tunnel groups
}

// defaultGrace is the application side's, where the scenario does not say.
const defaultGrace = 240 * time.Second

func worldOf(sc scenario.Scenario, can []string) world {
	w := world{
		can: can, length: time.Duration(sc.Length),
		grace:    graceOf(sc),
		gateways: max(sc.Local.Gateways, 1),
		starts:   cmp.Or(sc.Local.Partitions, startPartitions),
	}
	switch sc.Local.Brokers {
	case "1":
		w.brokers = 1
	case "3":
		w.brokers = 3
	}
	for _, g := range sc.Groups {
		if g.Kind == scenario.Legacy {
			w.legacy = true
		} else {
			w.app = true
		}
	}
	return w
}

func wrong(path, format string, args ...any) error {
	return &scenario.Problem{Path: path, Text: fmt.Sprintf(format, args...)}
}

// does says in one line why a target cannot do a kind, if it cannot.
func (w world) does(name, kind string) error {
	d, known := defaults[kind]
	switch {
	case !known:
		return wrong(name, "%q is no kind of fault; want one of %s", kind, strings.Join(Kinds, ", "))
	case !slices.Contains(w.can, kind):
		return wrong(name, "this target cannot do %s; %s", kind, d.needs)
	}
	return nil
}

// possible says in one line why a fault cannot be, if it cannot.
func (w world) possible(name string, f scenario.Fault) error {
	if !strikesAgents(f) {
		if err := w.does(name, f.Do); err != nil {
			return err
		}
	}
	f = Defaults(f)
	cannot := func(why, could string) error {
		return wrong(name, "%s to %s: %s; %s", f.Do, f.To, why, could)
	}
	target, number := split(f.To)
	switch {
	case f.For < 0:
		return cannot("it cannot last "+time.Duration(f.For).String(), "say for: 5s")
	case (target == "broker" || target == "brokers") && !hook(f.Do) && w.brokers == 0:
		return cannot("the embedded broker is no process that could come back with its records", realOnes)
	case target == "broker" && number > max(w.brokers, 1):
		return cannot(fmt.Sprintf("there are %d brokers", max(w.brokers, 1)), "use --local brokers=3")
	case target == "gateway" && number > w.gateways:
		return cannot(fmt.Sprintf("there are %d gateways", w.gateways), fmt.Sprintf("use --local gateways=%d", number))
	case target == "connector" && !w.legacy:
		return cannot("the scenario has no legacy group, so there is no connector", "add a group with kind: legacy")
	case target == "app" && !w.app:
		return cannot("the scenario has no native or tunnel group, so there is no application", "strike connector")
	}
	return nil
}

// strikesAgents reports whether a fault is of processes that play agents, which
// are the harness's own wherever the rest of the target is.
func strikesAgents(f scenario.Fault) bool {
	return f.To == "agents" && slices.Contains(OnProcesses, f.Do)
}

// endsAgents reports whether agents die or leave by a fault, and come as new.
func endsAgents(f scenario.Fault) bool {
	return f.Do == RestartAgents || strikesAgents(f) && f.Do != Freeze
}

// split takes the number, 0 if there is none, off a target.
func split(to string) (target string, number int) {
	i := strings.LastIndexByte(to, '-')
	if i < 0 {
		return to, 0
	}
	if _, err := fmt.Sscanf(to[i+1:], "%d", &number); err != nil {
		return to, 0
	}
	return to[:i], number
}
