package main

import (
	"context"
	"fmt"
	"time"

	"github.com/moorage-dev/moorage/link"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/shim"
	"github.com/moorage-dev/moorage/tunnel"
)

type shimCmd struct {
	linkFlags
	Forward     []pair        `required:"" placeholder:"LISTEN=SERVICE" help:"A local port, [HOST]:PORT, and the service that connections to it reach. May be repeated."`
	OpenTimeout time.Duration `default:"60s" help:"How long a new connection waits while no gateway can be reached."`
	MaxSessions count         `default:"1024" group:"bounds" help:"Connections at once; further ones wait."`
}

// Help gives the examples.
func (*shimCmd) Help() string {
	return `
Connections stay open while links break and gateways die; they only see a pause. Keep the ports local: whoever reaches them acts as this agent.

Examples:

  # Production: TLS, and a token that proves the name.
  moorage shim --gateway gw1.example.org:7443,gw2.example.org:7443 --tls-ca /etc/moorage/ca.pem \
    --controller ci --agent a1 --token-file /etc/moorage/a1.token \
    --forward 127.0.0.1:9000=web --forward 127.0.0.1:2222=ssh

  # On one machine, to try things out.
  moorage shim --gateway 127.0.0.1:7443 --controller ci --agent a1 --insecure --forward 127.0.0.1:9000=web
`
}

// Run serves until ctx ends.
func (c *shimCmd) Run(ctx context.Context, p *process) error {
	client, err := c.client(p)
	if err != nil {
		return err
	}
	defer client.Close()
	cfg := shim.Config{
		DialTimeout: c.OpenTimeout,
		MaxConns:    int(c.MaxSessions),
		Log:         p.log,
		Dial: func(ctx context.Context, service string) (tunnel.Conn, error) {
			s, err := client.Open(ctx, link.Target{Kind: linkv1.ServiceKind_SERVICE_KIND_TCP, Service: service})
			if err != nil {
				return nil, err
			}
			return tunnel.Session{Conn: s.Conn}, nil
		},
	}
	for _, f := range c.Forward {
		var address listenAddress
		if err := address.UnmarshalText([]byte(f.Name)); err != nil {
			return usagef("--forward %s=%s: %w", f.Name, f.Value, err)
		}
		l, err := listen("--forward", address)
		if err != nil {
			return err
		}
		defer l.Close()
		p.log.Info("shim: listening", "address", l.Addr().String(), "service", f.Value)
		cfg.Forwards = append(cfg.Forwards, shim.Forward{Listener: l, Service: f.Value})
	}
	if err := shim.Run(ctx, cfg); err != nil {
		return fmt.Errorf("shim: %w", err)
	}
	p.log.Info("shim: stopping", "cause", context.Cause(ctx))
	return nil
}
