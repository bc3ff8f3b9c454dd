//go:build seeded

package mutants

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/moorage-dev/moorage/seeded"
)

// TestTheDocumentsTable compares docs/loadtest.md with what must find each bug.
// Who sees a bug besides, the demo or a load test, is for the eye.
func TestTheDocumentsTable(t *testing.T) {
	text, err := os.ReadFile("../../docs/loadtest.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, bug := range seeded.All {
		_, row, found := strings.Cut(string(text), fmt.Sprintf("\n| `%s` | ", bug))
		row, _, _ = strings.Cut(row, "\n")
		_, got, _ := strings.Cut(row, " | ") // what the bug does
		if want := columns(finders[bug]); !found || !strings.HasPrefix(got, want) {
			t.Errorf("%s:\ngot  %s\nwant %s…", bug, got, want)
		}
	}
}

// columns is the table's columns for stories, explorer and simulation.
func columns(all []finder) string {
	var stories, families []string
	lucky := ""
	for _, f := range all {
		switch f.pkg {
		case "session/explore":
			_, family, _ := strings.Cut(f.run, "/^")
			families = append(families, strings.ReplaceAll(strings.ReplaceAll(strings.TrimSuffix(family, "$"), "_", " "), `\`, ""))
		case "e2e/sim":
			lucky = "yes"
		default:
			if name := "`" + f.pkg + "`"; !slices.Contains(stories, name) {
				stories = append(stories, name)
			}
		}
	}
	return strings.Join(stories, ", ") + " | " + strings.Join(families, ", ") + " | " + lucky + " | "
}
