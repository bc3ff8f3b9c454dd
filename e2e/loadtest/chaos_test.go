//go:build linux

package loadtest_test

import (
	"flag"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/e2e/rig"
	"github.com/moorage-dev/moorage/loadtest/scenario"
)

// Longer runs for whoever has the time.
var (
	chaosLength = flag.Duration("chaos.length", 3*time.Minute, "how long the chaos on the embedded broker lasts")
	kafkaLength = flag.Duration("chaos.kafka", time.Minute, "how long the chaos on a real broker lasts")
	chaosSeed   = flag.String("chaos.seed", "1", "seed of the faults")
)

// TestChaos breaks everything that can be broken, hundreds of times.
func TestChaos(t *testing.T) {
	o := harness{}.loadtest(t, "chaos", "--length", chaosLength.String(), "--seed", *chaosSeed)
	one := o.wantClean(t)
	if n := one.Figures["faults"]; n < 200*chaosLength.Minutes()/3 || one.Figures["failed_faults"] > 0 {
		t.Errorf("%v faults, and %v failed", n, one.Figures["failed_faults"])
	}
	t.Logf("%v faults, %v sessions, ended %v, longest silence %v ms", one.Figures["faults"], one.Figures["opens"], one.Ended, one.Silence.Max)
}

// TestChaosOnKafka does it to a real broker too.
func TestChaosOnKafka(t *testing.T) {
	// Its thresholds are for its own length.
	_, text, err := scenario.Open("chaos-kafka")
	rig.Must(t, err)
	story, _, _ := strings.Cut(string(text), "\nthresholds:")
	o := harness{}.loadtest(t, write(t, story+"\n"), "--length", kafkaLength.String(), "--seed", *chaosSeed)
	one := o.wantClean(t)
	if one.Figures["faults"] == 0 || one.Figures["failed_faults"] > 0 {
		t.Errorf("%v faults, and %v failed", one.Figures["faults"], one.Figures["failed_faults"])
	}
	t.Logf("%v faults, %v sessions, ended %v, longest silence %v ms", one.Figures["faults"], one.Figures["opens"], one.Ended, one.Silence.Max)
}

const buggyStory = `
name: bugs
description: what resumes, replays and refused produces can break, while agents die and leave
length: 10s
drain: 5s
local: {gateways: 2, brokers: embedded, flags: [--heartbeat, 1s]}
groups:
  - name: g
    agents: 30
    up: {rate: 30, size: 60B-2KiB}
    down: {rate: 30, size: 60B-2KiB}
faults:
  - {at: 2s, do: cut-agents, with: {share: 1}, every: 1500ms}
  - {at: 3s, do: produce-refused, with: {count: 3}, every: 2s}
  - {at: 4s, do: kill, to: gateway-1, for: 500ms}
  - {at: 5300ms, do: kill, to: agents}
  - {at: 6s, do: freeze, to: gateway-2, for: 1s} # the cut half a second later leaves frames that no gateway has read
  - {at: 8500ms, do: rolling, to: agents}
`

// TestSeededBugsAreSeen: what tests find from inside, the harness sees from outside.
func TestSeededBugsAreSeen(t *testing.T) {
	program, err := flawed()
	rig.Must(t, err)
	story := write(t, buggyStory)
	t.Run("none", func(t *testing.T) {
		harness{program: program}.loadtest(t, story).wantClean(t)
	})
	// What a bug leaves stuck is not watched for long; whoever is to be clean may
	// be slow, for as long as by default.
	impatient := write(t, buggyStory+"quiet: 3s\n")
	// A message that is missing is lost where its session went on, and stuck
	// where it could not.
	for bug, words := range map[string][]string{
		"drain-drops-tail":  {"lost", "stuck"},
		"dedup-forgets":     {"repeated", "misjudged"}, // or the next record's stable tells of it first: DATA_LOSS
		"recut-on-resume":   {"corrupted"},
		"replay-off-by-one": {"lost", "stuck"},
	} {
		t.Run(bug, func(t *testing.T) {
			o := harness{program: program, env: []string{"MOORAGE_SEEDED=" + bug}}.loadtest(t, impatient)
			one := o.wantRun(t)
			seen := slices.ContainsFunc(words, func(word string) bool { return one.Figures[word] > 0 })
			if o.code != 1 || !seen || len(one.Anomalies) == 0 {
				t.Errorf("exit code %d, want some %v:\n%s", o.code, words, o.said)
			}
		})
	}
}
