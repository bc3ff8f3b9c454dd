package scenario

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Values of fields that are words.
const (
	JNLP4           = "jnlp4"
	WebSocket       = "websocket"
	DoorGateway     = "gateway"
	DoorShim        = "shim"
	FromAgent       = "agent"
	FromApplication = "application"
	ByGroup         = "group"
)

// Bounds of what one scenario may ask for. They are far above what one machine
// does: beyond them is a mistake in the file.
const (
	maxLength   = 7 * 24 * time.Hour
	maxAgents   = 1_000_000
	maxRate     = 1_000_000.0 // messages per second and agent
	maxMessages = 10_000_000.0
	maxBytes    = 20e9 // per second
	maxFaults   = 100_000
	minEvery    = 10 * time.Millisecond
)

var word = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)

func wrong(path, format string, args ...any) *Problem {
	return &Problem{Path: path, Text: fmt.Sprintf(format, args...)}
}

// Validate tells, in one line, the first thing that cannot be. Parse has done
// it; whoever changes a Scenario by flags does it again. Errors are *Problem.
func (s Scenario) Validate() error {
	for _, check := range []func() *Problem{s.frame, s.local, s.groups, s.load, s.faults, s.chaos, s.bounds} {
		if p := check(); p != nil {
			return p
		}
	}
	return nil
}

func (s *Scenario) frame() *Problem {
	switch {
	case !word.MatchString(s.Name):
		return wrong("name", "%q: want small letters, digits and hyphens, at most 40", s.Name)
	case s.Length == 0:
		return wrong("length", "missing: how long is load made? 30s, for example")
	case s.Length < 0 || s.Length > Duration(maxLength):
		return wrong("length", "%s: want more than 0 and at most %s", s.Length, Duration(maxLength))
	case s.Warmup < 0 || s.Warmup >= s.Length:
		return wrong("warmup", "%s: want less than length, which is %s", s.Warmup, s.Length)
	case s.Drain < 0 || s.Drain > Duration(time.Hour):
		return wrong("drain", "%s: want 0 to 1h", s.Drain)
	case s.Quiet < 0 || s.Quiet > 0 && s.Quiet < Duration(time.Second) || s.Quiet > Duration(10*time.Minute):
		return wrong("quiet", "%s: want 1s to 10m", s.Quiet)
	}
	return nil
}

func (s *Scenario) local() *Problem {
	l := &s.Local
	switch {
	case l.Gateways < 0 || l.Gateways > 100:
		return wrong("local.gateways", "%d: want 1 to 100", l.Gateways)
	case !slices.Contains([]string{"", "embedded", "1", "3"}, l.Brokers):
		return wrong("local.brokers", "%s: want embedded, 1 or 3", l.Brokers)
	case l.Partitions != 0 && (l.Partitions < 16 || l.Partitions > 1024 || l.Partitions&(l.Partitions-1) != 0):
		return wrong("local.partitions", "%d: want a power of two, 16 to 1024", l.Partitions)
	case l.Balance != "" && l.Balance != ByGroup:
		return wrong("local.balance", "%s: want %s, or nothing", l.Balance, ByGroup)
	case l.Balance != "" && l.TLS:
		return wrong("local.balance", "%s: the balancer reads headers, so it needs tls: false", l.Balance)
	case l.Grace < 0:
		return wrong("local.grace", "%s: want more than 0", l.Grace)
	case len(l.Kafka) > 0 && (l.Brokers == "" || l.Brokers == "embedded"):
		return wrong("local.kafka", "properties are for real brokers; brokers is embedded")
	}
	return nil
}

func (s *Scenario) groups() *Problem {
	if len(s.Groups) == 0 {
		return wrong("groups", "missing: want at least one group of agents")
	}
	total, names := 0, map[string]bool{}
	for i := range s.Groups {
		path := "groups[" + strconv.Itoa(i) + "]"
		if p := s.group(path, &s.Groups[i]); p != nil {
			return p
		}
		if names[s.Groups[i].Name] {
			return wrong(path+".name", "%s: another group has this name", s.Groups[i].Name)
		}
		names[s.Groups[i].Name] = true
		if total += s.Groups[i].Agents; total > maxAgents {
			return wrong(path+".agents", "%d agents in all: want at most %d", total, maxAgents)
		}
	}
	return nil
}

func (s *Scenario) group(path string, g *Group) *Problem {
	kinds := []string{Native, Tunnel, Legacy}
	switch {
	case !word.MatchString(g.Name):
		return wrong(path+".name", "%q: want small letters, digits and hyphens, at most 40", g.Name)
	case g.Kind != "" && !slices.Contains(kinds, g.Kind):
		return wrong(path+".kind", "%s: want %s", g.Kind, strings.Join(kinds, ", "))
	case g.Agents <= 0:
		return wrong(path+".agents", "%d: want at least 1", g.Agents)
	case g.Agents > maxAgents:
		return wrong(path+".agents", "%d: want at most %d", g.Agents, maxAgents)
	case g.Arrive.After < 0 || g.Arrive.After >= s.Length:
		return wrong(path+".arrive.after", "%s: want 0 or more, and less than length, which is %s", g.Arrive.After, s.Length)
	case g.Arrive.Ramp < 0 || g.Arrive.After+g.Arrive.Ramp > s.Length:
		return wrong(path+".arrive.ramp", "%s: the last agent would come behind the end; length is %s", g.Arrive.Ramp, s.Length)
	case g.Stay < 0 || g.Stay > 0 && g.Stay < Duration(100*time.Millisecond):
		return wrong(path+".stay", "%s: want at least 100ms, or nothing", g.Stay)
	case g.Kind != Legacy && g.Protocol != "":
		return wrong(path+".protocol", "is for groups of kind legacy")
	case g.Kind != Legacy && g.Door != "":
		return wrong(path+".door", "is for groups of kind legacy")
	case !slices.Contains([]string{"", JNLP4, WebSocket}, g.Protocol):
		return wrong(path+".protocol", "%s: want jnlp4 or websocket", g.Protocol)
	case !slices.Contains([]string{"", DoorGateway, DoorShim}, g.Door):
		return wrong(path+".door", "%s: want gateway or shim", g.Door)
	case g.Kind == Tunnel && g.Request != nil:
		return wrong(path+".request", "a tunnel carries bytes: use up and down")
	}
	for _, flow := range g.flows(path) {
		if p := s.flow(flow.path, flow.Flow, g); p != nil {
			return p
		}
	}
	if r := g.Request; r != nil {
		switch {
		case !slices.Contains([]string{"", FromAgent, FromApplication}, r.From):
			return wrong(path+".request.from", "%s: want agent or application", r.From)
		case r.InFlight < 0 || r.InFlight > 1<<20:
			return wrong(path+".request.in_flight", "%d: want 0 (no bound) to %d", r.InFlight, 1<<20)
		}
		return fits(path+".request.answer", r.Answer, g)
	}
	return nil
}

// A placed flow is one with its path.
type placed struct {
	path string
	*Flow
}

func (g *Group) flows(path string) (all []placed) {
	if g.Up != nil {
		all = append(all, placed{path + ".up", g.Up})
	}
	if g.Down != nil {
		all = append(all, placed{path + ".down", g.Down})
	}
	if g.Request != nil {
		all = append(all, placed{path + ".request", &g.Request.Flow})
	}
	return all
}

func (s *Scenario) flow(path string, f *Flow, g *Group) *Problem {
	switch {
	case math.IsNaN(f.Rate) || f.Rate < 0 || f.Rate == 0 && !f.Closed && f.Count != 1:
		return wrong(path+".rate", "%v: want more than 0 messages a second", f.Rate)
	case f.Rate > maxRate:
		return wrong(path+".rate", "%v: want at most %.0f messages a second and agent", f.Rate, maxRate)
	case f.Closed && f.Rate > 0:
		return wrong(path+".rate", "%v: a closed loop has no rate; drop one of the two", f.Rate)
	case !slices.Contains([]string{"", Constant, Poisson, Burst}, f.Pattern):
		return wrong(path+".pattern", "%s: want constant, poisson or burst", f.Pattern)
	case f.Pattern == Burst && (f.Burst < 2 || f.Burst > 1_000_000):
		return wrong(path+".burst", "%d: want how many messages come at once, 2 to 1000000", f.Burst)
	case f.Pattern != Burst && f.Burst != 0:
		return wrong(path+".burst", "%d: is for pattern burst", f.Burst)
	case f.After < 0 || f.After >= s.Length:
		return wrong(path+".after", "%s: want 0 or more, and less than length, which is %s", f.After, s.Length)
	case f.Count < 0:
		return wrong(path+".count", "%d: want 0 (no bound) or more", f.Count)
	}
	return fits(path+".size", f.Size, g)
}

// fits tells of a message that no frame can hold.
func fits(path string, s Size, g *Group) *Problem {
	if n := s.Largest(); n > MaxMessage && g.Kind != Tunnel && g.Kind != Legacy {
		return wrong(path, "%d bytes: a message has at most %d; write larger things as pieces: [{size: 64KiB, pieces: %d, weight: 1}]", n, MaxMessage, (n+MaxMessage-1)/MaxMessage)
	}
	return nil
}

// load tells of rates that no machine makes.
func (s *Scenario) load() *Problem {
	messages, bytes := 0.0, 0.0
	for i := range s.Groups {
		g := &s.Groups[i]
		for _, f := range g.flows("groups[" + strconv.Itoa(i) + "]") {
			if f.Closed || f.Count > 0 {
				continue
			}
			messages += float64(g.Agents) * f.Rate
			bytes += float64(g.Agents) * f.Rate * f.Size.Mean()
			switch {
			case messages > maxMessages:
				return wrong(f.path+".rate", "%v: makes %.0f messages a second of all agents together; want at most %.0f", f.Rate, messages, maxMessages)
			case bytes > maxBytes:
				return wrong(f.path+".rate", "%v: makes %.3g bytes a second of all agents together; want at most %.3g", f.Rate, bytes, maxBytes)
			}
		}
	}
	return nil
}

func (s *Scenario) faults() *Problem {
	if len(s.Faults) > maxFaults {
		return wrong("faults", "%d: want at most %d", len(s.Faults), maxFaults)
	}
	for i, f := range s.Faults {
		if p := s.fault("faults["+strconv.Itoa(i)+"]", f); p != nil {
			return p
		}
	}
	return nil
}

func (s *Scenario) chaos() *Problem {
	c := s.Chaos
	if c == nil {
		return nil
	}
	switch {
	case c.Every < Duration(minEvery):
		return wrong("chaos.every", "%s: want the mean distance of two faults, at least %s", c.Every, Duration(minEvery))
	case c.After < 0 || c.Before < 0 || c.After+c.Before >= s.Length:
		return wrong("chaos", "from %s after the start to %s before the end is nothing; length is %s", c.After, c.Before, s.Length)
	case c.Count < 0 || c.Count > maxFaults:
		return wrong("chaos.count", "%d: want 0 (no bound) to %d", c.Count, maxFaults)
	}
	for i, kind := range c.Kinds {
		if _, p := s.kind("chaos.kinds["+strconv.Itoa(i)+"]", kind); p != nil {
			return p
		}
	}
	return nil
}

func (s *Scenario) bounds() *Problem {
	for _, name := range slices.Sorted(maps.Keys(s.Thresholds)) {
		if bound := s.Thresholds[name]; math.IsNaN(bound) || math.IsInf(bound, 0) {
			return wrong("thresholds."+name, "%v: want a number", bound)
		}
		if p := s.figure("thresholds."+name, name); p != nil {
			return p
		}
	}
	return nil
}
