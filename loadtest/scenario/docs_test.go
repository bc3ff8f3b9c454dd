package scenario_test

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/moorage-dev/moorage/loadtest/scenario"
	"go.yaml.in/yaml/v3"
)

var fence = regexp.MustCompile("(?s)```yaml\n(.*?)```")

func TestGuidesExamplesAreScenarios(t *testing.T) {
	schema := compiled(t)
	examples := fence.FindAllStringSubmatch(guide(t), -1)
	if len(examples) < 5 {
		t.Fatalf("only %d examples", len(examples))
	}
	for _, e := range examples {
		if _, err := scenario.Parse("example.yaml", []byte(e[1])); err != nil {
			t.Errorf("%v\n%s", err, e[1])
		}
		var value any
		if err := yaml.Unmarshal([]byte(e[1]), &value); err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(value); err != nil {
			t.Errorf("the schema refuses it: %v\n%s", err, e[1])
		}
	}
}

func TestGuideTellsEverything(t *testing.T) {
	text := guide(t)
	for _, name := range scenario.Names() {
		s, _, err := scenario.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if row := "| `" + name + "` | " + s.Description + " |\n"; !strings.Contains(text, row) {
			t.Errorf("no row %q", row)
		}
	}
	words := scenario.FaultKinds()
	var doc any
	if err := json.Unmarshal(scenario.Schema, &doc); err != nil {
		t.Fatal(err)
	}
	for _, word := range keys(doc, words) {
		if !strings.Contains(text, "`"+word+"`") {
			t.Errorf("nothing is said about %q", word)
		}
	}
}

// keys appends the names of all properties in a schema.
func keys(schema any, found []string) []string {
	switch v := schema.(type) {
	case []any:
		for _, e := range v {
			found = keys(e, found)
		}
	case map[string]any:
		for name, e := range v {
			if properties, is := e.(map[string]any); is && name == "properties" {
				for key := range properties {
					found = append(found, key)
				}
			}
			found = keys(e, found)
		}
	}
	return found
}

func guide(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/loadtest.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
