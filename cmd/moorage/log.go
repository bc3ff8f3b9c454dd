package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"golang.org/x/term"
)

// logFlags say what is logged, and how.
type logFlags struct {
	Level  string `enum:"debug,info,warn,error" default:"info" help:"Log what is at least this grave (${enum})."`
	Format string `enum:"auto,text,json" default:"auto" help:"Form of log lines (${enum}); auto is text on a terminal and JSON elsewhere."`
}

func (f logFlags) logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.Level)); err != nil {
		return nil, usagef("--log-level: %w", err)
	}
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: readable}
	if f.Format == "text" || f.Format == "auto" && isTerminal(w) {
		return slog.New(slog.NewTextHandler(w, options)), nil
	}
	return slog.New(slog.NewJSONHandler(w, options)), nil
}

// readable writes as text what JSON would show as numbers: session ids, durations.
func readable(_ []string, a slog.Attr) slog.Attr {
	switch v := a.Value.Any().(type) {
	case time.Time, error, slog.Level:
	case fmt.Stringer:
		a.Value = slog.StringValue(v.String())
	}
	return a
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
