package main

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

// A shim that is parsed alone is told the same as by the parser of everything.
func TestShimIsParsedAlone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "shim.yaml")
	if err := os.WriteFile(file, []byte("log-level: warn\nagent: a2\nshim:\n  max-sessions: 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("MOORAGE_GIVE_UP", "100s")
	t.Setenv("MOORAGE_LOG_FORMAT", "json")
	all := []string{"shim", "--gateway", "gw1:7443,gw2:7443", "--controller", "ci"}
	for _, more := range [][]string{
		{"--agent", "a1", "--insecure", "--", "java", "-jar", "agent.jar", "--help", "-url", "http://jenkins/"},
		{"--agent", "a1", "--label", "site=north", "--door", "127.0.0.1:8080", "--restart", "always", "--forward", "127.0.0.1:1=web"},
		{"--config", file, "--agent-log", "log", "--agent-log-bytes", "1MiB", "--", "{door}"},
	} {
		args := append(all[:len(all):len(all)], more...)
		p := &process{stdout: io.Discard, stderr: io.Discard, log: slog.New(slog.DiscardHandler)}
		want, wantLog, err := p.parse(args)
		if err != nil {
			t.Fatal(err)
		}
		got, log, ok := parseShim(args)
		if !ok {
			t.Errorf("%q is left to the parser of everything", more)
			continue
		}
		command, wanted := got.Selected().Target.Interface(), want.Selected().Target.Interface()
		if !reflect.DeepEqual(command, wanted) || log != wantLog {
			t.Errorf("%q: got %+v, %+v; want %+v, %+v", more, command, log, wanted, wantLog)
		}
	}
}

// Whatever is not a shim's command line in good order is for the parser that
// has words for it.
func TestOthersAreParsedByTheParserOfEverything(t *testing.T) {
	good := []string{"shim", "--gateway", "gw:7443", "--controller", "ci", "--agent", "a1", "--", "{door}"}
	if _, _, ok := parseShim(good); !ok {
		t.Fatalf("%q is left to the parser of everything", good)
	}
	for _, args := range [][]string{
		nil,
		{"version"},
		{"--log-level", "debug", "shim"},
		{"shim", "--help"},
		{"shim", "--gateway", "gw:7443"},
		{"shim", "--gateway", "gw:7443", "--controller", "ci", "--agent", "a1", "--door", ":1", "--give-up", "0s"},
	} {
		if _, _, ok := parseShim(args); ok {
			t.Errorf("%q is parsed as a shim's", args)
		}
	}
	t.Setenv("COMP_LINE", "moorage shim --g")
	if _, _, ok := parseShim(good); ok {
		t.Error("a shell that wants to complete is taken for a user")
	}
}
