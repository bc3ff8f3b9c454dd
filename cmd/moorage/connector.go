package main

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/moorage-dev/moorage/connector"
	"github.com/moorage-dev/moorage/controller"
	"github.com/moorage-dev/moorage/session"
)

type connectorCmd struct {
	kafkaFlags
	controllerFlags
	Jenkins             string        `placeholder:"URL" help:"The Jenkins or Hudson to stand beside, by its root URL as reached from here. Its agent port, protocols and identity are found by the look-up that agents make."`
	JenkinsAgentAddress address       `placeholder:"HOST:PORT" help:"Its agent port, where that is not on the URL's host or not the one it tells agents."`
	JenkinsCA           string        `name:"jenkins-ca" placeholder:"FILE" help:"Certificates (PEM) that an https:// Jenkins is checked against instead of the system's."`
	Hold                time.Duration `default:"5m" help:"How long an agent waits for a Jenkins that cannot be reached, before it is rejected."`
	Service             []pair        `placeholder:"NAME=HOST:PORT" help:"A TCP service that agents may reach, and where it is. May be repeated."`
	AllowAgent          []string      `placeholder:"NAME" help:"Agents that may connect, by name or pattern (a*); all that a gateway lets in by default."`
	DialTimeout         time.Duration `default:"10s" help:"How long Jenkins or a service may take to accept a connection."`
}

// controllerFlags are what every controller-side process is told.
type controllerFlags struct {
	Controller   controllerName `required:"" placeholder:"NAME" help:"The controller to be. Of two processes with one name the newer wins."`
	Grace        time.Duration  `default:"240s" help:"How long a session is kept whose agent is away."`
	SingleBroker bool           `help:"Bear topics on one broker, which outlive nothing. For trying things out."`
	MaxSessions  count          `default:"10000" group:"bounds" help:"Sessions held at once; more are rejected."`
	WindowBytes  size           `default:"1MiB" least:"64KiB" group:"bounds" help:"Bytes that an agent may have under way, per session; then it waits."`
}

// start begins an incarnation of the controller.
func (f *controllerFlags) start(ctx context.Context, p *process, kafka *kafkaFlags, services []string) (*controller.Controller, error) {
	if f.WindowBytes > session.MaxWindow {
		return nil, usagef("--window-bytes %d: want at most %dMiB", f.WindowBytes, session.MaxWindow>>20)
	}
	bridge, err := kafka.config(p)
	if err != nil {
		return nil, err
	}
	return controller.Start(ctx, controller.Config{
		Bridge:       bridge,
		Name:         string(f.Controller),
		Grace:        f.Grace,
		Window:       int(f.WindowBytes),
		Services:     services,
		SessionLimit: int(f.MaxSessions),
		SingleBroker: f.SingleBroker,
		Version:      versionText(),
		Logger:       p.log,
	})
}

// Help gives the examples.
func (*connectorCmd) Help() string {
	return `
It stands where Jenkins, Hudson or other services can be reached, talks to Kafka only, and never listens. Either --jenkins or --service is needed; both may be.

Agents' own pings bear a --grace of up to 200 s; from 240 s on builds may be lost in it, and after 540 s all are.

Examples:

  # Production: beside Jenkins, SCRAM to Kafka over TLS.
  moorage connector --controller ci --jenkins http://127.0.0.1:8080/ \
    --kafka k1.example.org:9093,k2.example.org:9093,k3.example.org:9093 --kafka-ca /etc/moorage/kafka-ca.pem \
    --kafka-sasl-mechanism SCRAM-SHA-512 --kafka-user ci --kafka-password-file /etc/moorage/kafka-password

  # Two TCP services instead, agents by name.
  moorage connector --controller ci --service web=127.0.0.1:8080 --service ssh=127.0.0.1:22 --allow-agent 'build-*' \
    --kafka k1.example.org:9093,k2.example.org:9093,k3.example.org:9093 --kafka-ca /etc/moorage/kafka-ca.pem \
    --kafka-sasl-mechanism SCRAM-SHA-512 --kafka-user ci --kafka-password-file /etc/moorage/kafka-password

  # On one machine, to try things out.
  moorage connector --kafka 127.0.0.1:9092 --single-broker --controller ci --jenkins http://127.0.0.1:8080/
`
}

// Run serves until ctx ends.
func (c *connectorCmd) Run(ctx context.Context, p *process) error {
	services, err := pairMap("--service", c.Service)
	if err != nil {
		return err
	}
	cfg := connector.Config{
		Services:    services,
		Agents:      c.AllowAgent,
		DialTimeout: c.DialTimeout,
		Hold:        c.Hold,
		Log:         p.log,
	}
	if cfg.Jenkins, err = c.jenkins(); err != nil {
		return err
	}
	if err := cfg.Check(); err != nil {
		return usageError{err}
	}
	ctl, err := c.start(ctx, p, &c.kafkaFlags, slices.Sorted(maps.Keys(cfg.Services)))
	if err != nil {
		return err
	}
	defer closeController(ctl, p)
	p.log.Info("connector: serving", "controller", string(c.Controller), "services", cfg.Services, "jenkins", c.Jenkins)
	return connector.Run(ctx, cfg, ctl)
}

// jenkins returns nil where none is named.
func (c *connectorCmd) jenkins() (*connector.Jenkins, error) {
	if c.Jenkins == "" {
		if c.JenkinsAgentAddress != "" || c.JenkinsCA != "" {
			return nil, usagef("--jenkins-agent-address and --jenkins-ca say more about --jenkins, which is missing")
		}
		return nil, nil
	}
	roots, err := loadPool("--jenkins-ca", c.JenkinsCA)
	if err != nil {
		return nil, err
	}
	return &connector.Jenkins{URL: c.Jenkins, AgentAddress: string(c.JenkinsAgentAddress), RootCAs: roots}, nil
}
