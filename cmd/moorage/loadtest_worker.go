package main

import (
	"context"
	"crypto/tls"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/moorage-dev/moorage/loadtest/baseline"
	"github.com/moorage-dev/moorage/loadtest/worker"
)

type loadtestWorkerCmd struct{}

// Help says who starts it.
func (*loadtestWorkerCmd) Help() string {
	return `
Started by a load test, which talks with it in lines of JSON.

Examples:

  moorage loadtest-worker
`
}

// Run does what the plan on stdin says. Signals are not for it: its stdin ends
// with whoever started it.
func (*loadtestWorkerCmd) Run(ctx context.Context, p *process) error {
	return worker.Main(context.WithoutCancel(ctx), p.stdin, p.stdout, baseline.Transports())
}

type loadtestRelayCmd struct {
	Listen      listenAddress `default:"127.0.0.1:0" help:"Where agents connect."`
	Admin       listenAddress `default:"127.0.0.1:0" help:"Where /metrics is served."`
	Kafka       []address     `required:"" placeholder:"HOST:PORT" help:"Brokers."`
	TopicPrefix topicPrefix   `default:"relay." help:"What the names of its topics begin with."`
	TLSCert     string        `name:"tls-cert" placeholder:"FILE" help:"Its certificate; without it agents speak in clear."`
	TLSKey      string        `name:"tls-key" placeholder:"FILE" help:"The key of --tls-cert."`
}

// Help says who starts it.
func (*loadtestRelayCmd) Help() string {
	return `
Started by a load test: the gateway of relay, the program that moorage is compared with. It has no promises, and does not ask who comes.

Examples:

  moorage loadtest-relay --kafka 127.0.0.1:9092
`
}

// Run serves until ctx ends.
func (c *loadtestRelayCmd) Run(ctx context.Context, _ *process) error {
	if err := (baseline.Topics{Brokers: texts(c.Kafka), Prefix: string(c.TopicPrefix)}).Create(ctx); err != nil {
		return err
	}
	var certificate *tls.Certificate
	if c.TLSCert != "" {
		pair, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
		if err != nil {
			return usagef("--tls-cert: %w", err)
		}
		certificate = &pair
	}
	admin, err := listen("--admin", c.Admin)
	if err != nil {
		return err
	}
	metrics := &http.Server{Handler: promhttp.Handler(), ReadHeaderTimeout: 10 * time.Second}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer metrics.Close()
	wg.Go(func() { _ = metrics.Serve(admin) }) // ends by Close; without it only figures are missing
	err = baseline.Serve(ctx, string(c.Listen), certificate, texts(c.Kafka), string(c.TopicPrefix))
	if ctx.Err() != nil {
		return nil
	}
	return err
}
