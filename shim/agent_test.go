//go:build unix

package shim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// shimRole makes the test binary a shim that runs the shell script it names;
// privateVar names a directory of secrets.
const (
	shimRole   = "SHIM_TEST_SCRIPT"
	privateVar = "SHIM_TEST_PRIVATE"
)

// beShim is a shim with an agent, for tests that kill it.
func beShim() {
	script, ok := os.LookupEnv(shimRole)
	if !ok {
		return
	}
	err := Run(context.Background(), Config{
		Agent: &Agent{Args: []string{"/bin/sh", "-c", script}, Private: os.Getenv(privateVar), Stderr: os.Stderr},
		Log:   slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	fmt.Fprintln(os.Stderr, err)
	os.Exit(0)
}

func TestAgentsExitCodeIsTheShims(t *testing.T) {
	for script, want := range map[string]int{"exit 0": 0, "exit 7": 7, "exit 255": 255, "kill -9 $$": 137, "kill -TERM $$": 143} {
		ta := startAgent(t, Agent{Restart: RestartNever}, script)
		ta.wantExit(script, want)
	}
}

func TestAgentThatIsDoneIsNotStartedAgain(t *testing.T) {
	ta := startAgent(t, Agent{}, "echo started; exit 0")
	ta.wantExit("it said so by its exit code", 0)
	ta.wantOutput("started\n")
}

func TestAgentIsStartedAgain(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	ta := startAgent(t, Agent{}, "echo started; test -e "+mark+" && exit 0; touch "+mark+"; exit 255")
	ta.wantExit("it failed once", 0)
	ta.wantOutput("started\nstarted\n")
	ta.wantLog("code=255")
	ta.wantLog("in=1s")
}

func TestAgentThatIsDoneIsStartedAgainWhereThatIsWanted(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	ta := startAgent(t, Agent{Restart: RestartAlways}, "test -e "+mark+" && { echo again; exec sleep 1000; }; touch "+mark+"; exit 0")
	ta.waitOutput("again\n")
	ta.stop()
	ta.wantExit("it was ended", 143)
}

func TestWaitsGrow(t *testing.T) {
	wait := time.Duration(0)
	for i, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		if wait = nextWait(wait, time.Second); wait != want*time.Second {
			t.Errorf("wait %d is %v, want %v", i+1, wait, want*time.Second)
		}
	}
	if wait = nextWait(wait, time.Minute); wait != time.Second {
		t.Errorf("after a minute of work the wait is %v", wait)
	}
}

func TestAgentIsToldToEnd(t *testing.T) {
	ta := startAgent(t, Agent{}, "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.1; done")
	ta.waitOutput("up\n")
	ta.stop()
	ta.wantExit("what it says then counts", 3)
	ta.wantOutput("up\nbye\n")
}

func TestAgentIsEndedTheWayTheShimIs(t *testing.T) {
	ta := startAgent(t, Agent{}, "trap 'echo bye; exit 3' INT; echo up; while :; do sleep 0.1; done")
	ta.waitOutput("up\n")
	ta.signals <- syscall.SIGINT
	ta.stop()
	ta.wantExit("it heard an interrupt", 3)
	ta.wantOutput("up\nbye\n")
}

func TestAgentThatIsToldTwiceIsKilled(t *testing.T) {
	ta := startAgent(t, Agent{StopTimeout: time.Hour}, "trap 'echo no' TERM; echo up; while :; do sleep 0.1; done")
	ta.waitOutput("up\n")
	ta.signals <- syscall.SIGTERM
	ta.stop()
	ta.waitOutput("up\nno\n")
	ta.signals <- syscall.SIGTERM
	ta.wantExit("somebody's patience is over", 137)
}

func TestSignalsArePassedOn(t *testing.T) {
	// Were it not for the agent alone, the signal would end the sleeping child too.
	ta := startAgent(t, Agent{}, "trap 'kill -0 $child && echo usr1' USR1; trap 'echo usr2; kill $child; exit 0' USR2; sleep 1000 & child=$!; echo up; while :; do wait; done")
	ta.waitOutput("up\n")
	ta.signals <- syscall.SIGUSR1
	ta.waitOutput("up\nusr1\n")
	ta.signals <- syscall.SIGUSR2
	ta.wantExit("it ended by itself", 0)
	ta.wantOutput("up\nusr1\nusr2\n")
}

func TestDeafAgentIsKilledWithItsGroup(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pids")
	ta := startAgent(t, Agent{StopTimeout: 100 * time.Millisecond}, deafFamily(pids))
	family := waitPids(t, pids)
	ta.stop()
	ta.wantExit("it would not hear", 137)
	ta.wantLog("did not end in time")
	for _, pid := range family {
		waitGone(t, pid, 2*time.Second)
	}
}

func TestWhatAnAgentLeavesBehindEndsWithTheShim(t *testing.T) {
	dir := t.TempDir()
	pids, mark := filepath.Join(dir, "pids"), filepath.Join(dir, "mark")
	script := "test -e " + mark + " && { echo again; exec sleep 1000; }; touch " + mark + "; sleep 1000 & echo $! >" + pids + "; exit 1"
	ta := startAgent(t, Agent{}, script)
	left := waitPids(t, pids)[0]
	ta.waitOutput("again\n")
	if gone(left) {
		t.Error("a build step that can outlive an agent did not outlive this one")
	}
	ta.stop()
	ta.wantExit("it was ended", 143)
	waitGone(t, left, 2*time.Second)
}

func TestAgentDiesWithAKilledShim(t *testing.T) {
	private := filepath.Join(t.TempDir(), "private")
	if err := os.Mkdir(private, 0o700); err != nil {
		t.Fatal(err)
	}
	pids := filepath.Join(t.TempDir(), "pids")
	shim := startShim(t, deafFamily(pids), private)
	family := waitPids(t, pids)
	if err := shim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range family {
		waitGone(t, pid, 2*time.Second)
	}
	waitFor(t, "the secrets are removed", 2*time.Second, func() bool {
		_, err := os.Stat(private)
		return os.IsNotExist(err)
	})
}

func TestWhatAnAgentLeftDiesWithAKilledShim(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pids")
	shim := startShim(t, "sleep 1000 & echo $! >"+pids+"; exit 1", "") // and waits a second for the next start
	left := waitPids(t, pids)[0]
	if err := shim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	waitGone(t, left, 2*time.Second)
}

func TestGuardThatWasKilledIsReplaced(t *testing.T) {
	dir := t.TempDir()
	mark := filepath.Join(dir, "mark")
	g := new(group)
	defer g.close()
	start := func(script string) *member {
		t.Helper()
		m, err := g.start(exec.Command("/bin/sh", "-c", script))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	m := start("touch " + mark)
	<-m.done
	first := g.leader.pgid()
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-g.leader.done
	m = start("exec sleep 1000")
	if g.leader.pgid() == first {
		t.Error("the dead guard still leads")
	}
	g.close()
	<-m.done
}

func TestAgentThatIsNotThereIsTriedAgain(t *testing.T) {
	ta := startAgent(t, Agent{Args: []string{filepath.Join(t.TempDir(), "agent")}, Restart: RestartNever}, "")
	ta.wantExit("as a shell says it", 126)
	ta.wantLog("cannot be started")
}

func TestAgentsOutputIsKeptAndPassedOn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "agent.log")
	log, err := OpenRotated(file, 1<<20, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	// What it leaves behind holds its output; that must not hold up its end.
	ta := startAgent(t, Agent{Log: log, Restart: RestartNever}, "setsid sleep 2 & echo out; echo err >&2")
	ta.wantExit("it ended", 0)
	ta.wantOutput("out\n")
	got, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(got), "out\n") || !strings.Contains(string(got), "err\n") || len(got) != 8 {
		t.Errorf("the log holds %q, %v", got, err)
	}
}

// The door must still be there when the agent says farewell.
func TestAgentEndsBeforeItsDoor(t *testing.T) {
	d := make(recordingDoor, 1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var out lockedBuffer
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, Config{Door: d, DoorListener: l, Agent: &Agent{
			Args:   []string{"/bin/sh", "-c", "trap 'sleep 0.3; echo bye; exit 0' TERM; echo up; while :; do sleep 0.1; done"},
			Stdout: &out,
		}})
	}()
	waitFor(t, "the agent is up", 10*time.Second, func() bool { return out.String() == "up\n" })
	stop()
	<-d
	// The pipe was read to its end before the agent counted as ended.
	if got := out.String(); got != "up\nbye\n" {
		t.Errorf("when the door shut, the agent had said %q", got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// recordingDoor tells when it is shut.
type recordingDoor chan struct{}

func (d recordingDoor) Serve(ctx context.Context, l net.Listener) error {
	<-ctx.Done()
	d <- struct{}{}
	return l.Close()
}

func TestDoorThatFailsEndsTheShim(t *testing.T) {
	broken := errors.New("no more files")
	err := Run(t.Context(), Config{Door: failingDoor{broken}, Agent: &Agent{Args: []string{"sleep", "1000"}}})
	if !errors.Is(err, broken) {
		t.Errorf("Run: %v, want what broke the door", err)
	}
}

type failingDoor struct{ err error }

func (d failingDoor) Serve(context.Context, net.Listener) error { return d.err }

// testAgent is an agent, a shell script, that a shim runs.
type testAgent struct {
	*testing.T
	signals  chan os.Signal
	out, log lockedBuffer
	stop     context.CancelFunc
	ended    chan error
}

func startAgent(t *testing.T, a Agent, script string) *testAgent {
	ta := &testAgent{T: t, signals: make(chan os.Signal, 4), ended: make(chan error, 1)}
	if a.Args == nil {
		a.Args = []string{"/bin/sh", "-c", script}
	}
	a.Signals, a.Stdout, a.Stderr = ta.signals, &ta.out, new(bytes.Buffer)
	ctx, cancel := context.WithCancel(t.Context())
	ta.stop = cancel
	go func() {
		ta.ended <- Run(ctx, Config{Agent: &a, Log: slog.New(slog.NewTextHandler(&ta.log, nil))})
	}()
	t.Cleanup(cancel)
	return ta
}

func (ta *testAgent) wantExit(why string, want int) {
	ta.Helper()
	select {
	case err := <-ta.ended:
		e, ok := errors.AsType[*ExitError](err)
		if ok && e.Code != want || err == nil && want != 0 || err != nil && !ok {
			ta.Errorf("%s: the shim ended with %v, want exit code %d", why, err, want)
		}
	case <-time.After(20 * time.Second):
		ta.Fatalf("%s: the shim does not end", why)
	}
}

func (ta *testAgent) wantOutput(want string) {
	ta.Helper()
	if got := ta.out.String(); got != want {
		ta.Errorf("the agent said %q, want %q", got, want)
	}
}

func (ta *testAgent) waitOutput(want string) {
	ta.Helper()
	waitFor(ta.T, fmt.Sprintf("the agent says %q", want), 10*time.Second, func() bool { return ta.out.String() == want })
}

func (ta *testAgent) wantLog(want string) {
	ta.Helper()
	if got := ta.log.String(); !strings.Contains(got, want) {
		ta.Errorf("the log is %q, want %q", got, want)
	}
}

// deafFamily is an agent with a child and a grandchild, none of which hears
// SIGTERM; their ids go to a file.
func deafFamily(pids string) string {
	return "trap '' TERM INT; sh -c 'sleep 1000 & echo $$ $! >" + pids + ".part; wait' & child=$!; " +
		"while ! test -s " + pids + ".part; do sleep 0.05; done; echo $$ $(cat " + pids + ".part) >" + pids + ".new; mv " + pids + ".new " + pids + "; " +
		"while :; do wait; sleep 0.1; done"
}

func waitPids(t *testing.T, file string) (pids []int) {
	t.Helper()
	waitFor(t, "the agent is up", 10*time.Second, func() bool {
		text, err := os.ReadFile(file)
		pids = nil
		for word := range strings.FieldsSeq(string(text)) {
			var pid int
			if _, err := fmt.Sscan(word, &pid); err == nil {
				pids = append(pids, pid)
			}
		}
		return err == nil && len(pids) > 0 && strings.HasSuffix(string(text), "\n")
	})
	t.Cleanup(func() {
		for _, pid := range pids {
			if t.Failed() && !gone(pid) {
				_ = syscall.Kill(pid, syscall.SIGKILL) // what a broken shim has left
			}
		}
	})
	return pids
}

func startShim(t *testing.T, script, private string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), shimRole+"="+script, privateVar+"="+private)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // the test did it
		_ = cmd.Wait()
	})
	return cmd
}

// gone reports whether a process is dead; whether somebody has waited for it
// is not the shim's affair.
func gone(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return os.IsNotExist(err) && syscall.Kill(pid, 0) != nil
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(state, "Z")
}

func waitGone(t *testing.T, pid int, within time.Duration) {
	t.Helper()
	waitFor(t, fmt.Sprintf("process %d is gone", pid), within, func() bool { return gone(pid) })
}

func waitFor(t *testing.T, what string, within time.Duration, is func() bool) {
	t.Helper()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	late := time.After(within)
	for !is() {
		select {
		case <-again.C:
		case <-late:
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

func TestWhatIsMadeReadyEndsWithTheAgent(t *testing.T) {
	calls := make(chan error, 10)
	ended := make(chan error, 1)
	go func() {
		ended <- Run(t.Context(), Config{Agent: &Agent{
			Args: []string{"/bin/sh", "-c", "exit 0"}, Restart: RestartNever,
			Ahead: func(ctx context.Context) {
				<-ctx.Done() // what it waits for is away
				calls <- ctx.Err()
			},
		}})
	}()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if len(calls) != 1 {
		t.Errorf("%d calls for one start, or one goes on", len(calls))
	}
}

func TestWhoBeginsWithAFileIsKnown(t *testing.T) {
	at := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1234}
	const file = "http://127.0.0.1:1234/computer/a/slave-agent.jnlp"
	for options, want := range map[string]string{
		"-jnlpUrl":                  file,
		"-secret @file -jnlpUrl":    file + "?encrypt=true",
		"-secret 5ec4e7 -jnlpUrl":   file + "?encrypt=true",
		"-url":                      "",
		"-secret 5ec4e7 -tunnel":    "",
		"-secret @file -direct":     "",
		"-noReconnect -url {door}/": "",
	} {
		c, err := Lead(strings.Fields("java -jar agent.jar "+options+" http://ci/computer/a/slave-agent.jnlp"), at)
		if err != nil || c.JNLP != want {
			t.Errorf("%s: %q, %v; want %q", options, c.JNLP, err, want)
		}
	}
}
