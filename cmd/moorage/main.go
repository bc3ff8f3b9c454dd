// Moorage keeps build agents attached to their controllers while the network,
// a gateway or a Kafka broker between them fails. This is its one binary; see
// moorage --help.
//
// Each subcommand is one struct in a file of its own. Its fields are at once
// the flags, the MOORAGE_ environment variables and the keys of the YAML
// file; what a command does stands in the package it starts.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"

	"github.com/moorage-dev/moorage/shim"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// A process is what commands get of the world: results go to stdout, talk to
// the log on stderr.
type process struct {
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	log    *slog.Logger
}

// run is main with everything it touches as a parameter. It returns the exit
// code: 0, 2 for usage and configuration, 1 for whatever else went wrong; a
// shim's agent gives its own.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	// The signal ends the context, whose cause names it. A second one ends
	// the process the usual way, for a drain may take longer than somebody's patience.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	p := &process{stdin: stdin, stdout: stdout, stderr: stderr}
	err := p.parseAndRun(ctx, args)
	if err == nil {
		return 0
	}
	if agent, ok := errors.AsType[*shim.ExitError](err); ok {
		return agent.Code // it has said what there is to say
	}
	fmt.Fprintln(stderr, "moorage: "+oneLine(err.Error()))
	return exitCode(err)
}

func (p *process) parseAndRun(ctx context.Context, args []string) error {
	selected, log, ok := parseShim(args)
	if !ok {
		var err error
		if selected, log, err = p.parse(args); err != nil {
			return err
		}
	}
	var err error
	if p.log, err = log.logger(p.stderr); err != nil {
		return err
	}
	selected.BindTo(ctx, (*context.Context)(nil))
	return selected.Run(p)
}

// parse parses the command line of any command.
func (p *process) parse(args []string) (selected *kong.Context, log logFlags, err error) {
	var c cli
	parser, err := newParser(&c, p.stdout, p.stderr)
	if err != nil {
		return nil, logFlags{}, err
	}
	kongcompletion.Register(parser)
	if selected, err = parser.Parse(args); err != nil {
		return nil, logFlags{}, usage(err)
	}
	return selected, c.Log, checkValues(selected)
}

// A usageError is the caller's to mend: flags, environment or configuration file.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// usage makes a usageError of what the parser reported, and says where to
// read on unless the error tells its own way to mend it.
func usage(err error) error {
	if e, ok := errors.AsType[*fileError](err); ok {
		return usageError{e}
	}
	parse, ok := errors.AsType[*kong.ParseError](err)
	if !ok || parse.Context == nil || strings.Contains(err.Error(), "did you mean") {
		return usageError{err}
	}
	node := parse.Context.Selected()
	if node == nil {
		return usagef("%w; see moorage --help", err)
	}
	if parent := node.Parent; parent.DefaultCmd == node && strings.HasPrefix(err.Error(), "unexpected argument ") {
		// The parser took a mistyped command for the default one's argument.
		var names []string
		for _, child := range parent.Children {
			names = append(names, child.Name)
		}
		return usagef("%w, did you mean one of %s? See moorage %s --help", err, strings.Join(names, ", "), parent.Path())
	}
	return usagef("%w; see moorage %s --help", err, node.Path())
}

func exitCode(err error) int {
	if _, ok := errors.AsType[usageError](err); ok {
		return 2
	}
	return 1
}

// oneLine keeps the promise that an error is one line, whatever library it came from.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}
