package main

import (
	"io"
	"os"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"moorage": main})
}

// TestScripts runs the binary as its users do; see testdata/script.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setWorld,
		Cmds:                scriptCommands,
	})
}

// eachNode calls f for the root and every command below it.
func eachNode(t *testing.T, f func(path string, node *kong.Node)) {
	t.Helper()
	parser, err := newParser(new(cli), io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	var walk func(node *kong.Node)
	walk = func(node *kong.Node) {
		f(strings.Join(append([]string{"moorage"}, commandPath(node)...), " "), node)
		for _, child := range node.Children {
			walk(child)
		}
	}
	walk(parser.Model.Node)
}

func TestEveryCommandHasExamples(t *testing.T) {
	eachNode(t, func(path string, node *kong.Node) {
		if node.Help == "" {
			t.Errorf("%s: no help", path)
		}
		if len(node.Children) == 0 && !strings.Contains(node.Detail, "moorage "+strings.Join(commandPath(node), " ")) {
			t.Errorf("%s --help shows no example of it", path)
		}
	})
}

// TestExamplesParse holds help texts to the flags that exist.
func TestExamplesParse(t *testing.T) {
	eachNode(t, func(path string, node *kong.Node) {
		text := strings.ReplaceAll(node.Detail, "\\\n", " ")
		for line := range strings.Lines(text) {
			_, command, ok := strings.Cut(line, "moorage ")
			if !strings.HasPrefix(line, "  ") || !ok || strings.ContainsAny(line, "#|<>") || strings.Contains(line, "--config") {
				continue
			}
			parser, err := newParser(new(cli), io.Discard, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := parser.Parse(strings.Fields(command)); err != nil {
				t.Errorf("%s --help: %s\n%v", path, strings.TrimSpace(line), err)
			}
		}
	})
}

// TestSettingsHaveOneName holds that each flag has its MOORAGE_ variable under
// the same name, and that no flag takes a secret.
func TestSettingsHaveOneName(t *testing.T) {
	eachNode(t, func(path string, node *kong.Node) {
		for _, flag := range node.Flags {
			if flag.Name == "help" {
				continue
			}
			want := "MOORAGE_" + strings.ToUpper(strings.ReplaceAll(flag.Name, "-", "_"))
			if len(flag.Envs) != 1 || flag.Envs[0] != want {
				t.Errorf("%s --%s: environment %q, want %q", path, flag.Name, flag.Envs, want)
			}
			for _, secret := range []string{"password", "token", "secret"} {
				if strings.Contains(flag.Name, secret) && !strings.HasSuffix(flag.Name, "-file") {
					t.Errorf("%s --%s would show a secret in the process list", path, flag.Name)
				}
			}
		}
	})
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]size{
		"65536": 65536, "64KiB": 65536, "64K": 65536, "4MiB": 4 << 20, "2 GiB": 2 << 30, "12B": 12,
		"": -1, "0": -1, "-1": -1, "1.5MiB": -1, "MiB": -1, "9999999999GiB": -1,
	} {
		var got size
		err := got.UnmarshalText([]byte(text))
		if want < 0 && err == nil || want >= 0 && (err != nil || got != want) {
			t.Errorf("%q: got %d, %v", text, got, err)
		}
	}
}

func TestAddresses(t *testing.T) {
	for text, ok := range map[string]bool{
		"k1:9092": true, "[::1]:9092": true, "10.0.0.1:1": true,
		"k1": false, ":9092": false, "k1:": false, "k1:http": false, "k1:70000": false, "k1:0": false, "::1:9092": false,
	} {
		var a address
		if err := a.UnmarshalText([]byte(text)); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestSecretIsTheFirstLine(t *testing.T) {
	name := t.TempDir() + "/secret"
	for content, want := range map[string]string{"s3cret": "s3cret", "s3cret\n": "s3cret", "s3cret\r\nnotes\n": "s3cret", "": "", "\ns3cret": ""} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readSecret("--f", name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v", content, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("the secret stands in the error: %v", err)
		}
	}
}
