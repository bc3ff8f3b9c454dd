package tunnel

import (
	"io"
	"slices"
	"testing"
	"time"
)

// A Java peer keeps back the end of each command until its beginning is
// acknowledged. That must not take the 40 ms of a delayed acknowledgement, nor
// does it with nothing in between, where segments are shorter than commands.
func TestCommandsInTwoWritesAreNotHeldUp(t *testing.T) {
	const beginning, end, answer = 1030, 7338, 151
	client, server, joined := newTunnel(t)
	must(t, client.SetNoDelay(false))
	go func() {
		for {
			if _, err := io.CopyN(io.Discard, server, beginning+end); err != nil {
				return
			}
			if _, err := server.Write(make([]byte, answer)); err != nil {
				return
			}
		}
	}()
	var took []time.Duration
	for range 101 {
		begun := time.Now()
		for _, n := range []int{beginning, end} {
			_, err := client.Write(make([]byte, n))
			must(t, err)
		}
		_, err := io.CopyN(io.Discard, client, answer)
		must(t, err)
		took = append(took, time.Since(begun))
	}
	must(t, client.CloseWrite())
	must(t, server.CloseWrite())
	<-joined
	slices.Sort(took)
	if median := took[len(took)/2]; median > 30*time.Millisecond {
		t.Errorf("of %d commands half took more than %v", len(took), median)
	}
}
