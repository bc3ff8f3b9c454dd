package controller

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	logv1 "github.com/moorage-dev/moorage/proto/moorage/log/v1"
)

// A lease is a gateway's word; only what the agent side itself causes is heard.
func TestHeardIsTheAgentSideItself(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		g := r.gateway("gw", 1)
		p := r.peer(c).open(g, nil)
		s := r.accept(c)
		p.want(envelope.Accept, patience)
		opened := s.Info().Heard

		time.Sleep(5 * time.Second)
		p.lease(g)
		time.Sleep(time.Second)
		if heard := s.Info().Heard; !heard.Equal(opened) {
			t.Errorf("a lease was heard, %v after the OPEN", heard.Sub(opened))
		}

		asked := time.Now()
		s.Probe()
		p.want(envelope.Probe, time.Second)
		time.Sleep(time.Millisecond)
		p.record(envelope.Delivered, nil)
		synctest.Wait()
		if heard := s.Info().Heard; !heard.After(asked) {
			t.Errorf("the answer to a probe was not heard: %v before it was asked for", asked.Sub(heard))
		}

		p.record(envelope.Detached, nil)
		time.Sleep(time.Second)
		s.Probe() // nobody is there to be asked
		time.Sleep(time.Second)
		if s.Info().Attached {
			t.Error("attached again by a probe")
		}
	})
}

func TestWaitsIsShown(t *testing.T) {
	story(t, func(r *rig) {
		c := r.start(r.config())
		p := r.peer(c).open(r.gateway("gw", 1), func(o *linkv1.Open) {
			o.Kind = linkv1.ServiceKind_SERVICE_KIND_REMOTING
			o.Remoting = &linkv1.Remoting{Protocol: "JNLP4-connect", Agent: "linux-7"}
		})
		s, err := c.Accept(r.Context())
		if err != nil {
			t.Fatal(err)
		}
		wait := func(waits string, state logv1.SessionState) {
			t.Helper()
			time.Sleep(2 * time.Second)
			now := r.presence()[p.id.String()]
			if now.GetWaits() != waits || now.GetState() != state || now.GetLegacyAgent() != "linux-7" || now.GetProtocol() != "JNLP4-connect" {
				t.Errorf("shown: %v; want %v that waits for %q", now, state, waits)
			}
		}
		s.Waits("the controller's agent port: connection refused")
		wait("the controller's agent port: connection refused", logv1.SessionState_SESSION_STATE_ATTACHED)
		s.Waits("")
		s.LimitGrace(30 * time.Second) // of a minute
		s.Accept()
		wait("", logv1.SessionState_SESSION_STATE_ATTACHED)
		p.record(envelope.Detached, nil)
		wait("its agent to come back, 30s at most", logv1.SessionState_SESSION_STATE_DETACHED)
		r.wantEnded(s, linkv1.Reason_REASON_GRACE, 30*time.Second)
		wait("", logv1.SessionState_SESSION_STATE_ENDED)
	})
}
