package browser_test

import (
	"bytes"
	"image"
	"image/color"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/loadtest/report"
	"github.com/moorage-dev/moorage/loadtest/report/browser"
	"github.com/moorage-dev/moorage/loadtest/report/made"
)

var (
	desktop = browser.Look{Width: 1280, Height: 3000}
	narrow  = browser.Look{Width: 500, Height: 3000}
)

// open makes a test's page and looks at it.
func open(t *testing.T, kind made.Kind, look browser.Look) *browser.Seen {
	t.Helper()
	r := kind.Results()
	report.Judge(r)
	dir := t.TempDir()
	if err := report.Write(dir, r); err != nil {
		t.Fatal(err)
	}
	return openFile(t, filepath.Join(dir, report.PageFile), look)
}

func openFile(t *testing.T, file string, look browser.Look) *browser.Seen {
	t.Helper()
	seen, err := browser.Open(t.Context(), file, look)
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

func TestThePageIsDrawnWithoutAWordOfComplaint(t *testing.T) {
	dark := func(l browser.Look) browser.Look { l.Dark = true; return l }
	for _, c := range []struct {
		what  string
		kind  made.Kind
		look  browser.Look
		plots int
	}{
		{"clean, light", made.Kind{Faults: 6, Gateways: 3, Brokers: 3}, desktop, 10},
		{"anomalies of a hostile name, dark", made.Kind{Faults: 4, Lost: 3, Session: `</script><script>x()</script>`}, dark(desktop), 10},
		{"invalid, narrow", made.Kind{Limit: true}, narrow, 10},
		// Of several runs only the chosen one is drawn.
		{"beside baselines, narrow and dark", made.Kind{Baselines: []string{"relay", "nats"}, Pairs: 3}, dark(narrow), 10},
		{"half an hour of 200 faults", made.Kind{Length: 30 * time.Minute, Gateways: 6, Brokers: 3, Faults: 200}, desktop, 10},
	} {
		t.Run(c.what, func(t *testing.T) {
			seen := open(t, c.kind, c.look)
			if len(seen.Complaints) > 0 {
				t.Errorf("the console says\n%s", strings.Join(seen.Complaints, "\n"))
			}
			if n := strings.Count(seen.DOM, "<canvas"); n != c.plots {
				t.Errorf("%d plots were drawn, want %d", n, c.plots)
			}
			if got := brightness(seen.Shot); got < 128 != c.look.Dark {
				t.Errorf("dark is %v, but its corner's brightness is %d of 255", c.look.Dark, got)
			}
			if n := colours(seen.Shot); n < 50 {
				t.Errorf("the picture has %d colours: it is empty", n)
			}
		})
	}
}

func TestSeveralRunsSideBySideAreAPageToo(t *testing.T) {
	var dirs []string
	for _, faults := range []int{0, 3} {
		r := made.Kind{Faults: faults}.Results()
		report.Judge(r)
		dir := t.TempDir()
		if err := report.Write(dir, r); err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, dir)
	}
	var b bytes.Buffer
	if err := report.CompareHTML(&b, dirs); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "compare.html")
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	if seen := openFile(t, file, desktop); len(seen.Complaints) > 0 {
		t.Errorf("the console says\n%s", strings.Join(seen.Complaints, "\n"))
	}
}

// A page that asks for something else, and fails at it, must not pass.
func TestTheTestHearsComplaints(t *testing.T) {
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer server.Close()
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{
		"an error":                 `<script>nothing.at.all()</script>`,
		"a script from elsewhere":  `<meta http-equiv="Content-Security-Policy" content="default-src 'none'"><script src="http://localhost:` + port + `/x.js"></script>`,
		"a picture from elsewhere": `<meta http-equiv="Content-Security-Policy" content="default-src 'none'"><img src="http://localhost:` + port + `/x.png">`,
	} {
		file := filepath.Join(t.TempDir(), "page.html")
		if err := os.WriteFile(file, []byte("<!doctype html>"+text), 0o644); err != nil {
			t.Fatal(err)
		}
		if seen := openFile(t, file, narrow); len(seen.Complaints) == 0 {
			t.Errorf("%s: the console is silent", what)
		}
	}
	if asked.Load() > 0 {
		t.Error("the browser reached a server")
	}
}

// The policy is what keeps a page alone where there is a network: it must
// refuse even what was smuggled into it.
func TestThePolicyRefusesWhatWasNotMeantToBeThere(t *testing.T) {
	r := made.Kind{}.Results()
	report.Judge(r)
	var b bytes.Buffer
	if err := report.HTML(&b, r); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "page.html")
	smuggled := strings.Replace(b.String(), "<main", `<script>document.title = "smuggled"</script><main`, 1)
	if err := os.WriteFile(file, []byte(smuggled), 0o644); err != nil {
		t.Fatal(err)
	}
	seen := openFile(t, file, desktop)
	if strings.Contains(seen.DOM, "<title>smuggled") {
		t.Error("it ran")
	}
	if !strings.Contains(strings.Join(seen.Complaints, "\n"), "Content Security Policy") {
		t.Errorf("the console says %q", seen.Complaints)
	}
}

func brightness(i image.Image) uint8 {
	return color.GrayModel.Convert(i.At(i.Bounds().Min.X+2, i.Bounds().Min.Y+2)).(color.Gray).Y
}

func colours(i image.Image) int {
	seen := map[color.Color]bool{}
	for y := i.Bounds().Min.Y; y < i.Bounds().Max.Y; y += 3 {
		for x := i.Bounds().Min.X; x < i.Bounds().Max.X; x++ {
			seen[i.At(x, y)] = true
		}
	}
	return len(seen)
}
