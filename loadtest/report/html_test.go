package report_test

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/moorage-dev/moorage/loadtest/report"
	"github.com/moorage-dev/moorage/loadtest/report/made"
	"github.com/moorage-dev/moorage/loadtest/results"
)

// page makes the page of judged results.
func page(t *testing.T, r *results.Results) string {
	t.Helper()
	report.Judge(r)
	var b bytes.Buffer
	if err := report.HTML(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// elements are all of a page, in order.
func elements(t *testing.T, text string) (all []*html.Node) {
	t.Helper()
	root, err := html.Parse(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for n := range root.Descendants() {
		if n.Type == html.ElementNode {
			all = append(all, n)
		}
	}
	return all
}

func attribute(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

func text(n *html.Node) string {
	var b strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			b.WriteString(d.Data)
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

func TestThePageSaysTheVerdictFirst(t *testing.T) {
	for _, c := range []struct {
		kind made.Kind
		want string
	}{
		{made.Kind{}, "Clean"},
		{made.Kind{Lost: 1}, "Anomalies"},
		{made.Kind{Limit: true}, "Invalid"},
	} {
		for _, e := range elements(t, page(t, c.kind.Results())) {
			if e.Data == "h2" {
				if got := text(e); got != c.want {
					t.Errorf("the first heading of %+v is %q, want %q", c.kind, got, c.want)
				}
				break
			}
		}
	}
}

func TestThePagesStructure(t *testing.T) {
	r := made.Kind{Faults: 4, Lost: 2, Gateways: 2, Baselines: []string{"relay"}}.Results()
	r.Runs = r.Runs[:2]
	var headings []string
	plots, tables := 0, 0
	for _, e := range elements(t, page(t, r)) {
		switch e.Data {
		case "h1", "h2", "h3":
			headings = append(headings, e.Data+" "+text(e))
		case "table":
			tables++
		case "div":
			if attribute(e, "class") != "plot" {
				break
			}
			plots++
			if attribute(e, "role") != "img" || attribute(e, "aria-label") == "" {
				t.Errorf("plot %s has no text in its place", attribute(e, "data-plot"))
			}
		}
	}
	over := []string{
		"h2 Over time", "h3 Messages received 1/s", "h3 Agents with a session", "h3 Latency down, application to agent ms",
		"h3 Latency up, agent to application ms",
	}
	rest := []string{"h3 Memory B", "h3 Processor cores", "h3 Goroutines", "h3 Open files", "h3 Generator lag ms"}
	want := []string{"h1 build-farm", "h2 Anomalies", "h2 Key figures", "h2 Compared with", "h3 relay 1 pair", "h2 Run moorage/0", "h2 Anomalies"}
	want = append(want, over...)
	want = append(want, "h3 Kafka bytes read ÷ delivered")
	want = append(want, rest...)
	want = append(want, "h2 Longest silence", "h2 Recovery by kind of fault", "h2 Faults", "h2 How sessions ended", "h2 All figures", "h2 Run relay/0")
	want = append(want, over...)
	want = append(want, rest...)
	want = append(want, "h2 Longest silence", "h2 How sessions ended", "h2 All figures", "h2 What ran, and where", "h3 Once more")
	if got := strings.Join(headings, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("headings:\n%s\n\nwant:\n%s", got, strings.Join(want, "\n"))
	}
	if plots != 19 || tables < plots {
		t.Errorf("%d plots, want 19; %d tables, want at least one per plot", plots, tables)
	}
}

// What comes from outside must stay text: names of sessions, errors, commands.
func TestNothingOnThePageComesAlive(t *testing.T) {
	const bad = `x</script><script>alert(1)</script><img src=x onerror=alert(1)><!--`
	r := made.Kind{Lost: 1, Faults: 1, Session: bad, Baselines: []string{"relay"}}.Results()
	r.Scenario.Name, r.Scenario.Description, r.Command, r.Machine.CPU = bad, bad, bad, bad
	r.Runs[0].Faults[0].Name, r.Runs[0].Recovery[0].Name, r.Runs[0].Processes[0].Name, r.Runs[0].Acks = bad, bad, bad, bad
	r.Runs[0].Faults = append(r.Runs[0].Faults, results.FaultMark{Name: bad, Error: bad})
	r.Runs[0].Anomalies[0].Detail, r.Runs[0].Anomalies[0].Events[0].Text = bad, bad
	r.Runs[0].Ended[bad] = 1
	r.Runs[0].Figures[bad] = 1
	scripts := 0
	for _, e := range elements(t, page(t, r)) {
		switch e.Data {
		case "script":
			scripts++
		case "img", "iframe", "object", "form":
			t.Errorf("there is a %s", e.Data)
		}
		for _, a := range e.Attr {
			if strings.HasPrefix(a.Key, "on") || a.Key == "style" {
				t.Errorf("a %s has %s=%q", e.Data, a.Key, a.Val)
			}
		}
	}
	if scripts != 3 {
		t.Errorf("%d scripts, want the data, the plots' and the page's", scripts)
	}
}

var elsewhere = regexp.MustCompile(`(?i)(src|href|action|data)\s*=\s*["']?(https?:)?//|@import|url\(`)

func TestThePageNeedsNothingElse(t *testing.T) {
	text := page(t, made.Kind{Faults: 2}.Results())
	if found := elsewhere.FindString(text); found != "" {
		t.Errorf("it has %q", found)
	}
	if !strings.Contains(text, "default-src &#39;none&#39;") {
		t.Error("its policy does not forbid everything else")
	}
}

func TestALongRunsPageStaysSmall(t *testing.T) {
	for what, kind := range map[string]made.Kind{
		"30 min of 15 processes": {Length: 30 * time.Minute, Gateways: 9, Brokers: 3, Faults: 1000},
		"four hours":             {Length: 4 * time.Hour, Gateways: 2},
		"25 runs":                {Gateways: 3, Brokers: 3, Baselines: []string{"relay", "grpc", "tcp", "nats"}, Pairs: 5},
	} {
		if n := len(page(t, kind.Results())); n > 5_000_000 {
			t.Errorf("%s: %d bytes, want less than 5 MB", what, n)
		}
	}
}

func TestTheDataOfThePlotsIsJSON(t *testing.T) {
	for _, e := range elements(t, page(t, made.Kind{Faults: 2}.Results())) {
		if attribute(e, "id") != "data" {
			continue
		}
		var data struct {
			Plots map[string]struct {
				Names []string
				Lines [][]*float64
			}
		}
		if err := json.Unmarshal([]byte(e.FirstChild.Data), &data); err != nil {
			t.Fatal(err)
		}
		for id, p := range data.Plots {
			if len(p.Lines) != len(p.Names)+1 {
				t.Errorf("%s: %d lines for %d names and x", id, len(p.Lines), len(p.Names))
			}
			for _, l := range p.Lines {
				if len(l) != len(p.Lines[0]) {
					t.Errorf("%s: lines of different length", id)
				}
			}
		}
		return
	}
	t.Error("there is none")
}

func TestAPageOfAlmostNothing(t *testing.T) {
	for _, r := range []*results.Results{
		{},
		{Runs: []results.Run{{System: "moorage"}}},
		{Runs: []results.Run{{System: "moorage", Ticks: []results.Tick{{}}, Processes: []results.Process{{Name: "app"}}, Faults: []results.FaultMark{{}}}}},
	} {
		if !strings.Contains(page(t, r), "Invalid") && len(r.Runs) == 0 {
			t.Error("an empty result is not invalid")
		}
	}
}
