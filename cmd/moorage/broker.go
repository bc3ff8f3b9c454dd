package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/moorage-dev/moorage/broker"
)

type brokerCmd struct {
	Listen  string `default:"127.0.0.1:9092" help:"Address of the first broker, as clients shall dial it; further ones take the ports that follow."`
	Brokers int    `default:"1" help:"How many brokers to be; 3 allows topics with three replicas."`
}

// Help gives the examples.
func (*brokerCmd) Help() string {
	return `
For trying things out and for tests: everything is in memory and gone when the process ends,
or when it is older than its topic's retention, an hour by default.

Examples:

  moorage broker
  moorage broker --listen 127.0.0.1:19092 --brokers 3
`
}

// Run serves until ctx ends.
func (c *brokerCmd) Run(ctx context.Context, p *process) error {
	if c.Brokers < 1 || c.Brokers > 16 {
		return usagef("--brokers %d: want 1 to 16", c.Brokers)
	}
	b, err := broker.StartEmbedded(broker.EmbeddedConfig{Brokers: c.Brokers, Listen: c.Listen, Retain: time.Minute, Log: p.log})
	if err != nil {
		op, ok := errors.AsType[*net.OpError](err)
		if !ok {
			return usagef("--listen %s: %w", c.Listen, err)
		}
		taken := c.Listen
		if op.Addr != nil {
			taken = op.Addr.String() // perhaps one of the ports that follow
		}
		return listenError("--listen", taken, err)
	}
	defer b.Close()
	fmt.Fprintln(p.stdout, "In memory only, for trying things out, never for production: everything is lost when this process ends.")
	fmt.Fprintln(p.stdout, "Brokers: --kafka "+strings.Join(b.Addrs(), ","))
	<-ctx.Done()
	p.log.Info("broker: stopping", "cause", context.Cause(ctx))
	return nil
}
