package rig

import (
	"testing"
	"time"

	"github.com/moorage-dev/moorage/loadtest/port"
)

// Eventually polls, with a deadline: other processes' progress can only be
// looked at from outside. What takes longer than a second is looked at less
// often, for a look may cost the process it is about.
func Eventually(t *testing.T, what string, within time.Duration, done func() bool) {
	t.Helper()
	begun, limit := time.Now(), time.After(within)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
			if time.Since(begun) > time.Second {
				tick.Reset(100 * time.Millisecond)
			}
		case <-limit:
			t.Fatalf("not within %v: %s", within, what)
		case <-t.Context().Done():
			t.Fatalf("the test ended before: %s", what)
		}
	}
}

// Pass lets real time go by, as a fault's length or calm to be measured in.
func Pass(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		t.Fatal("the test ended while it waited")
	}
}

// Must ends the test at an error that no test is about.
func Must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// FreeAddress returns a loopback address on which nobody listens, and which no
// other test is given before this one has ended: a gateway that was killed
// finds it free when it is started again.
func FreeAddress(t *testing.T) string {
	t.Helper()
	address, release, err := port.Reserve("127.0.0.1")
	Must(t, err)
	t.Cleanup(release)
	return address
}
