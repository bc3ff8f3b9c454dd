package legacy

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/shim"
)

func TestMain(m *testing.M) {
	if os.Args[0] == "moorage" {
		beShim()
	}
	goleak.VerifyTestMain(m)
}

// beShim is what of moorage's shim KillShim needs: an agent.
func beShim() {
	command := os.Args[slices.Index(os.Args, "--")+1:]
	err := shim.Run(context.Background(), shim.Config{Agent: &shim.Agent{Args: command, Stdout: os.Stdout}})
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func TestStoriesEndClean(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for desc, play := range map[string]func(*Site, context.Context) error{
		"serve": (*Site).Serve, "restart": (*Site).Restart, "ping": (*Site).Ping, "probe": (*Site).Probe, "die": (*Site).Die,
		"kill the shim": (*Site).KillShim,
	} {
		t.Run(desc, func(t *testing.T) {
			c := check.New(check.Config{})
			s, err := Start(t.Context(), Config{Check: c, Patience: time.Minute, Program: program})
			if err != nil {
				t.Fatal(err)
			}
			err = play(s, t.Context())
			s.Close()
			if r := c.Report(true); err != nil || !r.Clean() || r.Sessions != 1 {
				t.Errorf("%v\n%v", err, r)
			}
		})
	}
}
