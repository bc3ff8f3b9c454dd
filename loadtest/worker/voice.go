package worker

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"github.com/moorage-dev/moorage/loadtest/results"
)

// Bounds of events: that wait to be said, and of a whole run. What is beyond is
// dropped; the account has it all.
const (
	waitingEvents = 256
	mostEvents    = 10_000
)

// A voice says words, one a line, from any goroutine.
type voice struct {
	mu  sync.Mutex // guards out
	out *bufio.Writer

	events chan results.Event
	closed chan struct{}
	wg     sync.WaitGroup
}

func newVoice(out io.Writer) *voice {
	v := &voice{out: bufio.NewWriter(out), events: make(chan results.Event, waitingEvents), closed: make(chan struct{})}
	v.wg.Go(v.run)
	return v
}

// run says events until the voice is closed and none waits.
func (v *voice) run() {
	for n := 0; ; n++ {
		var e results.Event
		select {
		case e = <-v.events:
		case <-v.closed:
			select {
			case e = <-v.events:
			default:
				return
			}
		}
		if n < mostEvents {
			_ = v.word(Word{Event: &e}) // who cannot hear this cannot hear the rest either
		}
	}
}

// word says w. It waits while the coordinator does not read.
func (v *voice) word(w Word) error {
	line, err := json.Marshal(w)
	if err != nil {
		return fmt.Errorf("worker: encode a word: %w", err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.out.Write(line)
	v.out.WriteByte('\n')
	if err := v.out.Flush(); err != nil {
		return fmt.Errorf("worker: speak to the coordinator: %w", err)
	}
	return nil
}

// event says an event later. It never waits.
func (v *voice) event(e results.Event) {
	select {
	case v.events <- e:
	default:
	}
}

// close says the events that wait; it is called once.
func (v *voice) close() {
	close(v.closed)
	v.wg.Wait()
}
