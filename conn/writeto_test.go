package conn_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"

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
