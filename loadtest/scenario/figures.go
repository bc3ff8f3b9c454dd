package scenario

import (
	"regexp"
	"slices"
	"strings"
)

// Figures lists the names that thresholds may bound. GROUP is a group of the
// scenario, KIND a kind of fault, PROCESS a process such as gateway-1 or app.
// A name may begin with "ratio.BASELINE." and end with ".min".
var Figures = []string{
	"lost", "repeated", "reordered", "corrupted", "stuck", "unexplained", "misjudged", "untold", "revived", "anomalies",
	"agents", "opens", "failed_opens", "sessions", "faults",
	"messages_per_s.DIRECTION", "bytes_per_s.DIRECTION",
	"WAY.MS", "WAY.GROUP.MS", "silence.MS", "recovery.KIND.MS",
	"cpu_us_per_message.PROCESS", "gateway_rss_per_agent", "gateway_goroutines_per_agent", "kafka_read_ratio",
	"slope.rss.PROCESS", "slope.goroutines.PROCESS", "slope.files.PROCESS", "slope.significant",
	"legacy.calls", "legacy.failed_calls", "legacy.corrupt", "legacy.lost_channels",
}

// Baselines lists the systems a ratio may be with.
var Baselines = []string{"relay", "grpc", "tcp", "nats"}

var placeholders = map[string]string{
	"DIRECTION": `(up|down|request)`,
	"WAY":       `(up|down|request|connect)`,
	"MS":        `(mean|max|p50|p90|p99|p99\.9|p99\.99)_ms`,
	"GROUP":     `[a-z0-9-]+`,
	"KIND":      `[a-z-]+`,
	"PROCESS":   `[a-z0-9-]+`,
}

var figures = func() *regexp.Regexp {
	var all []string
	for _, f := range Figures {
		text := regexp.QuoteMeta(f)
		for name, pattern := range placeholders {
			text = strings.ReplaceAll(text, name, pattern)
		}
		all = append(all, text)
	}
	return regexp.MustCompile(`^(` + strings.Join(all, "|") + `)$`)
}()

// KnownFigure tells whether a threshold may have this name.
func KnownFigure(name string) bool {
	name = strings.TrimSuffix(name, ".min")
	if rest, is := strings.CutPrefix(name, "ratio."); is {
		baseline, figure, _ := strings.Cut(rest, ".")
		return slices.Contains(Baselines, baseline) && figures.MatchString(figure)
	}
	return figures.MatchString(name)
}

func (s *Scenario) figure(path, name string) *Problem {
	if KnownFigure(name) {
		return nil
	}
	if near := nearest(name, Figures); near != "" {
		return wrong(path, "no figure has this name; did you mean %q?", near)
	}
	return wrong(path, "no figure has this name; the names are %s", strings.Join(Figures, ", "))
}
