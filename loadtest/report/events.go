package report

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/moorage-dev/moorage/loadtest/results"
)

// eventsLimit bounds events.ndjson. The event that would pass it is replaced by
// one that says so, and nothing comes after it.
const eventsLimit = 64 << 20

// Events writes events.ndjson while a run goes on: what happened is there even
// if the harness is killed, but for the last second. It is safe for concurrent
// use.
type Events struct {
	failed chan struct{} // closed when err is set
	quit   chan struct{}
	done   chan struct{}
	path   string
	limit  int

	mu  sync.Mutex
	f   *os.File
	w   *bufio.Writer
	n   int // bytes so far
	err error
}

// NewEvents makes dir and the file in it.
func NewEvents(dir string) (*Events, error) {
	path := filepath.Join(dir, EventsFile)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, cannotWrite(dir, err)
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, cannotWrite(path, err)
	}
	e := &Events{
		failed: make(chan struct{}), quit: make(chan struct{}), done: make(chan struct{}),
		path: path, limit: eventsLimit, f: f, w: bufio.NewWriter(f),
	}
	go e.flush()
	return e, nil
}

// Add appends an event. After a failure it does nothing: see Failed.
func (e *Events) Add(event results.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err != nil || e.n >= e.limit {
		return
	}
	line, err := json.Marshal(event)
	if err == nil && e.n+len(line) >= e.limit {
		e.n = e.limit
		line, err = json.Marshal(results.Event{At: event.At, Run: event.Run, Kind: "limit", Text: "the events after this one are left out: the file is full"})
	}
	if err == nil {
		e.n += len(line) + 1
		_, err = e.w.Write(append(line, '\n'))
	}
	e.failLocked(err)
}

// Failed is closed when the file could not be written, such as on a full disk.
// The run should then end in order; Close has the reason.
func (e *Events) Failed() <-chan struct{} { return e.failed }

// Close writes what is left, and returns the first error there was.
func (e *Events) Close() error {
	close(e.quit)
	<-e.done
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err == nil {
		e.failLocked(e.w.Flush())
	}
	e.failLocked(e.f.Close())
	return e.err
}

func (e *Events) failLocked(err error) {
	if err == nil || e.err != nil {
		return
	}
	e.err = cannotWrite(e.path, err)
	close(e.failed)
}

func (e *Events) flush() {
	defer close(e.done)
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-e.quit:
			return
		case <-t.C:
		}
		e.mu.Lock()
		if e.err == nil {
			e.failLocked(e.w.Flush())
		}
		e.mu.Unlock()
	}
}
