package site

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// A shim is a door of tier 1.
type shim struct {
	*child
	door string
}

// startShims starts the doors of legacy agents that speak the session protocol.
func (s *site) startShims(ctx context.Context) error {
	for i := range s.cfg.Shims {
		name := "shim-" + strconv.Itoa(i+1)
		door, err := s.reserve(nil, loopback)
		if err != nil {
			return err
		}
		argv := []string{s.cfg.Binary, "shim", "--gateway", strings.Join(s.Gateways(), ","), "--controller", s.legacyController(),
			"--agent", name, "--door", door, "--state-dir", s.secret(name), "--max-sessions", "20000"}
		if s.caFile != "" {
			argv = append(argv, "--tls-ca", s.caFile)
		} else {
			argv = append(argv, "--insecure")
		}
		if s.tokenFile != "" {
			token, err := s.token(ctx, name)
			if err != nil {
				return err
			}
			argv = append(argv, "--token-file", token)
		}
		sh := &shim{door: door, child: &child{
			name: name, log: s.logFile(name), readyWithin: readyWithin,
			argv:  func() []string { return argv },
			ready: func(ctx context.Context) error { return dialable(ctx, door) },
		}}
		s.mu.Lock()
		s.shims = append(s.shims, sh)
		s.mu.Unlock()
		if err := sh.start(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Shims are the doors of tier 1.
func (s *site) Shims() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, sh := range s.shims {
		all = append(all, "http://"+sh.door+"/")
	}
	return all
}

// Connect starts the connector.
func (s *site) Connect(ctx context.Context, jenkins string) error {
	if s.cfg.System != Moorage {
		return fmt.Errorf("site: legacy agents need moorage: system %s has no connector", s.cfg.System)
	}
	argv := []string{s.cfg.Binary, "connector", "--kafka", strings.Join(s.kafka.public, ","), "--topic-prefix", s.cfg.Prefix,
		"--controller", s.legacyController(), "--jenkins", jenkins, "--single-broker", "--max-sessions", "20000", "--log-level", "info"}
	argv = append(argv, s.cfg.Access.Flags()...)
	if s.cfg.Local.Grace != 0 {
		argv = append(argv, "--grace", s.cfg.Local.Grace.String())
	}
	c := &child{
		name: "connector", log: s.logFile("connector"), readyWithin: readyWithin,
		argv: func() []string { return argv }, env: s.cfg.Access.Environment(),
	}
	from := int64(0)
	c.ready = func(context.Context) error {
		// It never listens: it says that it serves.
		said, err := os.ReadFile(c.log)
		if err != nil {
			return err
		}
		c.mu.Lock()
		from = c.proc.from
		c.mu.Unlock()
		if !strings.Contains(string(said[min(from, int64(len(said))):]), "connector: serving") {
			return errors.New("it does not say that it serves")
		}
		return nil
	}
	s.mu.Lock()
	if s.connector != nil {
		s.mu.Unlock()
		return errors.New("site: there is a connector already")
	}
	s.connector = c
	s.mu.Unlock()
	return c.start(ctx)
}
