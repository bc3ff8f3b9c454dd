package proc_test

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/moorage-dev/moorage/broker"
	"github.com/moorage-dev/moorage/e2e/rig"
)

var transferSize = flag.Int64("proc.size", 1<<30, "bytes of the large transfers")

// work is where binaries are built; it goes with the run.
var work string

func TestMain(m *testing.M) {
	flag.Parse()
	// Tests that run in parallel spend their time waiting for others' timers.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err) // the testing package has lost its flag
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if work, err = os.MkdirTemp("", "moorage-proc-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(work)
	code := m.Run()
	oneKafka.close()
	http.DefaultClient.CloseIdleConnections()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// ordinary is the program under test, built once for the run.
var ordinary = sync.OnceValues(func() (string, error) { return build("moorage") })

// racing is the same with the race detector in it.
var racing = sync.OnceValues(func() (string, error) { return build("moorage-race", "-race") })

func build(name string, flags ...string) (string, error) {
	path := filepath.Join(work, name)
	args := append([]string{"build", "-o", path}, flags...)
	out, err := exec.Command("go", append(args, "github.com/moorage-dev/moorage/cmd/moorage")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", name, err, out)
	}
	return path, nil
}

// oneKafka is a single node that tests share: each has a controller, and so
// topics, of its own. It starts when the first test wants it.
var oneKafka sharedKafka

type sharedKafka struct {
	once  sync.Once
	kafka *broker.Apache
	err   error
}

func (s *sharedKafka) start(t *testing.T) *broker.Apache {
	t.Helper()
	s.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		s.kafka, s.err = broker.StartApache(ctx, broker.ApacheConfig{FastFailover: true})
	})
	rig.Must(t, s.err)
	return s.kafka
}

func (s *sharedKafka) close() {
	if s.kafka != nil {
		s.kafka.Close()
	}
}
