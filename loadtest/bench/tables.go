package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/moorage-dev/moorage/loadtest/report"
)

// The tables stand between these in a document; what is outside is people's.
const (
	beginTables = "<!-- make bench writes from here -->"
	endTables   = "<!-- to here -->"
)

// show writes the tables of what was measured before.
func (b *bench) show() error {
	var tables bytes.Buffer
	if b.report != "" {
		rs, err := load(b.report)
		if err != nil {
			return err
		}
		rs.write(&tables)
	}
	if b.scenarios != "" {
		fmt.Fprint(&tables, "\nLoad tests, see [loadtest.md](loadtest.md):\n\n")
		if err := report.Markdown(&tables, strings.Split(b.scenarios, ",")); err != nil {
			return err
		}
	}
	if b.micro != "" {
		file, err := os.Open(b.micro)
		if err != nil {
			return fmt.Errorf("bench: %w", err)
		}
		defer file.Close()
		fmt.Fprint(&tables, "\nMicro-benchmarks:\n\n")
		if err := writeMicro(&tables, file); err != nil {
			return fmt.Errorf("bench: %s: %w", b.micro, err)
		}
	}
	if b.doc == "" {
		_, err := os.Stdout.Write(tables.Bytes())
		return err
	}
	text, err := os.ReadFile(b.doc)
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	text, err = between(text, tables.Bytes())
	if err != nil {
		return fmt.Errorf("bench: %s: %w", b.doc, err)
	}
	return os.WriteFile(b.doc, text, 0o644)
}

// between puts tables into a document, in place of those that stand there.
func between(text, tables []byte) ([]byte, error) {
	before, rest, found := bytes.Cut(text, []byte(beginTables+"\n"))
	_, after, closed := bytes.Cut(rest, []byte(endTables+"\n"))
	if !found || !closed {
		return nil, fmt.Errorf("no lines %q and %q, between which the tables go", beginTables, endTables)
	}
	return slices.Concat(before, []byte(beginTables+"\n\n"), bytes.TrimSpace(tables), []byte("\n\n"+endTables+"\n"), after), nil
}

// writeMicro makes a table of what go test -bench said. A benchmark's line is
// its name, how often it ran, and then values with their units.
func writeMicro(w io.Writer, said io.Reader) error {
	fmt.Fprintf(w, "| package | benchmark | ns/op | B/op | allocs/op | |\n|---|---|---|---|---|---|\n")
	lines := bufio.NewScanner(said)
	where := ""
	for lines.Scan() {
		if name, found := strings.CutPrefix(lines.Text(), "pkg: "); found {
			where = name[strings.LastIndex(name, "moorage-dev/moorage/")+len("moorage-dev/moorage/"):]
		}
		f := strings.Fields(lines.Text())
		if len(f) < 4 || len(f)%2 != 0 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		values, others := map[string]string{}, ""
		for i := 2; i < len(f); i += 2 {
			switch unit := f[i+1]; unit {
			case "ns/op", "B/op", "allocs/op":
				values[unit] = f[i]
			default:
				others += f[i] + " " + unit + " "
			}
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s |\n", where, strings.TrimPrefix(f[0], "Benchmark"),
			values["ns/op"], values["B/op"], values["allocs/op"], strings.TrimSpace(others))
	}
	return lines.Err()
}
