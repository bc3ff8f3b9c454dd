package scenario

import (
	_ "embed" // for the schema
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

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
	file := nameOrPath + ".yaml"
	text, err := fs.ReadFile(scenarios.Files, file)
	if err != nil {
		file = nameOrPath
		text, err = read(file)
	}
	if err != nil {
		return Scenario{}, nil, err
	}
	s, err := Parse(file, text)
	return s, text, err
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
