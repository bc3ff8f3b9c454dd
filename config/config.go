// Package config reads the configuration file: one YAML document whose keys
// are the names of command-line flags.
//
// A key at the top is meant for every command that has such a flag; a key in
// a section named like a command is meant for that command alone, and wins:
//
//	kafka: [k1:9092, k2:9092, k3:9092]
//	log-level: info
//	gateway:
//	  listen: :7443
//	  max-sessions: 20000
//
// What no command knows is an error, for a setting that is silently ignored
// is found out too late. Every error is one line with file, line and a way
// to mend it. The package knows nothing of flags themselves: the caller says
// by a [Section] which names exist.
package config

import (
	"fmt"
	"slices"
	"strings"
)

// A Section says what may stand at one level of the file.
type Section struct {
	Settings map[string]bool
	Sections map[string]*Section
}

// knows reports whether name is a setting of the section or of one inside it.
func (s *Section) knows(name string) bool {
	if s.Settings[name] {
		return true
	}
	for _, inner := range s.Sections {
		if inner.knows(name) {
			return true
		}
	}
	return false
}

// names yields what may stand in the section, for suggestions.
func (s *Section) names() []string {
	var names []string
	for name := range s.Settings {
		names = append(names, name)
	}
	for name, inner := range s.Sections {
		names = append(append(names, name), inner.names()...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// home returns a section, by its path, that has the setting name.
func (s *Section) home(name, path string) (string, bool) {
	if s.Settings[name] {
		return path, true
	}
	for _, inner := range sortedKeys(s.Sections) {
		if home, ok := s.Sections[inner].home(name, strings.TrimSpace(path+" "+inner)); ok {
			return home, true
		}
	}
	return "", false
}

// A Value is one setting of the file: a scalar's text, or a list.
type Value struct {
	Line int
	Text string
	List []string // nil for a scalar; a mapping becomes its "key=value" pairs
}

// A File is a parsed configuration file.
type File struct {
	Name string
	root *level
}

type level struct {
	values map[string]Value
	inner  map[string]*level
}

// Lookup returns the setting name for the command with the given path: the
// innermost section that has it wins.
func (f *File) Lookup(command []string, name string) (Value, bool) {
	value, ok := f.root.values[name]
	at := f.root
	for _, section := range command {
		if at = at.inner[section]; at == nil {
			break
		}
		if v, found := at.values[name]; found {
			value, ok = v, true
		}
	}
	return value, ok
}

// An Error is what is wrong with a file. Line is 0 when it concerns the file as a whole.
type Error struct {
	File string
	Line int
	Text string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.File, e.Text)
	}
	return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Text)
}
