package connector

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moorage-dev/moorage/controller"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/remoting"
)

// An inn is where sessions of agents arrive in a bubble. Each that may be
// dialled gets a socket, and leaves when it ends.
type inn struct {
	*testing.T
	same same
	wg   sync.WaitGroup
}

// A guest is one of those sessions.
type guest struct {
	*testSession
	arrived time.Time
	dialled chan struct{} // closed when it may be dialled
	at      time.Time     // when that was
}

func inBubble(t *testing.T, story func(*inn)) {
	synctest.Test(t, func(t *testing.T) {
		in := &inn{T: t}
		story(in)
		in.wg.Wait()
		synctest.Wait()
		time.Sleep(2 * settle)
		in.same.mu.Lock()
		defer in.same.mu.Unlock()
		if len(in.same.agents) > 0 {
			t.Errorf("remembered for ever: %v", in.same.agents)
		}
	})
}

func (in *inn) arrive(i controller.Info) *guest {
	g := &guest{testSession: newSession(i, nil), arrived: time.Now(), dialled: make(chan struct{})}
	p := in.same.arrive(g.Info(), g)
	in.wg.Go(func() {
		defer p.leave()
		ctx, cancel := context.WithCancel(in.Context())
		defer cancel()
		in.wg.Go(func() {
			select {
			case <-g.done:
				cancel()
			case <-ctx.Done():
			}
		})
		if p.wait(ctx) != nil {
			return
		}
		g.at, p.dialled = time.Now(), true
		close(g.dialled)
		<-g.done
	})
	return g
}

// after returns how long the session was held.
func (g *guest) after() time.Duration {
	<-g.dialled
	return g.at.Sub(g.arrived)
}

func (g *guest) detach() { g.changes(func(i *controller.Info) { i.Attached = false }) }

// answers makes the agent side answer probes, as a live one does.
func (g *guest) answers() {
	g.probed = func(s *testSession) {
		time.AfterFunc(20*time.Millisecond, s.heard)
	}
}

func tier1(agent string) controller.Info { return remotingSession(remoting.JNLP4, agent) }

func tier0(agent string) controller.Info {
	i := tier1(agent)
	i.Resumable = false
	return i
}

func TestOldSessionThatIsDetachedIsReplaced(t *testing.T) {
	inBubble(t, func(in *inn) {
		old := in.arrive(tier1("a1"))
		if old.after() != 0 {
			t.Errorf("the first was held for %v", old.after())
		}
		old.detach()
		time.Sleep(time.Minute)
		newer := in.arrive(tier1("a1"))
		if held := newer.after(); held > time.Second {
			t.Errorf("held for %v", held)
		}
		if why := old.ending(); why.Reason != linkv1.Reason_REASON_REPLACED || why.Text == "" {
			t.Errorf("the old one ended with %v", why)
		}
		newer.leave()
	})
}

// A name is a claim. It does not end what a gateway knows to be another's.
func TestClaimedNameReplacesNobodyVerified(t *testing.T) {
	inBubble(t, func(in *inn) {
		mine := tier1("a1")
		mine.Identity = "a1"
		old := in.arrive(mine)
		<-old.dialled
		old.detach()
		claimed := in.arrive(tier0("a1"))
		if held := claimed.after(); held != holdBehind {
			t.Errorf("held for %v", held)
		}
		if why := old.ending(); why.Reason != 0 {
			t.Errorf("the old one ended with %v", why)
		}
		old.leave()
		claimed.leave()
	})
}

// The shim was killed with its host: its gateway notices after a while.
func TestNewcomerIsHeldWhileTheOldOneIsSilent(t *testing.T) {
	inBubble(t, func(in *inn) {
		old := in.arrive(tier1("a1"))
		<-old.dialled
		newer := in.arrive(tier1("a1"))
		time.Sleep(12 * time.Second)
		select {
		case <-newer.dialled:
			t.Fatal("dialled beside an old session that may be dead")
		default:
		}
		if got := newer.waiting(); got != "the old session of agent a1 to end" {
			t.Errorf("waits for %q", got)
		}
		old.detach()
		if held := newer.after(); held > 13*time.Second {
			t.Errorf("held for %v", held)
		}
		if newer.waiting() != "" {
			t.Errorf("still waits for %q", newer.waiting())
		}
		newer.leave()
	})
}

// The new OPEN may be read before the old session's end, which stands in
// another partition.
func TestNewcomerIsDialledSoonAfterTheOldOneEnds(t *testing.T) {
	inBubble(t, func(in *inn) {
		old := in.arrive(tier0("a1"))
		<-old.dialled
		newer := in.arrive(tier0("a1"))
		time.Sleep(30 * time.Millisecond)
		old.leave()
		if held := newer.after(); held < settle || held > settle+100*time.Millisecond {
			t.Errorf("held for %v", held)
		}
		newer.leave()
	})
}

func TestControllerDecidesBetweenTwoLiveAgentsOfOneName(t *testing.T) {
	inBubble(t, func(in *inn) {
		old := in.arrive(tier1("a1"))
		<-old.dialled
		old.answers()
		newer := in.arrive(tier1("a1"))
		if held := newer.after(); held > time.Second {
			t.Errorf("tier 1: held for %v", held)
		}
		old.leave()
		newer.leave()
	})
	inBubble(t, func(in *inn) {
		old := in.arrive(tier0("a1"))
		<-old.dialled
		old.answers() // the gateway does, for itself: that proves nothing
		newer := in.arrive(tier0("a1"))
		time.Sleep(3 * time.Second)
		old.changes(func(i *controller.Info) { i.Up += 100 })
		if held := newer.after(); held < 3*time.Second || held > 4*time.Second {
			t.Errorf("tier 0: held for %v", held)
		}
		old.leave()
		newer.leave()
	})
}

func TestNobodyIsHeldForLong(t *testing.T) {
	inBubble(t, func(in *inn) {
		var all []*guest
		for range 4 {
			all = append(all, in.arrive(tier0("a1")))
			time.Sleep(time.Second)
		}
		for i, g := range all {
			if held := g.after(); held > holdBehind {
				t.Errorf("number %d was held for %v", i, held)
			}
		}
		for _, g := range all {
			g.leave()
		}
	})
}

func TestHeldSessionMayEnd(t *testing.T) {
	inBubble(t, func(in *inn) {
		old := in.arrive(tier0("a1"))
		<-old.dialled
		newer := in.arrive(tier0("a1"))
		time.Sleep(time.Second)
		newer.leave()
		old.leave()
	})
}

func TestOthersAreNotHeld(t *testing.T) {
	inBubble(t, func(in *inn) {
		web := tier0("a1")
		web.Kind = linkv1.ServiceKind_SERVICE_KIND_HTTP
		shim := tier1("")
		shim.Agent = "a1"
		first := in.arrive(tier0("a1"))
		all := []*guest{first, in.arrive(web), in.arrive(tier0("a2")), in.arrive(tier0("")), in.arrive(tier0(""))}
		for i, g := range all {
			if held := g.after(); held != 0 {
				t.Errorf("number %d was held for %v", i, held)
			}
		}
		first.leave()
		time.Sleep(2 * settle)
		// Behind a shim, an opaque connection is the shim's agent's.
		opaque := in.arrive(shim)
		<-opaque.dialled
		opaque.detach()
		named := in.arrive(tier1("a1"))
		<-named.dialled
		if opaque.ending().Reason != linkv1.Reason_REASON_REPLACED {
			t.Errorf("the opaque one ended with %v", opaque.ending())
		}
		named.leave()
		for _, g := range all[1:] {
			g.leave()
		}
	})
}
