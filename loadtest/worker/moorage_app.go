package worker

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/controller"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

// Application starts a controller. It bears topics of one broker and of few
// partitions: what the load is made on is said in the report.
func (Moorage) Application(ctx context.Context, p *Plan) (Application, error) {
	agents := allAgents(p)
	kafka, err := p.Access.Bridge(bridge.Config{Brokers: p.Kafka, Prefix: p.Prefix, ClientID: "moorage-loadtest"})
	if err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	c, err := controller.Start(ctx, controller.Config{
		Bridge: kafka,
		Name:   p.Controller,
		Grace:  time.Duration(p.Scenario.Local.Grace),
		// Sessions of agents that died stay for the grace, beside their next ones.
		SessionLimit: max(controller.DefaultSessionLimit, 3*agents),
		AcceptQueue:  max(controller.DefaultAcceptQueue, agents),
		Services:     []string{tunnelService},
		SingleBroker: true, AllowSmall: true,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return nil, err
	}
	return &moorageApplication{c}, nil
}

type moorageApplication struct{ c *controller.Controller }

// Accept returns the next session of a load test's agent; others are turned away.
func (a *moorageApplication) Accept(ctx context.Context) (key string, s Session, err error) {
	for {
		from, err := a.c.Accept(ctx)
		if err != nil {
			return "", nil, err
		}
		info := from.Info()
		key, ours := info.Labels[keyLabel]
		if !ours {
			from.Reject(session.Ending{Reason: linkv1.Reason_REASON_REFUSED, Text: "a load test runs here"})
			continue
		}
		from.Accept()
		return key, newEnd(info.Kind, end{from.Conn, func(bool) {}}), nil
	}
}

// closeTime bounds how long the end of a controller is waited for.
const closeTime = 10 * time.Second

func (a *moorageApplication) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	return a.c.Close(ctx)
}
