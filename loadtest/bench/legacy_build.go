package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// legacyBuild has the end-to-end tests measure real Hudson controllers with
// real agents, on a Kafka of theirs, and takes over what they print. It takes
// minutes, which -local is not for.
func legacyBuild(ctx context.Context, r *running) (figures, error) {
	if r.system != &moorage || r.bench.local {
		return nil, nil
	}
	r.down()
	binary, err := filepath.Abs(r.bench.moorage)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-v", "-timeout=40m", "-run=^TestBill$", "./e2e/legacy", "-bill", "-legacy.program="+binary)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, os.Stderr
	// It has children, and they have: all end together.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, said.String())
	}
	return parseBill(&said)
}

var (
	billHead = regexp.MustCompile(`^\s*Hudson \S+, (\S+)\s+direct\s+shim\s+ratio\s*$`)
	billLine = regexp.MustCompile(`^\s*(\S.*?)\s{2,}(\S+)\s+(\S+)\s+([0-9.]+)\s*$`)
)

// parseBill reads the tables of TestBill in e2e/legacy, one for each protocol.
func parseBill(r io.Reader) (figures, error) {
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	f := figures{}
	protocol, before := "", ""
	for line := range strings.Lines(string(text)) {
		if m := billHead.FindStringSubmatch(line); m != nil {
			protocol = m[1]
			continue
		}
		m := billLine.FindStringSubmatch(line)
		if protocol == "" || m == nil {
			continue
		}
		direct, err1 := time.ParseDuration(m[2])
		shim, err2 := time.ParseDuration(m[3])
		times, err3 := strconv.ParseFloat(m[4], 64)
		if errors.Join(err1, err2, err3) != nil {
			continue // some other table
		}
		what := m[1]
		if what == "the same again" {
			what = before + ", again"
		}
		before = m[1]
		what = protocol + ", " + what
		f[what+", direct s"], f[what+", tier 1 s"], f[what+", tier 1 ÷ direct"] = direct.Seconds(), shim.Seconds(), times
	}
	if len(f) == 0 {
		return nil, errors.New("bench: e2e/legacy printed no bill")
	}
	return f, nil
}

// billGoals are the goals of both protocols.
func billGoals() (goals []goal) {
	for _, protocol := range []string{"JNLP2-connect", "JNLP-connect"} {
		for _, what := range []string{"agent start to online", "first build of 200,000 lines, 300 files and 50 MB"} {
			goals = append(goals, goal{protocol + ", " + what + ", tier 1 ÷ direct", absolute, false, 1.5})
		}
	}
	return goals
}
