package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// Processes starts workers as processes of program, which reads a Plan when it
// is called with args. Helpers are other programs for some systems. What they
// say on stderr goes to files in dir.
type Processes struct {
	Program string
	Args    []string
	Helpers map[string][]string // by system: program and arguments
	Dir     string
	Env     []string // more of it
}

// Spawn is a [Spawn].
func (p Processes) Spawn(ctx context.Context, system, name string) (*Child, error) {
	command := append([]string{p.Program}, p.Args...)
	if helper, ok := p.Helpers[system]; ok {
		command = helper
	}
	file := filepath.Join(p.Dir, name+".log")
	log, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stderr = log
	cmd.Env = append(os.Environ(), p.Env...)
	cmd.SysProcAttr = childAttr()
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	// A pipe of our own: Wait would close that of StdoutPipe before the last
	// word is read.
	out, write, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	cmd.Stdout = write
	started, ended := make(chan error, 1), make(chan struct{})
	var result error
	go func() {
		defer close(ended)
		defer log.Close()
		// A child dies with the thread that started it, so this one is kept.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- errors.Join(err, write.Close())
		if err == nil {
			result = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", command[0], err), out.Close())
	}
	return &Child{
		PID: cmd.Process.Pid, In: in, Out: out,
		Kill: func() { _ = cmd.Process.Kill() }, // fails only for one that has ended
		Stop: func(on bool) { freeze(cmd.Process.Pid, on) },
		Wait: func() error {
			<-ended
			return errors.Join(result, out.Close())
		},
		Trail: func() string { return lastLine(file) },
	}, nil
}

// lastLine is what a worker said last, most of the time the reason of its end.
func lastLine(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	// Of a panic the first line tells more.
	for _, l := range lines {
		if strings.HasPrefix(l, "panic: ") || strings.HasPrefix(l, "fatal error: ") {
			return l + " (more in " + file + ")"
		}
	}
	return lines[len(lines)-1]
}
