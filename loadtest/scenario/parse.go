package scenario

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// MaxFile is the largest scenario that is read, in bytes.
const MaxFile = 1 << 20

// A Problem is what is wrong with a scenario, in one line: where, and what
// would be right.
type Problem struct {
	File string // "": a scenario that flags changed
	Line int    // 0: unknown
	Path string // of the key: groups[0].up.rate
	Text string
}

func (p *Problem) Error() string {
	var where []string
	switch {
	case p.File != "" && p.Line > 0:
		where = append(where, p.File+":"+strconv.Itoa(p.Line))
	default:
		where = append(where, cmp.Or(p.File, "scenario"))
	}
	if p.Path != "" {
		where = append(where, p.Path)
	}
	return strings.Join(append(where, p.Text), ": ")
}

// Parse reads a scenario, fills in what its fields say of zero, and validates
// it. name is the file's, for messages, and for the scenario's name if it
// gives none. Errors are of type *Problem.
func Parse(name string, text []byte) (Scenario, error) {
	refuse := func(line int, path, format string, args ...any) (Scenario, error) {
		return Scenario{}, &Problem{File: name, Line: line, Path: path, Text: fmt.Sprintf(format, args...)}
	}
	if len(text) > MaxFile {
		return refuse(0, "", "%d bytes: a scenario has at most %d", len(text), MaxFile)
	}
	var doc, more yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(text))
	switch err := d.Decode(&doc); {
	case errors.Is(err, io.EOF) || err == nil && doc.Content[0].Tag == "!!null":
		return refuse(0, "", "empty: want at least length and groups")
	case err != nil:
		line, said := yamlSaid(err)
		return refuse(line, "", "%s", said)
	}
	if err := d.Decode(&more); err == nil {
		return refuse(more.Line, "", "a second document: want one scenario per file")
	} else if !errors.Is(err, io.EOF) {
		line, said := yamlSaid(err)
		return refuse(line, "", "%s", said)
	}

	shape := newShape()
	if p := shape.check(doc.Content[0]); p != nil {
		p.File = name
		return Scenario{}, p
	}
	var s Scenario
	if err := doc.Decode(&s); err != nil { // shape has seen all there is; what is left are YAML's own rules
		line, said := yamlSaid(err)
		return refuse(line, "", "%s", said)
	}
	s.Name = cmp.Or(s.Name, strings.TrimSuffix(filepath.Base(name), filepath.Ext(name)))
	s.complete()
	if p, wrong := errors.AsType[*Problem](s.Validate()); wrong {
		p.File, p.Line = name, shape.line(p.Path)
		return Scenario{}, p
	}
	return s, nil
}

var yamlLine = regexp.MustCompile(`(?s)^(?:yaml: )?(?:unmarshal errors:\s*)?(?:line (\d+): )?(.*)$`)

// yamlSaid takes the line out of an error of the library, and makes one line of it.
func yamlSaid(err error) (line int, text string) {
	said := yamlLine.FindStringSubmatch(err.Error())
	line, _ = strconv.Atoi(said[1]) // none is 0
	text, _, _ = strings.Cut(said[2], "\n")
	return line, "no YAML: " + text
}

// complete fills in the zero values.
func (s *Scenario) complete() {
	s.Drain = cmp.Or(s.Drain, Duration(time.Minute))
	s.Quiet = cmp.Or(s.Quiet, Duration(30*time.Second))
	s.Seed = cmp.Or(s.Seed, 1)
	s.Local.Gateways = cmp.Or(s.Local.Gateways, 1)
	s.Local.Brokers = cmp.Or(s.Local.Brokers, "embedded")
	s.Local.Partitions = cmp.Or(s.Local.Partitions, 16)
	for i := range s.Groups {
		g := &s.Groups[i]
		g.Kind = cmp.Or(g.Kind, Native)
		if g.Kind == Legacy {
			g.Protocol, g.Door = cmp.Or(g.Protocol, JNLP4), cmp.Or(g.Door, DoorGateway)
		}
		for _, f := range []*Flow{g.Up, g.Down} {
			if f != nil {
				f.complete()
			}
		}
		if r := g.Request; r != nil {
			r.complete()
			r.From = cmp.Or(r.From, FromApplication)
			r.Answer.complete()
		}
	}
	for _, f := range s.Faults {
		for name, text := range f.With { // so that readers need no units
			if n, err := ParseBytes(text); err == nil && settings[name].bytes {
				f.With[name] = strconv.Itoa(n)
			}
		}
	}
}

func (f *Flow) complete() {
	f.Pattern = cmp.Or(f.Pattern, Constant)
	f.Size.complete()
}

func (s *Size) complete() {
	if len(s.Parts) == 0 {
		*s, _ = ParseSize("") // which is right
	}
}
