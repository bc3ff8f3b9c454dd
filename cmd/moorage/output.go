package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// A table is a result in columns for people; programs ask for JSON.
type table struct {
	w   *tabwriter.Writer
	err error
}

func newTable(w io.Writer, columns ...any) *table {
	t := &table{w: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	t.row(columns...)
	return t
}

func (t *table) row(cells ...any) {
	texts := make([]string, len(cells))
	for i, cell := range cells {
		if texts[i] = printable(fmt.Sprint(cell)); texts[i] == "" {
			texts[i] = "-"
		}
	}
	if _, err := fmt.Fprintln(t.w, strings.Join(texts, "\t")); err != nil {
		t.err = err
	}
}

func (t *table) flush() error {
	if err := t.w.Flush(); err != nil {
		return err
	}
	return t.err
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// printable replaces what could move a terminal's cursor: names, labels and
// reasons come from agents.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

// age is how long ago t was, by this host's clock, in whole seconds.
func age(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return max(now.Sub(t), 0).Truncate(time.Second).String()
}
