//go:build seeded

package conn_test

import (
	"io"
	"testing"
	"testing/synctest"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/seeded"
	"github.com/moorage-dev/moorage/session"
)

// The half-close that goes before waiting bytes is seen by the far side.
func TestSeededFinOvertakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPath(session.DefaultWindow).accept()
		defer p.close()
		if err := seeded.Set(string(seeded.FinOvertakes)); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = seeded.Set("") }()
		p.holding.Store(true)
		write(t, p.near, "first ")
		write(t, p.near, "last")
		if err := p.near.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(p.far)
		if string(got) == "first last" && err == nil {
			t.Fatal("nobody notices")
		}
		<-p.far.Done()
		wantEnded(t, p.far.Err(), linkv1.Reason_REASON_PROTOCOL_ERROR)
		p.release()
	})
}
