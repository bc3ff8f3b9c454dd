//go:build unix

package door

import (
	"testing"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/remoting"
	"github.com/moorage-dev/moorage/session"
)

// An agent's log-in is with its session before the controller side has said
// yes, and comes once.
func TestLogInDoesNotWaitForTheAcceptance(t *testing.T) {
	r := newRig(t, Config{})
	r.jenkins.Protocols = []string{remoting.JNLP1}
	login := string(remoting.AppendLogin1(nil, "5ec4e7", "legacy1"))
	a := r.dial()
	a.say(string(remoting.AppendGreeting(nil, remoting.JNLP1)) + login)
	c := r.call()
	c.want("not accepted yet", login)
	c.verdict <- nil
	a.say("and more")
	c.want("nothing twice", "and more")
	r.wantCount("bytes up", r.d.m.upBytes, float64(len(login+"and more")))
}

// What a session had that was not accepted, the next one has too.
func TestLogInIsSaidAgainToTheNextSession(t *testing.T) {
	r := newRig(t, Config{})
	r.jenkins.Protocols = []string{remoting.JNLP1}
	login := string(remoting.AppendLogin1(nil, "5ec4e7", "legacy1"))
	a := r.dial()
	a.say(string(remoting.AppendGreeting(nil, remoting.JNLP1)) + login)
	for range 2 {
		c := r.call()
		c.want("not accepted yet", login)
		c.verdict <- &session.EndedError{Ending: session.Ending{Reason: linkv1.Reason_REASON_DIAL_FAILED}}
		c.wantEnd("the controller is away", linkv1.Reason_REASON_PEER_RESET)
	}
	c := r.accepted()
	a.say("and more")
	c.want("as if it were the first", login+"and more")
	c.say("welcome")
	a.want("the way back", "welcome")
}

// An agent that leaves after its log-in is gone for a session that has it.
func TestAgentThatLeavesBeforeTheAcceptance(t *testing.T) {
	r := newRig(t, Config{})
	r.jenkins.Protocols = []string{remoting.JNLP1}
	login := string(remoting.AppendLogin1(nil, "5ec4e7", "legacy1"))
	a := r.dial()
	a.say(string(remoting.AppendGreeting(nil, remoting.JNLP1)) + login)
	c := r.call()
	c.want("not accepted yet", login)
	must(t, a.Close())
	c.wantEnd("nobody is there any more", linkv1.Reason_REASON_PEER_RESET)
}
