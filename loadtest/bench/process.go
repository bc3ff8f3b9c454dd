package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A process is one that the bench started, to be measured and ended.
type process struct {
	cmd  *exec.Cmd
	name string
	in   io.Closer // its stdin; the bench's own roles end when it closes
}

// start runs a program with its talk on our stderr. It lives until stop, or
// until ctx ends.
func start(ctx context.Context, path string, args ...string) (*process, error) {
	return startWith(ctx, os.Stderr, nil, path, args...)
}

// startWith is start with the process's talk elsewhere and more in its environment.
func startWith(ctx context.Context, talk io.Writer, env []string, path string, args ...string) (*process, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stderr = talk
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("bench: start %s: %w", path, err)
	}
	return &process{cmd, strings.Join(append([]string{path}, args...), " "), in}, nil
}

// startRole runs this program again as one of its hidden roles and waits for
// the line by which it says that it is ready.
func startRole(ctx context.Context, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd, strings.Join(args, " "), in}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != readyLine {
		p.stop()
		return nil, fmt.Errorf("bench: %s did not become ready", p.name)
	}
	return p, nil
}

// stop ends the process hard: what is measured keeps nothing that matters.
func (p *process) stop() {
	if p == nil {
		return
	}
	p.in.Close()
	_ = p.cmd.Process.Kill() // it may be dead
	_ = p.cmd.Wait()         // killed is what we asked for
}

// cpu returns the user and system time that the process has used.
func (p *process) cpu() (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may hold blanks; what counts stands behind it.
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0, fmt.Errorf("bench: /proc/%d/stat: %q", p.cmd.Process.Pid, b)
	}
	ticks := 0
	for _, s := range f[11:13] {
		n, err := strconv.Atoi(s)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100, nil // USER_HZ is 100 on Linux
}

// rss returns the process's resident memory in bytes.
func (p *process) rss() (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmRSS:" {
			kb, err := strconv.ParseFloat(f[1], 64)
			return kb * 1024, err
		}
	}
	return 0, fmt.Errorf("bench: no VmRSS of %d", p.cmd.Process.Pid)
}

// scrape reads a gateway's metrics, those without labels.
func scrape(ctx context.Context, addr string) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	m := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if f := strings.Fields(lines.Text()); len(f) == 2 {
			if v, err := strconv.ParseFloat(f[1], 64); err == nil {
				m[f[0]] = v
			}
		}
	}
	return m, lines.Err()
}

// freeAddr returns a loopback address that was free a moment ago.
func freeAddr() (string, error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer lis.Close()
	return lis.Addr().String(), nil
}

// waitListening waits until somebody accepts at addr.
func waitListening(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("bench: nobody listens at %s: %w", addr, err)
		}
	}
}
