package main

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"

	"github.com/alecthomas/kong"

	"github.com/moorage-dev/moorage/config"
)

// configFlag names the configuration file; using the flag loads it.
type configFlag string

// BeforeResolve runs once the command is known and before values are looked
// up outside the command line.
func (configFlag) BeforeResolve(k *kong.Kong, ctx *kong.Context, at *kong.Path) error {
	name := string(ctx.FlagValue(at.Flag).(configFlag))
	if name == "" {
		return nil
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return &fileError{fmt.Errorf("--config: %w", err)}
	}
	file, err := config.Parse(name, data, configSection(k.Model.Node))
	if err != nil {
		return &fileError{err}
	}
	ctx.AddResolver(fileResolver{file})
	return nil
}

// configSection lists what the file may say, from the same structs the flags come from.
func configSection(node *kong.Node) *config.Section {
	s := &config.Section{Settings: map[string]bool{}, Sections: map[string]*config.Section{}}
	for _, flag := range node.Flags {
		if flag.Name != "help" && flag.Name != "config" {
			s.Settings[flag.Name] = true
		}
	}
	for _, child := range node.Children {
		s.Sections[child.Name] = configSection(child)
	}
	return s
}

// A fileError is a mistake in the configuration file. It tells place and
// remedy by itself.
type fileError struct{ err error }

func (e *fileError) Error() string { return e.err.Error() }
func (e *fileError) Unwrap() error { return e.err }

// fileResolver gives the parser the file's values for what neither the
// command line nor the environment sets.
type fileResolver struct {
	file *config.File
}

func (fileResolver) Validate(*kong.Application) error { return nil }

func (r fileResolver) Resolve(ctx *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	if slices.ContainsFunc(flag.Envs, func(env string) bool { _, set := os.LookupEnv(env); return set }) {
		return nil, nil
	}
	value, ok := r.file.Lookup(commandPath(ctx.Selected()), flag.Name)
	if !ok {
		return nil, nil
	}
	text := value.Text
	if value.List != nil {
		if !flag.IsSlice() {
			return nil, r.errorf(value, flag, errors.New("want one value, not a list"))
		}
		text = kong.JoinEscaped(value.List, flag.Tag.Sep)
	}
	// The parser itself would report a bad value without its place.
	scratch := reflect.New(flag.Target.Type()).Elem()
	mapping := &kong.DecodeContext{Value: flag.Value, Scan: kong.Scan().PushTyped(text, kong.FlagValueToken)}
	if err := flag.Mapper.Decode(mapping, scratch); err != nil {
		return nil, r.errorf(value, flag, err)
	}
	return text, nil
}

func (r fileResolver) errorf(v config.Value, flag *kong.Flag, err error) error {
	return &fileError{&config.Error{File: r.file.Name, Line: v.Line, Text: flag.Name + ": " + err.Error()}}
}

// commandPath returns the names of the commands that lead to node.
func commandPath(node *kong.Node) []string {
	if node == nil || node.Parent == nil {
		return nil
	}
	return append(commandPath(node.Parent), node.Name)
}
