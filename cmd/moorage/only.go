package main

import (
	"io"
	"os"

	"github.com/alecthomas/kong"
)

// shimOnly is the command line as far as an agent's start needs it: cli without
// the other commands. To build the parser of all of them takes as long as the
// rest of the shim's own start, and the agent waits for it.
type shimOnly struct {
	Config configFlag
	Log    logFlags `embed:"" prefix:"log-"`
	Shim   shimCmd  `cmd:""`
}

// parseShim parses a shim's command line in good order. Of any other it says no,
// and so it does of whatever is wrong or asks for help: the parser of everything
// has the words for that.
func parseShim(args []string) (selected *kong.Context, log logFlags, ok bool) {
	if len(args) == 0 || args[0] != "shim" || completing() {
		return nil, logFlags{}, false
	}
	c := new(shimOnly)
	parser, err := kong.New(c, kong.Name("moorage"), kong.NoDefaultHelp(), kong.DefaultEnvars("MOORAGE"), kong.Writers(io.Discard, io.Discard))
	if err != nil {
		return nil, logFlags{}, false
	}
	selected, err = parser.Parse(args)
	if err != nil || checkValues(selected) != nil {
		return nil, logFlags{}, false
	}
	return selected, c.Log, true
}

// completing tells that a shell wants to know what could stand next.
func completing() bool {
	return os.Getenv("COMP_LINE") != ""
}
