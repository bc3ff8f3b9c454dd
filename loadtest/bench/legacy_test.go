package main

import (
	"context"
	"maps"
	"os"
	"strings"
	"testing"
	"time"
)

func TestAgentsOfASiteComeOnlineAnswerAndLeave(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := newSite(ctx, loginCalls)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if err := s.settle(ctx, directly); err != nil {
		t.Fatal(err)
	}
	a, took, err := s.online(ctx, directly, "a")
	if err != nil || took <= 0 {
		t.Fatalf("online after %v, %v", took, err)
	}
	h := newHistogram()
	if err := a.calls(ctx, h, 50*time.Millisecond); err != nil || h.TotalCount() == 0 {
		t.Errorf("%d calls, %v", h.TotalCount(), err)
	}
	if err := a.leave(ctx); err != nil {
		t.Fatal(err)
	}
	if online := s.jenkins.Agents(); len(online) != 0 {
		t.Errorf("still online: %v", online)
	}
}

func TestAnAgentWithoutAControllerIsAnError(t *testing.T) {
	s, err := newSite(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	s.urls[directly] = "http://127.0.0.1:1/"
	if _, _, err := s.online(t.Context(), directly, "a"); err == nil || !strings.Contains(err.Error(), "agent a, direct") {
		t.Errorf("online at no controller: %v", err)
	}
}

func TestTheBillOfBothProtocolsIsTakenOver(t *testing.T) {
	const said = `=== RUN   TestBill/3.3.2
    Hudson 3.3.2, JNLP2-connect                         direct   shim     ratio
    agent start to online                               1.802s   2.1s     1.17
    first build of 3 lines in 3 s and 5 MB              7.5s     8.2s     1.09
    the same again                                      3.9s     4s       1.03
    first build of 200,000 lines, 300 files and 50 MB   1m2.5s   1m20s    1.28
--- PASS: TestBill (301.20s)
    --- PASS: TestBill/3.3.2 (150.20s)
=== RUN   TestBill/1.395
    Hudson 1.395, JNLP-connect   direct   shim   ratio
    agent start to online        1s       2s     2.00
`
	f, err := parseBill(strings.NewReader(said))
	if err != nil {
		t.Fatal(err)
	}
	want := figures{}
	for what, took := range map[string][3]float64{
		"JNLP2-connect, agent start to online":                             {1.802, 2.1, 1.17},
		"JNLP2-connect, first build of 3 lines in 3 s and 5 MB":            {7.5, 8.2, 1.09},
		"JNLP2-connect, first build of 3 lines in 3 s and 5 MB, again":     {3.9, 4, 1.03},
		"JNLP2-connect, first build of 200,000 lines, 300 files and 50 MB": {62.5, 80, 1.28},
		"JNLP-connect, agent start to online":                              {1, 2, 2},
	} {
		want[what+", direct s"], want[what+", tier 1 s"], want[what+", tier 1 ÷ direct"] = took[0], took[1], took[2]
	}
	if !maps.Equal(f, want) {
		t.Errorf("got %v\nwant %v", f, want)
	}
	for _, g := range billGoals()[:3] {
		if _, ok := f[g.figure]; !ok {
			t.Errorf("a goal for %q, which nothing measures", g.figure)
		}
	}
	if _, err := parseBill(strings.NewReader("ok\n")); err == nil {
		t.Error("no bill, and no error")
	}
}

func TestWhatAProcessSaysOfItselfIsTaken(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	talk := &talk{}
	p, err := startWith(t.Context(), talk, []string{"GODEBUG=gctrace=1", talkative + "=1"}, exe)
	if err != nil {
		t.Fatal(err)
	}
	defer p.stop()
	live, err := talk.collected(t.Context(), 1)
	if err != nil || live < 8<<20 || live > 32<<20 {
		t.Errorf("%v bytes alive, %v; want the eight MiB that it holds, and a little", live, err)
	}
	if n, err := talk.quit(p); err != nil || n < 101 || n > 150 {
		t.Errorf("%d goroutines, %v; want the hundred, and its own", n, err)
	}
}
