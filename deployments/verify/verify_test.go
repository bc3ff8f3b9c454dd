// Package verify checks the files of deployments against the programs that
// read them: compose-go, systemd, and moorage itself. It is a module of its
// own, so that the program's go.mod knows nothing of compose.
package verify

import (
	"encoding/xml"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v3"
)

func TestComposeFile(t *testing.T) {
	m := buildMoorage(t)
	options, err := cli.NewProjectOptions([]string{"../compose.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"connector", "gateway-1", "gateway-2", "kafka", "topics", "web"}
	if got := project.ServiceNames(); !slices.Equal(slices.Sorted(slices.Values(got)), want) {
		t.Errorf("services: got %q, want %q", got, want)
	}
	for _, s := range project.Services {
		if s.Build == nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(s.Build.Context, s.Build.Dockerfile)); err != nil {
			t.Errorf("%s: %v", s.Name, err)
		}
		if err := m.knows(s.Command); err != nil {
			t.Errorf("%s: %v", s.Name, err)
		}
	}
	wantAdvertisedPorts(t, project)
}

// wantAdvertisedPorts: agents on the host are sent where a port is published.
func wantAdvertisedPorts(t *testing.T, project *types.Project) {
	t.Helper()
	for _, name := range []string{"gateway-1", "gateway-2"} {
		s := project.Services[name]
		advertised, ok := "", false
		for _, arg := range s.Command {
			if rest, is := strings.CutPrefix(arg, "--advertise="); is {
				advertised, ok = rest, true
			}
		}
		published := slices.ContainsFunc(s.Ports, func(p types.ServicePortConfig) bool {
			return p.Target == 7443 && p.HostIP+":"+p.Published == advertised
		})
		if !ok || !published {
			t.Errorf("%s advertises %q, which it doesn't publish", name, advertised)
		}
	}
}

func TestUnits(t *testing.T) {
	m := buildMoorage(t)
	units, err := filepath.Glob("../systemd/*.service")
	if err != nil || len(units) == 0 {
		t.Fatalf("units: %q, %v", units, err)
	}
	dir := t.TempDir()
	var copies []string
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.SplitSeq(string(text), "\n") {
			if command, is := strings.CutPrefix(line, "ExecStart=/usr/local/bin/moorage "); is {
				if err := m.knows(strings.Fields(command)); err != nil {
					t.Errorf("%s: %v", filepath.Base(unit), err)
				}
			}
		}
		// The program is not installed here; systemd wants to see one.
		name := filepath.Join(dir, filepath.Base(unit))
		if err := os.WriteFile(name, []byte(strings.ReplaceAll(string(text), "/usr/local/bin/moorage", m.path)), 0o600); err != nil {
			t.Fatal(err)
		}
		copies = append(copies, name)
	}
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", append([]string{"verify"}, copies...)...).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

func TestConfigurationFile(t *testing.T) {
	m := buildMoorage(t)
	text, err := os.ReadFile("../moorage.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file map[string]any
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	for name, value := range file {
		section, is := value.(map[string]any)
		if !is {
			if err := m.knows([]string{"gateway", "--" + name}); err != nil {
				t.Error(err)
			}
			continue
		}
		for key := range section {
			if err := m.knows([]string{name, "--" + key}); err != nil {
				t.Errorf("section %s: %v", name, err)
			}
		}
	}
}

// The guide prints commands, a pod's sidecar and a Windows service.
func TestGuide(t *testing.T) {
	m := buildMoorage(t)
	text, err := os.ReadFile("../../docs/jenkins.md")
	if err != nil {
		t.Fatal(err)
	}
	var commands [][]string
	for _, one := range printed(string(text)) {
		switch {
		case strings.HasPrefix(one, "moorage "):
			for line := range strings.Lines(strings.ReplaceAll(one, "\\\n", " ")) {
				commands = append(commands, strings.Fields(line)[1:])
			}
		case strings.HasPrefix(one, "spec:"):
			var pod struct {
				Spec struct {
					Sidecars []struct{ Args []string } `yaml:"initContainers"`
				}
			}
			if err := yaml.Unmarshal([]byte(one), &pod); err != nil {
				t.Fatal(err)
			}
			for _, c := range pod.Spec.Sidecars {
				commands = append(commands, c.Args)
			}
		case strings.HasPrefix(one, "<service>"):
			var service struct {
				Arguments string `xml:"arguments"`
			}
			if err := xml.Unmarshal([]byte(one), &service); err != nil {
				t.Fatal(err)
			}
			commands = append(commands, strings.Fields(service.Arguments))
		}
	}
	count := make(map[string]int)
	for _, c := range commands {
		count[c[0]]++
		if err := m.knows(c); err != nil {
			t.Error(err)
		}
	}
	want := map[string]int{"topics": 1, "connector": 1, "gateway": 1, "token": 1, "shim": 3} // shims: by hand, in a pod, on Windows
	if !maps.Equal(count, want) {
		t.Errorf("commands in the guide: got %v, want %v", count, want)
	}
}

// printed returns what a document shows indented by four spaces, piece by piece.
func printed(text string) []string {
	var pieces []string
	inside := false
	for line := range strings.Lines(text) {
		shown, is := strings.CutPrefix(line, "    ")
		switch {
		case is && inside:
			pieces[len(pieces)-1] += shown
		case is:
			pieces = append(pieces, shown)
		}
		inside = is
	}
	return pieces
}

// moorage is a built binary, asked what it understands.
type moorage struct{ path string }

var buildDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "moorage-verify-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	buildDir = dir
	code := m.Run()
	_ = os.RemoveAll(dir) // a temporary file, at worst
	os.Exit(code)
}

// build happens once for all tests.
var build = sync.OnceValues(func() (moorage, error) {
	path := filepath.Join(buildDir, "moorage")
	out, err := exec.Command("go", "build", "-C", "../..", "-o", path, "./cmd/moorage").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("build: %w: %s", err, out)
	}
	return moorage{path}, err
})

func buildMoorage(t *testing.T) moorage {
	t.Helper()
	m, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

var flagName = regexp.MustCompile(`--(?:\[no-\])?([a-z][a-z0-9-]*)`)

// knows tells whether args are a command and flags of it, by its help.
func (m moorage) knows(args []string) error {
	var command, flags []string
	for _, arg := range args {
		if arg == "--" { // an agent's own command line
			break
		}
		if name, is := strings.CutPrefix(arg, "--"); is {
			name, _, _ = strings.Cut(name, "=")
			flags = append(flags, name)
		} else if len(flags) == 0 {
			command = append(command, arg)
		}
	}
	help, err := exec.Command(m.path, append(command, "--help")...).Output()
	if err != nil {
		return fmt.Errorf("moorage %s --help: %w", strings.Join(command, " "), err)
	}
	var known []string
	for _, match := range flagName.FindAllStringSubmatch(string(help), -1) {
		known = append(known, match[1])
	}
	for _, f := range flags {
		if !slices.Contains(known, f) {
			return fmt.Errorf("moorage %s knows no --%s", strings.Join(command, " "), f)
		}
	}
	return nil
}
