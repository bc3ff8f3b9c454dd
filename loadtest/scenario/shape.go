package scenario

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/moorage-dev/moorage/config"
)

// A shape compares a file with the types it is read into, so that a mistake is
// told with its line and key, and remembers the line of each key for what only
// Validate sees.
type shape struct {
	lines map[string]int
	nodes int // seen; aliases of aliases could make billions of a small file
}

const maxNodes = 100_000

func newShape() *shape { return &shape{lines: map[string]int{}} }

// line is that of path, or of the nearest key above it that is written.
func (s *shape) line(path string) int {
	if line, written := s.written(path); written {
		return line
	}
	return 1
}

// written finds the same, if any is.
func (s *shape) written(path string) (line int, found bool) {
	for path != "" && !found {
		line, found = s.lines[path]
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return line, found
}

func (s *shape) check(root *yaml.Node) *Problem {
	return s.value(root, reflect.TypeFor[Scenario](), "")
}

func problem(n *yaml.Node, path, format string, args ...any) *Problem {
	return &Problem{Line: n.Line, Path: path, Text: fmt.Sprintf(format, args...)}
}

func (s *shape) value(n *yaml.Node, t reflect.Type, path string) *Problem {
	if s.nodes++; s.nodes > maxNodes {
		return problem(n, path, "more than %d values: too many aliases?", maxNodes)
	}
	if _, seen := s.lines[path]; !seen {
		s.lines[path] = n.Line
	}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Tag == "!!null" {
		return problem(n, path, "empty: give it a value, or drop the key")
	}
	switch t {
	case reflect.TypeFor[Duration]():
		return told(n, path, new(Duration).UnmarshalYAML(n))
	case reflect.TypeFor[Size]():
		return s.size(n, path)
	}
	switch t.Kind() {
	case reflect.Pointer:
		return s.value(n, t.Elem(), path)
	case reflect.Struct:
		return s.mapping(n, path, fieldsOf(t), nil)
	case reflect.Map:
		return s.mapping(n, path, nil, t.Elem())
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			return problem(n, path, "want a list")
		}
		for i, item := range n.Content {
			if p := s.value(item, t.Elem(), path+"["+strconv.Itoa(i)+"]"); p != nil {
				return p
			}
		}
		return nil
	}
	return told(n, path, scalar(n, t))
}

// told makes a Problem of err, whose text may begin with an index.
func told(n *yaml.Node, path string, err error) *Problem {
	if err == nil {
		return nil
	}
	return problem(n, path, "%s", err)
}

// mapping checks keys: those of a struct, or any with values of one type.
func (s *shape) mapping(n *yaml.Node, path string, fields []field, element reflect.Type) *Problem {
	if n.Kind != yaml.MappingNode {
		var names []string
		for _, f := range fields {
			names = append(names, f.name)
		}
		if names == nil {
			return problem(n, path, "want keys and values")
		}
		return problem(n, path, "want keys and values; the keys are %s", strings.Join(names, ", "))
	}
	seen := map[string]bool{}
	for i := 0; i < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		under := key.Value
		if path != "" {
			under = path + "." + key.Value
		}
		if key.Tag == "!!merge" {
			if p := s.value(value, mergeType(fields, element), path); p != nil {
				return p
			}
			continue
		}
		if seen[key.Value] {
			return problem(key, under, "given twice")
		}
		seen[key.Value] = true
		t, p := element, (*Problem)(nil)
		if element == nil {
			t, p = known(key, path, fields)
		}
		if p == nil {
			s.lines[under] = key.Line
			p = s.value(value, t, under)
		}
		if p != nil {
			return p
		}
	}
	return nil
}

// mergeType is what "<<" may bring: more of the same.
func mergeType(fields []field, element reflect.Type) reflect.Type {
	if element != nil {
		return reflect.MapOf(reflect.TypeFor[string](), element)
	}
	return fields[0].of
}

func known(key *yaml.Node, path string, fields []field) (reflect.Type, *Problem) {
	var names []string
	for _, f := range fields {
		if f.name == key.Value {
			return f.is, nil
		}
		names = append(names, f.name)
	}
	where := "at the top"
	if path != "" {
		where = "in " + path
	}
	if near := config.Nearest(key.Value, names); near != "" {
		return nil, problem(key, "", "unknown key %q %s; did you mean %q?", key.Value, where, near)
	}
	return nil, problem(key, "", "unknown key %q %s; the keys are %s", key.Value, where, strings.Join(names, ", "))
}

// size checks the keys of a list's elements, which are no fields of a Part.
func (s *shape) size(n *yaml.Node, path string) *Problem {
	if n.Kind == yaml.SequenceNode {
		if p := s.value(n, reflect.TypeFor[[]share](), path); p != nil {
			return p
		}
	}
	return told(n, path, new(Size).UnmarshalYAML(n))
}

func scalar(n *yaml.Node, t reflect.Type) error {
	if n.Kind != yaml.ScalarNode {
		return errors.New("want one value")
	}
	want := map[reflect.Kind]string{
		reflect.Int: "a whole number", reflect.Uint64: "a whole number, 0 or more", reflect.Float64: "a number", reflect.Bool: "true or false",
	}[t.Kind()]
	whole := n.ShortTag() == "!!int" || t.Kind() != reflect.Int && t.Kind() != reflect.Uint64 // the library would cut 1.5 to 1
	if want != "" && (!whole || n.Decode(reflect.New(t).Interface()) != nil) {
		return fmt.Errorf("%s: want %s", n.Value, want)
	}
	return nil
}

// A field is a key of a struct.
type field struct {
	name string
	is   reflect.Type
	of   reflect.Type // the struct
}

func fieldsOf(t reflect.Type) (all []field) {
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if options == "inline" {
			all = append(all, fieldsOf(f.Type)...)
			continue
		}
		all = append(all, field{name, f.Type, t})
	}
	for i := range all {
		all[i].of = t // a merge brings the whole
	}
	return all
}
