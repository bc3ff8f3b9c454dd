package door

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const (
	file       = "/computer/a/slave-agent.jnlp"
	askForFile = "GET " + file + " HTTP/1.1\r\nHost: door\r\nUser-Agent: Java/17\r\nAccept: */*\r\nConnection: keep-alive\r\n\r\n"
	theFile    = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 7\r\n\r\n<jnlp/>"
)

// expect has the door make ready, and returns the session over which it asks
// for the agent's file. ready is closed when it has done what it can.
func (r *rig) expect() (c *call, ready chan struct{}) {
	r.t.Helper()
	ready = make(chan struct{})
	go func() {
		defer close(ready)
		r.d.Expect(r.t.Context(), "main", "http://door"+file)
	}()
	c = r.accepted()
	c.want("nobody has asked yet", "GET "+file)
	return c, ready
}

// expected is expect with an answer.
func (r *rig) expected(answer string) {
	r.t.Helper()
	c, ready := r.expect()
	c.say(answer)
	<-ready
}

func TestExpectedAgentsFileIsThere(t *testing.T) {
	r := newRig(t, Config{})
	r.expected(theFile)
	a := r.dial()
	a.say(askForFile)
	a.want("at once", "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n")
	if n := r.opened(); n != 1 {
		t.Errorf("%d sessions were opened, want the one before the agent came", n)
	}
	r.dial().say(askForFile)
	r.accepted().want("only once: the next may ask later", "GET "+file)
}

// Only the very request that was expected has that answer.
func TestOtherRequestsAreNotExpected(t *testing.T) {
	for what, ask := range map[string]string{
		"credentials": strings.Replace(askForFile, "Accept", "Authorization: Basic YTpi\r\nAccept", 1),
		"a condition": strings.Replace(askForFile, "Accept", "If-None-Match: \"1\"\r\nAccept", 1),
		"a query":     strings.Replace(askForFile, ".jnlp", ".jnlp?encrypt=true", 1),
		"a host":      strings.Replace(askForFile, "door", "other", 1),
		"a name":      strings.Replace(askForFile, "/a/", "/b/", 1),
		"no body":     strings.Replace(askForFile, "GET", "HEAD", 1),
	} {
		t.Run(what, func(t *testing.T) {
			r := newRig(t, Config{})
			r.expected(theFile)
			r.dial().say(ask)
			r.accepted().want("asked for itself", ask[:strings.IndexByte(ask, ' ')]+" /computer/")
		})
	}
}

// What went wrong while nobody had asked is refused to nobody: the agent would
// end for good.
func TestExpectedInVainIsNoRefusal(t *testing.T) {
	for what, answer := range map[string]string{
		"it only starts":   "HTTP/1.1 503 Starting\r\nContent-Length: 0\r\n\r\n",
		"it wants a login": "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
		"half an answer":   "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n<jnlp>",
		"too much":         "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 70000\r\n\r\n" + strings.Repeat(" ", 70_000),
	} {
		t.Run(what, func(t *testing.T) {
			r := newRig(t, Config{})
			c, ready := r.expect()
			c.say(answer)
			must(t, c.far.Close())
			<-ready
			a := r.dial()
			a.say(askForFile)
			again := r.accepted()
			again.want("asked again", "GET "+file)
			again.say(theFile)
			a.want("and answered", "HTTP/1.1 200 OK")
			for _, reason := range []string{refusedHeld, refusedController, refusedUnknown} {
				r.wantRefused(reason, 0)
			}
		})
	}
}

func TestExpectedFileIsForgottenInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newPipeRig(t, Config{})
		defer r.stop()
		for _, late := range []time.Duration{-time.Millisecond, time.Millisecond} {
			r.expected(theFile)
			time.Sleep(freshFor + late)
			synctest.Wait()
			if there := r.d.web.ahead.answer != nil; there != (late < 0) {
				t.Errorf("%v after it was asked for, it is there: %v", freshFor+late, there)
			}
		}
	})
}

func TestNothingIsExpectedOfWhoIsAway(t *testing.T) {
	r := newRig(t, Config{})
	r.d.Expect(t.Context(), "main", "")
	r.set(errAway)
	r.d.Expect(t.Context(), "main", "http://door"+file)
	r.set(nil)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		r.call() // it is never accepted
		cancel()
	}()
	r.d.Expect(ctx, "main", "http://door"+file)
	waitFor(t, "no place is taken", func() bool { return len(r.d.places) == 0 })
	if r.d.web.ahead.answer != nil {
		t.Error("there is an answer that nobody gave")
	}
}
