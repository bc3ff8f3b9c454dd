package report

import (
	"fmt"
	"io"
	"math"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/moorage-dev/moorage/loadtest/results"
)

// Progress tells how a run goes: on a terminal in one line that changes each
// second, otherwise in a line every five. It is not safe for concurrent use.
type Progress struct {
	w        io.Writer
	length   time.Duration
	terminal bool
	width    int

	label string
	next  float64 // when a line is due, without a terminal
	open  bool    // the terminal's line has no end yet
}

// NewProgress is for runs of a length. width is the terminal's in columns; 0:
// there is no terminal. What cannot be written is left out: a run does not end
// because nobody looks.
func NewProgress(w io.Writer, length time.Duration, width int) *Progress {
	return &Progress{w: w, length: length, terminal: width > 0, width: width}
}

// Tick is a second of the run that label names, such as moorage/0.
func (p *Progress) Tick(label string, t results.Tick) {
	if label != p.label {
		p.End()
		p.label, p.next = label, 0
	}
	if p.terminal {
		fmt.Fprint(p.w, "\r\x1b[2K"+Bar(label, p.length, t, p.width-1))
		p.open = true
		return
	}
	if t.At+0.5 >= p.next {
		fmt.Fprintln(p.w, Line(label, p.length, t))
		p.next = (math.Floor((t.At+0.5)/5) + 1) * 5
	}
}

// Say writes a line of its own, such as one about a fault.
func (p *Progress) Say(text string) {
	if p.open {
		fmt.Fprint(p.w, "\r\x1b[2K")
		p.open = false
	}
	fmt.Fprintln(p.w, text)
}

// End leaves the last line as it is.
func (p *Progress) End() {
	if p.open {
		fmt.Fprintln(p.w)
	}
	p.open = false
}

// Line is a tick as a log has it.
func Line(label string, length time.Duration, t results.Tick) string {
	return fmt.Sprintf("%s %.0fs of %.0fs: %s, %s anomalies", label, t.At, length.Seconds(), strings.Join(state(t), ", "), number3(float64(t.Anomaly)))
}

// Bar is a tick as a terminal shows it, in at most width columns: the bar gives
// way first, then what stands at the end.
func Bar(label string, length time.Duration, t results.Tick, width int) string {
	share := 1.0
	if length > 0 {
		share = min(1, max(0, t.At/length.Seconds()))
	}
	anomalies := "no anomalies"
	if t.Anomaly > 0 {
		anomalies = fmt.Sprintf("%s ANOMALIES", number3(float64(t.Anomaly)))
	}
	percent := fmt.Sprintf("%3.0f%%", share*100)
	if t.At > length.Seconds() {
		percent = "draining"
	}
	text := " " + percent + "  " + anomalies + "  " + strings.Join(state(t), "  ")
	room := min(30, width-utf8.RuneCountInString(label)-utf8.RuneCountInString(text)-3)
	if room >= 5 {
		done := int(share * float64(room))
		label += " [" + strings.Repeat("=", done) + strings.Repeat(" ", room-done) + "]"
	}
	runes := []rune(label + text)
	return string(runes[:min(len(runes), max(0, width))])
}

// state is what a tick says of agents, rates and latencies.
func state(t results.Tick) []string {
	parts := []string{number3(float64(t.Agents)) + " agents"}
	for way, name := range ways {
		part := fmt.Sprintf("%s %s/s", name, number3(float64(t.Received[way])))
		if h, ok := t.P[name]; ok && h.Count > 0 {
			part += " p99 " + quantity(h.P["99"], "ms")
		}
		parts = append(parts, part)
	}
	if h, ok := t.P["request"]; ok && h.Count > 0 {
		parts = append(parts, "request p99 "+quantity(h.P["99"], "ms"))
	}
	return parts
}

// Summary is the end of a run in a few lines, the verdict first. dir is where
// its files are.
func Summary(dir string, r *results.Results) string {
	v := view{Results: r, Outcome: Outcome(r)}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", strings.ToUpper(v.Word()), r.Scenario.Name)
	for _, line := range r.Verdict.Lines {
		fmt.Fprintf(&b, "  %s\n", line)
	}
	b.WriteString("\n")
	for _, c := range cards(r) {
		fmt.Fprintf(&b, "  %-24s %-14s %s\n", c.Name, c.Value, c.Note)
	}
	for _, baseline := range baselines(r) {
		fmt.Fprintf(&b, "\n  ÷ %s, median of %d (lowest – highest)\n", baseline.Name, baseline.Pairs)
		for _, ratio := range baseline.Main {
			fmt.Fprintf(&b, "  %-30s %s  (%s)\n", ratio.Figure, ratio.MedianText, ratio.SpreadText)
		}
	}
	fmt.Fprintf(&b, "\nReport: %s\n", filepath.Join(dir, PageFile))
	if r.Command != "" {
		fmt.Fprintf(&b, "Repeat: %s\n", r.Command)
	}
	return b.String()
}
