package door

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

const askForFile = "GET /computer/a/slave-agent.jnlp HTTP/1.1\r\nHost: door\r\n\r\n"

// expect has the door make ready, and returns the session it has opened for it.
func (r *rig) expect() *call {
	r.t.Helper()
	ready := make(chan struct{})
	go func() {
		defer close(ready)
		r.d.Expect(r.t.Context(), "main", true)
	}()
	c := r.accepted()
	<-ready
	return c
}

func TestExpectedAgentsFileIsAskedForAtOnce(t *testing.T) {
	r := newRig(t, Config{})
	c := r.expect()
	r.dial().say(askForFile)
	c.want("over the session that was there", "GET /computer/a/slave-agent.jnlp")
	r.dial().say(askForFile)
	r.accepted().want("the next over one of its own", "GET /computer/a/slave-agent.jnlp")
	if n := r.opened(); n != 2 {
		t.Errorf("%d sessions were opened, want 2", n)
	}
}

// A controller that closes a silent connection just as it is used has refused
// nothing: the agent would end for good.
func TestExpectedSessionThatIsOverIsNoRefusal(t *testing.T) {
	r := newRig(t, Config{})
	c := r.expect()
	must(t, c.far.Close())
	a := r.dial()
	a.say(askForFile)
	again := r.accepted()
	again.want("asked again", "GET /computer/a/slave-agent.jnlp")
	again.say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 7\r\n\r\n<jnlp/>")
	a.want("and answered", "HTTP/1.1 200 OK")

	c = r.expect()
	c.end(linkv1.Reason_REASON_CONTROLLER_GONE)
	r.dial().say(askForFile)
	r.accepted().want("asked for over another", "GET /computer/a/slave-agent.jnlp")
}

func TestAgentThatDoesNotComeLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newPipeRig(t, Config{})
		defer r.stop()
		c := r.expect()
		time.Sleep(spareFor - time.Millisecond)
		synctest.Wait()
		select {
		case <-c.done:
			t.Error("closed too early")
		default:
		}
		time.Sleep(2 * time.Millisecond)
		c.wantEnd("nobody has come", linkv1.Reason_REASON_OK)

		c = r.expect()
		r.stop()
		c.wantEnd("the door is shut", linkv1.Reason_REASON_OK)
	})
}

func TestNothingIsExpectedOfWhoIsAway(t *testing.T) {
	r := newRig(t, Config{})
	r.d.Expect(t.Context(), "main", false)
	r.set(errAway)
	r.d.Expect(t.Context(), "main", true)
	r.set(nil)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		r.call() // it is never accepted
		cancel()
	}()
	r.d.Expect(ctx, "main", true)
	if s := r.d.web.spare.take("main"); s != nil || len(r.d.places) != 0 {
		t.Errorf("there is a spare session %v, and %d places are taken", s, len(r.d.places))
	}
}
