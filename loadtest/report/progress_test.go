package report_test

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/moorage-dev/moorage/loadtest/report"
	"github.com/moorage-dev/moorage/loadtest/report/made"
	"github.com/moorage-dev/moorage/loadtest/results"
)

func p99(ms float64) results.Hist {
	return results.Hist{Count: 1, P: map[string]float64{"99": ms}}
}

var halfway = results.Tick{
	At: 30, Agents: 200, Received: [2]uint64{100, 50}, P: map[string]results.Hist{"up": p99(5), "down": p99(12.34)},
}

func TestBar(t *testing.T) {
	late := halfway
	late.At, late.Anomaly = 61, 3
	for _, c := range []struct {
		tick  results.Tick
		width int
		want  string
	}{
		{halfway, 120, "moorage/0 [===============               ]  50%  no anomalies  200 agents  up 100/s p99 5 ms  down 50/s p99 12.3 ms"},
		{halfway, 95, "moorage/0 [=====     ]  50%  no anomalies  200 agents  up 100/s p99 5 ms  down 50/s p99 12.3 ms"},
		{halfway, 80, "moorage/0  50%  no anomalies  200 agents  up 100/s p99 5 ms  down 50/s p99 12.3 "},
		{halfway, 30, "moorage/0  50%  no anomalies  "},
		{late, 82, "moorage/0 draining  3 ANOMALIES  200 agents  up 100/s p99 5 ms  down 50/s p99 12.3"},
		{results.Tick{}, 60, "moorage/0   0%  no anomalies  0 agents  up 0/s  down 0/s"},
		{halfway, 0, ""},
	} {
		got := report.Bar("moorage/0", time.Minute, c.tick, c.width)
		if got != c.want || utf8.RuneCountInString(got) > c.width {
			t.Errorf("in %d columns:\n got %q\nwant %q", c.width, got, c.want)
		}
	}
}

func TestWithoutATerminalThereIsALineEveryFiveSeconds(t *testing.T) {
	var b bytes.Buffer
	p := report.NewProgress(&b, time.Minute, 0)
	for s := range 12 {
		p.Tick("moorage/0", results.Tick{At: float64(s) + 1.02})
	}
	p.Say("fault: kill of gateway-1")
	p.Tick("relay/0", results.Tick{At: 1})
	p.End()
	want := `moorage/0 1s of 60s: 0 agents, up 0/s, down 0/s, 0 anomalies
moorage/0 5s of 60s: 0 agents, up 0/s, down 0/s, 0 anomalies
moorage/0 10s of 60s: 0 agents, up 0/s, down 0/s, 0 anomalies
fault: kill of gateway-1
relay/0 1s of 60s: 0 agents, up 0/s, down 0/s, 0 anomalies
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestOnATerminalOneLineChanges(t *testing.T) {
	var b bytes.Buffer
	p := report.NewProgress(&b, time.Minute, 60)
	p.Tick("moorage/0", halfway)
	p.Tick("moorage/0", halfway)
	p.Say("fault")
	p.Tick("moorage/0", halfway)
	p.Tick("relay/0", halfway)
	p.End()
	p.End()
	bar := func(label string) string { return "\r\x1b[2K" + report.Bar(label, time.Minute, halfway, 59) }
	want := bar("moorage/0") + bar("moorage/0") + "\r\x1b[2Kfault\n" + bar("moorage/0") + "\n" + bar("relay/0") + "\n"
	if b.String() != want {
		t.Errorf("got\n%q\nwant\n%q", b.String(), want)
	}
}

func TestTheSummarySaysTheVerdictFirst(t *testing.T) {
	r := made.Kind{Lost: 2, Baselines: []string{"relay"}, Pairs: 3}.Results()
	report.Judge(r)
	got := report.Summary("out", r)
	if !strings.HasPrefix(got, "ANOMALIES: build-farm\n  moorage/0: 2 lost") {
		t.Errorf("it begins with\n%s", got)
	}
	for _, want := range []string{"÷ relay, median of 3", "down.p99_ms", "Report: out/report.html", "Repeat: moorage loadtest run build-farm"} {
		if !strings.Contains(got, want) {
			t.Errorf("there is no %q in\n%s", want, got)
		}
	}
}
