package legacy

import (
	"context"
	"crypto/rand"
	"io"
	"net"
	"strings"
	"time"

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/remoting"
	"github.com/moorage-dev/moorage/standin"
)

// connect is an agent that does not get further than the greeting.
func (s *Site) connect(ctx context.Context) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.door)
	if err != nil {
		return nil, err
	}
	_, err = conn.Write(append(remoting.AppendGreeting(nil, remoting.JNLP4), remoting.ACK...))
	if err == nil {
		err = conn.SetDeadline(time.Now().Add(s.cfg.Patience))
	}
	if err == nil {
		_, err = io.ReadFull(conn, make([]byte, len(remoting.ACK)))
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// Restart replaces Jenkins by another with other keys, another jar and another
// agent port. Agents must be told of it, and get its jar.
func (s *Site) Restart(ctx context.Context) error {
	c := s.cfg.Check
	old := s.jenkins
	told := s.identity(ctx, nil)
	c.Sent(id, check.Controller, 1, []byte(old.Identity))
	c.Received(id, check.Agent, 1, []byte(told))
	if _, err := s.get(ctx, "jnlpJars/agent.jar"); err != nil {
		return err
	}
	jar := make([]byte, 10_000)
	rand.Read(jar) // never fails
	s.kill()
	at := strings.TrimSuffix(strings.TrimPrefix(old.URL, "http://"), "/")
	if err := s.startJenkins(standin.Config{ListenHTTP: at, Jar: jar}); err != nil {
		return err
	}
	c.Sent(id, check.Controller, 2, []byte(s.jenkins.Identity))
	if conn, err := s.connect(ctx); err == nil { // nobody is at the old port: the connector looks
		defer conn.Close()
	}
	told = s.identity(ctx, func(told string) bool { return told == s.jenkins.Identity })
	if told != s.jenkins.Identity {
		return nil // stuck
	}
	c.Received(id, check.Agent, 2, []byte(told))
	c.Sent(id, check.Controller, 3, jar)
	got, err := s.get(ctx, "jnlpJars/agent.jar")
	if err != nil {
		return err
	}
	c.Received(id, check.Agent, 3, got)
	return nil
}
