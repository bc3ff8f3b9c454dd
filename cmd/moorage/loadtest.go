package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moorage-dev/moorage/loadtest/report"
	loadrun "github.com/moorage-dev/moorage/loadtest/run"
	"github.com/moorage-dev/moorage/loadtest/scenario"
	"github.com/moorage-dev/moorage/loadtest/site"
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
Prints one line for each file that is not as it should be: where, what, and how to mend it. Its faults are planned too, for the deployment that its local section describes.

Examples:

  moorage loadtest validate mine.yaml
`
}

// Run checks each file.
func (c *loadtestValidateCmd) Run(p *process) error {
	var last error
	for _, name := range c.File {
		if err := validate(name); err != nil {
			if last != nil {
				fmt.Fprintln(p.stderr, "moorage: "+oneLine(last.Error()))
			}
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

// validate checks a file, and whether its faults can be done. They could go to any
// deployment: --old-binary is taken for given.
func validate(name string) error {
	sc, _, err := scenario.Open(name)
	if err != nil {
		return err
	}
	cfg := loadrun.Config{Scenario: sc, Site: site.Config{Old: "given"}}
	_, err = cfg.Foresee()
	return scenario.Locate(err, name)
}

type loadtestReportCmd struct {
	Dir  []string `arg:"" help:"Directories that runs were written to."`
	HTML string   `name:"html" placeholder:"FILE" help:"Write the comparison of several runs to this page."`
}

// Help gives the examples.
func (*loadtestReportCmd) Help() string {
	return `
Of one run its summary is printed again; its page is report.html in the directory. Of several the figures stand side by side, as ratios to the first's; --html makes a page of that, with every figure.

Examples:

  moorage loadtest report loadtest-smoke-20260102-150405
  moorage loadtest report before after --html compare.html
`
}

// Run prints one run's summary, or compares.
func (c *loadtestReportCmd) Run(p *process) error {
	if len(c.Dir) == 1 {
		r, err := report.Open(c.Dir[0])
		if err != nil {
			return usageError{err}
		}
		if c.HTML != "" {
			return usagef("--html is for several runs; the page of one is %s", filepath.Join(c.Dir[0], report.PageFile))
		}
		fmt.Fprint(p.stdout, report.Summary(c.Dir[0], r))
		return nil
	}
	if err := report.Compare(p.stdout, c.Dir); err != nil {
		return usageError{err}
	}
	if c.HTML == "" {
		return nil
	}
	f, err := os.Create(c.HTML)
	if err != nil {
		return usagef("--html: %w", err)
	}
	return errors.Join(report.CompareHTML(f, c.Dir), f.Close())
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
