package modern_test

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == agentWord {
		os.Exit(runAgent(os.Args[2:]))
	}
	flag.Parse()
	// Tests that run in parallel spend their time waiting for others' timers.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err) // the testing package has lost its flag
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}
