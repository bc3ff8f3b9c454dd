package main

import (
	"context"
	"errors"
	"time"
)

type gatewayCmd struct {
	kafkaFlags

	Listen       listenAddress `default:":7443" help:"Where agents connect."`
	Admin        listenAddress `default:"127.0.0.1:7480" help:"Where /healthz, /readyz and /metrics are served, without TLS: keep it local or behind a firewall."`
	Name         string        `placeholder:"NAME" help:"This gateway's name, unique in the fleet; the host's name by default."`
	Advertise    address       `placeholder:"HOST:PORT" help:"Where agents reach this gateway from outside, for hints to agents and the list of gateways."`
	DrainTimeout time.Duration `default:"30s" help:"How long SIGTERM waits for agents to move elsewhere."`

	TLSCert      string `name:"tls-cert" placeholder:"FILE" group:"tls" help:"This gateway's certificate chain (PEM)."`
	TLSKey       string `name:"tls-key" placeholder:"FILE" group:"tls" help:"Key (PEM) of --tls-cert."`
	ClientCA     string `name:"client-ca" placeholder:"FILE" group:"tls" help:"Certificates (PEM) that agents' are checked against; the name in an agent's certificate is its identity."`
	TokenKeyFile string `placeholder:"FILE" group:"tls" help:"File with the fleet's key, which agents' tokens are made of (see moorage token)."`
	Insecure     bool   `group:"tls" help:"Accept agents without TLS and without proof of their names. For trying things out."`

	MaxSessions int  `default:"20000" group:"bounds" help:"Sessions attached at once."`
	MaxStreams  int  `default:"25000" group:"bounds" help:"Streams open at once, with or without a session."`
	QueueBytes  size `default:"8MiB" group:"bounds" help:"Bytes waiting for Kafka, per partition."`
	CacheBytes  size `default:"64MiB" group:"bounds" help:"Recent frames kept for agents that come back soon; older ones are read from Kafka."`
	ReplayScans int  `default:"4" group:"bounds" help:"Replays read from Kafka at once."`
}

// Help gives the examples.
func (*gatewayCmd) Help() string {
	return `
A gateway keeps nothing that is needed after its death: run as many as you like behind a load balancer.

Examples:

  # Production: TLS both ways, SCRAM to Kafka, agents prove their names by tokens.
  moorage gateway --name gw1 --listen :7443 --advertise gw1.example.org:7443 \
    --kafka k1.example.org:9093,k2.example.org:9093,k3.example.org:9093 --kafka-ca /etc/moorage/kafka-ca.pem \
    --kafka-sasl-mechanism SCRAM-SHA-512 --kafka-user gateway --kafka-password-file /etc/moorage/kafka-password \
    --tls-cert /etc/moorage/gw1.pem --tls-key /etc/moorage/gw1.key --token-key-file /etc/moorage/token-key

  # The same from a file.
  moorage gateway --config /etc/moorage/moorage.yaml

  # On one machine, to try things out.
  moorage gateway --kafka 127.0.0.1:9092 --listen 127.0.0.1:7443 --insecure
`
}

// Run serves until ctx ends.
func (c *gatewayCmd) Run(ctx context.Context, p *process) error {
	return errors.New("gateway: not wired yet")
}
