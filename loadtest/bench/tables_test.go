package main

import (
	"strings"
	"testing"
)

func TestTablesGoBetweenTheMarks(t *testing.T) {
	got, err := between([]byte("a\n"+beginTables+"\nold\n"+endTables+"\nb\n"), []byte("new\n"))
	if want := "a\n" + beginTables + "\n\nnew\n\n" + endTables + "\nb\n"; err != nil || string(got) != want {
		t.Errorf("%v: %q, want %q", err, got, want)
	}
	for _, text := range []string{"", beginTables + "\n", endTables + "\n" + beginTables + "\n"} {
		if _, err := between([]byte(text), nil); err == nil {
			t.Errorf("%q has no place for tables, and nobody says so", text)
		}
	}
}

func TestMicroBenchmarksAsATable(t *testing.T) {
	var b strings.Builder
	err := writeMicro(&b, strings.NewReader(`goos: linux
pkg: github.com/moorage-dev/moorage/check
BenchmarkAppend/256-2   1000  36.10 ns/op  7091.24 MB/s  0 B/op  0 allocs/op
PASS
ok  	github.com/moorage-dev/moorage/check	1.2s
`))
	want := "| check | Append/256-2 | 36.10 | 0 | 0 | 7091.24 MB/s |\n"
	if err != nil || !strings.HasSuffix(b.String(), "|\n"+want) || strings.Count(b.String(), "\n") != 3 {
		t.Errorf("%v: %q, want it to end in %q", err, b.String(), want)
	}
}
