package legacy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/moorage-dev/moorage/check"
)

// buildStep is an agent that starts something, tells what, and works on it.
const buildStep = "sleep 60 & echo $!; wait"

// KillShim has a shim of its own start an agent, and dies: the shim as by the
// OOM killer. What the agent has started must end too. All of them write into
// one pipe, and that ends with the last of them.
func (s *Site) KillShim(ctx context.Context) error {
	if s.cfg.Program == "" {
		return errors.New("legacy: no program to start a shim with")
	}
	dir, err := os.MkdirTemp("", "moorage-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	said, says, err := os.Pipe()
	if err != nil {
		return err
	}
	defer said.Close()
	shim := exec.CommandContext(ctx, s.cfg.Program)
	shim.Args = []string{
		"moorage", "shim", "--gateway", s.door, "--controller", name, "--agent", agent, "--insecure", "--state-dir", dir,
		"--", "sh", "-c", buildStep, "{door}",
	}
	shim.Stdout, shim.Stderr = says, log
	err = errors.Join(shim.Start(), says.Close())
	if err != nil {
		return err
	}
	var step int
	err = said.SetReadDeadline(time.Now().Add(s.cfg.Patience))
	if err == nil {
		_, err = fmt.Fscanln(bufio.NewReader(said), &step)
	}
	kill := func() { _, _ = shim.Process.Kill(), shim.Wait() } // it ends by this
	if err != nil {
		kill()
		text, _ := os.ReadFile(log.Name()) // all there is to say
		return fmt.Errorf("legacy: the shim has no agent: %w: %s", err, text)
	}
	c := s.cfg.Check
	kill()
	c.Gone(id, check.Controller)
	if err := said.SetReadDeadline(time.Now().Add(endWithin)); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, said); err == nil {
		c.Ended(id, check.Agent, check.OK, "all that the agent has started has ended")
		return nil
	}
	orphan, err := os.FindProcess(step)
	if err == nil {
		_ = orphan.Kill() // it may have ended by now
	}
	return err
}
