package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A talk is the standard error of a Go process that serves no metrics, run
// with gctrace=1: what it tells of its garbage collections, and of its
// goroutines when it is made to end. All else goes to ours.
type talk struct {
	mu          sync.Mutex // guards the following
	rest        []byte     // a line not ended yet
	collections int
	live        float64 // bytes that the last collection left, and stacks
	goroutines  int     // in the dump of one that was made to end
	dumping     bool
}

// Write takes what the process says.
func (t *talk) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rest = append(t.rest, p...)
	for {
		line, rest, whole := bytes.Cut(t.rest, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		t.takeLocked(string(line))
		t.rest = append([]byte(nil), rest...)
	}
}

func (t *talk) takeLocked(line string) {
	live, collected := parseCollection(line)
	switch {
	case collected:
		t.collections++
		t.live = live
	case strings.HasPrefix(line, "SIGQUIT: quit"):
		t.dumping = true
	case t.dumping:
		// Goroutine 0 is a thread's own stack.
		if strings.HasPrefix(line, "goroutine ") && !strings.HasPrefix(line, "goroutine 0 ") {
			t.goroutines++
		}
	default:
		fmt.Fprintln(os.Stderr, line)
	}
}

// parseCollection reads the line that the runtime writes for a collection,
// "gc 5 @1.2s 0%: … ms cpu, 4->4->2 MB, 4 MB goal, 1 MB stacks, …", and
// returns what was alive, with the stacks.
func parseCollection(line string) (live float64, ok bool) {
	if !strings.HasPrefix(line, "gc ") {
		return 0, false
	}
	for part := range strings.SplitSeq(line, ", ") {
		text, heap := part, false
		if i := strings.LastIndex(part, "->"); i >= 0 {
			text, heap = part[i+2:], true
		} else if !strings.HasSuffix(part, " MB stacks") {
			continue
		}
		number, _, _ := strings.Cut(text, " ")
		mb, err := strconv.ParseFloat(number, 64)
		if err != nil {
			return 0, false
		}
		live += mb * (1 << 20)
		ok = ok || heap
	}
	return live, ok
}

// collected waits for one more collection than there had been, and returns
// what it left. The runtime makes one every two minutes if nothing else does.
func (t *talk) collected(ctx context.Context, had int) (live float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 130*time.Second)
	defer cancel()
	for {
		n, live := t.last()
		if n > had {
			return live, nil
		}
		if ctx.Err() != nil {
			return 0, errors.New("no garbage collection in sight")
		}
		rest(ctx, 250*time.Millisecond)
	}
}

// last is how many collections there have been, and what the last one left.
func (t *talk) last() (collections int, live float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.collections, t.live
}

// quit ends the process with a dump of its goroutines and counts them.
func (t *talk) quit(p *process) (goroutines int, err error) {
	if err := p.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		return 0, err
	}
	_ = p.cmd.Wait() // it ends with an error, and when all it says has been taken
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.goroutines == 0 {
		return 0, fmt.Errorf("%s told nothing of its goroutines", p.name)
	}
	return t.goroutines, nil
}
