package legacy

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/moorage-dev/moorage/check"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStoriesEndClean(t *testing.T) {
	for desc, play := range map[string]func(*Site, context.Context) error{"serve": (*Site).Serve, "restart": (*Site).Restart} {
		t.Run(desc, func(t *testing.T) {
			c := check.New(check.Config{})
			s, err := Start(t.Context(), Config{Check: c, Patience: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			err = play(s, t.Context())
			s.Close()
			if r := c.Report(true); err != nil || !r.Clean() || r.Sessions != 1 {
				t.Errorf("%v\n%v", err, r)
			}
		})
	}
}
