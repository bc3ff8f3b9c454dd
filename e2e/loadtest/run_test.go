//go:build linux

package loadtest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/e2e/rig"
)

// TestSmoke is what everybody tries first.
func TestSmoke(t *testing.T) {
	o := harness{}.loadtest(t, "smoke")
	one := o.wantClean(t)
	if one.Figures["agents"] < 50 || len(one.Ticks) < 10 || one.Latency["down"].Count == 0 || len(one.Processes) < 6 {
		t.Errorf("hardly anything was measured: %v agents, %d seconds, %d processes", one.Figures["agents"], len(one.Ticks), len(one.Processes))
	}
	for _, f := range one.Faults {
		if f.Error != "" {
			t.Errorf("%s: %s", f.Name, f.Error)
		}
	}
}

const lossyStory = `
name: story
description: six agents, and what a lossy gateway does to them
length: 4s
drain: 4s
quiet: 10s
groups:
  - name: g
    agents: 6
    up: {rate: 10, size: 256}
`

// startDeployment starts what somebody else runs: a broker in memory and a
// gateway, with the topics of a controller of their own.
func startDeployment(t *testing.T, program string) (kafka, address string, gateway *rig.Process) {
	t.Helper()
	kafka, address = rig.FreeAddress(t), rig.FreeAddress(t)
	rig.Start(t, "broker", program, "broker", "--listen", kafka)
	awaitPort(t, kafka)
	if out, err := exec.Command(program, "topics", "create", "--kafka", kafka, "--controller", "other", "--single-broker").CombinedOutput(); err != nil {
		t.Fatalf("topics create: %v: %s", err, out)
	}
	gateway = rig.Start(t, "gateway", program, "gateway", "--kafka", kafka, "--listen", address, "--admin", "127.0.0.1:0", "--name", "g1", "--insecure")
	awaitPort(t, address)
	return kafka, address, gateway
}

// TestLossyGatewayIsCaught: each wrong is seen, and called by its name.
func TestLossyGatewayIsCaught(t *testing.T) {
	program, err := ordinary()
	rig.Must(t, err)
	kafka, gateway, _ := startDeployment(t, program)
	lie := serveLossy(t, gateway)

	// The broker and the gateway are of the same program, and stay.
	copied := filepath.Join(t.TempDir(), "moorage")
	rig.Must(t, os.Link(program, copied))
	o := harness{program: copied}.loadtest(t, write(t, lossyStory), "--gateway", lie, "--kafka", kafka)
	one := o.wantRun(t)
	if o.code != 1 {
		t.Errorf("exit code %d, want 1:\n%s", o.code, o.said)
	}
	for wrong, word := range []string{swallows: "lost", repeats: "repeated", swaps: "reordered", spoils: "corrupted", stalls: "stuck", behaves: ""} {
		session := "g/" + strconv.Itoa(wrong) + "/0"
		var seen []string
		for _, a := range one.Anomalies {
			if string(a.Session) == session {
				seen = append(seen, a.What)
			}
		}
		if word != "" && !slices.Contains(seen, word) || word == "" && len(seen) > 0 {
			t.Errorf("session %s: want %q, seen %q", session, word, seen)
		}
		if word != "" && one.Figures[word] == 0 {
			t.Errorf("%s was not counted", word)
		}
	}
	topics, err := exec.Command(program, "topics", "list", "--kafka", kafka).CombinedOutput()
	rig.Must(t, err)
	if strings.Contains(string(topics), "story") {
		t.Errorf("topics are left behind:\n%s", topics)
	}
}

// TestInterrupt: Ctrl-C ends it in order, with a report of what was measured.
func TestInterrupt(t *testing.T) {
	program, err := ordinary() // building it is no part of the time below
	rig.Must(t, err)
	h := harness{program: program, during: func(cmd *exec.Cmd, dir string) {
		awaitEvent(t, dir, "start")
		rig.Pass(t, 3*time.Second)
		rig.Must(t, cmd.Process.Signal(os.Interrupt))
	}}
	began := time.Now()
	o := h.loadtest(t, "steady", "--agents-scale", "0.1", "--local", "gateways=1,brokers=embedded")
	one := o.wantRun(t)
	if took := time.Since(began); took > 60*time.Second {
		t.Errorf("took %v", took)
	}
	if o.code != 1 || !strings.Contains(o.said, "interrupted") || len(one.Ticks) == 0 {
		t.Errorf("exit code %d, %d seconds measured:\n%s", o.code, len(one.Ticks), o.said)
	}
}

// TestSecondInterrupt: whoever does not want to wait for the end in order need
// not, and yet no process and no topic is left.
func TestSecondInterrupt(t *testing.T) {
	program, err := ordinary()
	rig.Must(t, err)
	kafka, address, gateway := startDeployment(t, program)
	topics := func() string {
		out, err := exec.Command(program, "topics", "list", "--kafka", kafka).CombinedOutput()
		rig.Must(t, err)
		return string(out)
	}

	copied := filepath.Join(t.TempDir(), "moorage")
	rig.Must(t, os.Link(program, copied))
	h := harness{program: copied, during: func(cmd *exec.Cmd, dir string) {
		awaitEvent(t, dir, "start")
		rig.Pass(t, 2*time.Second)
		if !strings.Contains(topics(), "story") {
			t.Error("the run has no topics of its own")
		}
		gateway.Freeze() // so that an end in order takes its time
		rig.Must(t, cmd.Process.Signal(os.Interrupt))
		awaitEvent(t, dir, "stop")
		rig.Must(t, cmd.Process.Signal(os.Interrupt))
	}}
	o := h.loadtest(t, write(t, strings.Replace(lossyStory, "length: 4s", "length: 4m", 1)), "--gateway", address, "--kafka", kafka)
	if o.code != 1 || !strings.Contains(o.said, "ended at once") || o.result != nil {
		t.Errorf("exit code %d, want 1 and no results:\n%s", o.code, o.said)
	}
	if left := topics(); strings.Contains(left, "story") {
		t.Errorf("topics are left behind:\n%s", left)
	}
}

// TestKilledHarnessLeavesNothing: not even SIGKILL leaves processes behind.
func TestKilledHarnessLeavesNothing(t *testing.T) {
	program, err := ordinary()
	rig.Must(t, err)
	h := harness{program: program, during: func(cmd *exec.Cmd, _ string) {
		rig.Eventually(t, "gateways and workers run", 30*time.Second, func() bool { return len(runs(program)) >= 5 })
		rig.Must(t, cmd.Process.Signal(syscall.SIGKILL))
	}}
	if o := h.loadtest(t, "steady", "--agents-scale", "0.1", "--local", "gateways=2,brokers=embedded"); o.result != nil {
		t.Error("it has written results")
	}
}

// awaitEvent returns when a run has told of an event of a kind.
func awaitEvent(t *testing.T, dir, kind string) {
	t.Helper()
	rig.Eventually(t, "a run tells of "+kind, 30*time.Second, func() bool {
		b, err := os.ReadFile(filepath.Join(dir, "events.ndjson"))
		return err == nil && strings.Contains(string(b), `"kind":"`+kind+`"`)
	})
}

// awaitPort returns when somebody listens.
func awaitPort(t *testing.T, address string) {
	t.Helper()
	_, port, _ := strings.Cut(address, ":")
	n, err := strconv.Atoi(port)
	rig.Must(t, err)
	want := ":" + strings.ToUpper(strconv.FormatInt(int64(n), 16)) + " 00000000:0000 0A"
	rig.Eventually(t, "somebody listens at "+address, 20*time.Second, func() bool {
		b, err := os.ReadFile("/proc/net/tcp")
		return err == nil && strings.Contains(string(b), want)
	})
}
