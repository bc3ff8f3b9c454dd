package scenario_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/loadtest/fault"
	"github.com/moorage-dev/moorage/loadtest/scenario"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

const small = "length: 10s\ngroups:\n  - {name: g, agents: 1, up: {rate: 1}}\n"

func TestZeroValuesAreFilledIn(t *testing.T) {
	s, err := scenario.Parse("dir/some-thing.yaml", []byte(small+`  - {name: h, kind: legacy, agents: 2, request: {rate: 2, answer: 1KiB}}
faults:
  - {at: 1s, do: bandwidth, with: {rate: 64KiB}}
`))
	if err != nil {
		t.Fatal(err)
	}
	usual := scenario.Size{Parts: []scenario.Part{{Min: 256, Max: 256, Weight: 1}}, Text: "256"}
	want := scenario.Scenario{
		Name: "some-thing", Length: scenario.Duration(10 * time.Second), Drain: scenario.Duration(time.Minute),
		Quiet: scenario.Duration(30 * time.Second), Seed: 1,
		Local: scenario.Local{Gateways: 1, Brokers: "embedded", Partitions: 16},
		Groups: []scenario.Group{
			{Name: "g", Kind: scenario.Native, Agents: 1, Up: &scenario.Flow{Rate: 1, Pattern: scenario.Constant, Size: usual}},
			{Name: "h", Kind: scenario.Legacy, Agents: 2, Protocol: "jnlp4", Door: "gateway", Request: &scenario.Request{
				From: "application", Flow: scenario.Flow{Rate: 2, Pattern: scenario.Constant, Size: usual},
				Answer: scenario.Size{Parts: []scenario.Part{{Min: 1024, Max: 1024, Weight: 1}}, Text: "1KiB"},
			}},
		},
		Faults: []scenario.Fault{{At: scenario.Duration(time.Second), Do: "bandwidth", With: map[string]string{"rate": "65536"}}},
	}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("got  %+v\nwant %+v", s, want)
	}
}

func TestSizes(t *testing.T) {
	for _, tt := range []struct {
		written string
		mean    float64
		largest int
		wrong   string
	}{
		{written: "256", mean: 256, largest: 256},
		{written: "64KiB", mean: 65536, largest: 65536},
		{written: "1.5kB", mean: 1500, largest: 1500},
		{written: "100B-4KiB", mean: 2098, largest: 4096},
		{written: "[{size: 100, weight: 3}, {size: 200-400, weight: 1}]", mean: 150, largest: 400},
		{written: "[{size: 1MiB, weight: 1, pieces: 10}]", mean: 10 << 20, largest: 1 << 20},
		{written: "build", mean: 2470, largest: 65536},
		{written: "[{size: build, weight: 0.5}, {size: 100, weight: 0.5}]", mean: 1285, largest: 65536},
		{written: "lots", wrong: "lots: want bytes"},
		{written: "0", wrong: "at least 1 byte"},
		{written: "-3", wrong: "want bytes"},
		{written: "4KiB-100B", wrong: "ends before it begins"},
		{written: "5GiB", wrong: "want bytes"},
		{written: "[]", wrong: "empty list"},
		{written: "[{size: 3}]", wrong: "[0].weight: 0: want more than 0"},
		{written: "[{size: 3, wieght: 2}]", wrong: `unknown key "wieght" in groups[0].up.size[0]; did you mean "weight"?`},
		{written: "[{size: build, weight: 2, pieces: 2}]", wrong: "build has its own"},
		{written: "{size: 3}", wrong: "want bytes"},
	} {
		text := "length: 10s\ngroups:\n  - {name: g, kind: tunnel, agents: 1, up: {rate: 1, size: " + tt.written + "}}\n"
		s, err := scenario.Parse("x.yaml", []byte(text))
		if tt.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), tt.wrong) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: got %v, want one line with %q", tt.written, err, tt.wrong)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.written, err)
			continue
		}
		size := s.Groups[0].Up.Size
		if mean := size.Mean(); mean < 0.95*tt.mean || mean > 1.05*tt.mean {
			t.Errorf("%s: a mean of %v, want %v", tt.written, mean, tt.mean)
		}
		if size.Largest() != tt.largest {
			t.Errorf("%s: largest %d, want %d", tt.written, size.Largest(), tt.largest)
		}
	}
}

func TestBadScenariosAreToldInOneLine(t *testing.T) {
	for _, tt := range []struct{ desc, text, want string }{
		{"nothing", "", "x.yaml: empty: want at least length and groups"},
		{"only a comment", "# hm\n", "x.yaml: empty"},
		{"no YAML", "length: [", "x.yaml:1: no YAML: "},
		{"a list", "- 3", "x.yaml:1: want keys and values; the keys are name, description, length"},
		{"two documents", small + "---\n" + small, "x.yaml:4: a second document"},
		{"unknown key", "lenght: 3s\n" + small, `x.yaml:1: unknown key "lenght" at the top; did you mean "length"?`},
		{"unknown key below", small + "local:\n  gatways: 3\n", `x.yaml:5: unknown key "gatways" in local; did you mean "gateways"?`},
		{"unlike any key", small + "zzzzzz: 3\n", `x.yaml:4: unknown key "zzzzzz" at the top; the keys are name,`},
		{"given twice", small + "length: 3s\n", "x.yaml:4: length: given twice"},
		{"no unit", "length: 10\ngroups: []", "x.yaml:1: length: 10: want a duration with a unit"},
		{"no patience", small + "quiet: 3ms\n", "x.yaml:4: quiet: 3ms: want 1s to 10m"},
		{"no number", small + "seed: many\n", "x.yaml:4: seed: many: want a whole number, 0 or more"},
		{"a fraction", small + "local: {gateways: 1.5}\n", "x.yaml:4: local.gateways: 1.5: want a whole number"},
		{"a list for a value", small + "seed: [1]\n", "x.yaml:4: seed: want one value"},
		{"a value for a list", small + "faults: 3\n", "x.yaml:4: faults: want a list"},
		{"an empty value", small + "local:\n", "x.yaml:4: local: empty: give it a value, or drop the key"},
		{"no length", "groups: [{name: g, agents: 1}]", "x.yaml:1: length: missing"},
		{"no groups", "length: 3s", "x.yaml:1: groups: missing"},
		{"a negative rate", "length: 10s\ngroups:\n  - name: g\n    agents: 1\n    up:\n      rate: -3\n", "x.yaml:6: groups[0].up.rate: -3: want more than 0 messages a second"},
		{"no rate", "length: 10s\ngroups:\n  - name: g\n    agents: 1\n    up:\n      size: 3\n", "x.yaml:5: groups[0].up.rate: 0: want more than 0"},
		{"an infinite rate", "length: 10s\ngroups: [{name: g, agents: 1, up: {rate: .inf}}]", "x.yaml:2: groups[0].up.rate: +Inf: want at most"},
		{"more than any machine", "length: 10s\ngroups: [{name: g, agents: 1000, up: {rate: 100000}}]", "of all agents together"},
		{"more bytes than any machine", "length: 10s\ngroups: [{name: g, agents: 1000, up: {rate: 1000, size: 64KiB}}]", "bytes a second of all agents together"},
		{"a message too large", "length: 10s\ngroups: [{name: g, agents: 1, up: {rate: 1, size: 1MiB}}]", "pieces: 16"},
		{"no agents", "length: 10s\ngroups: [{name: g}]", "x.yaml:2: groups[0].agents: 0: want at least 1"},
		{"too many agents", "length: 10s\ngroups: [{name: g, agents: 900000}, {name: h, agents: 900000}]", "groups[1].agents: 1800000 agents in all"},
		{"the same name", "length: 10s\ngroups: [{name: g, agents: 1}, {name: g, agents: 1}]", "groups[1].name: g: another group has this name"},
		{"a bad name", "length: 10s\ngroups: [{name: G!, agents: 1}]", `groups[0].name: "G!": want small letters`},
		{"a bad name of the file", "name: \"a/b\"\n" + small, `x.yaml:1: name: "a/b"`},
		{"an unknown kind", "length: 10s\ngroups: [{name: g, agents: 1, kind: nativ}]", "groups[0].kind: nativ: want native, tunnel, legacy"},
		{"a door of a native group", "length: 10s\ngroups: [{name: g, agents: 1, door: shim}]", "groups[0].door: is for groups of kind legacy"},
		{"requests in a tunnel", "length: 10s\ngroups: [{name: g, agents: 1, kind: tunnel, request: {rate: 1}}]", "groups[0].request: a tunnel carries bytes"},
		{"a burst of none", "length: 10s\ngroups: [{name: g, agents: 1, up: {rate: 1, pattern: burst}}]", "groups[0].up.burst: 0: want how many"},
		{"a closed loop with a rate", "length: 10s\ngroups: [{name: g, agents: 1, up: {rate: 1, closed: true}}]", "a closed loop has no rate"},
		{"an arrival behind the end", "length: 10s\ngroups: [{name: g, agents: 1, arrive: {after: 5s, ramp: 6s}}]", "groups[0].arrive.ramp: 6s: the last agent would come behind the end; length is 10s"},
		{"a warm-up of all", small + "warmup: 10s\n", "x.yaml:4: warmup: 10s: want less than length"},
		{"brokers", small + "local: {brokers: 2}\n", "x.yaml:4: local.brokers: 2: want embedded, 1 or 3"},
		{"an unknown balancer", small + "local: {balance: random}\n", "x.yaml:4: local.balance: random: want group"},
		{"a balancer that cannot read", small + "local: {balance: group, tls: true}\n", "x.yaml:4: local.balance: group: the balancer reads headers"},
		{"partitions", small + "local: {partitions: 24}\n", "x.yaml:4: local.partitions: 24: want a power of two, 16 to 1024"},
		{"a fault behind the end", small + "faults:\n  - do: kill\n    at: 11s\n", "x.yaml:6: faults[0].at: 11s: behind the end; length is 10s"},
		{"a fault that lasts", small + "faults: [{do: freeze, at: 8s, for: 3s}]\n", "x.yaml:4: faults[0].for: 3s: lasts until 11s, behind the end"},
		{"an unknown fault", small + "faults: [{do: kil, at: 1s}]\n", `x.yaml:4: faults[0].do: kil: no kind of fault; did you mean "kill"?`},
		{"no fault", small + "faults: [{at: 1s}]\n", "x.yaml:4: faults[0].do: missing: want one of add-partitions,"},
		{"a fault that cannot strike there", small + "faults: [{do: stop, at: 1s, to: app}]\n", "x.yaml:4: faults[0].to: app: want one of gateway, gateways, broker,"},
		{"a gateway that is not", small + "faults: [{do: kill, at: 1s, to: gateway-2}]\n", "x.yaml:4: faults[0].to: gateway-2: there are 1 gateways"},
		{"a setting of another kind", small + "faults: [{do: kill, at: 1s, with: {share: 1}}]\n", "x.yaml:4: faults[0].with.share: kill takes nothing"},
		{"a bad setting", small + "faults: [{do: cut-agents, at: 1s, with: {share: 3}}]\n", "x.yaml:4: faults[0].with.share: 3: want more than 0 and at most 1"},
		{"too many times", small + "faults: [{do: kill, at: 1s, every: 3s, times: 9}]\n", "faults[0].times: 9: the last is at 25s, behind the end"},
		{"times without every", small + "faults: [{do: kill, at: 1s, times: 9}]\n", "faults[0].times: 9: without every"},
		{"chaos of nothing", small + "chaos: {every: 1s, after: 6s, before: 5s}\n", "x.yaml:4: chaos: from 6s after the start to 5s before the end is nothing"},
		{"chaos without a pause", small + "chaos: {kinds: [kill]}\n", "x.yaml:4: chaos.every: 0s: want"},
		{"chaos of an unknown kind", small + "chaos: {every: 1s, kinds: [kill, halfopen]}\n", `x.yaml:4: chaos.kinds[1]: halfopen: no kind of fault; did you mean "half-open"?`},
		{"an unknown figure", small + "thresholds:\n  losst: 0\n", `x.yaml:5: thresholds.losst: no figure has this name; did you mean "lost"?`},
		{"an unknown figure of a baseline", small + "thresholds: {ratio.relay.losses: 0}\n", "thresholds.ratio.relay.losses: no figure"},
		{"no bound", small + "thresholds: {lost: few}\n", "x.yaml:4: thresholds.lost: few: want a number"},
		{"an alias of itself", small + "local: &l\n  <<: *l\n", "too many aliases"},
	} {
		s, err := scenario.Parse("x.yaml", []byte(tt.text))
		var p *scenario.Problem
		if !errors.As(err, &p) || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v\nwant one line with %q (%+v)", tt.desc, err, tt.want, s)
		}
	}
}

func TestFlagsThatMakeNonsenseAreTold(t *testing.T) {
	s, _, err := scenario.Open("smoke")
	if err != nil {
		t.Fatal(err)
	}
	s.Length = scenario.Duration(3 * time.Second)
	if err := s.Validate(); err == nil || !strings.HasPrefix(err.Error(), "scenario: faults[0].at: 4s: behind the end; length is 3s") {
		t.Errorf("got %v", err)
	}
}

func TestReadyScenarios(t *testing.T) {
	schema := compiled(t)
	for _, name := range scenario.Names() {
		s, text, err := scenario.Open(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if s.Name != name || s.Description == "" || strings.Contains(s.Description, "\n") {
			t.Errorf("%s: name %q, description %q", name, s.Name, s.Description)
		}
		if !strings.HasPrefix(string(text), "# "+name+": ") {
			t.Errorf("%s: its first line does not say what it shows", name)
		}
		var value any
		if err := yaml.Unmarshal(text, &value); err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(value); err != nil {
			t.Errorf("%s: the schema refuses it: %v", name, err)
		}
		roundTrips(t, s)
	}
}

// roundTrips: a plan for a worker carries a scenario as JSON, and show writes YAML.
func roundTrips(t *testing.T, s scenario.Scenario) {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var back scenario.Scenario
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatalf("%s: %v\n%s", s.Name, err, b)
	}
	if !reflect.DeepEqual(s, back) {
		t.Errorf("%s: JSON changes it:\n%+v\n%+v", s.Name, s, back)
	}
	if b, err = yaml.Marshal(s); err != nil {
		t.Fatal(err)
	}
	if back, err = scenario.Parse("again.yaml", b); err != nil {
		t.Fatalf("%s: %v\n%s", s.Name, err, b)
	}
	if !reflect.DeepEqual(s, back) {
		t.Errorf("%s: YAML changes it:\n%+v\n%+v", s.Name, s, back)
	}
}

func TestSchemaRefusesToo(t *testing.T) {
	schema := compiled(t)
	for _, text := range []string{
		"groups: [{name: g, agents: 1}]",
		"length: 3s",
		small + "lenght: 3s\n",
		"length: 10\ngroups: [{name: g, agents: 1}]",
		"length: 10s\ngroups: [{name: G, agents: 1}]",
		"length: 10s\ngroups: [{name: g, agents: 0}]",
		"length: 10s\ngroups: [{name: g, agents: 1, up: {rate: -1}}]",
		"length: 10s\ngroups: [{name: g, agents: 1, up: {size: 3}}]",
		"length: 10s\ngroups: [{name: g, agents: 1, up: {rate: 1, size: lots}}]",
		"length: 10s\ngroups: [{name: g, agents: 1, up: {rate: 1, size: [{size: 3}]}}]",
		"length: 10s\ngroups: [{name: g, agents: 1, door: shim}]",
		"length: 10s\ngroups: [{name: g, agents: 1, kind: tunnel, request: {rate: 1}}]",
		small + "local: {brokers: 2}\n",
		small + "faults: [{do: kil, at: 1s}]\n",
		small + "faults: [{do: kill, at: 1s, to: somebody}]\n",
		small + "faults: [{do: cut-agents, at: 1s, with: {share: 3}}]\n",
		small + "chaos: {kinds: [kill]}\n",
		small + "thresholds: {lost: few}\n",
	} {
		var value any
		if err := yaml.Unmarshal([]byte(text), &value); err != nil {
			t.Fatal(err)
		}
		if schema.Validate(value) == nil {
			t.Errorf("the schema takes\n%s", text)
		}
		if _, err := scenario.Parse("x.yaml", []byte(text)); err == nil {
			t.Errorf("Parse takes\n%s", text)
		}
	}
}

func compiled(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(string(scenario.Schema)))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

func TestKindsOfFaultsAgree(t *testing.T) {
	if got, want := scenario.FaultKinds(), slices.Sorted(slices.Values(fault.Kinds)); !slices.Equal(got, want) {
		t.Errorf("scenario has %q\nfault has %q", got, want)
	}
	var doc struct {
		Defs struct{ Kind struct{ Enum []string } } `json:"$defs"`
	}
	if err := json.Unmarshal(scenario.Schema, &doc); err != nil || !slices.Equal(doc.Defs.Kind.Enum, scenario.FaultKinds()) {
		t.Errorf("schema.json has %q, %v\nwant %q", doc.Defs.Kind.Enum, err, scenario.FaultKinds())
	}
}

func TestFilesAndNames(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mine.yaml")
	if err := os.WriteFile(path, []byte(small), 0o600); err != nil {
		t.Fatal(err)
	}
	s, text, err := scenario.Open(path)
	if err != nil || s.Name != "mine" || string(text) != small {
		t.Errorf("got %+v, %q, %v", s, text, err)
	}
	_, _, err = scenario.Open("smok")
	if err == nil || !strings.HasPrefix(err.Error(), `scenario: smok: no ready scenario and no file; did you mean "smoke"? the ready ones are `) {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(small)
	for _, name := range scenario.Names() {
		_, text, err := scenario.Open(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := scenario.Parse("x.yaml", []byte(text))
		switch {
		case err == nil:
			roundTrips(t, s)
		case strings.Contains(err.Error(), "\n"):
			t.Errorf("more than a line: %q", err)
		}
	})
}
