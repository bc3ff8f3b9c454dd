package shim

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// An upgrade puts another binary in the place of the one that runs; agents
// that are started again after it need a guard all the same.
func TestShimWhoseProgramIsReplacedStillGuards(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "shim")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, content, 0o700); err != nil {
		t.Fatal(err)
	}
	pids, begun, upgraded := filepath.Join(dir, "pids"), filepath.Join(dir, "begun"), filepath.Join(dir, "upgraded")
	// The guard is killed before the second start, so that there must be a new one.
	script := "test -e " + upgraded + " && { echo $$ >" + pids + "; exec sleep 1000; }; " +
		"touch " + begun + "; while ! test -e " + upgraded + "; do sleep 0.05; done; kill -9 0"
	shim := exec.Command(program)
	shim.Env = append(os.Environ(), shimRole+"="+script, privateVar+"=")
	if err := shim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = shim.Process.Kill() // the test did it
		_ = shim.Wait()
	})
	waitFor(t, "the agent is up", 10*time.Second, func() bool {
		_, err := os.Stat(begun)
		return err == nil
	})
	if err := os.Remove(program); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, []byte("#!/bin/sh\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(upgraded, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	agent := waitPids(t, pids)[0]
	if err := shim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	waitGone(t, agent, 2*time.Second)
}
