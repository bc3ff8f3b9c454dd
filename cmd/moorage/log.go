package main

import (
	"io"
	"log/slog"
	"os"

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
	options := &slog.HandlerOptions{Level: level}
	if f.Format == "text" || f.Format == "auto" && isTerminal(w) {
		return slog.New(slog.NewTextHandler(w, options)), nil
	}
	return slog.New(slog.NewJSONHandler(w, options)), nil
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
