package legacy_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"html"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/e2e/rig"
)

// stepWord is the test binary's first argument when it is a build's one step.
const stepWord = "build-step"

// A job is what a build does: it prints numbered lines, and leaves files whose
// content follows from the seed. So all that must arrive is known beforehand.
type job struct {
	dir   string // of the agent
	lines int
	every time.Duration // between two lines; 0: as fast as can be
	files []int         // their sizes
	seed  uint64
}

// paced takes forty seconds, and then copies 50 MB back.
func paced(t *testing.T, seed uint64) job {
	return job{dir: t.TempDir(), lines: 800, every: 50 * time.Millisecond, files: []int{50 << 20}, seed: seed}
}

// script is the job's step for the shell. Its first line keeps Hudson from
// having each command repeated in the console.
func (j job) script(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	rig.Must(t, err)
	var files strings.Builder
	for _, size := range j.files {
		files.WriteString(fmt.Sprintf(" %d", size))
	}
	return html.EscapeString(fmt.Sprintf("#!/bin/sh\nexec '%s' %s -lines %d -every %v -seed %d%s\n", self, stepWord, j.lines, j.every, j.seed, files.String()))
}

// runStep is the step itself, in the agent's workspace.
func runStep(args []string) int {
	flags := flag.NewFlagSet(stepWord, flag.ExitOnError)
	lines := flags.Int("lines", 0, "lines to print")
	every := flags.Duration("every", 0, "time between two")
	seed := flags.Uint64("seed", 0, "of the files")
	_ = flags.Parse(args) // it exits by itself
	if err := step(*lines, *every, *seed, flags.Args()); err != nil {
		fmt.Println("step:", err)
		return 1
	}
	return 0
}

func step(lines int, every time.Duration, seed uint64, sizes []string) error {
	if err := printLines(lines, every); err != nil {
		return err
	}
	if err := os.RemoveAll("out"); err != nil {
		return err
	}
	if err := os.Mkdir("out", 0o755); err != nil {
		return err
	}
	for i, text := range sizes {
		var size int
		if _, err := fmt.Sscan(text, &size); err != nil {
			return err
		}
		if err := writeFile(filepath.Join("out", fileName(i)), content(seed, i, size)); err != nil {
			return err
		}
	}
	return nil
}

// printLines prints each line at its time, by the clock and not by the pause.
func printLines(lines int, every time.Duration) error {
	out := bufio.NewWriter(os.Stdout)
	begin := time.Now()
	for n := range lines {
		if every > 0 {
			<-time.After(time.Until(begin.Add(time.Duration(n+1) * every)))
		}
		fmt.Fprintf(out, "line %d\n", n+1)
		if every > 0 {
			if err := out.Flush(); err != nil {
				return err
			}
		}
	}
	return out.Flush()
}

func writeFile(name string, r io.Reader) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, r); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func fileName(i int) string { return fmt.Sprintf("%d.bin", i) }

// content is the i-th file of a seed.
func content(seed uint64, i, size int) io.Reader {
	var key [32]byte
	copy(key[:], fmt.Sprintf("%d of %d", i, seed))
	return io.LimitReader(rand.NewChaCha8(key), int64(size))
}

func sum(t *testing.T, r io.Reader) string {
	t.Helper()
	hash := sha256.New()
	_, err := io.Copy(hash, r)
	rig.Must(t, err)
	return hex.EncodeToString(hash.Sum(nil))
}

// console is all that must stand in the build's log between its head, which
// names a temporary file, and its end.
func (j job) console() []byte {
	var b bytes.Buffer
	for n := range j.lines {
		fmt.Fprintf(&b, "line %d\n", n+1)
	}
	return b.Bytes()
}

// headForm is what stands in a console before the job's own lines. An order that
// was given twice names its giver twice.
var headForm = regexp.MustCompile(`^(Started by user anonymous\n)+(Building remotely on [a-z0-9-]+\n)\[[a-z0-9-]+\] \$ /bin/sh \S+/hudson\d+\.sh\n$`)

// wantExact wants the build's success, its console to the byte, and its files.
func (b *build) wantExact(t *testing.T, j job, within time.Duration) {
	t.Helper()
	if result := b.result(t, within); result != "SUCCESS" {
		log := b.log()
		t.Errorf("%s's build ended %s; the end of its console:\n%s", b.node, result, log[max(0, len(log)-2000):])
		return
	}
	log := b.wholeLog(t)
	head, rest, found := bytes.Cut(log, []byte("line 1\n"))
	body, tail, ended := bytes.Cut(rest, []byte("Archiving artifacts\n"))
	if !found || !ended {
		t.Errorf("%s's console is not a whole one: %q … %q", b.node, log[:min(len(log), 300)], log[max(0, len(log)-300):])
		return
	}
	if want := j.console()[len("line 1\n"):]; !bytes.Equal(body, want) {
		t.Errorf("%s's console has %d bytes in the middle, want %d; %s", b.node, len(body), len(want), difference(body, want))
	}
	if !headForm.Match(head) || string(tail) != "Finished: SUCCESS\n" {
		t.Errorf("%s's console begins %q and ends %q", b.node, head, tail)
	}
	for i, size := range j.files {
		file := b.artifact(t, fileName(i))
		got := sum(t, file)
		file.Close()
		if want := sum(t, content(j.seed, i, size)); got != want {
			t.Errorf("%s's artifact %d has SHA-256 %s, want %s", b.node, i, got, want)
		}
	}
}

// difference tells where two texts part.
func difference(got, want []byte) string {
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	return fmt.Sprintf("from byte %d on %q, want %q", i, got[i:min(i+60, len(got))], want[i:min(i+60, len(want))])
}
