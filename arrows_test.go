// Package moorage_test keeps the arrows between the packages: who may import
// whom. docs/design.md has the picture.
package moorage_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/moorage-dev/moorage/"

// mayImport names, for each package, those of ours that its code may use. A
// name ending in a slash covers all below it. proto and seeded, which import
// nothing, are open to everybody; the checks below have the exceptions.
var mayImport = map[string][]string{
	"broker":            nil,
	"broker/apachetest": {"broker"},
	"buffer":            nil,
	"check":             nil,
	"config":            nil,
	"remoting":          nil,
	"seeded":            nil,
	"proto/":            {"proto/"},
	"session":           {"buffer"},
	"session/explore":   {"session", "buffer"},
	"conn":              {"session"},
	"link":              {"session", "conn"},
	"bridge":            nil,
	"bridge/apachetest": {"bridge", "broker"},
	"controller":        {"bridge", "session", "conn"},
	"gateway":           {"bridge", "buffer", "session", "conn", "door", "tunnel"},
	"tunnel":            {"session", "conn"},
	"connector":         {"controller", "session", "conn", "remoting", "tunnel"},
	"shim":              {"link", "session", "conn", "door", "tunnel", "shim/guard"},
	"shim/guard":        nil,
	"door":              {"remoting", "tunnel", "session"},
	"standin":           {"remoting"},
	"demo/fabric":       nil,
	"demo/legacy":       {"gateway", "door", "connector", "controller", "link", "session", "standin", "remoting", "broker", "bridge", "check"},
	"demo":              {"gateway", "controller", "link", "broker", "bridge", "check", "session", "conn", "demo/"},
	"loadtest/":         {"config", "controller", "link", "standin", "broker", "bridge", "check", "session", "conn", "loadtest/"},
	"cmd/":              {""},
	"e2e":               {""},
	"e2e/":              {""},
}

// onlyBy names who alone may use a library.
var onlyBy = map[string][]string{
	"github.com/IBM/sarama":            {"bridge", "loadtest/baseline"},
	"github.com/sony/gobreaker/v2":     {"bridge"},
	"github.com/hashicorp/golang-lru/": {"buffer"},
	"github.com/twmb/franz-go/":        {"broker", "broker/apachetest"},
}

func TestImportsPointDown(t *testing.T) {
	for _, p := range packages(t) {
		allowed, known := mayImport[longestRule(p.name)]
		if !known {
			t.Errorf("%s: no rule says what it may import; add one to mayImport", p.name)
			continue
		}
		for _, imported := range p.Imports {
			ours, isOurs := strings.CutPrefix(imported, module)
			switch {
			case !isOurs, ours == "seeded", strings.HasPrefix(ours, "proto/") && !isLeaf(p.name):
			case !covers(allowed, ours):
				t.Errorf("%s imports %s: the arrow points the wrong way", p.name, ours)
			}
		}
		for library, users := range onlyBy {
			if slices.ContainsFunc(p.Imports, func(i string) bool { return covers([]string{library}, i) }) && !slices.Contains(users, p.name) {
				t.Errorf("%s imports %s, which is for %s alone", p.name, library, strings.Join(users, " and "))
			}
		}
	}
}

// isLeaf tells the packages that import nothing of ours, not even messages.
func isLeaf(name string) bool {
	return slices.Contains([]string{"broker", "buffer", "check", "config", "remoting", "seeded", "demo/fabric"}, name)
}

// longestRule is the key of mayImport that speaks of a package most exactly.
func longestRule(name string) string {
	best := ""
	for rule := range mayImport {
		if covers([]string{rule}, name) && len(rule) > len(best) {
			best = rule
		}
	}
	return best
}

func covers(rules []string, name string) bool {
	return slices.ContainsFunc(rules, func(rule string) bool {
		return name == rule || rule == "" || strings.HasSuffix(rule, "/") && strings.HasPrefix(name, rule)
	})
}

// A goPackage is what go list tells of one.
type goPackage struct {
	ImportPath string
	Imports    []string
	name       string // ImportPath within the module
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Imports", "./...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []goPackage
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if name, inside := strings.CutPrefix(p.ImportPath, module); inside {
			p.name = name
			all = append(all, p)
		}
	}
	if len(all) == 0 {
		t.Fatal("go list shows no package")
	}
	return all
}
