//go:build seeded

package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/moorage-dev/moorage/seeded"
)

// The shim that dies is this program. Every other bug is demo's to try.
func TestBrokenVerdictOfAShim(t *testing.T) {
	var stdout, stderr bytes.Buffer
	code := run([]string{"demo", "--break=" + string(seeded.ChildOrphaned)}, strings.NewReader(""), &stdout, &stderr)
	if code != 1 || !strings.Contains(stdout.String(), "untold=1") || !strings.Contains(stderr.String(), "the verdict is not clean") {
		t.Errorf("exit %d; want 1, and somebody who was not told:\n%s%s", code, stdout.String(), stderr.String())
	}
}

func TestBrokenVerdictOfNoBug(t *testing.T) {
	for args, want := range map[string]string{
		"--break=nonsense":                    `moorage: --break=nonsense: no seeded bug "nonsense"; `,
		"--break=ack-before-kafka --faults=0": "moorage: --break=ack-before-kafka: needs --faults 1 or more",
	} {
		var stdout, stderr bytes.Buffer
		code := run(append([]string{"demo"}, strings.Fields(args)...), strings.NewReader(""), &stdout, &stderr)
		if code != 2 || !strings.HasPrefix(stderr.String(), want) || strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("%s: got exit %d, %q; want 2, %q", args, code, stderr.String(), want)
		}
	}
	if err := seeded.Set(""); err != nil {
		t.Fatal(err)
	}
}

func TestBrokenVerdictList(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := run([]string{"demo", "--break=list"}, strings.NewReader(""), &stdout, &stderr); code != 0 {
		t.Fatalf("exit %d: %s", code, stderr.String())
	}
	lines := strings.Split(strings.TrimSuffix(stdout.String(), "\n"), "\n")
	if len(lines) != len(seeded.All) {
		t.Errorf("%d lines for %d bugs", len(lines), len(seeded.All))
	}
	for i, bug := range seeded.All[:min(len(lines), len(seeded.All))] {
		if !strings.HasPrefix(lines[i], string(bug)+" ") {
			t.Errorf("line %d: want %s, got %q", i+1, bug, lines[i])
		}
	}
}
