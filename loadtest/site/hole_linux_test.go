package site

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/moorage-dev/moorage/loadtest/fault"
	"github.com/moorage-dev/moorage/loadtest/scenario"
)

// runIsolated runs the test in namespaces of its own.
func runIsolated(t *testing.T, args ...string) {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.CommandContext(t.Context(), "unshare", append(args, self, "-test.run", "^"+t.Name()+"$", "-test.v", "-test.timeout", "2m")...)
	cmd.Env = append(os.Environ(), isolatedVar+"=1", binaryVar+"="+moorageBinary)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // with this thread the child would die
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v: %v\n%s", args, err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "_test.go") {
			t.Log(strings.TrimSpace(line))
		}
	}
}

// TestBlackHoles runs itself in namespaces of its own, as the harness does.
func TestBlackHoles(t *testing.T) {
	if os.Getenv(isolatedVar) == "" {
		t.Parallel()
		runIsolated(t, "--net")
		runIsolated(t, "--net", "--user", "--map-root-user")
		return
	}
	s := start(t, Config{Local: scenario.Local{Gateways: 2, TLS: true}, Holes: true})
	s.connect()
	for _, to := range []string{"gateway-1", "broker-1", "gateways"} {
		s.do(scenario.Fault{Do: fault.BlackHole, To: to}, func() {
			if strings.HasPrefix(to, "gateway-") {
				g := s.gateways[to[len(to)-1]-'1']
				if err := s.gateReady(t.Context(), g); err == nil {
					t.Errorf("%s answers through the hole", to)
				}
			}
		})
		s.wantEcho(to + ", afterwards")
	}
}

func TestIsolateIsAskedForOnlyWhenNeeded(t *testing.T) {
	t.Parallel()
	must(t, Isolate(Config{}))
	if os.Getenv(isolatedVar) != "" {
		return
	}
	s, err := Start(t.Context(), Config{System: Moorage, Run: "test", Binary: moorageBinary, Dir: t.TempDir(), Holes: true})
	if err == nil {
		s.Close()
		t.Fatal("black holes were made in everybody's network")
	}
	if !strings.Contains(err.Error(), "network of the harness's own") {
		t.Errorf("got %v", err)
	}
}
