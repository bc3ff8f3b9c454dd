package modern_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/door"
	"github.com/moorage-dev/moorage/e2e/rig"
	"github.com/moorage-dev/moorage/remoting"
	"github.com/moorage-dev/moorage/standin"
)

// Four hundred and fifty agents lose their connections in one moment and come
// back without delay. All are online again, the controller is not run over,
// and its agent.jar, which each of them fetches first, is read once.
func TestAllComeBackAtOnce(t *testing.T) {
	const n, rate = 450, 100
	s := newSite(t, standin.Config{LoginCalls: -1}, func(cfg *door.Config) { cfg.OpenRate = rate })
	var fetching sync.WaitGroup
	for range n {
		fetching.Go(func() {
			answer, err := http.Get("http://" + s.places[0] + "/jnlpJars/agent.jar")
			if err != nil {
				t.Errorf("agent.jar: %v", err)
				return
			}
			defer answer.Body.Close()
			if size, err := io.Copy(io.Discard, answer.Body); answer.StatusCode != http.StatusOK || size != 1<<20 || err != nil {
				t.Errorf("agent.jar: %s, %d bytes, %v", answer.Status, size, err)
			}
		})
	}
	fetching.Wait()
	http.DefaultClient.CloseIdleConnections()
	if got := s.jenkins.Stats().Requests["/jnlpJars/agent.jar"]; got != 1 {
		t.Errorf("%d agents' agent.jar was read %d times from the controller", n, got)
	}

	all := &cable{}
	for i := range n {
		name := fmt.Sprintf("a%03d", i)
		s.startAgent(name, s.places[0], manners[2], func(a *standin.Agent) { a.Dial = all.dial })
	}
	t.Logf("%d agents were online after %v", n, s.jenkins.wantAgents(t, n, 90*time.Second).Round(10*time.Millisecond))
	began, before := time.Now(), s.jenkins.Stats()
	all.reset()
	s.jenkins.wait(t, "all are offline or have come again", 60*time.Second, func(ctx context.Context) error {
		for s.jenkins.Stats().Lost < before.Lost+n {
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	s.jenkins.wantAgents(t, n, 90*time.Second)
	took := time.Since(began)
	t.Logf("and again %v after all connections were reset: %+v", took.Round(10*time.Millisecond), s.jenkins.Stats())
	// A burst of as many as one second allows, and the rest at the rate.
	if least := (n - rate) * time.Second / rate; took < least {
		t.Errorf("%d agents were back after %v: %d a second allow it after %v", n, took, rate, least)
	}
}

// An agent comes back from another host: another address, another shim, under
// the name that it always had. The controller has it again within 25 s though
// the old host has said nothing.
func TestAgentMoves(t *testing.T) {
	t.Parallel()
	s := newSite(t, standin.Config{}, nil)
	for _, m := range []manner{manners[0], manners[3]} {
		t.Run("tier 1 "+m.word, func(t *testing.T) {
			t.Parallel()
			name := "moving-" + m.word
			old := s.startShim(name)
			a := s.startAgent(name, old.door, m)
			s.jenkins.wantOnline(t, name, 30*time.Second)
			before := s.jenkins.remoteOf(name)
			old.wire.swallow() // the old host is off the network
			began := time.Now()
			s.startAgent(name, s.startShim(name).door, m)
			s.jenkins.wantAnotherOnline(t, name, before, began.Add(25*time.Second))
			t.Logf("%s was back after %v", name, time.Since(began).Round(10*time.Millisecond))
			old.wire.mend()
			// The old host finds its session gone; its agent tries again, and is
			// turned away as long as the new one is there.
			a.want(standin.Offline, 1, 60*time.Second)
			a.kill()
			s.jenkins.call(t, name, 100, 100, 10*time.Second)
		})
	}
	t.Run("tier 0", func(t *testing.T) {
		s.startHost(t, "roaming", "127.0.0.2").kill()
		s.jenkins.wantOffline(t, "roaming", atOnce)
		s.startHost(t, "roaming", "127.0.0.3")
		for _, i := range s.connector.Sessions() {
			if host, _, _ := net.SplitHostPort(i.RemoteAddr); isRemoting(i) && i.Remoting.GetAgent() == "roaming" && host == "127.0.0.3" {
				return
			}
		}
		t.Errorf("no session shows the new address: %+v", s.connector.Sessions())
	})
}

// startHost starts an agent on a host of its own, and waits until it is online.
func (s *site) startHost(t *testing.T, name, ip string) *actor {
	t.Helper()
	wire := &cable{from: net.ParseIP(ip)}
	a := s.startAgent(name, s.places[0], manners[0], func(a *standin.Agent) { a.Dial = wire.dial })
	s.jenkins.wantOnline(t, name, 30*time.Second)
	return a
}

// remoteOf tells the connection by which the controller knows an agent.
func (j *jenkins) remoteOf(name string) string {
	for _, one := range j.Agents() {
		if one.Name == name {
			return one.Remote
		}
	}
	return ""
}

// wantAnotherOnline waits until an agent is online by another connection.
func (j *jenkins) wantAnotherOnline(t *testing.T, name, before string, limit time.Time) {
	t.Helper()
	rig.Eventually(t, name+" is online again", time.Until(limit), func() bool {
		now := j.remoteOf(name)
		return now != "" && now != before
	})
}

// A shim is killed and started again while its old session is in grace, or
// still believed to be attached. Nobody waits 240 s for "already connected".
func TestShimStartedAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t, standin.Config{}, nil)
	t.Run("each", func(t *testing.T) {
		for _, tt := range []struct {
			desc   string
			strike func(*cable)
		}{
			{"the gateway knows", (*cable).cut},
			{"the gateway does not know", (*cable).swallow},
		} {
			for _, m := range []manner{manners[0], manners[1], manners[3]} {
				t.Run(tt.desc+" "+m.word, func(t *testing.T) {
					t.Parallel()
					name := m.word + strings.ReplaceAll(tt.desc, " ", "-")
					old := s.startShim(name)
					a := s.startAgent(name, old.door, m, func(a *standin.Agent) { a.FreshJVM = true })
					s.jenkins.wantOnline(t, name, 30*time.Second)
					before := s.jenkins.remoteOf(name)
					tt.strike(old.wire) // before the shim can say anything
					a.kill()
					began := time.Now()
					s.startAgent(name, s.startShim(name).door, m)
					s.jenkins.wantAnotherOnline(t, name, before, began.Add(25*time.Second))
					t.Logf("back after %v", time.Since(began).Round(10*time.Millisecond))
				})
			}
		}
	})
	if refused := s.jenkins.Stats().Refused; len(refused) != 0 {
		t.Errorf("the controller refused: %v", refused)
	}
}

// Two agents have one name. The controller's rule decides, the first stays,
// the second is told, and has its turn when the first is gone.
func TestTwoAgentsOfOneName(t *testing.T) {
	t.Parallel()
	s := newSite(t, standin.Config{}, nil)
	t.Run("each", func(t *testing.T) {
		for _, m := range []manner{manners[0], manners[3]} {
			for tier := range 2 {
				t.Run(fmt.Sprintf("tier %d %s", tier, m.word), func(t *testing.T) {
					t.Parallel()
					name := fmt.Sprintf("twin%d-%s", tier, m.word)
					doors := []string{s.places[0], s.places[1]}
					if tier == 1 {
						doors = []string{s.startShim(name).door, s.startShim(name).door}
					}
					first := s.startAgent(name, doors[0], m, once)
					s.jenkins.wantOnline(t, name, 30*time.Second)
					second := s.startAgent(name, doors[1], m)
					told := second.want(standin.Failed, 1, 30*time.Second)
					t.Logf("the second is told: %v", told.Err)
					first.wantUnharmed()
					s.jenkins.call(t, name, 100, 100, 10*time.Second)
					first.kill()
					second.want(standin.Online, 1, 60*time.Second)
				})
			}
		}
	})
	if got := s.jenkins.Stats().Refused["already connected"]; got < 4 {
		t.Errorf("the controller has turned away %d, want at least 4", got)
	}
}

// The controller is started again, as somebody else (another identity) and
// elsewhere (another agent port). Two hundred agents are back, by the shims
// that they always had.
func TestControllerStartedAnew(t *testing.T) {
	const n = 200
	cfg := standin.Config{Key: []byte("of both lives"), LoginCalls: -1}
	s := newSite(t, cfg, nil)
	for i := range n {
		name := fmt.Sprintf("b%03d", i)
		m := manners[0]
		if i%4 == 3 {
			m = manners[3]
		}
		s.startAgent(name, s.startShim(name).door, m)
	}
	t.Logf("%d agents were online after %v", n, s.jenkins.wantAgents(t, n, 90*time.Second).Round(10*time.Millisecond))
	old := s.jenkins
	old.kill()
	rig.Pass(t, 3*time.Second)
	s.cfg.Identity = newKey()
	s.jenkins = startJenkins(t, s.cfg)
	if s.jenkins.AgentAddr == old.AgentAddr || s.jenkins.Identity == old.Identity || s.jenkins.URL != old.URL {
		t.Fatal("the new controller is the old one, or is somewhere else")
	}
	took := s.jenkins.wantAgents(t, n, 120*time.Second)
	by := map[string]int{}
	for _, one := range s.jenkins.Agents() {
		by[one.Protocol]++
	}
	t.Logf("and again %v after the controller was back: %v, %+v", took.Round(10*time.Millisecond), by, s.jenkins.Stats())
	s.leave() // before the controller does, or each would begin to look for it
	if by[remoting.JNLP4] != n*3/4 || by[standin.WebSocket] != n/4 {
		t.Errorf("back are %v", by)
	}
}
