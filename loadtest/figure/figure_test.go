package figure_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/moorage-dev/moorage/loadtest/figure"
)

func TestThresholdsCanNameFigures(t *testing.T) {
	for _, name := range []string{
		"lost", "messages_per_s.up", "bytes_per_s.down.min", "up.p50_ms", "down.p99.9_ms", "down.builders.p99_ms",
		"request.max_ms", "connect.mean_ms", "silence.p99_ms", "silence.max_ms", "recovery.p99_ms", "recovery.half-open.max_ms",
		"agents.min", "failed_opens", "overrun", "failed_calls", "corrupt", "stuck_calls", "cpu_us_per_message.gateway", "gateway_rss_per_agent", "kafka_read_ratio",
		"slope.rss.gateway-1", "slope.files.app.high", "slope.rss", "slope.goroutines",
		"ratio.relay.down.p50", "ratio.relay.down.p50_ms", "ratio.nats.messages_per_s.down.min", "ratio.grpc.cpu_us_per_message.gateway",
		"per_agent.rss.gateway", "per_agent.goroutines.connector", "difference.relay.per_agent.rss.gateway", "difference.relay.down.p50_ms.min",
	} {
		if !figure.Known(name) {
			t.Errorf("%s is not known", name)
		}
	}
}

func TestThresholdsCannotNameWhatIsNotMeasured(t *testing.T) {
	for _, name := range []string{
		"", "min", ".min", "losst", "lost.up", "messages_per_s", "messages_per_s.sideways", "up", "up.p50", "up.p51_ms", "up.a.b.p50_ms",
		"down..p50_ms", "silence.p99", "recovery.kill", "slope", "slope.cpu.gateway-1", "slope.rss.", "cpu_us_per_message.",
		"ratio", "ratio.relay", "ratio..lost", "ratio.relay.losst",
		"per_agent", "per_agent.rss", "difference", "difference.relay", "difference..lost", "difference.relay.down.p50",
	} {
		if figure.Known(name) {
			t.Errorf("%q is known", name)
		}
	}
}

func TestPromisesComeFirst(t *testing.T) {
	for i, name := range figure.Promises {
		if figure.All[i].Name != name {
			t.Errorf("figure %d is %s, want %s", i, figure.All[i].Name, name)
		}
	}
	for _, f := range figure.All {
		if f.Meaning == "" || slices.Contains(figure.Promises, f.Name) && f.More {
			t.Errorf("%s: no meaning, or more is better of what must be 0", f.Name)
		}
	}
}

func TestTheTableOfTheDocumentIsThisOne(t *testing.T) {
	b, err := os.ReadFile("../../docs/loadtest-report.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(b), "| name | unit | meaning |\n|---|---|---|\n")
	for _, f := range figure.All {
		line, rest, _ := strings.Cut(table, "\n")
		if want := fmt.Sprintf("| `%s` | %s | %s |", f.Name, f.Unit, f.Meaning); line != want {
			t.Fatalf("docs/loadtest-report.md has\n%s\nwant\n%s", line, want)
		}
		table = rest
	}
}
