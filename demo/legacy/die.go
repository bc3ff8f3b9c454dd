package legacy

import (
	"context"
	"errors"
	"time"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/link"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/remoting"
	"github.com/moorage-dev/moorage/session"
)

// Die has Jenkins die while an agent is connected. The agent has a door that is
// not ours: it speaks the link's protocol, and waits to be told that the session
// has ended. Our door ends whatever is said to it about the end.
func (s *Site) Die(ctx context.Context) error {
	s.identity(ctx, nil) // it is known where Jenkins is
	client, err := link.New(link.Config{Gateways: []string{s.door}, Controller: name, Agent: agent, Logger: s.log})
	if err != nil {
		return err
	}
	defer client.Close()
	patient, stop := context.WithTimeout(ctx, s.cfg.Patience)
	defer stop()
	open, err := client.Open(patient, link.Target{
		Kind: linkv1.ServiceKind_SERVICE_KIND_REMOTING, Remoting: &linkv1.Remoting{Agent: agent, Protocol: remoting.JNLP4},
	})
	if err != nil {
		return err
	}
	if err := open.Accepted(patient); err != nil {
		return err
	}
	c := s.cfg.Check
	c.Expect(id, session.ReasonName(linkv1.Reason_REASON_PEER_RESET)) // so may a kernel close for the dead
	s.kill()
	c.Ended(id, check.Controller, check.OK, "Jenkins has died")
	late := time.NewTimer(endWithin)
	defer late.Stop()
	select {
	case <-open.Done():
	case <-late.C:
		return nil // never told
	case <-ctx.Done():
		return nil
	}
	reason := "" // none
	if ended, ok := errors.AsType[*session.EndedError](open.Err()); ok {
		reason = session.ReasonName(ended.Reason)
	}
	c.Ended(id, check.Agent, reason, "the session has ended")
	return nil
}
