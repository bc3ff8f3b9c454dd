package modern_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/e2e/rig"
	"github.com/moorage-dev/moorage/standin"
)

const (
	// atOnce is when the other end must know of a socket's end.
	atOnce = 2 * time.Second
	// beats is when the controller side must know of a gateway that has died.
	// It counts four beats of its own, one a second, since the gateway's last:
	// 4 s at most, and what Kafka takes. On a machine with 43 processes that
	// wanted two cores it took 3.8 to 4.0 s.
	beats = 5 * time.Second
)

// once has an agent stay away after its first channel.
func once(a *standin.Agent) { a.NoReconnect = true }

// An end of either side is the other's within two seconds, in both tiers: an
// agent that the system kills, a controller that hangs up.
func TestEndsAreKnownAtOnce(t *testing.T) {
	s := newSite(t, standin.Config{}, nil)
	for i, tt := range []struct {
		desc   string
		strike func(*actor)
		agent  bool // it is the agent that ends
	}{
		{"the agent is killed", (*actor).kill, true},
		{"the agent is killed with data unread", (*actor).crash, true},
		{"the controller closes", func(a *actor) { rig.Must(t, s.jenkins.Disconnect(a.name, standin.EndFIN)) }, false},
		{"the controller resets", func(a *actor) { rig.Must(t, s.jenkins.Disconnect(a.name, standin.EndReset)) }, false},
		{"the controller says goodbye", func(a *actor) { rig.Must(t, s.jenkins.Disconnect(a.name, standin.EndCommand)) }, false},
	} {
		for _, m := range []manner{manners[0], manners[3]} {
			for tier := range 2 {
				name := fmt.Sprintf("t%d-%s-%d", tier, m.word, i)
				door := s.places[0]
				if tier == 1 {
					h := s.startShim(name)
					defer h.end()
					door = h.door
				}
				a := s.startAgent(name, door, m, once)
				s.jenkins.wantOnline(t, name, 30*time.Second)
				a.want(standin.Online, 1, 10*time.Second)
				began := time.Now()
				tt.strike(a)
				took := s.jenkins.wantOffline(t, name, atOnce)
				if !tt.agent {
					took = a.want(standin.Offline, 1, atOnce).at.Sub(began)
				}
				t.Logf("%s, %s: known after %v", tt.desc, name, took.Round(time.Millisecond))
				a.kill()
			}
		}
	}
}

// Straight at a gateway an agent lives as long as that. When it is killed the
// agent knows at once, and the controller after the heartbeats that are missed;
// when only its way to Kafka is broken, nobody can tell the difference.
func TestGatewayGoneFromTier0(t *testing.T) {
	s := newSite(t, standin.Config{}, nil)
	for _, m := range []manner{manners[0], manners[3]} {
		a := s.startAgent(m.word, s.places[0], m, once)
		s.jenkins.wantOnline(t, m.word, 30*time.Second)
		e := s.holding(m.word)
		began := time.Now()
		e.kill()
		agent := a.want(standin.Offline, 1, atOnce).at.Sub(began)
		controller := s.jenkins.wantOffline(t, m.word, beats)
		t.Logf("gateway killed, %s: the agent knew after %v, the controller after %v", m.word, agent.Round(time.Millisecond), controller.Round(time.Millisecond))
		s.startGateway(e.place)
	}
	var agents []*actor
	for _, m := range []manner{manners[0], manners[3]} {
		agents = append(agents, s.startAgent("away-"+m.word, s.places[0], m, once))
		s.jenkins.wantOnline(t, "away-"+m.word, 30*time.Second)
	}
	s.gatewayWire.cut()
	took := s.jenkins.wantAgents(t, 0, beats)
	t.Logf("gateway without Kafka: the controller knew after %v", took.Round(time.Millisecond))
	s.gatewayWire.mend()
	for _, a := range agents {
		a.want(standin.Offline, 1, 30*time.Second)
	}
}
