package report

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/loadtest/figure"
	"github.com/moorage-dev/moorage/loadtest/results"
	"github.com/moorage-dev/moorage/loadtest/scenario"
)

// The page is one file. What it needs stands in it, and its content security
// policy allows nothing but these very texts.
var (
	//go:embed assets/uplot/uPlot.iife.min.js
	plotScript string
	//go:embed assets/uplot/uPlot.min.css
	plotStyle string
	//go:embed assets/page.js
	pageScript string
	//go:embed assets/page.css
	pageStyle string
	//go:embed assets/page.html
	pageText string
	//go:embed assets/compare.html
	compareText string
)

// pages are parsed when the first is written: most programs with this package
// in them never write one, and all of them would wait for it at their start.
var pages = sync.OnceValue(func() *template.Template {
	return template.Must(template.Must(template.New("page").Parse(pageText)).New("compare").Parse(compareText))
})

// Bounds of a page. With more runs each of them has fewer points, and at least
// fewestPoints; what is left out of tables is in results.json.
const (
	mostPoints   = 2000
	fewestPoints = 120
	mostValues   = 400_000 // of all lines of all runs
	mostAnomaly  = 50      // per run
	mostFaults   = 500     // per run
	mostEvents   = 20      // per anomaly
)

// HTML writes the page. Results that have not been judged have no verdict and
// count as missed: see Judge.
func HTML(w io.Writer, r *results.Results) error {
	v := view{assets: newAssets(), Results: r, Outcome: Outcome(r), Cards: cards(r), Machine: machine(r), Baselines: baselines(r)}
	v.Title = v.Word() + ": " + r.Scenario.Name
	var plots [][]plot
	for i := range r.Runs {
		run := &r.Runs[i]
		p := plotsOf(run)
		plots = append(plots, p)
		v.Runs = append(v.Runs, newRunView(run, i, p))
	}
	data, err := plotData(r, plots)
	if err != nil {
		return err
	}
	v.Data = data
	if err := pages().ExecuteTemplate(w, "page", v); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

// assets are the texts that a page carries, and the policy that names them.
type assets struct {
	Title                        string
	Policy                       string
	PlotStyle, PageStyle         template.CSS
	PlotScript, PageScript, Data template.JS
}

func newAssets() assets {
	hash := func(text string) string {
		sum := sha256.Sum256([]byte(text))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return assets{
		PlotStyle: template.CSS(plotStyle), PageStyle: template.CSS(pageStyle),
		PlotScript: template.JS(plotScript), PageScript: template.JS(pageScript),
		Policy: "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; style-src " + hash(plotStyle) + " " + hash(pageStyle) +
			"; script-src " + hash(plotScript) + " " + hash(pageScript),
	}
}

// view is what the page's template shows.
type view struct {
	assets
	Results   *results.Results
	Outcome   string
	Cards     []card
	Machine   []pair
	Baselines []baselineView
	Runs      []runView
}

type pair struct{ Name, Value string }

// Word is the outcome as people say it.
func (v view) Word() string {
	return map[string]string{Clean: "Clean", Anomalies: "Anomalies", Missed: "Threshold missed", Invalid: "Invalid"}[v.Outcome]
}

// Meaning is the outcome in a sentence.
func (v view) Meaning() string {
	return map[string]string{
		Clean:     "Every promise was kept and every threshold met.",
		Anomalies: "A promise was broken. The sessions concerned are listed below, with what happened to them last.",
		Missed:    "No promise was broken, but not everything that was asked for was reached.",
		Invalid:   "These figures prove nothing, for the reason below. They are shown for finding out why.",
	}[v.Outcome]
}

// Icon is a path in a square of 24; it says the outcome to those who do not see its colour.
func (v view) Icon() string {
	return map[string]string{
		Clean:     "M5 12.5l4.5 4.5L19 7",
		Anomalies: "M6 6l12 12M18 6L6 18",
		Missed:    "M12 5v9M12 18v.5",
		Invalid:   "M6 12h12",
	}[v.Outcome]
}

func (v view) When() string   { return v.Results.Started.UTC().Format("2 January 2006, 15:04 UTC") }
func (v view) Length() string { return time.Duration(v.Results.Scenario.Length).String() }

// A card is a figure worth a look first.
type card struct {
	Name, Value, Note string
	Bad               bool
}

// cards are of the runs of Moorage: medians, and the range where there is one.
func cards(r *results.Results) []card {
	of := func(name string) (sorted []float64) {
		for _, run := range r.Runs {
			if v, ok := run.Figures[name]; ok && run.System == product {
				sorted = append(sorted, v)
			}
		}
		slices.Sort(sorted)
		return sorted
	}
	var all []card
	add := func(title, name, note string) {
		sorted := of(name)
		if len(sorted) == 0 {
			return
		}
		c := card{Name: title, Value: withUnit(name, median(sorted)), Note: note}
		if f := figure.Of(name); f != nil && f.Name == f.Unit { // agents, faults
			c.Value = number3(median(sorted))
		}
		if low, high := withUnit(name, sorted[0]), withUnit(name, sorted[len(sorted)-1]); low != high {
			c.Note = low + " – " + high + ", " + strconv.Itoa(len(sorted)) + " runs"
		}
		all = append(all, c)
	}
	n := broken(r)
	all = append(all, card{Name: "Promises broken", Value: number3(n), Note: "lost, repeated, reordered, corrupted, stuck …", Bad: n > 0})
	add("Agents", "agents", "with a session at once")
	add("Messages down", "messages_per_s.down", "application to agents")
	add("Messages up", "messages_per_s.up", "agents to application")
	for _, way := range []string{"down", "up", "request"} {
		if p99 := of(way + ".p99_ms"); len(p99) > 0 {
			add("Latency "+way+", p50", way+".p50_ms", "p99 "+withUnit(way+".p99_ms", median(p99)))
		}
	}
	if most := of("silence.max_ms"); len(most) > 0 {
		add("Silence, p99", "silence.p99_ms", "longest "+withUnit("silence.max_ms", median(most)))
	}
	if faults := of("faults"); len(faults) > 0 && median(faults) > 0 {
		add("Faults", "faults", "done")
		add("Recovery, p99", "recovery.p99_ms", "of sessions, all faults")
	}
	add("Gateway processor", "cpu_us_per_message.gateway", "per message")
	if a := of("agents"); len(a) > 0 && median(a) >= 100 {
		add("Gateway memory", "gateway_rss_per_agent", "per agent")
	}
	add("Kafka read ÷ delivered", "kafka_read_ratio", "records")
	add("Generator lag", "lag_ms", "at most")
	return all
}

func machine(r *results.Results) []pair {
	m := r.Machine
	all := []pair{
		{"Processor", fmt.Sprintf("%s, %d cores", m.CPU, m.Cores)}, {"Memory", quantity(float64(m.Memory), "B")}, {"Kernel", m.Kernel},
		{"Moorage", m.Moorage}, {"Go", m.Go}, {"Kafka", m.Kafka}, {"Seed", strconv.FormatUint(r.Scenario.Seed, 10)},
	}
	return slices.DeleteFunc(all, func(p pair) bool { return p.Value == "" })
}

// A baselineView is Moorage beside one baseline.
type baselineView struct {
	Name      string
	Ours      string // what an acknowledgement means
	Theirs    string
	Pairs     int
	Flawed    string // why nothing of it is to be quoted; "": it is
	Main      []ratioView
	Remaining []ratioView
}

type ratioView struct {
	results.Ratio
	Better      string // better, worse, even or flawed
	Scale       scale
	MedianText  string
	SpreadText  string
	Description string
}

func baselines(r *results.Results) []baselineView {
	var all []baselineView
	for _, ratio := range r.Ratios {
		i := slices.IndexFunc(all, func(b baselineView) bool { return b.Name == ratio.Baseline })
		if i < 0 {
			i = len(all)
			b := baselineView{Name: ratio.Baseline, Flawed: ratio.Flawed}
			for _, run := range r.Runs {
				if run.System == product && b.Ours == "" {
					b.Ours = run.Acks
				}
				if run.System == ratio.Baseline {
					b.Theirs = run.Acks
					b.Pairs++
				}
			}
			all = append(all, b)
		}
		v := newRatioView(ratio)
		if isMain(ratio.Figure) {
			all[i].Main = append(all[i].Main, v)
		} else {
			all[i].Remaining = append(all[i].Remaining, v)
		}
	}
	return all
}

// isMain tells the ratios that are looked at first.
func isMain(name string) bool {
	if strings.HasPrefix(name, "messages_per_s.") || name == "cpu_us_per_message.gateway" || name == "gateway_rss_per_agent" {
		return true
	}
	way, percentile, _ := strings.Cut(name, ".")
	return slices.Contains([]string{"up", "down", "request", "connect"}, way) && (percentile == "p50_ms" || percentile == "p99_ms")
}

func newRatioView(r results.Ratio) ratioView {
	v := ratioView{
		Ratio: r, Better: "even", MedianText: fmt.Sprintf("%.2f ×", r.Median), SpreadText: fmt.Sprintf("%.2f – %.2f", r.Low, r.High),
		Scale: newScale(0.25, 4),
	}
	f := figure.Of(r.Figure)
	if f != nil {
		v.Description = f.Meaning
	}
	if r.Flawed != "" {
		v.Better = "flawed"
	} else if r.Low > 1.005 || r.High < 0.995 { // all pairs on one side
		v.Better = "worse"
		if (r.Low > 1) == (f != nil && f.More) {
			v.Better = "better"
		}
	}
	return v
}

// A scale places values on a logarithmic axis, in percent of its width.
type scale struct{ from, to float64 }

func newScale(from, to float64) scale { return scale{math.Log(from), math.Log(to)} }

// At is where v stands; what is outside stands at the edge.
func (s scale) At(v float64) string {
	at := 0.0
	if v > 0 {
		at = (math.Log(v) - s.from) / (s.to - s.from) * 100
	}
	return fmt.Sprintf("%.2f%%", min(99, max(1, at)))
}

// A runView is one run.
type runView struct {
	ID, Name string
	*results.Run
	Index     int
	Plots     []plot
	Silence   []bar
	Recovery  []spread
	Ticks     []mark
	Figures   []pair3
	Faults    []faultView
	FaultsCut int
	Anomalies []anomalyView
	Hidden    int // anomalies that are not shown
	Ended     []pair
}

type pair3 struct{ Name, Value, Meaning string }

// A bar is a percentile of a distribution.
type bar struct{ Name, Value, Width string }

// A spread is a distribution as three points of an axis.
type spread struct {
	Name            string
	Faults          int
	P50, P99, Most  string // as said
	At50, At99, AtM string // on the axis
}

// A mark is a place on an axis.
type mark struct{ At, Text string }

type faultView struct {
	Number                    int
	At, For, Name, To, Result string
	Failed                    bool
}

type anomalyView struct {
	check.Anomaly
	Seen []eventView
	Left int
}

type eventView struct{ At, Side, What, Text string }

func newRunView(run *results.Run, i int, plots []plot) runView {
	v := runView{ID: "run" + strconv.Itoa(i), Name: name(run), Run: run, Index: i, Plots: plots, Silence: bars(run.Silence)}
	v.Recovery, v.Ticks = recoveries(run)
	for _, n := range slices.SortedFunc(maps.Keys(run.Figures), byRank) {
		f := pair3{Name: n, Value: withUnit(n, run.Figures[n])}
		if of := figure.Of(n); of != nil {
			f.Meaning = of.Meaning
		}
		v.Figures = append(v.Figures, f)
	}
	for _, reason := range slices.Sorted(maps.Keys(run.Ended)) {
		v.Ended = append(v.Ended, pair{reason, number3(float64(run.Ended[reason]))})
	}
	for n, f := range run.Faults {
		if n == mostFaults {
			v.FaultsCut = len(run.Faults) - n
			break
		}
		v.Faults = append(v.Faults, newFaultView(run, n, f))
	}
	for n, a := range run.Anomalies {
		if n == mostAnomaly {
			v.Hidden = len(run.Anomalies) - n
			break
		}
		v.Anomalies = append(v.Anomalies, newAnomalyView(run, a))
	}
	return v
}

func newFaultView(run *results.Run, n int, f results.FaultMark) faultView {
	v := faultView{Number: n + 1, At: clock(f.At), Name: f.Name, To: f.To, Result: "done"}
	if f.For > 0 {
		v.For = number3(f.For) + " s"
	}
	if f.Error != "" {
		v.Result, v.Failed = f.Error, true
		return v
	}
	for _, r := range run.Recovery {
		if r.Fault == n && r.Hist.Count > 0 {
			v.Result = fmt.Sprintf("%s sessions, p99 %s, longest %s", number3(float64(r.Hist.Count)), quantity(r.Hist.P["99"], "ms"), quantity(r.Hist.Max, "ms"))
		}
	}
	return v
}

func newAnomalyView(run *results.Run, a check.Anomaly) anomalyView {
	v := anomalyView{Anomaly: a}
	v.Left = max(0, len(a.Events)-mostEvents)
	for _, e := range a.Events[v.Left:] {
		text := e.Text
		if e.Seq != 0 {
			text = strings.TrimSpace("number " + strconv.FormatUint(e.Seq, 10) + " " + text)
		}
		v.Seen = append(v.Seen, eventView{clock(e.At.Sub(run.Started).Seconds()), e.Side.String(), e.What, text})
	}
	return v
}

// clock writes seconds of a run as people read them: 1:02:03.4.
func clock(seconds float64) string {
	if seconds < 0 {
		return "-" + clock(-seconds)
	}
	tenths := int64(math.Round(seconds * 10))
	s, minutes := float64(tenths%600)/10, tenths/600
	if minutes >= 60 {
		return fmt.Sprintf("%d:%02d:%04.1f", minutes/60, minutes%60, s)
	}
	return fmt.Sprintf("%d:%04.1f", minutes, s)
}

func bars(h results.Hist) []bar {
	if h.Count == 0 {
		return nil
	}
	var all []bar
	add := func(name string, v float64) {
		all = append(all, bar{name, quantity(v, "ms"), fmt.Sprintf("%.2f%%", max(0.3, 100*v/max(h.Max, 1e-9)))})
	}
	for _, p := range []string{"50", "90", "99", "99.9", "99.99"} {
		if v, ok := h.P[p]; ok {
			add("p"+p, v)
		}
	}
	add("longest", h.Max)
	return all
}

// recoveries are one row per kind of fault, on a common axis. The figures have
// the distribution of all faults of a kind together.
func recoveries(run *results.Run) ([]spread, []mark) {
	byKind := map[string]int{}
	for _, r := range run.Recovery {
		if r.Hist.Count > 0 {
			byKind[r.Name]++
		}
	}
	if len(byKind) == 0 {
		return nil, nil
	}
	least, most := math.Inf(1), 1.0
	rows := make([]spread, 0, len(byKind))
	type points struct{ p50, p99, most float64 }
	of := func(kind string) points {
		f := func(p string) float64 { return run.Figures["recovery."+kind+"."+p+"_ms"] }
		return points{f("p50"), f("p99"), f("max")}
	}
	for kind := range byKind {
		p := of(kind)
		least, most = min(least, max(p.p50, 0.1)), max(most, p.most)
	}
	from := math.Pow(10, math.Floor(math.Log10(least)))
	to := math.Pow(10, math.Ceil(math.Log10(most*1.01)))
	s := newScale(from, to)
	for _, kind := range slices.Sorted(maps.Keys(byKind)) {
		p := of(kind)
		rows = append(rows, spread{
			Name: kind, Faults: byKind[kind],
			P50: quantity(p.p50, "ms"), P99: quantity(p.p99, "ms"), Most: quantity(p.most, "ms"),
			At50: s.At(p.p50), At99: s.At(p.p99), AtM: s.At(p.most),
		})
	}
	var marks []mark
	for v := from; v <= to*1.01; v *= 10 {
		marks = append(marks, mark{s.At(v), quantity(v, "ms")})
	}
	return rows, marks
}

// plotData is what the page's script draws, by the ids of its plots.
func plotData(r *results.Results, runs [][]plot) (template.JS, error) {
	type drawn struct {
		Unit  string    `json:"unit"`
		Log   bool      `json:"log,omitempty"`
		Run   int       `json:"run"`
		Names []string  `json:"names"`
		Lines [][]short `json:"lines"` // x first
	}
	type faultMark struct {
		At   short  `json:"at"`
		For  short  `json:"for"`
		Name string `json:"name"`
	}
	values := 0
	for _, plots := range runs {
		for _, p := range plots {
			values += min(len(p.X), mostPoints) * (1 + len(p.Lines))
		}
	}
	limit := mostPoints
	if values > mostValues {
		limit = max(fewestPoints, mostPoints*mostValues/values)
	}
	data := struct {
		Plots map[string]drawn `json:"plots"`
		Marks [][]faultMark    `json:"marks"` // by run
	}{Plots: map[string]drawn{}}
	for i, plots := range runs {
		marks := []faultMark{}
		for _, f := range r.Runs[i].Faults[:min(len(r.Runs[i].Faults), mostPoints)] {
			if f.Error == "" {
				marks = append(marks, faultMark{short(f.At), short(f.For), f.Name})
			}
		}
		data.Marks = append(data.Marks, marks)
		for _, p := range plots {
			d := drawn{Unit: p.Unit, Log: p.Log, Run: i}
			var lines [][]float64
			for _, l := range p.Lines {
				d.Names = append(d.Names, l.Label)
				lines = append(lines, l.Values)
			}
			x, lines := thin(p.X, lines, limit)
			d.Lines = append(d.Lines, shorts(x))
			for _, l := range lines {
				d.Lines = append(d.Lines, shorts(l))
			}
			data.Plots["run"+strconv.Itoa(i)+"-"+p.ID] = d
		}
	}
	b, err := json.Marshal(data) // escapes <, > and &: a name can not end the script
	return template.JS(b), err
}

// Load says in words what a group does.
func (v view) Groups() []pair {
	var all []pair
	for _, g := range v.Results.Scenario.Groups {
		parts := []string{fmt.Sprintf("%s %s agents", number3(float64(g.Agents)), g.Kind)}
		if g.Arrive.Ramp > 0 {
			parts = append(parts, "arriving within "+time.Duration(g.Arrive.Ramp).String())
		}
		parts = append(parts, flow("up", g.Up), flow("down", g.Down))
		if g.Request != nil {
			parts = append(parts, flow("requests", &g.Request.Flow))
		}
		parts = slices.DeleteFunc(parts, func(s string) bool { return s == "" })
		all = append(all, pair{g.Name, strings.Join(parts, ", ")})
	}
	return all
}

func flow(what string, f *scenario.Flow) string {
	switch {
	case f == nil:
		return ""
	case f.Closed:
		return what + " as fast as they can"
	}
	return what + " " + number3(f.Rate) + "/s each"
}
