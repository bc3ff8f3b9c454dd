package config

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// testRoot is a small tree of commands.
func testRoot() *Section {
	return &Section{
		Settings: map[string]bool{"log-level": true},
		Sections: map[string]*Section{
			"gateway":   {Settings: map[string]bool{"listen": true, "kafka": true, "max-sessions": true}},
			"connector": {Settings: map[string]bool{"kafka": true, "controller": true, "service": true}},
			"topics": {Sections: map[string]*Section{
				"create": {Settings: map[string]bool{"kafka": true, "partitions": true}},
			}},
		},
	}
}

func TestInnermostSectionWins(t *testing.T) {
	f, err := Parse("m.yaml", []byte(`
kafka: [k1:9092, k2:9092]
log-level: debug
gateway:
  kafka: k3:9092
topics:
  partitions: 32
  create:
    partitions: 64
connector:
  service: {web: "127.0.0.1:80", ssh: "127.0.0.1:22"}
`), testRoot())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		desc    string
		command []string
		name    string
		want    Value
	}{
		{"own section", []string{"gateway"}, "kafka", Value{Line: 5, Text: "k3:9092"}},
		{"the top, for a command without the key", []string{"connector"}, "kafka", Value{Line: 2, List: []string{"k1:9092", "k2:9092"}}},
		{"the top, for a command without a section", []string{"sessions", "list"}, "log-level", Value{Line: 3, Text: "debug"}},
		{"nested section", []string{"topics", "create"}, "partitions", Value{Line: 9, Text: "64"}},
		{"a mapping is a list of pairs", []string{"connector"}, "service", Value{Line: 11, List: []string{"web=127.0.0.1:80", "ssh=127.0.0.1:22"}}},
	} {
		got, ok := f.Lookup(tt.command, tt.name)
		if !ok || got.Line != tt.want.Line || got.Text != tt.want.Text || !slices.Equal(got.List, tt.want.List) {
			t.Errorf("%s: got %+v, %v; want %+v", tt.desc, got, ok, tt.want)
		}
	}
	if v, ok := f.Lookup([]string{"gateway"}, "listen"); ok {
		t.Errorf("a key that is not in the file gave %+v", v)
	}
}

func TestErrorsSayWhereAndHowToMend(t *testing.T) {
	for _, tt := range []struct{ desc, file, want string }{
		{"unknown key", "log-level: info\ngateway:\n  lisen: :7443\n", `m.yaml:3: unknown key "lisen" in section "gateway"; did you mean "listen"?`},
		{"unknown key at the top", "kafak: k1:9092", `m.yaml:1: unknown key "kafak" at the top of the file; did you mean "kafka"?`},
		{"nothing near", "gateway: {colour: red}", `m.yaml:1: unknown key "colour" in section "gateway"; keys are the long names of flags, see moorage gateway --help`},
		{"key of another command", "gateway: {controller: ci}", `m.yaml:1: unknown key "controller" in section "gateway"; it is a setting of moorage connector`},
		{"key for all in a section", "gateway: {log-level: info}", `m.yaml:1: unknown key "log-level" in section "gateway"; it stands at the top of the file, for all commands`},
		{"section without settings", "gateway: 7443", `m.yaml:1: "gateway" is a section; put its settings below it, indented`},
		{"malformed", "log-level: info\ngateway:\n  listen: [:7443\n", "m.yaml:3: malformed YAML: "},
		{"malformed first line", "a: b: c", "m.yaml:1: malformed YAML: mapping values are not allowed in this context"},
		{"tab", "gateway:\n\tlisten: x", "m.yaml:2: malformed YAML: found character that cannot start any token"},
		{"unknown anchor", "log-level: info\nkafka: *all\n", "m.yaml:2: malformed YAML: unknown anchor 'all' referenced"},
		{"alias", "log-level: &a info\nkafka: *a\n", "m.yaml:2: kafka: aliases are not used here; write the value itself"},
		{"control character", "log-level: info\nkafka: \x01\n", "m.yaml:2: control character 0x1"},
		{"not text", "log-level: \xff\n", "m.yaml:1: not UTF-8 text"},
		{"second document", "log-level: info\n---\nkafka: a\n", "m.yaml:2: a second document begins; put everything into one"},
		{"list at the top", "- a\n- b\n", `m.yaml:1: want lines of the form "name: value"`},
		{"twice", "kafka: a\nlog-level: info\nkafka: b\n", `m.yaml:3: "kafka" stands here a second time (first on line 1); keep one`},
		{"no value", "kafka:\n", "m.yaml:1: kafka: has no value; give one or remove the line"},
		{"list in a list", "kafka: [[a]]\n", "m.yaml:1: kafka: an item must be plain text"},
		{"too large", strings.Repeat("#", maxSize+1), "m.yaml: 1048577 bytes are too many for a configuration file; is it the right one?"},
	} {
		_, err := Parse("m.yaml", []byte(tt.file), testRoot())
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s:\n got %v\nwant %s", tt.desc, err, tt.want)
		}
	}
}

func TestEmptyFile(t *testing.T) {
	for _, file := range []string{"", "# nothing yet\n", "---\n", "{}"} {
		if _, err := Parse("m.yaml", []byte(file), testRoot()); err != nil {
			t.Errorf("%q: %v", file, err)
		}
	}
}

// FuzzParse holds that no input panics, that every error is one line with a
// line number that exists, and that what was accepted can be looked up.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "kafka: [a, b]\ngateway:\n  listen: :7443\n", "a: b: c", "kafka: *x", "&a [*a]", "? {a: b}\n: c\n",
		"<<: {kafka: x}", "kafka: !!binary aGk=", "---\n---\n", "%YAML 9.9\n---\n", "gateway: {listen: ~}", "kafka: |\n  a\n  b\n",
		"topics: {create: {partitions: 3}}", "\ufeffkafka: a", "kafka: \"\\u0000\"", "\x00", "!!map {a: b}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse("m.yaml", data, testRoot())
		if err != nil {
			e, ok := errors.AsType[*Error](err)
			if !ok {
				t.Fatalf("error of type %T: %v", err, err)
			}
			if strings.Contains(e.Error(), "\n") {
				t.Errorf("error of several lines: %q", e)
			}
			if lines := 1 + strings.Count(string(data), "\n"); e.Line < 0 || e.Line > lines && !strings.ContainsAny(string(data), "\r\u0085\u2028\u2029") {
				t.Errorf("line %d of %d: %v", e.Line, lines, e)
			}
			return
		}
		for _, command := range [][]string{nil, {"gateway"}, {"topics", "create"}, {"unknown"}} {
			file.Lookup(command, "kafka")
		}
	})
}
