package shim

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLogIsRotated(t *testing.T) {
	file := filepath.Join(t.TempDir(), "agent.log")
	write := func(lines ...string) {
		t.Helper()
		r, err := OpenRotated(file, 10, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range lines {
			if n, err := r.Write([]byte(line)); n != len(line) || err != nil {
				t.Fatalf("wrote %d, %v", n, err)
			}
		}
		if err := r.Failed(); err != nil {
			t.Errorf("something was lost: %v", err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	want := func(why string, contents ...string) {
		t.Helper()
		for i, content := range contents {
			name := file + []string{"", ".1", ".2", ".3"}[i]
			got, err := os.ReadFile(name)
			if content == "" && !os.IsNotExist(err) || string(got) != content {
				t.Errorf("%s: %s holds %q, %v; want %q", why, filepath.Base(name), got, err, content)
			}
		}
	}
	write("12345", "67890")
	want("it fits exactly", "1234567890", "")
	write("a")
	want("a start goes on where the last one stopped", "a", "1234567890", "")
	write("bbbbbbbbbb", "cc")
	want("the oldest go", "cc", "bbbbbbbbbb", "a", "")
	write(strings.Repeat("d", 25))
	want("what is too large is cut", "ddddd", "dddddddddd", "dddddddddd", "")
	write("1st\n2nd\n3rd\n4th\n")
	want("and not within a line", "3rd\n4th\n", "1st\n2nd\n", "ddddd", "")
}

func TestLogThatCannotBeWrittenHoldsNobodyUp(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r, err := OpenRotated(filepath.Join(dir, "agent.log"), 4, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	_, _ = r.Write([]byte("1234"))
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if n, err := r.Write([]byte("5678")); n != 4 || err != nil {
			t.Errorf("wrote %d, %v", n, err)
		}
	}
	if r.Failed() == nil {
		t.Error("nobody is told of what was lost")
	}
}
