package conn_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

func TestWriteToEndsWithTheFarSide(t *testing.T) {
	story(t, func(t *testing.T, p *path) {
		var got bytes.Buffer
		copied := make(chan error, 1)
		go func() {
			_, err := p.near.WriteTo(&got)
			copied <- err
		}()
		want := strings.Repeat("0123456789abcdef", 1<<16) // several windows
		write(t, p.far, want)
		if err := p.far.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := <-copied; err != nil || got.String() != want {
			t.Errorf("%d bytes of %d, or others; %v", got.Len(), len(want), err)
		}
		write(t, p.near, "the other direction goes on")
		wantRead(t, p.far, "the other direction goes on")
	})
}

func TestWriteToTellsABreak(t *testing.T) {
	story(t, func(t *testing.T, p *path) {
		write(t, p.far, "half a")
		p.far.CloseWithReason(session.Ending{Reason: linkv1.Reason_REASON_PEER_RESET})
		var got bytes.Buffer
		_, err := p.near.WriteTo(&got)
		wantEnded(t, err, linkv1.Reason_REASON_PEER_RESET)
		if got.String() != "half a" {
			t.Errorf("got %q before the break", got.String())
		}
	})
}

// A frame is delivered once the writer has it: before that it would come again.
func TestWriteToDeliversWhatWasTaken(t *testing.T) {
	story(t, func(t *testing.T, p *path) {
		write(t, p.far, "frame")
		near, far := net.Pipe()
		copied := make(chan error, 1)
		go func() {
			_, err := p.near.WriteTo(near)
			copied <- err
		}()
		wantRead(t, far, "fra")
		synctest.Wait()
		if err := far.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-copied; !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("error %v, want the writer's", err)
		}
		wantRead(t, p.near, "me")
	})
}

func TestCloseEndsWriteTo(t *testing.T) {
	story(t, func(t *testing.T, p *path) {
		copied := make(chan error, 1)
		go func() {
			_, err := p.near.WriteTo(io.Discard)
			copied <- err
		}()
		synctest.Wait()
		if err := p.near.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-copied; !errors.Is(err, net.ErrClosed) {
			t.Errorf("error %v, want net.ErrClosed", err)
		}
	})
}

// Who would rather not wait is called: once, when there is something.
func TestWriteReadyCallsInsteadOfWaiting(t *testing.T) {
	story(t, func(t *testing.T, p *path) {
		var got bytes.Buffer
		called := 0
		again := func() { called++ }
		writeReady := func(want string, wantWaits bool) error {
			t.Helper()
			got.Reset()
			waits, err := p.near.WriteReady(&got, again)
			if waits != wantWaits || got.String() != want {
				t.Errorf("got %q, waits %v; want %q, %v", got.String(), waits, want, wantWaits)
			}
			return err
		}
		wantCalls := func(why string, want int) {
			t.Helper()
			synctest.Wait()
			if called != want {
				t.Errorf("%s: called %d times, want %d", why, called, want)
			}
		}
		must(writeReady("", true))
		wantCalls("nothing is there", 0)
		write(t, p.far, "one")
		wantCalls("something is there", 1)
		write(t, p.far, "two")
		wantCalls("it was told already", 1)
		must(writeReady("onetwo", true))
		write(t, p.near, "the other direction")
		wantRead(t, p.far, "the other direction")
		wantCalls("what goes out is no news", 1)
		must(p.near.SetReadDeadline(time.Now()))
		wantCalls("a deadline ends the wait", 2)
		if err := writeReady("", false); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("error %v, want the deadline's", err)
		}
		must(p.near.SetReadDeadline(time.Time{}))
		must(writeReady("", true))
		write(t, p.far, "last")
		must(p.far.CloseWrite())
		wantCalls("an end is there", 3)
		must(writeReady("last", false))
	})
}

func TestWriteReadyTellsOfEnds(t *testing.T) {
	story(t, func(t *testing.T, p *path) {
		called := make(chan struct{}, 1)
		again := func() { called <- struct{}{} }
		if waits, err := p.near.WriteReady(io.Discard, again); !waits || err != nil {
			t.Fatalf("waits %v, %v", waits, err)
		}
		p.far.CloseWithReason(session.Ending{Reason: linkv1.Reason_REASON_PEER_RESET})
		<-called
		_, err := p.near.WriteReady(io.Discard, again)
		wantEnded(t, err, linkv1.Reason_REASON_PEER_RESET)
	})
	story(t, func(t *testing.T, p *path) {
		called := make(chan struct{}, 1)
		if waits, err := p.near.WriteReady(io.Discard, func() { called <- struct{}{} }); !waits || err != nil {
			t.Fatalf("waits %v, %v", waits, err)
		}
		must(p.near.Close())
		<-called
		if _, err := p.near.WriteReady(io.Discard, nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("error %v, want net.ErrClosed", err)
		}
	})
}
