package legacy_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/moorage-dev/moorage/broker"
)

// insideVar tells the test binary that it runs in a network namespace of its
// own; its value is the folder of the program under test.
const insideVar = "MOORAGE_LEGACY_INSIDE"

// program is the binary under test; it is built if the flag names none.
var program = flag.String("legacy.program", "", "binary under test; built from this module by default")

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == stepWord {
		os.Exit(runStep(os.Args[2:]))
	}
	flag.Parse()
	// Builds that run side by side spend most of their time waiting, and the
	// rest on starting Java.
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err) // the testing package has lost its flag
	}
	work := os.Getenv(insideVar)
	if work == "" {
		fmt.Fprintln(os.Stderr, "e2e/legacy:", outside())
		os.Exit(1)
	}
	if *program == "" {
		*program = filepath.Join(work, "moorage")
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "e2e/legacy: a new namespace's loopback: %v: %s\n", err, out)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(work) // a temporary folder, the system's to clean if it can't be
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// outside prepares what needs the machine's network, and then lets the test
// binary start again, with the same arguments, on a network of its own. It
// returns only to say why it can't.
func outside() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if err := install(ctx, peersDir()); err != nil {
		return err
	}
	if err := broker.InstallApache(ctx, ""); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "moorage-legacy-")
	if err != nil {
		return err
	}
	if *program == "" {
		out, err := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(work, "moorage"),
			"github.com/moorage-dev/moorage/cmd/moorage").CombinedOutput()
		if err != nil {
			return fmt.Errorf("building moorage: %w\n%s", err, out)
		}
	}
	return moveIn(work)
}

// moveIn replaces this process by itself in a network namespace: as root, or
// as root of a user namespace.
func moveIn(work string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		return fmt.Errorf("the tests need util-linux: %w", err)
	}
	args := []string{unshare, "--net"}
	if os.Getuid() != 0 {
		args = append(args, "--user", "--map-root-user")
	}
	if out, err := exec.Command(args[0], append(args[1:], "ip", "link")...).CombinedOutput(); err != nil {
		return fmt.Errorf("the tests need network namespaces (iproute2; root, or user namespaces for everybody): %q: %w: %s", args, err, out)
	}
	args = append(append(args, self), os.Args[1:]...)
	return syscall.Exec(unshare, args, append(os.Environ(), insideVar+"="+work))
}
