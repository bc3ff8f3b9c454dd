// Package browser opens a load test's page in Chromium, for tests: without a
// network, and with an ear for its console.
package browser

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	_ "image/png" // screenshots are
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A Look is how a page is looked at.
type Look struct {
	Width, Height int
	Dark          bool
}

// Seen is what came of it.
type Seen struct {
	DOM        string   // after the page's script ran
	Complaints []string // of the console, and requests that were refused
	Shot       image.Image
}

// limit of one start of the browser. A page takes about two seconds; the rest
// is for a machine that has much to do.
const limit = 2 * time.Minute

// Open looks at a file. The screenshot stays beside it, as NAME.png.
func Open(ctx context.Context, file string, look Look) (*Seen, error) {
	program, err := exec.LookPath("chromium")
	if err != nil {
		return nil, errors.New("browser: no chromium: install Debian's package (apt-get install chromium)")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("browser: chromium was not done within %v", limit))
	defer cancel()
	profile, err := os.MkdirTemp("", "moorage-browser-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(profile)
	shot := strings.TrimSuffix(file, filepath.Ext(file)) + ".png"
	scheme := "1"
	if look.Dark {
		scheme = "0"
	}
	args := []string{
		"--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
		"--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-extensions",
		"--user-data-dir=" + profile, "--enable-logging=stderr", "--virtual-time-budget=10000",
		// Nothing can be reached: every name and every proxy leads nowhere.
		"--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9",
		"--blink-settings=preferredColorScheme=" + scheme, fmt.Sprintf("--window-size=%d,%d", look.Width, look.Height),
		"--screenshot=" + shot, "--dump-dom", "file://" + file,
	}
	seen := new(Seen)
	var out, log bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = &out, &log
	// Chromium is many processes; all of them end with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, fmt.Errorf("%w\n%s", err, log.String())
	}
	seen.DOM = out.String()
	seen.Complaints = complaints(log.String())
	f, err := os.Open(shot)
	if err != nil {
		return nil, fmt.Errorf("browser: no screenshot: %w\n%s", err, log.String())
	}
	defer f.Close()
	seen.Shot, _, err = image.Decode(f)
	return seen, err
}

// complaints are the console's lines about the page, not those about the
// browser's own pages.
func complaints(log string) (lines []string) {
	for line := range strings.Lines(log) {
		if strings.Contains(line, ":CONSOLE") && !strings.Contains(line, "source: chrome://") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}
