package door

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/remoting"
	"github.com/moorage-dev/moorage/session"
)

// held runs f in a bubble, with a door for pipes that is shut at the end.
func held(t *testing.T, cfg Config, f func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newPipeRig(t, cfg)
		f(t, r)
		r.stop()
	})
}

func TestAgentIsHeldWhileKafkaIsAway(t *testing.T) {
	held(t, Config{}, func(t *testing.T, r *rig) {
		r.set(errAway)
		a := r.jnlp4()
		a.wantSilence("for as long as may be", 9*time.Minute)
		r.wantCount("held now", r.d.m.held, 1)
		a.say("ClientHello")
		r.set(nil)
		c := r.accepted()
		c.want("nothing is lost", "ClientHello")
		synctest.Wait()
		r.wantCount("held now", r.d.m.held, 0)
		r.wantCount("held ever", r.d.m.heldTotal, 1)
		r.wantCount("sessions", r.d.m.sessions, 1)
	})
}

func TestLogSaysWhoIsHeldAndWhy(t *testing.T) {
	var log bytes.Buffer
	held(t, Config{Log: slog.New(slog.NewTextHandler(&log, nil))}, func(t *testing.T, r *rig) {
		r.set(errAway)
		a := r.named("a1")
		a.wantSilence("held", time.Minute)
		synctest.Wait()
		lines := strings.Count(log.String(), "msg=held ")
		if lines != 1 || !strings.Contains(log.String(), "agent=a1") || !strings.Contains(log.String(), errAway.Error()) {
			t.Errorf("want one line with name and cause, got %q", log.String())
		}
	})
}

func TestAgentIsHeldWhileItsControllerStarts(t *testing.T) {
	held(t, Config{}, func(t *testing.T, r *rig) {
		a := r.jnlp4()
		for _, gone := range []linkv1.Reason{
			linkv1.Reason_REASON_DIAL_FAILED, linkv1.Reason_REASON_CONTROLLER_GONE, linkv1.Reason_REASON_GATEWAY_GONE,
		} {
			c := r.call()
			a.wantSilence("it is not accepted yet", time.Minute)
			c.verdict <- &session.EndedError{Ending: session.Ending{Reason: gone}}
		}
		c := r.accepted()
		a.say("ClientHello")
		c.want("another try has come through", "ClientHello")
	})
}

func TestAgentThatWaitsForItsTurnIsHeld(t *testing.T) {
	held(t, Config{OpenRate: 0.1}, func(t *testing.T, r *rig) {
		r.jnlp4()
		r.accepted()
		a := r.jnlp4()
		a.wantSilence("one each 10 s", 5*time.Second)
		r.wantCount("held now", r.d.m.held, 1)
		r.accepted()
		synctest.Wait()
		r.wantCount("held now", r.d.m.held, 0)
		r.wantCount("held ever", r.d.m.heldTotal, 1)
	})
}

func TestHoldingHasAnEnd(t *testing.T) {
	held(t, Config{}, func(t *testing.T, r *rig) {
		r.set(errAway)
		a := r.jnlp4()
		a.wantSilence("held", 9*time.Minute+58*time.Second)
		began := time.Now()
		a.SetReadDeadline(time.Time{})
		if n, err := a.Read(make([]byte, 1)); n != 0 || isTimeout(err) {
			t.Errorf("got %d bytes, %v; want the end", n, err)
		}
		if late := time.Since(began); late > 3*time.Second {
			t.Errorf("closed %v too late", late)
		}
		synctest.Wait()
		r.wantRefused(refusedHeld, 1)
		r.wantCount("held now", r.d.m.held, 0)
	})
}

func TestWhoSaysNothingIsHeldNoLonger(t *testing.T) {
	for _, hold := range []time.Duration{time.Second, time.Minute} {
		held(t, Config{Hold: hold, Controllers: []string{"main", "other"}, Default: "main"}, func(t *testing.T, r *rig) {
			r.set(errAway)
			a, began := r.jnlp4(), time.Now()
			a.wantSilence("its TLS may still tell the controller", hold-time.Millisecond)
			a.wantGone("held as long as anybody")
			if took := time.Since(began); took > hold+time.Millisecond {
				t.Errorf("held for %v instead of %v", took, hold)
			}
		})
	}
}

func TestControllersNoIsFinal(t *testing.T) {
	held(t, Config{}, func(t *testing.T, r *rig) {
		a := r.jnlp4()
		r.call().verdict <- &session.EndedError{Ending: session.Ending{Reason: linkv1.Reason_REASON_REFUSED, Text: "no"}}
		a.wantGone("refused")
		synctest.Wait()
		r.wantRefused(refusedController, 1)
		if n := r.opened(); n != 1 {
			t.Errorf("tried %d times", n)
		}
	})
}

func TestBrokenRulesAreFinal(t *testing.T) {
	held(t, Config{}, func(t *testing.T, r *rig) {
		r.set(fmt.Errorf("gateway: %w: too large", session.ErrViolation))
		r.jnlp4().wantGone("it would be too large for ever")
		synctest.Wait()
		r.wantRefused(refusedController, 1)
	})
}

func TestControllerThatNobodyKnows(t *testing.T) {
	held(t, Config{}, func(t *testing.T, r *rig) {
		r.set(fmt.Errorf("gateway: %w: main", ErrUnknownController))
		began := time.Now()
		r.jnlp4().wantGone("refused")
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("refused after %v", took)
		}
		synctest.Wait()
		r.wantRefused(refusedUnknown, 1)

		a := r.jnlp4()
		a.wantSilence("its topics may be made this moment", time.Second)
		r.set(nil)
		r.accepted()
	})
}

func TestAgentThatLeavesIsHeldNoLonger(t *testing.T) {
	left := func(t *testing.T, r *rig) {
		r.set(errAway)
		a := r.jnlp4()
		a.say("ClientHello") // unread when it leaves
		waitFor(t, "held", func() bool { return r.opened() > 0 })
		must(t, a.Close())
	}
	t.Run("pipe", func(t *testing.T) {
		held(t, Config{}, func(t *testing.T, r *rig) {
			left(t, r)
			synctest.Wait()
			r.wantCount("held now", r.d.m.held, 0)
			r.wantCount("connections", r.d.m.connections, 0)
		})
	})
	t.Run("socket", func(t *testing.T) {
		r := newRig(t, Config{})
		left(t, r)
		r.wantCount("connections", r.d.m.connections, 0)
		r.wantCount("held now", r.d.m.held, 0)
	})
}

// What an agent says while it is held, it says once.
func TestNothingIsLostWhileHeld(t *testing.T) {
	r := newRig(t, Config{})
	a := r.jnlp4()
	c := r.call()
	a.say("one ")
	a.say("two")
	c.verdict <- nil
	c.want("in order", "one two")
	must(t, a.Close())
	c.wantEnd("and no more", linkv1.Reason_REASON_OK)
}

func TestHastyAgentIsSlowedDown(t *testing.T) {
	held(t, Config{}, func(t *testing.T, r *rig) {
		last := time.Now()
		for i, want := range []time.Duration{0, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 10 * time.Second, 10 * time.Second} {
			a := r.named("hasty")
			c := r.accepted()
			if waited := time.Since(last); waited != want {
				t.Errorf("session %d came after %v, want %v", i, waited, want)
			}
			last = time.Now()
			must(t, c.far.Close())
			a.wantGone("rejected")
			synctest.Wait()
		}
		r.wantCount("slowed", r.d.m.slowed, 6)

		began := time.Now()
		r.named("other")
		r.accepted()
		if waited := time.Since(began); waited != 0 {
			t.Errorf("another agent waited %v", waited)
		}

		a := r.named("hasty")
		c := r.accepted()
		time.Sleep(11 * time.Second)
		must(t, c.far.Close())
		a.wantGone("its session broke")
		synctest.Wait()
		began = time.Now()
		r.named("hasty")
		r.accepted()
		if waited := time.Since(began); waited != 0 {
			t.Errorf("after a session that lasted it waited %v", waited)
		}
	})
}

// Without a name it is the address that is in a hurry.
func TestHastyStrangerIsSlowedDown(t *testing.T) {
	held(t, Config{ProxyProtocol: true}, func(t *testing.T, r *rig) {
		for i, want := range []time.Duration{0, time.Second, 2 * time.Second} {
			began := time.Now()
			a := r.dial()
			a.say(header(t, 2, fmt.Sprint("203.0.113.9:", 4711+i), "192.0.2.1:443"))
			a.say(string(remoting.AppendGreeting(nil, remoting.JNLP4)))
			go a.say(remoting.ACK) // both say it at once
			a.want("its ACK", remoting.ACK)
			c := r.accepted()
			if waited := time.Since(began); waited != want {
				t.Errorf("waited %v, want %v", waited, want)
			}
			must(t, a.Close())
			c.wantEnd("it goes at once", linkv1.Reason_REASON_OK)
			synctest.Wait()
		}
	})
}

func TestSessionsAreBounded(t *testing.T) {
	held(t, Config{Sessions: 2, Again: -1}, func(t *testing.T, r *rig) {
		r.named("a")
		first := r.accepted()
		r.named("b")
		r.accepted()
		third := r.named("c")
		third.wantSilence("no place yet", time.Minute)
		r.wantCount("held now", r.d.m.held, 1)
		must(t, first.far.Close())
		if c := r.accepted(); c.Remoting.Agent != "c" {
			t.Errorf("%q came in", c.Remoting.Agent)
		}
	})
}

func TestManyAgentsComeBackPaced(t *testing.T) {
	held(t, Config{OpenRate: 50}, func(t *testing.T, r *rig) {
		const agents = 450
		began := time.Now()
		for i := range agents {
			go r.named(fmt.Sprint("agent", i))
		}
		for range agents {
			r.accepted()
		}
		if took := time.Since(began); took < 7*time.Second || took > 10*time.Second {
			t.Errorf("%d agents were let in within %v; want 8 s: 50 at once, and 50 a second", agents, took)
		}
	})
}

func TestWhatWasKnownStaysKnown(t *testing.T) {
	held(t, Config{}, func(t *testing.T, r *rig) {
		if _, err := r.d.describe(t.Context(), "main"); err != nil {
			t.Fatal(err)
		}
		r.set(errAway)
		began := time.Now()
		d, err := r.d.describe(t.Context(), "main")
		if err != nil || d.Jenkins.GetAgentPort() != 50000 || time.Since(began) > 0 {
			t.Errorf("got %v, %v after %v", d.Jenkins, err, time.Since(began))
		}
	})
}
