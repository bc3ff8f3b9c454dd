package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxSize bounds a file: far above any real one, and little enough that a
// wrong path (a log, a disk image) fails at once.
const maxSize = 1 << 20

// Parse reads a file. Its errors are of type *Error.
func Parse(name string, data []byte, root *Section) (*File, error) {
	p := parser{file: name, root: root}
	if len(data) > maxSize {
		return nil, p.errorf(0, "%d bytes are too many for a configuration file; is it the right one?", len(data))
	}
	if err := p.checkText(data); err != nil {
		return nil, err
	}
	document, err := p.decode(data)
	if err != nil {
		return nil, err
	}
	f := &File{Name: name, root: &level{}}
	if document == nil {
		return f, nil
	}
	f.root, err = p.section(document, root, "")
	return f, err
}

type parser struct {
	file string
	root *Section
}

func (p *parser) errorf(line int, format string, args ...any) error {
	return &Error{File: p.file, Line: line, Text: fmt.Sprintf(format, args...)}
}

// checkText finds what the YAML reader would refuse without telling the line.
func (p *parser) checkText(data []byte) error {
	line := 1
	for rest := data; len(rest) > 0; {
		r, n := utf8.DecodeRune(rest)
		switch {
		case r == utf8.RuneError && n == 1:
			return p.errorf(line, "not UTF-8 text")
		case r == '\n':
			line++
		case r < ' ' && r != '\t' && r != '\r', r == 0x7f:
			return p.errorf(line, "control character %#x", r)
		}
		rest = rest[n:]
	}
	return nil
}

// decode returns the top mapping of the one document, or nil for an empty file.
func (p *parser) decode(data []byte) (top *yaml.Node, err error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, p.syntax(data, err)
	}
	var second yaml.Node
	if err := dec.Decode(&second); err == nil {
		return nil, p.errorf(second.Line, "a second document begins; put everything into one")
	} else if !errors.Is(err, io.EOF) {
		return nil, p.syntax(data, err)
	}
	top = doc.Content[0]
	if top.Kind == yaml.ScalarNode && top.Tag == "!!null" {
		return nil, nil
	}
	if top.Kind != yaml.MappingNode {
		return nil, p.errorf(top.Line, "want lines of the form \"name: value\"")
	}
	return top, nil
}

var (
	// countsFromZero matches what the YAML package's parser says, as opposed to
	// its scanner: it numbers lines from 0.
	countsFromZero = regexp.MustCompile(`^did not find expected (<|key|node content|'-'|',')`)

	yamlLine      = regexp.MustCompile(`^line (\d+): `)
	unknownAnchor = regexp.MustCompile(`^unknown anchor '(.*)' referenced`)
)

// syntax turns the YAML package's error into ours. It names a line except on
// the first one, and for an unknown anchor.
func (p *parser) syntax(data []byte, err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	text, _, _ = strings.Cut(text, "\n")
	line := 1
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		line, _ = strconv.Atoi(m[1]) // digits by the expression
		text = text[len(m[0]):]
		if countsFromZero.MatchString(text) {
			line++
		}
	} else if m := unknownAnchor.FindStringSubmatch(text); m != nil {
		before, _, _ := bytes.Cut(data, []byte("*"+m[1]))
		line += bytes.Count(before, []byte("\n"))
	}
	line = min(line, 1+bytes.Count(data, []byte("\n")))
	return p.errorf(line, "malformed YAML: %s", text)
}

// section reads one mapping; path names it in errors.
func (p *parser) section(node *yaml.Node, allowed *Section, path string) (*level, error) {
	l := &level{values: map[string]Value{}, inner: map[string]*level{}}
	seen := map[string]int{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.Tag == "!!merge" {
			return nil, p.errorf(key.Line, "a key must be the plain name of a setting")
		}
		if first, twice := seen[key.Value]; twice {
			return nil, p.errorf(key.Line, "%q stands here a second time (first on line %d); keep one", key.Value, first)
		}
		seen[key.Value] = key.Line

		inner, isSection := allowed.Sections[key.Value]
		if isSection && value.Kind == yaml.MappingNode {
			sub, err := p.section(value, inner, strings.TrimSpace(path+" "+key.Value))
			if err != nil {
				return nil, err
			}
			l.inner[key.Value] = sub
			continue
		}
		if !allowed.knows(key.Value) {
			if isSection {
				return nil, p.errorf(key.Line, "%q is a section; put its settings below it, indented", key.Value)
			}
			return nil, p.unknown(key, allowed, path)
		}
		v, err := p.value(key.Value, value)
		if err != nil {
			return nil, err
		}
		l.values[key.Value] = v
	}
	return l, nil
}

func (p *parser) unknown(key *yaml.Node, allowed *Section, path string) error {
	where := "at the top of the file"
	if path != "" {
		where = fmt.Sprintf("in section %q", path)
	}
	if home, ok := p.root.home(key.Value, ""); ok && home == "" {
		return p.errorf(key.Line, "unknown key %q %s; it stands at the top of the file, for all commands", key.Value, where)
	} else if ok {
		return p.errorf(key.Line, "unknown key %q %s; it is a setting of moorage %s", key.Value, where, home)
	}
	if near := Nearest(key.Value, allowed.names()); near != "" {
		return p.errorf(key.Line, "unknown key %q %s; did you mean %q?", key.Value, where, near)
	}
	return p.errorf(key.Line, "unknown key %q %s; keys are the long names of flags, see moorage %s", key.Value, where, strings.TrimSpace(path+" --help"))
}

// value reads what stands behind a setting's name.
func (p *parser) value(name string, node *yaml.Node) (Value, error) {
	v := Value{Line: node.Line}
	switch node.Kind {
	case yaml.ScalarNode:
		text, err := p.scalar(name, node)
		v.Text = text
		return v, err
	case yaml.SequenceNode:
		v.List = []string{}
		for _, item := range node.Content {
			if item.Kind != yaml.ScalarNode {
				return v, p.errorf(item.Line, "%s: an item must be plain text", name)
			}
			text, err := p.scalar(name, item)
			if err != nil {
				return v, err
			}
			v.List = append(v.List, text)
		}
		return v, nil
	case yaml.MappingNode:
		v.List = []string{}
		for i := 0; i+1 < len(node.Content); i += 2 {
			key, item := node.Content[i], node.Content[i+1]
			if key.Kind != yaml.ScalarNode || item.Kind != yaml.ScalarNode {
				return v, p.errorf(key.Line, "%s: want lines of the form \"name: value\"", name)
			}
			text, err := p.scalar(name, item)
			if err != nil {
				return v, err
			}
			v.List = append(v.List, key.Value+"="+text)
		}
		return v, nil
	case yaml.AliasNode:
		return v, p.errorf(node.Line, "%s: aliases are not used here; write the value itself", name)
	}
	return v, p.errorf(node.Line, "%s: want a value", name)
}

func (p *parser) scalar(name string, node *yaml.Node) (string, error) {
	if node.Tag == "!!null" {
		return "", p.errorf(node.Line, "%s: has no value; give one or remove the line", name)
	}
	return node.Value, nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
