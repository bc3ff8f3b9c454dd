package proc_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/e2e/rig"
)

const (
	faultLength = 60 * time.Second
	typedEvery  = 200 * time.Millisecond
)

// For a minute nothing passes between shim and gateways, whichever is tried,
// and nothing tells either side so. The session waits and goes on.
func TestSSHOutlivesABlackHole(t *testing.T) {
	t.Parallel()
	f := newSingle(t)
	var holes []*hole
	var places []string
	for range 2 {
		g := f.gateway(rig.FreeAddress(t))
		holes = append(holes, newHole(t, g.place))
		places = append(places, holes[len(holes)-1].address())
	}
	f.connector("connector", "ssh", startSSHD(t))
	s := startShell(t, f.shim("ssh", places...))
	s.wantGoingOn("before the fault", 20*time.Second)

	for _, h := range holes {
		h.swallow()
	}
	rig.Pass(t, faultLength)
	if quiet := time.Since(s.latest()); quiet < faultLength-5*time.Second {
		t.Errorf("something came through the hole %v ago", quiet)
	}
	for _, h := range holes {
		h.heal()
	}
	healed := time.Now()
	s.wantGoingOn("after the hole", 20*time.Second)
	t.Logf("went on %v after the hole was gone", s.firstAfter(healed).Round(time.Millisecond))
	rig.Pass(t, 5*time.Second)
	s.wantExactTranscript()
}

// The gateway in use freezes, with all its connections. The session moves, and
// when the gateway thaws, with a minute-old idea of the world, nothing changes.
func TestSSHOutlivesAFrozenGateway(t *testing.T) {
	t.Parallel()
	f := newSingle(t)
	places := []string{rig.FreeAddress(t), rig.FreeAddress(t)}
	for _, place := range places {
		f.gateway(place)
	}
	f.connector("connector", "ssh", startSSHD(t))
	s := startShell(t, f.shim("ssh", places...))
	s.wantGoingOn("before the fault", 20*time.Second)

	frozen, _ := f.inUse()
	frozen.Freeze()
	begin := time.Now()
	rig.Pass(t, 25*time.Second)
	gap := s.longestGap(begin)
	t.Logf("the longest pause was %v", gap.Round(time.Millisecond))
	if gap > 20*time.Second {
		t.Errorf("the session paused for %v, want at most 20 s", gap)
	}
	now, held := f.inUse()
	if now == frozen {
		t.Errorf("the session is still said to be at %s, which is frozen", frozen.Name)
	}

	rig.Pass(t, faultLength-time.Since(begin))
	frozen.Thaw()
	thawed := time.Now()
	rig.Pass(t, 10*time.Second)
	if after, still := f.inUse(); after != now || still.Attempt != held.Attempt {
		t.Errorf("10 s after the thaw the session is at %s, attempt %d; it was at %s, attempt %d", after.Name, still.Attempt, now.Name, held.Attempt)
	}
	if gap := s.longestGap(thawed); gap > 2*time.Second {
		t.Errorf("after the thaw the session paused for %v", gap)
	}
	s.wantExactTranscript()
}

// remote prints ticks of its own beside the echo of what is typed, each line
// in one write, until there is nothing more to read.
const remote = `( n=0; while n=$((n+1)); echo "tick $n"; do sleep 0.2; done ) & ticks=$!
echo ready
while read -r typed; do echo "echo $typed"; done
kill $ticks; wait $ticks 2>/dev/null
echo end`

// A shell is an ssh session in which somebody types numbered lines.
type shell struct {
	*testing.T
	cmd    *exec.Cmd
	typed  int           // lines; typing's own until it has ended
	stop   chan struct{} // ends typing
	typing sync.WaitGroup
	read   chan error // the end of the output

	mu    sync.Mutex
	lines []heard
}

type heard struct {
	at   time.Time
	text string
}

// startShell logs in through a forwarded port and begins to type.
func startShell(t *testing.T, address string) *shell {
	t.Helper()
	key := sshKeys(t)
	host, port, err := net.SplitHostPort(address)
	rig.Must(t, err)
	s := &shell{T: t, stop: make(chan struct{}), read: make(chan error, 1)}
	s.cmd = exec.CommandContext(t.Context(), "ssh", "-F", "none", "-T", "-i", key.client, "-p", port,
		"-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "LogLevel=ERROR", "-o", "ServerAliveInterval=0", "-o", "ConnectTimeout=30", host, remote)
	s.cmd.Stderr = t.Output()
	in, err := s.cmd.StdinPipe()
	rig.Must(t, err)
	out, err := s.cmd.StdoutPipe()
	rig.Must(t, err)
	rig.Must(t, s.cmd.Start())
	go func() { s.read <- s.listen(out) }()
	s.typing.Go(func() { s.typeLines(in) })
	return s
}

func (s *shell) listen(out io.Reader) error {
	scan := bufio.NewScanner(out)
	for scan.Scan() {
		s.mu.Lock()
		s.lines = append(s.lines, heard{time.Now(), scan.Text()})
		s.mu.Unlock()
	}
	return scan.Err()
}

// typeLines types until stop, and then says that there is no more.
func (s *shell) typeLines(in io.WriteCloser) {
	defer in.Close()
	tick := time.NewTicker(typedEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.typed++
			if _, err := fmt.Fprintf(in, "line %d\n", s.typed); err != nil {
				s.Errorf("typing line %d: %v", s.typed, err)
				return
			}
		case <-s.stop:
			return
		case <-s.Context().Done():
			return
		}
	}
}

// wantGoingOn waits until ten lines have come from now on.
func (s *shell) wantGoingOn(when string, within time.Duration) {
	s.Helper()
	before := s.count()
	rig.Eventually(s.T, "the session goes on "+when, within, func() bool { return s.count() >= before+10 })
}

func (s *shell) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.lines)
}

// latest is when the newest line came.
func (s *shell) latest() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lines[len(s.lines)-1].at
}

// firstAfter is how long after a time the first line came.
func (s *shell) firstAfter(begin time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, line := range s.lines {
		if line.at.After(begin) {
			return line.at.Sub(begin)
		}
	}
	return time.Since(begin)
}

// longestGap is the longest time without a line since begin.
func (s *shell) longestGap(begin time.Time) (longest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := begin
	for _, line := range s.lines {
		if line.at.After(begin) {
			longest, last = max(longest, line.at.Sub(last)), line.at
		}
	}
	return max(longest, time.Since(last))
}

// wantExactTranscript ends the typing, and wants every line, both ways, in its
// order and once, and an orderly end.
func (s *shell) wantExactTranscript() {
	s.Helper()
	close(s.stop)
	s.typing.Wait()
	select {
	case err := <-s.read:
		if err != nil {
			s.Errorf("reading: %v", err)
		}
	case <-time.After(20 * time.Second):
		s.Fatalf("the session does not end; the last of %d lines: %q", s.count(), s.lines[s.count()-1].text)
	}
	if err := s.cmd.Wait(); err != nil {
		s.Errorf("ssh: %v", err)
	}
	ticks, echoes := 0, 0
	var got, want []string
	for _, line := range s.lines {
		if strings.HasPrefix(line.text, "tick ") {
			ticks++
			if line.text != fmt.Sprintf("tick %d", ticks) {
				s.Errorf("got %q, want tick %d", line.text, ticks)
			}
			continue
		}
		got = append(got, line.text)
	}
	want = append(want, "ready")
	for echoes < s.typed {
		echoes++
		want = append(want, fmt.Sprintf("echo line %d", echoes))
	}
	want = append(want, "end")
	if !slices.Equal(got, want) {
		s.Errorf("transcript of %d lines, want %d; it ends %q", len(got), len(want), got[max(0, len(got)-3):])
	}
	s.Logf("%d lines typed and %d echoed, %d ticks heard", s.typed, len(got)-2, ticks)
}

// keys are an ssh server's and its one client's.
type keys struct{ host, client string }

// sshKeys makes keys once per test.
func sshKeys(t *testing.T) keys {
	t.Helper()
	dir := filepath.Join(work, strings.ReplaceAll(t.Name(), "/", "-"))
	k := keys{filepath.Join(dir, "host"), filepath.Join(dir, "client")}
	if _, err := os.Stat(dir); err == nil {
		return k
	}
	rig.Must(t, os.Mkdir(dir, 0o700))
	for _, file := range []string{k.host, k.client} {
		rig.Output(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file)
	}
	return k
}

// startSSHD starts Debian's sshd for this user, and returns its address.
func startSSHD(t *testing.T) string {
	t.Helper()
	k := sshKeys(t)
	me, err := user.Current()
	rig.Must(t, err)
	if me.Uid == "0" {
		rig.Must(t, os.MkdirAll("/run/sshd", 0o755)) // where it locks itself up; init scripts make it elsewhere
	}
	address := rig.FreeAddress(t)
	host, port, err := net.SplitHostPort(address)
	rig.Must(t, err)
	config := filepath.Join(filepath.Dir(k.host), "sshd_config")
	rig.Must(t, os.WriteFile(config, fmt.Appendf(nil, `
ListenAddress %s
Port %s
HostKey %s
AuthorizedKeysFile %s.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
ClientAliveInterval 0
`, host, port, k.host, k.client), 0o600))
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		sshd = "/usr/sbin/sshd" // where only root looks
	}
	rig.Start(t, "sshd", sshd, "-D", "-e", "-f", config).WaitSaid("listening on", 10*time.Second)
	return address
}
