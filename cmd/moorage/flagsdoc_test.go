package main

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// documented are the commands whose flags stand in docs/operations.md: those
// that a deployment is run with.
var documented = []string{
	"gateway", "connector", "shim", "topics create", "topics check", "topics list",
	"sessions list", "sessions show", "sessions end", "gateways", "token",
}

var (
	flagsMarker = regexp.MustCompile(`^<!-- flags: (.+) -->$`)
	flagName    = regexp.MustCompile("`--([a-z-]+)`")
)

// TestOperationsHaveEveryFlag holds the tables of docs/operations.md to --help:
// each flag of a command stands in exactly one of the command's tables, with its
// default, and no table has a flag that its commands don't know.
func TestOperationsHaveEveryFlag(t *testing.T) {
	tables := readFlagTables(t)
	eachNode(t, func(path string, node *kong.Node) {
		command := strings.TrimPrefix(path, "moorage ")
		if !slices.Contains(documented, command) {
			return
		}
		rows := tables[command]
		delete(tables, command)
		for _, group := range node.AllFlags(false) {
			for _, flag := range group {
				if flag.Hidden || flag.Name == "help" {
					continue
				}
				told, ok := rows[flag.Name]
				delete(rows, flag.Name)
				if want, exact := defaultOf(flag); !ok {
					t.Errorf("%s --%s stands in no table; give it a row under <!-- flags: %s -->", path, flag.Name, command)
				} else if exact && told != want {
					t.Errorf("%s --%s: the table says %q by default, --help %q", path, flag.Name, told, want)
				} else if !exact && (told == "off" || told == required) {
					t.Errorf("%s --%s: the table says %q, but it is a value that may be left out", path, flag.Name, told)
				}
			}
		}
		for _, name := range slices.Sorted(maps.Keys(rows)) {
			t.Errorf("a table has --%s, which %s doesn't know", name, path)
		}
	})
	for command := range tables {
		t.Errorf("a table is marked for %q, which is no command whose flags are compared", command)
	}
}

const required = "must be given"

// defaultOf is what a table says in its second column. exact is false where there
// is no default, so that words may tell what happens then.
func defaultOf(flag *kong.Flag) (text string, exact bool) {
	switch {
	case flag.Required:
		return required, true
	case flag.HasDefault:
		return "`" + flag.Default + "`", true
	case flag.IsBool():
		return "off", true
	}
	return "", false
}

// readFlagTables returns, by command and flag, the defaults in the tables that
// stand behind a marker.
func readFlagTables(t *testing.T) map[string]map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	tables := map[string]map[string]string{}
	var commands []string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if m := flagsMarker.FindStringSubmatch(line); m != nil {
			commands = strings.Split(m[1], ", ")
			continue
		}
		if strings.HasPrefix(line, "#") {
			commands = nil
		}
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			continue
		}
		for _, name := range flagName.FindAllStringSubmatch(cells[1], -1) {
			for _, command := range commands {
				if tables[command] == nil {
					tables[command] = map[string]string{}
				}
				if _, twice := tables[command][name[1]]; twice {
					t.Errorf("moorage %s --%s stands there twice", command, name[1])
				}
				tables[command][name[1]] = strings.TrimSpace(cells[2])
			}
		}
	}
	return tables
}
