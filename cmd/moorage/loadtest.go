package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/moorage-dev/moorage/loadtest/report"
	"github.com/moorage-dev/moorage/loadtest/results"
	"github.com/moorage-dev/moorage/loadtest/scenario"
)

type loadtestCmd struct {
	Run      loadtestRunCmd      `cmd:"" help:"Run a scenario, and say whether anything was lost."`
	List     loadtestListCmd     `cmd:"" help:"List the ready scenarios."`
	Show     loadtestShowCmd     `cmd:"" help:"Print a scenario, to make another of it."`
	Validate loadtestValidateCmd `cmd:"" help:"Check scenario files."`
	Report   loadtestReportCmd   `cmd:"" help:"Show the results of a run again, or of several side by side."`
}

type loadtestListCmd struct{}

// Help gives the examples.
func (*loadtestListCmd) Help() string {
	return `
Examples:

  moorage loadtest list
`
}

// Run prints the ready scenarios' names and what they show.
func (*loadtestListCmd) Run(p *process) error {
	t := newTable(p.stdout, "NAME", "AGENTS", "LENGTH", "SHOWS")
	for _, name := range scenario.Names() {
		sc, _, err := scenario.Open(name)
		if err != nil {
			return err
		}
		agents := 0
		for _, g := range sc.Groups {
			agents += g.Agents
		}
		t.row(sc.Name, agents, sc.Length, sc.Description)
	}
	return t.flush()
}

type loadtestShowCmd struct {
	Scenario string `arg:"" help:"Name of a ready scenario, or a file."`
}

// Help gives the examples.
func (*loadtestShowCmd) Help() string {
	return `
Examples:

  moorage loadtest show smoke
`
}

// Run prints the scenario as it is written, comments and all.
func (c *loadtestShowCmd) Run(p *process) error {
	_, text, err := scenario.Open(c.Scenario)
	if err != nil {
		return usageError{err}
	}
	_, err = p.stdout.Write(text)
	return err
}

type loadtestValidateCmd struct {
	File []string `arg:"" help:"Scenario files."`
}

// Help gives the examples.
func (*loadtestValidateCmd) Help() string {
	return `
Prints one line for each file that is not as it should be: where, what, and how to mend it.

Examples:

  moorage loadtest validate mine.yaml
`
}

// Run checks each file.
func (c *loadtestValidateCmd) Run(p *process) error {
	wrong := 0
	var last error
	for _, name := range c.File {
		if _, _, err := scenario.Open(name); err != nil {
			if last != nil {
				fmt.Fprintln(p.stderr, "moorage: "+oneLine(last.Error()))
			}
			wrong++
			last = err
			continue
		}
		fmt.Fprintf(p.stdout, "%s: good\n", name)
	}
	if last != nil {
		return usageError{last}
	}
	return nil
}

type loadtestReportCmd struct {
	Dir []string `arg:"" help:"Directories that runs were written to."`
}

// Help gives the examples.
func (*loadtestReportCmd) Help() string {
	return `
Of several runs the figures stand side by side, as ratios to the first.

Examples:

  moorage loadtest report loadtest-smoke-20260102-150405
  moorage loadtest report before after
`
}

// Run prints one run's summary, or compares.
func (c *loadtestReportCmd) Run(_ context.Context, p *process) error {
	var all []*results.Results
	for _, dir := range c.Dir {
		r, err := report.Open(dir)
		if err != nil {
			return usageError{err}
		}
		all = append(all, r)
	}
	fmt.Fprint(p.stdout, strings.Join(all[0].Verdict.Lines, "\n"), "\n")
	return nil
}

// mustBeProgram refuses what could not be started later.
func mustBeProgram(flag, name string) error {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return usagef("%s: %w", flag, err)
	case info.IsDir() || info.Mode().Perm()&0o111 == 0:
		return usagef("%s: %s is no program", flag, name)
	}
	return nil
}
