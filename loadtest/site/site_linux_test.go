package site

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/moorage-dev/moorage/loadtest/fault"
	"github.com/moorage-dev/moorage/loadtest/port"
	"github.com/moorage-dev/moorage/loadtest/scenario"
	"github.com/moorage-dev/moorage/loadtest/worker"
)

// moorageBinary is built once.
var moorageBinary string

// binaryVar names it to a test that runs itself again.
const binaryVar = "MOORAGE_SITE_TEST_BINARY"

func TestMain(m *testing.M) {
	if os.Getenv(parentVar) != "" {
		bePoorParent()
	}
	if moorageBinary = os.Getenv(binaryVar); moorageBinary != "" {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "moorage-site")
	if err != nil {
		panic(err)
	}
	moorageBinary = filepath.Join(dir, "moorage")
	if out, err := exec.Command("go", "build", "-o", moorageBinary, "github.com/moorage-dev/moorage/cmd/moorage").CombinedOutput(); err != nil {
		panic(fmt.Sprintf("%v: %s", err, out))
	}
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		panic(err)
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually polls, with a deadline: other processes' progress can only be
// looked at from outside.
func eventually(t *testing.T, what string, within time.Duration, done func() bool) {
	t.Helper()
	limit := time.After(within)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// A stage is a site with an application and an agent that talk over it.
type stage struct {
	*site
	t *testing.T

	agent worker.Session
	end   func() // of application and agent
}

func start(t *testing.T, cfg Config) *stage {
	t.Helper()
	if cfg.System == "" {
		cfg.System = Moorage
	}
	cfg.Run, cfg.Binary, cfg.Dir = "test", moorageBinary, t.ArtifactDir()
	cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	got, err := Start(t.Context(), cfg)
	must(t, err)
	s := &stage{site: got.(*site), t: t}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// connect starts an application and an agent whose messages come back.
func (s *stage) connect() {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	plan := &worker.Plan{
		Run: "test", Of: 1, Transport: s.cfg.System, Scenario: scenario.Scenario{Groups: []scenario.Group{{Name: "g", Agents: 1}}},
		Gateways: s.Gateways(), Kafka: s.Kafka(), Access: s.cfg.Access, Controller: s.Controller(), Token: s.Token(), CAFile: s.CAFile(), Prefix: s.cfg.Prefix,
	}
	app, err := worker.Moorage{}.Application(ctx, plan)
	must(s.t, err)
	agents, err := worker.Moorage{}.Agents(ctx, plan)
	must(s.t, err)
	var wg sync.WaitGroup
	s.end = sync.OnceFunc(func() {
		cancel()
		agents.Close()
		app.Close()
		wg.Wait()
	})
	s.t.Cleanup(s.end)
	wg.Go(func() {
		_, far, err := app.Accept(ctx)
		for err == nil {
			var m []byte
			if m, err = far.Receive(ctx); err == nil {
				err = far.Send(ctx, m)
			}
		}
	})
	s.agent, err = agents.Open(s.t.Context(), "g/1/1", scenario.Native)
	must(s.t, err)
	s.wantEcho("at first")
}

// wantEcho has a message go there and back.
func (s *stage) wantEcho(when string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	if err := s.agent.Send(ctx, []byte(when)); err != nil {
		s.t.Fatalf("%s: send: %v", when, err)
	}
	got, err := s.agent.Receive(ctx)
	if err != nil || string(got) != when {
		s.t.Fatalf("%s: got %q, %v", when, got, err)
	}
}

// do does a fault, has it last, and mends it.
func (s *stage) do(f scenario.Fault, during func()) {
	s.t.Helper()
	end, err := s.Do(s.t.Context(), f)
	if err != nil {
		s.t.Fatalf("%s %s: %v", f.Do, f.To, err)
	}
	if during != nil {
		during()
	}
	if end != nil {
		if err := end(s.t.Context()); err != nil {
			s.t.Fatalf("%s %s: undo: %v", f.Do, f.To, err)
		}
	}
}

func TestProcessesComeAndGoAtTheSameAddresses(t *testing.T) {
	t.Parallel()
	s := start(t, Config{Local: scenario.Local{Gateways: 2, TLS: true}})
	addrs := s.Gateways()
	s.connect()
	pid := func() int { return s.gateways[0].pid() }
	for _, kind := range []string{fault.Kill, fault.Stop} {
		before := pid()
		s.do(scenario.Fault{Do: kind, To: "gateway-1"}, func() {
			eventually(t, "gateway-1 is down", 40*time.Second, func() bool { return pid() == 0 })
			if again, err := s.Do(t.Context(), scenario.Fault{Do: fault.Kill, To: "gateway-1"}); err == nil || again != nil {
				t.Errorf("what is down was killed again: %v", err)
			}
			s.wantEcho(kind + ", meanwhile")
		})
		if now := pid(); now == before || now == 0 {
			t.Errorf("%s: pid %d before, %d afterwards", kind, before, now)
		}
		s.wantEcho(kind + ", afterwards")
	}
	before := pid()
	s.do(scenario.Fault{Do: fault.Rolling, To: "gateways"}, nil)
	if pid() == before {
		t.Error("rolling: the same process")
	}
	s.wantEcho("rolling")
	s.do(scenario.Fault{Do: fault.Freeze, To: "gateway-1"}, func() {
		eventually(t, "it is stopped", 5*time.Second, func() bool { return state(pid()) == "T" })
	})
	if got := state(pid()); got == "T" {
		t.Error("thawed, and still stopped")
	}
	s.wantEcho("freeze")
	if got := s.Gateways(); strings.Join(got, " ") != strings.Join(addrs, " ") {
		t.Errorf("addresses: %v before, %v afterwards", addrs, got)
	}
}

// state is the kernel's letter for what a process does.
func state(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return rest[:1]
}

func TestCloseLeavesNothing(t *testing.T) {
	t.Parallel()
	s := start(t, Config{Local: scenario.Local{Gateways: 2}, Proxied: true, Doors: true, Shims: 1})
	pids := s.running()
	ports := append(append(s.Gateways(), s.Kafka()...), s.gateways[0].admin)
	for _, u := range append(s.Doors(), s.Shims()...) {
		ports = append(ports, strings.TrimSuffix(strings.TrimPrefix(u, "http://"), "/"))
	}
	for _, p := range ports {
		must(t, dialable(t.Context(), p))
	}
	if _, err := s.Do(t.Context(), scenario.Fault{Do: fault.Freeze, To: "gateway-2"}); err != nil {
		t.Error(err)
	}
	must(t, s.Close())
	for name, pid := range pids {
		if name != "coordinator" && state(pid) != "" {
			t.Errorf("%s lives", name)
		}
	}
	for _, p := range ports {
		if conn, err := net.DialTimeout("tcp", p, time.Second); err == nil {
			conn.Close()
			t.Errorf("somebody listens at %s", p)
		}
	}
}

// parentVar makes the test moorageBinary start a site and be killed.
const parentVar = "MOORAGE_SITE_TEST_PARENT"

func bePoorParent() {
	s, err := Start(context.Background(), Config{System: Moorage, Run: "test", Binary: os.Getenv(parentVar), Dir: os.Getenv(parentVar + "_DIR"), Local: scenario.Local{Gateways: 2}})
	if err != nil {
		fmt.Println("failed", err)
		os.Exit(1)
	}
	for _, g := range s.(*site).gateways {
		fmt.Println(g.pid())
	}
	fmt.Println("up")
	select {}
}

func TestChildrenDieWithAKilledParent(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), parentVar+"="+moorageBinary, parentVar+"_DIR="+t.ArtifactDir())
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	var pids []int
	for {
		var word string
		if _, err := fmt.Fscanln(out, &word); err != nil {
			t.Fatal(err)
		}
		if word == "up" {
			break
		}
		var pid int
		if _, err := fmt.Sscan(word, &pid); err != nil {
			t.Fatalf("the parent says %q", word)
		}
		pids = append(pids, pid)
	}
	must(t, cmd.Process.Kill())
	_ = cmd.Wait() // killed is what we asked for
	for _, pid := range pids {
		eventually(t, "the children are dead", 10*time.Second, func() bool { return state(pid) == "" || state(pid) == "Z" })
	}
}

func TestBadInputIsOneLine(t *testing.T) {
	t.Parallel()
	dead, release, err := port.Reserve(loopback)
	must(t, err)
	defer release()
	notProgram := filepath.Join(t.TempDir(), "moorage")
	must(t, os.WriteFile(notProgram, nil, 0o600))
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{System: "smoke-signals"}, `system "smoke-signals"`},
		{Config{Run: "Run 1"}, `run "Run 1"`},
		{Config{Local: scenario.Local{Brokers: "2"}}, `"2" brokers`},
		{Config{Local: scenario.Local{Gateways: 100}}, "100 gateways"},
		{Config{Dir: "-"}, "no folder"},
		{Config{Binary: "/nowhere/moorage"}, "the moorage binary"},
		{Config{Binary: notProgram}, "chmod +x"},
		{Config{Old: "/nowhere/moorage"}, "--old-binary"},
		{Config{System: NATS}, "--nats-helper"},
		{Config{Gateways: []string{dead}}, "--kafka"},
		{Config{Kafka: []string{dead}}, dead},
		{Config{Small: true}, "disk-full"},
		{Config{Holes: true, Kafka: []string{dead}}, "--local"},
		{Config{Local: scenario.Local{Flags: []string{"--no-such-flag"}}}, "--no-such-flag"},
	} {
		if c.cfg.System == "" {
			c.cfg.System = Moorage
		}
		if c.cfg.Run == "" {
			c.cfg.Run = "test"
		}
		if c.cfg.Binary == "" {
			c.cfg.Binary = moorageBinary
		}
		switch c.cfg.Dir {
		case "":
			c.cfg.Dir = t.TempDir()
		case "-":
			c.cfg.Dir = ""
		}
		s, err := Start(t.Context(), c.cfg)
		if err == nil {
			s.Close()
			t.Errorf("%+v: started, want an error with %q", c.cfg, c.want)
			continue
		}
		if text := err.Error(); !strings.HasPrefix(text, "site: ") || !strings.Contains(text, c.want) || strings.Contains(text, "\n") {
			t.Errorf("got %q, want one line of ours with %q", text, c.want)
		}
	}
}
