package scenario

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/moorage-dev/moorage/config"
)

// A setting is a key of a fault's With.
type setting struct {
	bytes bool
	check func(string) error
}

var settings = map[string]setting{
	"latency": {check: positive},
	"jitter":  {check: positive},
	"rate":    {bytes: true, check: someBytes},
	"size":    {bytes: true, check: someBytes},
	"share": {check: func(text string) error {
		if f, err := strconv.ParseFloat(text, 64); err != nil || !(f > 0 && f <= 1) {
			return fmt.Errorf("%s: want more than 0 and at most 1", text)
		}
		return nil
	}},
	"count": {check: func(text string) error {
		if n, err := strconv.Atoi(text); err != nil || n < 1 || n > 10_000 {
			return fmt.Errorf("%s: want 1 to 10000", text)
		}
		return nil
	}},
}

func positive(text string) error {
	d, err := ParseDuration(text)
	if err == nil && d <= 0 {
		err = fmt.Errorf("%s: want more than 0", text)
	}
	return err
}

func someBytes(text string) error {
	n, err := ParseBytes(text)
	if err == nil && n < 1 {
		err = fmt.Errorf("%s: want at least 1 byte", text)
	}
	return err
}

// A grammar says what may be written with a kind of fault. The kinds are those
// of package fault, which needs this one: a test sees that they agree.
type grammar struct {
	to   []string // "" may be always: the kind's default
	with []string
}

var (
	processes = []string{"gateway", "gateways", "broker", "brokers", "connector", "app"}
	legs      = []string{"agent-gateway", "gateway-kafka", "app-kafka"}
	ofBroker  = []string{"broker"}
	ofAgents  = []string{"agents"}
)

var grammars = map[string]grammar{
	"kill":           {to: slices.Concat(processes, ofAgents)},
	"stop":           {to: slices.Concat(processes[:5], ofAgents)},
	"rolling":        {to: slices.Concat(processes[:5], ofAgents)},
	"freeze":         {to: slices.Concat(processes, ofAgents)},
	"upgrade":        {to: []string{"gateways"}},
	"cut-agents":     {to: ofAgents, with: []string{"share"}},
	"restart-agents": {to: ofAgents, with: []string{"share"}},

	"cut":        {to: legs},
	"reset":      {to: legs},
	"half-open":  {to: legs},
	"latency":    {to: legs, with: []string{"latency", "jitter"}},
	"bandwidth":  {to: legs, with: []string{"rate"}},
	"slice":      {to: legs, with: []string{"size"}},
	"slow":       {to: legs, with: []string{"latency"}},
	"black-hole": {to: processes[:4]},

	"produce-unanswered": {to: ofBroker, with: []string{"count"}},
	"produce-refused":    {to: ofBroker, with: []string{"count"}},
	"fetch-failed":       {to: ofBroker, with: []string{"count"}},
	"not-leader":         {to: ofBroker, with: []string{"count"}},
	"slow-broker":        {to: ofBroker, with: []string{"latency", "jitter"}},

	"add-partitions": {to: ofBroker, with: []string{"count"}},
	"quota":          {to: ofBroker, with: []string{"rate"}},
	"disk-full":      {to: ofBroker},
}

// FaultKinds lists the kinds of faults that a scenario may name, in order.
func FaultKinds() []string { return slices.Sorted(maps.Keys(grammars)) }

var numbered = regexp.MustCompile(`^(.*[a-z])-([1-9][0-9]*)$`)

func (s *Scenario) fault(path string, f Fault) *Problem {
	rule, p := s.kind(path+".do", f.Do)
	if p != nil {
		return p
	}
	switch {
	case f.At < 0:
		return wrong(path+".at", "%s: want 0 or more after the start", f.At)
	case f.At >= s.Length:
		return wrong(path+".at", "%s: behind the end; length is %s", f.At, s.Length)
	case f.For < 0:
		return wrong(path+".for", "%s: want 0 or more", f.For)
	case f.At+f.For > s.Length:
		return wrong(path+".for", "%s: lasts until %s, behind the end; length is %s", f.For, f.At+f.For, s.Length)
	case f.Every < 0 || f.Every > 0 && f.Every < Duration(minEvery):
		return wrong(path+".every", "%s: want at least %s", f.Every, Duration(minEvery))
	case f.Times < 0 || f.Times > maxFaults:
		return wrong(path+".times", "%d: want 0 to %d", f.Times, maxFaults)
	case f.Times > 1 && f.Every == 0:
		return wrong(path+".times", "%d: without every they would be at once; say every", f.Times)
	case f.Times > 1 && f.At+f.Every*Duration(f.Times-1) >= s.Length:
		return wrong(path+".times", "%d: the last is at %s, behind the end; length is %s", f.Times, f.At+f.Every*Duration(f.Times-1), s.Length)
	}
	if p := s.target(path+".to", f.To, rule.to); p != nil {
		return p
	}
	for _, name := range slices.Sorted(maps.Keys(f.With)) {
		if !slices.Contains(rule.with, name) {
			can := "nothing"
			if len(rule.with) > 0 {
				can = strings.Join(rule.with, ", ")
			}
			return wrong(path+".with."+name, "%s takes %s", f.Do, can)
		}
		if err := settings[name].check(f.With[name]); err != nil {
			return wrong(path+".with."+name, "%v", err)
		}
	}
	return nil
}

func (s *Scenario) kind(path, kind string) (grammar, *Problem) {
	rule, known := grammars[kind]
	switch {
	case known:
		return rule, nil
	case kind == "":
		return rule, wrong(path, "missing: want one of %s", strings.Join(FaultKinds(), ", "))
	}
	if near := config.Nearest(kind, FaultKinds()); near != "" {
		return rule, wrong(path, "%s: no kind of fault; did you mean %q?", kind, near)
	}
	return rule, wrong(path, "%s: no kind of fault; want one of %s", kind, strings.Join(FaultKinds(), ", "))
}

// target checks a To: one of those allowed, perhaps with a number.
func (s *Scenario) target(path, to string, allowed []string) *Problem {
	if to == "" || slices.Contains(allowed, to) {
		return nil
	}
	m := numbered.FindStringSubmatch(to)
	if m == nil || !slices.Contains(allowed, m[1]) || slices.Contains([]string{"app", "connector", "agents", "gateways", "brokers"}, m[1]) {
		return wrong(path, "%s: want one of %s", to, strings.Join(allowed, ", "))
	}
	n, err := strconv.Atoi(m[2])
	have, of := s.Local.Gateways, "gateways"
	if m[1] == "broker" || m[1] == "app-kafka" { // whose number is a broker's
		have, of = s.Local.nodes(), "brokers"
	}
	if err != nil || n > have {
		return wrong(path, "%s: there are %d %s: name one of those, or have more (local.%s)", to, have, of, of)
	}
	return nil
}

// nodes is how many brokers there are.
func (l *Local) nodes() int {
	if l.Brokers == "3" {
		return 3
	}
	return 1
}
