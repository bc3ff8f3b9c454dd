package legacy

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/remoting"
	"github.com/moorage-dev/moorage/standin"
)

// visit has an agent connect and leave. Between the two, while tells whether it
// went as it should; what does not happen in time is for the checker to miss.
func (s *Site) visit(ctx context.Context, a standin.Agent, while func(context.Context) bool) {
	a.Name, a.Secret, a.Pings = agent, s.jenkins.Secret(agent), standin.Pings{Interval: -1}
	c := s.cfg.Check
	life, leave := context.WithCancel(ctx)
	var living sync.WaitGroup
	defer living.Wait()
	defer leave()
	hello := []byte("here I am")
	c.Sent(id, check.Agent, 1, hello)
	living.Go(func() { _ = a.Run(life) }) // it ends with life
	patient, stop := context.WithTimeout(ctx, s.cfg.Patience)
	defer stop()
	if s.jenkins.WaitOnline(patient, agent) != nil {
		return
	}
	c.Received(id, check.Controller, 1, hello)
	if !while(patient) {
		return
	}
	leave()
	living.Wait()
	c.Ended(id, check.Agent, check.OK, "it has left")
	patient, stop = context.WithTimeout(ctx, s.cfg.Patience)
	defer stop()
	if s.jenkins.WaitOffline(patient, agent) == nil {
		c.Ended(id, check.Controller, check.OK, "the channel has ended")
	}
}

// Serve has an agent connect by JNLP4, answer calls and leave.
func (s *Site) Serve(ctx context.Context) error {
	identity := s.identity(ctx, nil)
	s.visit(ctx, standin.Agent{Direct: s.door, Identity: identity, Protocols: []string{remoting.JNLP4}}, s.calls)
	return nil
}

// calls makes calls whose answers fill their chunks to the last byte, and
// others. The first tells how large an answer's own words are.
func (s *Site) calls(ctx context.Context) bool {
	before := s.jenkins.Stats().Bytes
	const first, whole = 100, remoting.ChunkSize
	for n, up := range []int{first, 0, 1000, 3 * whole} {
		if n == 1 {
			up = whole - int(s.jenkins.Stats().Bytes-before-first)
		}
		m := fmt.Appendf(nil, "a call for %d bytes", up)
		seq := uint64(n + 1)
		s.cfg.Check.Sent(id, check.Controller, seq, m)
		err := s.jenkins.Call(ctx, agent, up, len(m))
		if errors.Is(err, standin.ErrCorrupt) {
			m = []byte(err.Error())
		} else if err != nil {
			return false
		}
		s.cfg.Check.Received(id, check.Agent, seq, m)
	}
	return true
}

// Ping has Jenkins ping the WebSocket of an agent. Who is there answers.
func (s *Site) Ping(ctx context.Context) error {
	s.identity(ctx, nil) // it is known: nobody need try again
	ping := []byte("are you there?")
	s.visit(ctx, standin.Agent{URL: "http://" + s.door + "/", WebSocket: true}, func(ctx context.Context) bool {
		s.cfg.Check.Sent(id, check.Controller, 1, ping)
		if !s.until(ctx, func() bool { return s.jenkins.Stats().Pongs > 0 }) {
			return false
		}
		s.cfg.Check.Received(id, check.Agent, 1, ping)
		return true
	})
	return nil
}

// Probe has an agent look whether the port is open, without a word, before it
// connects. The connector must hear of one agent.
func (s *Site) Probe(ctx context.Context) error {
	s.identity(ctx, nil) // as in Ping
	s.visit(ctx, standin.Agent{URL: "http://" + s.door + "/"}, func(context.Context) bool {
		for n := uint64(2); n <= s.ctrl.Stats().Opened; n++ {
			s.cfg.Check.Received(id, check.Controller, n, []byte("an agent that nobody has started"))
		}
		return true
	})
	return nil
}
