package site

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/Shopify/toxiproxy/v2/toxics"

	"github.com/moorage-dev/moorage/loadtest/fault"
	"github.com/moorage-dev/moorage/loadtest/scenario"
)

// What faults are without settings of their own.
const (
	defaultLatency = 100 * time.Millisecond
	defaultRate    = 64 << 10 // of bandwidth, in bytes per second
	defaultQuota   = 1 << 20  // in bytes per second
	defaultSlice   = 100      // in bytes
	defaultCount   = 1
)

// An undo ends a fault.
type undo = func(context.Context) error

// Can lists the kinds that Do does with this target.
func (s *site) Can() []string { return Kinds(s.cfg) }

// brokerLegs tells whether there are proxies before brokers: clients of others'
// Kafka are told its own addresses.
func (s *site) brokerLegs() bool { return s.legs != nil && s.kafka != nil && len(s.cfg.Kafka) == 0 }

// why says what is missing for a kind of fault.
func (s *site) why(kind string) string {
	switch {
	case slices.Contains(fault.OnEmbedded, kind):
		return "only the embedded broker can; use --local brokers=embedded"
	case kind == fault.Quota:
		return "only real brokers that the harness starts can; use --local brokers=1 or 3"
	case kind == fault.DiskFull:
		return "a real broker is needed, started by the harness with a small disk; use --local brokers=1 or 3"
	case kind == fault.BlackHole:
		return "it needs gateways in networks of their own; use --local, without --gateway and --kafka"
	case kind == fault.Upgrade:
		return "it needs another build of moorage; name it with --old-binary"
	case slices.Contains(fault.OnLegs, kind):
		return "it needs proxies, which the harness puts before what it starts itself; use --local"
	}
	return "the harness does not own the processes; use --local"
}

// Do does a fault. A plural ("gateways") is struck one after the other, each
// for the fault's For and mended before the next; only then Do returns, without
// an undo. A cut or reset with a For lets nobody in for so long.
func (s *site) Do(ctx context.Context, f scenario.Fault) (func(context.Context) error, error) {
	if !slices.Contains(s.Can(), f.Do) {
		return nil, fmt.Errorf("site: %s cannot be done with this target: %s", f.Do, s.why(f.Do))
	}
	end, err := s.do(ctx, f)
	switch {
	case err == nil:
		return end, nil
	case !strings.HasPrefix(err.Error(), "site: "):
		err = fmt.Errorf("site: %s: %w", f.Do, err)
	}
	return nil, err // what did not strike needs no end
}

func (s *site) do(ctx context.Context, f scenario.Fault) (undo, error) {
	with := settings{f.With, nil}
	switch f.Do {
	case fault.Kill, fault.Stop, fault.Freeze, fault.BlackHole:
		return s.onEach(ctx, f)
	case fault.Rolling:
		return nil, s.roll(ctx, f)
	case fault.Upgrade:
		s.mu.Lock()
		s.old = !s.old
		s.mu.Unlock()
		f.To = "gateways"
		return nil, s.roll(ctx, f)
	case fault.AddPartitions:
		return nil, s.addPartitions(ctx, f.With)
	case fault.Quota:
		rate := with.bytes("rate", defaultQuota)
		if with.err != nil {
			return nil, with.err
		}
		return func(ctx context.Context) error { return s.kafka.admin.Quota(ctx, 0) }, s.kafka.admin.Quota(ctx, float64(rate))
	case fault.DiskFull:
		free, err := s.kafka.disk.fill()
		if err != nil {
			return nil, err
		}
		id := s.kafka.nodes()
		return func(ctx context.Context) error {
			// A broker without a disk for its data ends; a person would mend
			// the disk and start it.
			return errors.Join(free(), s.kafka.restart(ctx, id))
		}, nil
	case fault.ProduceUnanswered, fault.ProduceRefused, fault.FetchFailed, fault.NotLeader:
		count := with.count(defaultCount)
		if with.err != nil {
			return nil, with.err
		}
		return s.onBroker(f.Do, count), nil
	}
	return s.onLeg(f)
}

// onBroker uses the embedded broker's hooks. What nobody met is taken back.
func (s *site) onBroker(kind string, count int) undo {
	e := s.kafka.embedded
	h := map[string]func(int) *handle{
		fault.ProduceUnanswered: e.ProduceWrittenButFailed,
		fault.ProduceRefused:    e.ProduceRefused,
		fault.FetchFailed:       e.FetchFailed,
		fault.NotLeader:         e.NotLeader,
	}[kind](count)
	return func(context.Context) error {
		h.Remove()
		return nil
	}
}

// onEach strikes one process, or each of several in turn.
func (s *site) onEach(ctx context.Context, f scenario.Fault) (undo, error) {
	all, plural, err := s.targets(f.To)
	if err != nil {
		return nil, err
	}
	if !plural {
		return s.strike(ctx, f.Do, all[0])
	}
	for _, t := range all {
		end, err := s.strike(ctx, f.Do, t)
		if err != nil {
			return nil, err
		}
		waited := hold(ctx, time.Duration(f.For))
		// Mended in any case: a run that ends leaves nothing frozen.
		mend, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyWithin+endWithin)
		err = errors.Join(end(mend), waited)
		cancel()
		if err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// roll stops and starts one after the other, For between two.
func (s *site) roll(ctx context.Context, f scenario.Fault) error {
	all, _, err := s.targets(f.To)
	if err != nil {
		return err
	}
	for i, t := range all {
		if i > 0 {
			if err := hold(ctx, time.Duration(f.For)); err != nil {
				return err
			}
		}
		end, err := s.strike(ctx, fault.Stop, t)
		if err == nil {
			mend, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyWithin+endWithin)
			err = end(mend)
			cancel()
		}
		// One that an earlier fault has down comes back by itself, as what it shall be.
		if err != nil && !errors.Is(err, ErrDown) {
			return err
		}
	}
	return nil
}

// A target is a process that can be struck.
type target struct {
	name   string
	child  *child // nil: a broker
	broker int
	host   *host // nil: not in a network of its own
}

// targets finds whom a fault's To names; "" is a gateway. A name without a
// number is the first of its kind: the schedule draws others by the seed.
func (s *site) targets(to string) (all []target, plural bool, err error) {
	var gateways, brokers []target
	for _, g := range s.gateways {
		gateways = append(gateways, target{name: g.name, child: g.child, host: g.host})
	}
	if s.kafka != nil {
		brokers = s.kafka.targets()
	}
	s.mu.Lock()
	connector := s.connector
	s.mu.Unlock()
	switch {
	case to == "gateways":
		all, plural = gateways, true
	case to == "brokers":
		all, plural = brokers, true
	case (to == "" || to == "gateway") && len(gateways) > 0:
		all = gateways[:1]
	case to == "broker" && len(brokers) > 0:
		all = brokers[:1]
	case to == "connector" && connector != nil:
		all = []target{{name: to, child: connector}}
	case to == "nats" && s.server != nil:
		all = []target{{name: to, child: s.server}}
	default:
		for _, t := range slices.Concat(gateways, brokers) {
			if t.name == to {
				all = []target{t}
			}
		}
	}
	if len(all) == 0 {
		return nil, false, fmt.Errorf("site: there is no %q to strike: this target has %s", to, s.census(gateways, brokers, connector != nil))
	}
	return all, plural, nil
}

func (s *site) census(gateways, brokers []target, connector bool) string {
	words := fmt.Sprintf("%d gateways and %d brokers that can be struck", len(gateways), len(brokers))
	if connector {
		words += ", and a connector"
	}
	return words
}

// strike does one fault to one process.
func (s *site) strike(ctx context.Context, kind string, t target) (undo, error) {
	switch {
	case kind == fault.BlackHole && t.host == nil:
		return nil, fmt.Errorf("site: %s is not in a network of its own, so nothing can swallow its packets", t.name)
	case kind == fault.BlackHole:
		mend, err := t.host.hole()
		return func(context.Context) error { return mend() }, err
	case t.child == nil && s.kafka.apache == nil:
		return nil, fmt.Errorf("site: %s is embedded in the coordinator, and cannot be ended or frozen alone: use --local brokers=1 or 3", t.name)
	case t.child == nil && kind == fault.Freeze:
		return s.kafka.freeze(t.broker)
	case t.child == nil && kind == fault.Kill:
		return s.kafka.end(t.broker, syscall.SIGKILL)
	case t.child == nil:
		return s.kafka.end(t.broker, syscall.SIGTERM)
	case kind == fault.Freeze:
		return t.child.freeze()
	case kind == fault.Kill:
		return t.child.start, t.child.kill()
	}
	ended, err := t.child.term()
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		late := ended(ctx, endWithin)
		return errors.Join(late, t.child.start(ctx))
	}, nil
}

// onLeg does what the proxies do.
func (s *site) onLeg(f scenario.Fault) (undo, error) {
	match, err := s.leg(f)
	if err != nil {
		return nil, err
	}
	with := settings{f.With, nil}
	hit := &legFault{match: match}
	latency := func() toxics.Toxic {
		l, j := with.duration("latency", defaultLatency), with.duration("jitter", 0)
		return &toxics.LatencyToxic{Latency: l.Milliseconds(), Jitter: min(l, j).Milliseconds()}
	}
	switch f.Do {
	case fault.Cut, fault.Reset:
		reset := f.Do == fault.Reset
		if f.For <= 0 {
			s.legs.cutNow(match, reset)
			return nil, nil
		}
		_, end := s.legs.strike(hit, reset)
		return ends(end), nil
	case fault.HalfOpen:
		hit.toxic, hit.holes = always(swallow{}), true
	case fault.Latency, fault.SlowBroker:
		hit.toxic = always(latency())
	case fault.Bandwidth:
		hit.toxic = always(throttle{with.bytes("rate", defaultRate)})
	case fault.Slice:
		hit.toxic = always(&toxics.SlicerToxic{AverageSize: with.bytes("size", defaultSlice)})
	case fault.SlowClose:
		hit.toxic = always(&toxics.SlowCloseToxic{Delay: with.duration("latency", defaultLatency).Milliseconds()})
	default:
		return nil, fmt.Errorf("site: unknown fault %q", f.Do)
	}
	if with.err != nil {
		return nil, with.err
	}
	_, end := s.legs.strike(hit, false)
	return ends(end), nil
}

func ends(f func()) undo {
	return func(context.Context) error {
		f()
		return nil
	}
}

// leg tells which connections a fault is about. The number of agent-gateway-2
// and gateway-kafka-2 is a gateway's, that of app-kafka-2 a broker's.
func (s *site) leg(f scenario.Fault) (match func(origin) bool, err error) {
	name, number := f.To, 0
	if f.Do == fault.SlowBroker {
		if number, err = s.numbered(name, "broker", s.kafka.brokers()); err != nil {
			return nil, err
		}
		return func(o origin) bool { return o.broker != 0 && (number == 0 || o.broker == number) }, nil
	}
	if i := strings.LastIndexByte(name, '-'); i >= 0 {
		if n, err := strconv.Atoi(name[i+1:]); err == nil {
			name, number = name[:i], n
		}
	}
	most := len(s.gateways)
	switch name {
	case "", legAgents:
		name = legAgents
	case legKafka:
	case legApp:
		most = s.kafka.brokers()
	default:
		return nil, fmt.Errorf("site: fault %s strikes a leg, not %q; want agent-gateway, gateway-kafka or app-kafka, perhaps with a number as in agent-gateway-2", f.Do, f.To)
	}
	switch {
	case name != legAgents && !s.brokerLegs():
		return nil, fmt.Errorf("site: there are no proxies in leg %s: clients of a Kafka that ran already are told its own addresses; use --local", name)
	case number < 0 || number > most:
		return nil, fmt.Errorf("site: leg %s: there are only %d", f.To, most)
	}
	return func(o origin) bool {
		of := o.gateway
		if name == legApp {
			of = o.broker
		}
		return o.leg == name && (number == 0 || of == number)
	}, nil
}

// numbered takes the number off a name; 0: it has none, and all are meant.
func (s *site) numbered(to, kind string, most int) (int, error) {
	if to == "" || to == kind || to == kind+"s" {
		return 0, nil
	}
	text, found := strings.CutPrefix(to, kind+"-")
	n, err := strconv.Atoi(text)
	if !found || err != nil || n < 1 || n > most {
		return 0, fmt.Errorf("site: there is no %q to strike: this target has %d %ss", to, most, kind)
	}
	return n, nil
}

// settings read a fault's With; the first that is wrong is kept.
type settings struct {
	with map[string]string
	err  error
}

func (s *settings) wrong(key string, err error) {
	if s.err == nil {
		s.err = fmt.Errorf("site: setting %s: %w", key, err)
	}
}

func (s *settings) duration(key string, otherwise time.Duration) time.Duration {
	text := s.with[key]
	if text == "" {
		return otherwise
	}
	d, err := scenario.ParseDuration(text)
	if err != nil || d < 0 {
		s.wrong(key, fmt.Errorf("%q: want a time such as 100ms", text))
	}
	return time.Duration(d)
}

func (s *settings) bytes(key string, otherwise int) int {
	text := s.with[key]
	if text == "" {
		return otherwise
	}
	n, err := scenario.ParseBytes(text)
	if err != nil || n < 1 {
		s.wrong(key, fmt.Errorf("%q: want bytes, such as 64KiB", text))
		return otherwise
	}
	return n
}

func (s *settings) count(otherwise int) int {
	text := s.with["count"]
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		s.wrong("count", fmt.Errorf("%q: want 1 or more", text))
	}
	return n
}

// hold waits, and fails when ctx ends first.
func hold(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("site: %w", context.Cause(ctx))
	}
}
