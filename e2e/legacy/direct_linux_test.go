package legacy_test

import (
	"testing"
	"time"
)

// Without anything of ours between them, agents build; and a single reset of
// the connection fails the build.
func TestDirect(t *testing.T) {
	t.Parallel()
	for _, g := range generations {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			l := newLAN(t)
			far := newHost(t, "controller")
			address := far.plug(l).address
			calm, cut := node{"calm", paced(t, 1)}, node{"cut", paced(t, 2)}
			c := startHudson(t, g, far, calm, cut)
			c.ready(90 * time.Second)
			root := "http://" + address + ":8080/"
			startAgent(t, l, g, calm, root)
			a := startAgent(t, l, g, cut, root)
			c.waitOnline(calm.name, 60*time.Second)
			c.waitOnline(cut.name, 60*time.Second)
			one, two := c.build(t, calm.name, 1), c.build(t, cut.name, 1)
			two.waitLine(t, 100, 60*time.Second)
			a.cable.reset(far, 0)
			if result := two.result(t, 10*time.Second); result != "FAILURE" {
				t.Errorf("after a reset the build ended %s, want FAILURE", result)
			}
			t.Logf("%s, cut by a reset: FAILURE after %v", g.protocol, two.took.Round(100*time.Millisecond))
			one.wantExact(t, calm.job, 120*time.Second)
			t.Logf("%s, calm: SUCCESS after %v", g.protocol, one.took.Round(100*time.Millisecond))
		})
	}
}
