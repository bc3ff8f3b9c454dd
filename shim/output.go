package shim

import (
	"io"
	"os"
	"sync"
	"time"
)

// output is where an agent's output goes, for all its starts.
//
// Files are given to the agent as they are. For anything else there are pipes
// of the shim's own, not the library's: those would be waited for after each
// start, as long as some process left behind holds one.
type output struct {
	stdout, stderr *os.File // nil: nobody takes it
	pipes          []*os.File
	copying        sync.WaitGroup
	ends           []*os.File // the read ends
}

func (a *Agent) output() (*output, error) {
	o := new(output)
	for _, w := range []struct {
		to   io.Writer
		file **os.File
	}{{a.Stdout, &o.stdout}, {a.Stderr, &o.stderr}} {
		to := w.to
		if f, ok := to.(*os.File); ok && a.Log == nil {
			*w.file = f
			continue
		}
		switch {
		case a.Log != nil && to != nil:
			to = &both{to, a.Log}
		case a.Log != nil:
			to = a.Log
		case to == nil:
			continue
		}
		r, file, err := os.Pipe()
		if err != nil {
			o.close()
			return nil, err
		}
		*w.file = file
		o.pipes, o.ends = append(o.pipes, file), append(o.ends, r)
		o.copying.Go(func() {
			defer r.Close()
			_, _ = io.Copy(to, r) // both never fails, and Stdout is gone with whoever could be told
		})
	}
	return o, nil
}

// leaving bounds how long the last output is waited for: a process that has
// left the agent's group may hold a pipe for ever.
const leaving = time.Second

// close waits until all output was passed on. The agent is gone.
func (o *output) close() {
	for _, p := range o.pipes {
		_ = p.Close() // nothing is buffered in it
	}
	for _, r := range o.ends {
		_ = r.SetReadDeadline(time.Now().Add(leaving)) // where it cannot be set, the pipe ends by itself
	}
	o.copying.Wait()
}

// both writes to a log whatever becomes of the other.
type both struct {
	to  io.Writer
	log *Rotated
}

func (b *both) Write(p []byte) (int, error) {
	_, _ = b.to.Write(p) // the log goes on without it
	return b.log.Write(p)
}
