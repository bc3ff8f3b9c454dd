//go:build linux

package loadtest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/moorage-dev/moorage/e2e/rig"
	"github.com/moorage-dev/moorage/loadtest/report"
	"github.com/moorage-dev/moorage/loadtest/results"
)

// work is where binaries are built; it goes with the run.
var work string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	var err error
	if work, err = os.MkdirTemp("", "moorage-loadtest-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(work)
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// ordinary is the program under test, built once for the run.
var ordinary = sync.OnceValues(func() (string, error) { return build("moorage") })

// flawed is the same with the seeded bugs in it.
var flawed = sync.OnceValues(func() (string, error) { return build("moorage-flawed", "-tags", "seeded") })

func build(name string, flags ...string) (string, error) {
	path := filepath.Join(work, name)
	args := append([]string{"build", "-o", path}, flags...)
	out, err := exec.Command("go", append(args, "github.com/moorage-dev/moorage/cmd/moorage")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", name, err, out)
	}
	return path, nil
}

// A test run of the harness.
type outcome struct {
	code   int
	said   string // stdout and stderr
	dir    string
	result *results.Results // nil: none was written
}

// A harness starts the program.
type harness struct {
	program string
	env     []string
	during  func(cmd *exec.Cmd, dir string) // called when it runs; nil: nothing
}

// loadtest runs "moorage loadtest run" to its end.
func (h harness) loadtest(t *testing.T, scenario string, flags ...string) outcome {
	t.Helper()
	if h.program == "" {
		var err error
		h.program, err = ordinary()
		rig.Must(t, err)
	}
	dir := filepath.Join(t.ArtifactDir(), "out")
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	args := append([]string{"loadtest", "run", scenario, "--out", dir}, flags...)
	cmd := exec.CommandContext(ctx, h.program, args...)
	cmd.Env = append(os.Environ(), h.env...)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	rig.Must(t, cmd.Start())
	if h.during != nil {
		h.during(cmd, dir)
	}
	err := cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatalf("%v: %v\n%s", args, exit, said.String())
	}
	o := outcome{code: cmd.ProcessState.ExitCode(), said: said.String(), dir: dir}
	if r, err := report.Open(dir); err == nil {
		o.result = r
	}
	nothingRuns(t, h.program)
	return o
}

// wantClean fails unless every promise was kept. Whether the generator was the
// limit depends on what else the machine does, and is no matter here.
func (o outcome) wantClean(t *testing.T) *results.Run {
	t.Helper()
	one := o.wantRun(t)
	for _, word := range promises {
		if one.Figures[word] != 0 {
			t.Errorf("%s: %v", word, one.Figures[word])
		}
	}
	for _, a := range one.Anomalies {
		b, _ := json.Marshal(a)
		t.Errorf("anomaly: %.2000s", b)
	}
	if one.Invalid == "" && o.code != 0 || one.Invalid != "" && !strings.Contains(one.Invalid, "the generator was the limit") {
		t.Errorf("exit code %d, invalid %q:\n%s", o.code, one.Invalid, o.said)
	}
	return one
}

// wantRun fails unless there are results of one run.
func (o outcome) wantRun(t *testing.T) *results.Run {
	t.Helper()
	if o.result == nil || len(o.result.Runs) != 1 {
		t.Fatalf("exit code %d and no results of one run:\n%s", o.code, o.said)
	}
	for _, name := range []string{report.PageFile, report.EventsFile} {
		if info, err := os.Stat(filepath.Join(o.dir, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	return &o.result.Runs[0]
}

var promises = []string{"lost", "repeated", "reordered", "corrupted", "stuck", "revived", "unexplained", "misjudged", "untold"}

// nothingRuns waits until no process of a program is left. The programs were
// built for this run, so nobody else runs them.
func nothingRuns(t *testing.T, program string) {
	t.Helper()
	rig.Eventually(t, "no process of the harness is left", 10*time.Second, func() bool { return len(runs(program)) == 0 })
}

// runs lists the processes of a program.
func runs(program string) (pids []string) {
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		panic(err) // of a constant pattern
	}
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && to == program {
			pids = append(pids, filepath.Base(filepath.Dir(link)))
		}
	}
	return pids
}

// write makes a scenario file.
func write(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "story.yaml")
	rig.Must(t, os.WriteFile(name, []byte(text), 0o600))
	return name
}
