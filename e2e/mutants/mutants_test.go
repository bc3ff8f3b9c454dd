//go:build seeded

package mutants

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/seeded"
)

// A finder is one run of some tests.
type finder struct {
	pkg  string   // whose tests
	run  string   // which of them
	args []string // what else they are told
	luck bool     // may miss: what it meets depends on how goroutines take turns
}

func (f finder) String() string {
	return strings.Join(append([]string{f.pkg, f.run}, f.args...), " ")
}

func story(pkg string, tests ...string) finder {
	return finder{pkg: pkg, run: "^(" + strings.Join(tests, "|") + ")$"}
}

// often runs f again and again, where a bug opens a race.
func often(n int, f finder) finder {
	f.args = append(f.args, fmt.Sprintf("-test.count=%d", n), "-test.failfast")
	return f
}

func explorer(family string) finder {
	name := strings.ReplaceAll(family, " ", "_")
	return finder{pkg: "session/explore", run: "^TestFamilies$/^" + regexp.QuoteMeta(name) + "$"}
}

// simulation runs seeds that are the same every time. What it finds comes on
// top: the goroutines of a run don't take turns in the same order twice.
func simulation(n int) finder {
	return finder{
		pkg: "e2e/sim", run: "^TestSimulation$", luck: true,
		args: []string{"-sim.seed=1", fmt.Sprintf("-sim.n=%d", n), "-sim.first"},
	}
}

// seeds is how many a simulation gets to meet a bug in.
const seeds = 8

// finders tells what must find each bug.
var finders = map[seeded.Bug][]finder{
	seeded.AckBeforeKafka:    {story("session", "TestRelayAcknowledgesOnlyAPrefix"), explorer("produces"), simulation(seeds)},
	seeded.AckPastFailure:    {story("gateway", "TestFailedProduceEndsTheStream"), explorer("produces"), simulation(seeds)},
	seeded.StartAfterOpen:    {often(20, story("gateway", "TestOpenCarriesBothWays")), simulation(seeds)},
	seeded.ReplayLiveGap:     {story("gateway", "TestOpenCarriesBothWays"), story("bridge", "TestEachSubscriptionSeesExactlyItsRecords"), simulation(seeds)},
	seeded.ReplayOffByOne:    {story("gateway", "TestResumeElsewhereReadsFromKafka"), explorer("tombstone forgotten"), simulation(seeds)},
	seeded.ForeignPosition:   {story("gateway", "TestForeignTopicIsDataLoss")},
	seeded.OldStreamServed:   {story("session", "TestRelayIsCutByANewerAttempt"), story("gateway", "TestNewerStreamCutsTheOlder")},
	seeded.HigherAccepted:    {story("session", "TestEndRefusesAHole"), story("link", "TestHoleEndsTheStreamOnly"), explorer("late produces")},
	seeded.DedupForgets:      {story("session", "TestFrameWhoseAcknowledgementWasLostIsTakenOnce"), explorer("links"), simulation(seeds)},
	seeded.DrainDropsTail:    {story("link", "TestBrokenStreamIsResumedWhereItStood"), explorer("links"), simulation(seeds)},
	seeded.WindowCountsItems: {story("session", "TestSlowReaderHoldsItsWriterBack"), story("conn", "TestWriteWaitsForTheFarReader")},
	seeded.FinOvertakes:      {story("conn", "TestHalfCloseFollowsJoinedBytes")},
	seeded.DeliveredOnce:     {story("session", "TestLostDeliveredIsProducedAgain"), explorer("records lost, small window")},
	seeded.HalfOpenLoses:     {story("bridge", "TestBreakerLosesNothing")},
	seeded.EvictedNotReread:  {story("gateway", "TestSlowAgentIsReadAgainFromKafka")},
	seeded.EndedRevived:      {story("session", "TestRegistryTellsOldFromNew"), story("controller", "TestLateRecordsOfEndedSessions"), explorer("controller and links")},
	seeded.TicketUnchecked:   {story("gateway", "TestHelloIsJudged", "TestSessionOfAnotherIdentityCannotBeResumed")},
	seeded.OldIncarnation:    {story("session", "TestRegistryKeepsSilentAboutWhatMayOpen"), story("controller", "TestUnknownSessions"), explorer("controller and links")},
	seeded.CloseOnce:         {story("session", "TestLostCloseIsProducedAgain"), explorer("produces")},
	seeded.RecutOnResume:     {story("link", "TestBrokenStreamIsResumedWhereItStood"), simulation(seeds)},
	seeded.StaleIdentity:     {story("connector", "TestLookUpFollowsARestart")},
	seeded.EndNotCarried:     {story("connector", "TestEndings")},
	seeded.PingCrosses:       {story("connector", "TestSessionReachesTheWebSocket")},
	seeded.ChildOrphaned:     {story("shim", "TestAgentDiesWithAKilledShim", "TestWhatAnAgentLeftDiesWithAKilledShim")},
	seeded.CloseNotify:       {story("standin", "TestReconnectTimes")},
	seeded.EmptyFinalChunk:   {story("standin", "TestCommandsOfEverySize")},
	seeded.ReplyOvertakes:    {story("conn", "TestWaitingBytesGoBeforeLaterOnes")},
	seeded.HalfCommand:       {story("session", "TestFramesOfALostStreamComeAgain"), story("link", "TestBrokenStreamIsResumedWhereItStood")},
	seeded.ProbeOpensSession: {story("door", "TestProbeOpensNoSession")},
	seeded.JarCacheStale:     {story("door", "TestManyAgentsPullOneJar")},
	seeded.AckPassedOn:       {story("door", "TestAgentBytesPassUnchanged", "TestProxyProtocolShowsTheName")},
}

// patience bounds a run that took d without a bug: one that makes a test
// hang is found, too.
func patience(d time.Duration) time.Duration { return 5*time.Second + 10*d }

func TestMutants(t *testing.T) {
	l := build(t)
	calm := map[string]time.Duration{}
	for _, f := range distinct() {
		began := time.Now()
		if found, out := l.find(t.Context(), "", f, time.Minute); found != "" {
			t.Errorf("no bug is on, and it fails: %s %s\n%s", f.pkg, f.run, out)
		}
		calm[f.String()] = time.Since(began)
	}
	if t.Failed() {
		t.Fatal("whoever fails without a bug finds none")
	}
	var table strings.Builder
	fmt.Fprintf(&table, "%-20s %-60s %s\n", "bug", "found by", "after")
	for _, bug := range seeded.All {
		survives := true
		for _, f := range finders[bug] {
			began := time.Now()
			found, _ := l.find(t.Context(), bug, f, patience(calm[f.String()]))
			took := time.Since(began)
			switch {
			case found != "":
				fmt.Fprintf(&table, "%-20s %-60s %.1fs\n", bug, found, took.Seconds())
				survives = false
			case f.luck:
				fmt.Fprintf(&table, "%-20s %-60s %.1fs\n", bug, "(not met by "+f.pkg+" this time)", took.Seconds())
			default:
				t.Errorf("%s: not found by %s %s", bug, f.pkg, f.run)
			}
		}
		if survives {
			fmt.Fprintf(&table, "%-20s SURVIVES\n", bug)
			t.Errorf("%s survives", bug)
		}
	}
	t.Logf("%d seeded bugs, one at a time:\n%s", len(seeded.All), &table)
}

// distinct returns everything that runs, once.
func distinct() (all []finder) {
	seen := map[string]bool{}
	for _, bug := range seeded.All {
		for _, f := range finders[bug] {
			if !seen[f.String()] {
				seen[f.String()] = true
				all = append(all, f)
			}
		}
	}
	return all
}

// A lab holds test binaries, by package.
type lab struct{ root, dir string }

func build(t *testing.T) lab {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	l := lab{root, t.TempDir()}
	pkgs := map[string]bool{}
	for _, f := range distinct() {
		pkgs["./"+f.pkg] = true
	}
	// All at once, for one can be compiled while another is linked.
	began := time.Now()
	args := []string{"test", "-tags", "seeded", "-c", "-o", l.dir + string(filepath.Separator)}
	cmd := exec.CommandContext(t.Context(), "go", append(args, slices.Sorted(maps.Keys(pkgs))...)...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the tests: %v\n%s", err, out)
	}
	t.Logf("the tests of %d packages are built in %.1fs", len(pkgs), time.Since(began).Seconds())
	return l
}

func (l lab) binary(pkg string) string {
	return filepath.Join(l.dir, path.Base(pkg)+".test") // as the go command names it
}

var failure = regexp.MustCompile(`(?m)^ *--- FAIL: (\S+)`)

// find runs f with a bug switched on. found tells what failed; "": nothing did.
func (l lab) find(ctx context.Context, bug seeded.Bug, f finder, within time.Duration) (found, output string) {
	ctx, cancel := context.WithTimeoutCause(ctx, within, errors.New("hangs"))
	defer cancel()
	cmd := exec.CommandContext(ctx, l.binary(f.pkg), append([]string{"-test.run", f.run, "-test.v"}, f.args...)...)
	cmd.Dir = filepath.Join(l.root, f.pkg)
	cmd.Env = append(os.Environ(), seeded.Variable+"="+string(bug))
	out, err := cmd.CombinedOutput()
	output = string(out)
	switch {
	case err == nil && strings.Contains(output, "no tests to run"):
		return "no such test", output // counts as a failure without a bug, so it is seen
	case err == nil:
		return "", output
	case ctx.Err() != nil:
		return f.String() + " " + context.Cause(ctx).Error(), output
	}
	name := "panic"
	for _, m := range failure.FindAllStringSubmatch(output, -1) {
		if name == "panic" || strings.HasPrefix(m[1], name+"/") {
			name = m[1] // the innermost of the first
		}
	}
	return f.pkg + " " + name, output
}

func TestEveryBugHasAFinder(t *testing.T) {
	if len(seeded.All) < 15 {
		t.Errorf("%d seeded bugs, want 15 or more", len(seeded.All))
	}
	for _, bug := range seeded.All {
		if len(finders[bug]) == 0 {
			t.Errorf("%s: nothing is said to find it", bug)
		}
	}
	for bug := range finders {
		if !slices.Contains(seeded.All, bug) {
			t.Errorf("%s: no such bug", bug)
		}
	}
}
