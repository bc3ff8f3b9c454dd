// Package figure has the names of what a load test measures, so that scenarios
// can set bounds for them before anything ran.
//
// It imports nothing: scenarios, which results contain, check names here.
package figure

import (
	"slices"
	"strings"
)

// A Figure is one measured number of a run. Words in capitals in its Name stand
// for others:
//
//	WAY        up (agent to application) or down
//	LATENCY    up, down, request (and its answer) or connect (opening a
//	           session), and after a dot, where wanted, a group: down.builders
//	PERCENTILE mean, p50, p90, p99, p99.9, p99.99 or max
//	KIND       a kind of fault, such as kill; all kinds together without it
//	ROLE       a process's name without its number, such as gateway
//	PROCESS    a process's name, such as gateway-1
type Figure struct {
	Name    string
	Unit    string
	Meaning string
	// More says that a higher value is better; otherwise a lower one is.
	More bool
}

// All is every figure, in the order in which a report shows them. The first
// nine are the promises, in the words of package check.
var All = []Figure{
	{"lost", "messages", "sent, and did not arrive although a later one did, or its session ended without a reason that allows for it", false},
	{"repeated", "messages", "arrived again", false},
	{"reordered", "messages", "arrived after a later one of their direction", false},
	{"corrupted", "messages", "arrived with other bytes than were sent, or were never sent", false},
	{"stuck", "directions", "of sessions that had not ended still held messages when the run did", false},
	{"revived", "messages", "arrived where the session's end had been told", false},
	{"unexplained", "ends", "were told without a reason", false},
	{"misjudged", "ends", "were told with a reason that what happened does not allow, or twice", false},
	{"untold", "ends", "of which the other side was never told", false},

	{"messages_per_s.WAY", "1/s", "messages received, from the end of the warm-up to the last scheduled one", true},
	{"bytes_per_s.WAY", "B/s", "the same in bytes of payload", true},
	{"LATENCY.PERCENTILE_ms", "ms", "from the scheduled time, not from when it could be sent, to the receipt", false},
	{"silence.PERCENTILE_ms", "ms", "of each session the longest time in which something should have arrived and nothing did", false},
	{"recovery.PERCENTILE_ms", "ms", "silence of each session because of a fault, all faults together", false},
	{"recovery.KIND.PERCENTILE_ms", "ms", "the same of one kind of fault", false},
	{"back_per_s", "1/s", "sessions that cut-agents held ÷ the time from when they could dial again until the last had all that waited for it; of a baseline, which has no faults: sessions ÷ the longest opening", true},

	{"agents", "agents", "the most that had a session at the same time", true},
	{"opens", "sessions", "opened", true},
	{"overrun", "messages", "left out because too many waited in one session: a load that could not be taken; latencies then say too little", false},
	{"failed_opens", "sessions", "could not be opened in their time", false},
	{"reset", "sessions", "ended by a reason other than OK", false},
	{"calls", "calls", "of legacy controllers to their agents, answered", true},
	{"failed_calls", "calls", "of those that failed", false},
	{"skipped_calls", "calls", "of legacy controllers that were due while the agent had no channel, and were left out: a build would go elsewhere", false},
	{"overrun_calls", "calls", "of legacy controllers that were left out because too many waited for one agent", false},
	{"corrupt", "calls", "of legacy controllers whose answer or log had other bytes than were sent", false},
	{"stuck_calls", "calls", "of legacy controllers that never had an answer", false},
	{"legacy_opens", "channels", "of legacy agents that came up", true},
	{"legacy_online", "channels", "the same as their controllers saw it", true},
	{"legacy_failed", "attempts", "of legacy agents to come up that failed; each is followed by another", false},
	{"legacy_exits", "exits", "of legacy agents, whose program gives up at some ends of a channel and is started again", false},
	{"lost_channels", "channels", "of legacy agents that broke", false},
	{"expected_lost_channels", "channels", "of those that broke: behind a shim, by the death of the connector", false},
	{"pings_missing", "channels", "that legacy controllers ended because a ping had no answer", false},
	{"close_notify", "channels", "that legacy controllers saw end by a TLS close_notify, after which real peers stay deaf", false},
	{"faults", "faults", "done", true},
	{"failed_faults", "faults", "planned, but could not be done", false},
	{"lag_ms", "ms", "the furthest the generator was behind its own schedule", false},
	{"generator_cores", "cores", "the most that a process of the generator used in a second", false},

	{"cpu_us_per_message.ROLE", "µs", "processor time of all processes of a role ÷ messages received both ways", false},
	{"cpu_s.ROLE", "s", "processor time of all processes of a role", false},
	{"gateway_rss_per_agent", "B", "memory of all gateways at the most agents, less that at the start, ÷ agents", false},
	{"per_agent.rss.ROLE", "B", "memory of all processes of a role by which a further idle agent made them grow: between two rests, of the fewest and the most agents", false},
	{"per_agent.heap_stack.ROLE", "B", "the same of the heap and the stacks that gateways say are in use", false},
	{"per_agent.goroutines.ROLE", "", "the same of goroutines", false},
	{"rss.ROLE", "B", "the most memory that all processes of a role had together", false},
	{"kafka_read_ratio", "", "records that gateways fetched ÷ records that they delivered to agents", false},
	{"kafka_read_bytes_ratio", "", "bytes that gateways read from Kafka ÷ bytes that agents received", false},

	{"slope.rss.PROCESS", "B/h", "trend of a process's memory after the warm-up; with .low and .high its 95 % confidence interval", false},
	{"slope.goroutines.PROCESS", "1/h", "the same of its goroutines", false},
	{"slope.files.PROCESS", "1/h", "the same of its open files", false},
}

// Promises are the figures that must be 0, whatever a scenario's thresholds
// say. A run must count each of them.
var Promises = []string{"lost", "repeated", "reordered", "corrupted", "stuck", "revived", "unexplained", "misjudged", "untold"}

// Percentiles that stand for PERCENTILE.
var Percentiles = []string{"mean", "p50", "p90", "p99", "p99.9", "p99.99", "max"}

// OfLegacy must be 0 as well, where legacy agents take part: their controller
// judges by itself, for what it sends has no room for a header.
var OfLegacy = []string{"corrupt", "stuck_calls"}

// Known reports whether name can be used in a scenario's thresholds: a figure,
// perhaps with ".min", or "ratio.BASELINE.FIGURE". The unit of a latency may be
// left out in a ratio, which has none: "ratio.relay.down.p50". With
// "difference." instead the bound is of Moorage - the baseline, in the figure's unit.
func Known(name string) bool {
	name, _ = strings.CutSuffix(name, ".min")
	if rest, ok := strings.CutPrefix(name, "difference."); ok {
		baseline, figure, _ := strings.Cut(rest, ".")
		return isWord(baseline) && Of(figure) != nil
	}
	if rest, ok := strings.CutPrefix(name, "ratio."); ok {
		baseline, figure, _ := strings.Cut(rest, ".")
		return isWord(baseline) && (Of(figure) != nil || Of(figure+"_ms") != nil)
	}
	return Of(name) != nil
}

// Of is the Figure that a name is one of, or nil.
func Of(name string) *Figure {
	for i := range All {
		if matches(All[i].Name, name) {
			return &All[i]
		}
	}
	return nil
}

// matches tells whether name is what pattern says. A threshold may give a slope
// without a process: then it is for each of them.
func matches(pattern, name string) bool {
	before, placeholder, after := cut(pattern)
	if placeholder == "" {
		return pattern == name
	}
	rest, ok := strings.CutPrefix(name, before)
	if !ok {
		return strings.HasPrefix(pattern, "slope.") && name == strings.TrimSuffix(before, ".")
	}
	switch placeholder {
	case "WAY":
		return rest == "up" || rest == "down"
	case "LATENCY":
		way, rest, _ := strings.Cut(rest, ".")
		if !slices.Contains([]string{"up", "down", "request", "connect"}, way) {
			return false
		}
		if isPercentile(rest) {
			return true
		}
		group, rest, _ := strings.Cut(rest, ".")
		return isWord(group) && isPercentile(rest)
	case "PERCENTILE":
		return after == "_ms" && isPercentile(rest)
	case "KIND":
		kind, rest, _ := strings.Cut(rest, ".")
		return isWord(kind) && isPercentile(rest)
	case "PROCESS":
		for _, bound := range []string{".low", ".high"} {
			rest = strings.TrimSuffix(rest, bound)
		}
	}
	return isWord(rest)
}

// cut finds the first word in capitals of a pattern.
func cut(pattern string) (before, placeholder, after string) {
	isCapital := func(r rune) bool { return 'A' <= r && r <= 'Z' }
	start := strings.IndexFunc(pattern, isCapital)
	if start < 0 {
		return pattern, "", ""
	}
	rest := pattern[start:]
	end := strings.IndexFunc(rest, func(r rune) bool { return !isCapital(r) })
	if end < 0 {
		end = len(rest)
	}
	return pattern[:start], rest[:end], rest[end:]
}

func isPercentile(s string) bool {
	s, ok := strings.CutSuffix(s, "_ms")
	return ok && slices.Contains(Percentiles, s)
}

// isWord tells names of groups, processes, kinds and baselines.
func isWord(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}
