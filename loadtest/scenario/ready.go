package scenario

import (
	_ "embed" // for the schema
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/moorage-dev/moorage/config"
	"github.com/moorage-dev/moorage/loadtest/scenarios"
)

// Schema is the JSON schema of scenarios, for editors. Parse does not use it:
// it knows more.
//
//go:embed schema.json
var Schema []byte

// Names lists the ready scenarios, in order.
func Names() (names []string) {
	files, err := fs.Glob(scenarios.Files, "*.yaml")
	if err != nil {
		panic(err) // of a constant pattern
	}
	for _, f := range files {
		names = append(names, strings.TrimSuffix(f, ".yaml"))
	}
	return names
}

// Open finds a scenario: a ready one by its name, else a file. It returns what
// is written too, comments and all.
func Open(nameOrPath string) (Scenario, []byte, error) {
	file, text, err := find(nameOrPath)
	if err != nil {
		return Scenario{}, nil, err
	}
	s, err := Parse(file, text)
	return s, text, err
}

func find(nameOrPath string) (file string, text []byte, err error) {
	file = nameOrPath + ".yaml"
	if text, err = fs.ReadFile(scenarios.Files, file); err != nil {
		file = nameOrPath
		text, err = read(file)
	}
	return file, text, err
}

// Locate adds the file and the line to a *Problem that was found later than by
// Open, such as by a plan of faults, if its key is written there. Other errors
// stay what they are.
func Locate(err error, nameOrPath string) error {
	p, is := errors.AsType[*Problem](err)
	if !is || p.File != "" {
		return err
	}
	file, text, failed := find(nameOrPath)
	var doc yaml.Node
	if failed != nil || yaml.Unmarshal(text, &doc) != nil || len(doc.Content) == 0 {
		return err
	}
	shape := newShape()
	if shape.check(doc.Content[0]) != nil {
		return err
	}
	if line, written := shape.written(p.Path); written {
		return &Problem{File: file, Line: line, Path: p.Path, Text: p.Text}
	}
	return err
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		hint := "the ready ones are " + strings.Join(Names(), ", ")
		if near := config.Nearest(path, Names()); near != "" {
			hint = fmt.Sprintf("did you mean %q? %s", near, hint)
		}
		return nil, fmt.Errorf("scenario: %s: no ready scenario and no file; %s", path, hint)
	case err != nil:
		return nil, fmt.Errorf("scenario: %w", err)
	}
	defer f.Close() // read only
	text, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("scenario: %w", err)
	}
	return text, nil
}
