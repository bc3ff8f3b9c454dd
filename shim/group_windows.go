package shim

import (
	"errors"
	"os"
	"os/exec"
	"unsafe"

	"golang.org/x/sys/windows"
)

// terminate stands for being ended: Windows knows no signal that an agent
// without a console would hear.
var terminate = os.Kill

func ends(sig os.Signal) bool { return sig == os.Interrupt || sig == os.Kill }

// Forwarded are the signals that a shim passes on to its agent.
func Forwarded() []os.Signal { return nil }

// A group is a job of an agent and of all that it starts. The kernel ends it
// with its last handle, which only the shim has.
type group struct {
	private string // stays behind when the shim is killed
	job     windows.Handle
}

func (g *group) create() error {
	job, err := windows.CreateJobObject(nil, nil)
	if err != nil {
		return err
	}
	info := windows.JOBOBJECT_EXTENDED_LIMIT_INFORMATION{
		BasicLimitInformation: windows.JOBOBJECT_BASIC_LIMIT_INFORMATION{LimitFlags: windows.JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE},
	}
	_, err = windows.SetInformationJobObject(job, windows.JobObjectExtendedLimitInformation, uintptr(unsafe.Pointer(&info)), uint32(unsafe.Sizeof(info)))
	if err != nil {
		return errors.Join(err, windows.CloseHandle(job))
	}
	g.job = job
	return nil
}

// A member is an agent in a job.
type member struct {
	cmd  *exec.Cmd
	job  windows.Handle
	done chan struct{} // closed when it has ended
}

// start starts cmd in the job. What it starts itself within its first moment
// may stay outside.
func (g *group) start(cmd *exec.Cmd) (*member, error) {
	if g.job == 0 {
		if err := g.create(); err != nil {
			return nil, err
		}
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if err := g.take(cmd.Process.Pid); err != nil {
		return nil, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	m := &member{cmd: cmd, job: g.job, done: make(chan struct{})}
	go func() {
		defer close(m.done)
		_ = cmd.Wait() // how it ended stands in ProcessState
	}()
	return m, nil
}

func (g *group) take(pid int) error {
	process, err := windows.OpenProcess(windows.PROCESS_SET_QUOTA|windows.PROCESS_TERMINATE, false, uint32(pid))
	if err != nil {
		return err
	}
	return errors.Join(windows.AssignProcessToJobObject(g.job, process), windows.CloseHandle(process))
}

func (m *member) signal(sig os.Signal) {
	if ends(sig) {
		m.kill()
	}
}

// kill ends the agent and all of its job.
func (m *member) kill() { _ = windows.TerminateJobObject(m.job, 1) } // it may have ended

// close ends what is left of the job.
func (g *group) close() {
	if g.job != 0 {
		_ = windows.CloseHandle(g.job) // it was open
	}
}

func exitCode(state *os.ProcessState) int {
	if state == nil {
		return 1
	}
	return state.ExitCode()
}
