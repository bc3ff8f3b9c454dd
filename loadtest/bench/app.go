package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/controller"
	"github.com/moorage-dev/moorage/loadtest/baseline"
)

// runApp is the application on moorage's own SDK. Each session does what its
// OPEN asks for, as relay's does.
func runApp(ctx context.Context, o roleOptions) error {
	c, err := controller.Start(ctx, controller.Config{
		Bridge: bridge.Config{Brokers: []string{o.kafka}}, Name: controllerName,
		SingleBroker: true, SessionLimit: 50_000, AcceptQueue: 50_000,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return err
	}
	defer c.Kill()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		for {
			s, err := c.Accept(ctx)
			if err != nil {
				return err
			}
			mode, err := baseline.ParseMode(s.Info().Labels)
			if err != nil {
				return err
			}
			s.Accept()
			group.Go(func() error {
				// How it ends is the session's own business: agents come and go.
				_ = serve(ctx, s, mode)
				return s.Close()
			})
		}
	})
	fmt.Print(readyLine)
	return group.Wait()
}

// serve does what mode says until the agent's FIN or the session's end.
func serve(ctx context.Context, s *controller.Session, mode baseline.Mode) error {
	send := func(p []byte) error { return s.Send(ctx, p) }
	if mode.Do == "source" {
		ctx, cancel := context.WithCancel(ctx)
		var listener sync.WaitGroup
		defer listener.Wait()
		defer cancel()
		listener.Go(func() {
			defer cancel()
			for {
				if _, err := s.Receive(ctx); err != nil {
					return // FIN, or the end
				}
			}
		})
		err := mode.Source(ctx, send)
		if err == nil {
			<-ctx.Done() // all sent; the agent says when it has enough
		}
		return err
	}
	for {
		p, err := s.Receive(ctx)
		if err != nil {
			return err
		}
		switch mode.Do {
		case "echo":
			err = send(p)
		case "burst":
			err = burst(ctx, mode, send)
		}
		if err != nil {
			return err
		}
	}
}

// burst sends mode's messages after its wait, whether or not the agent is there.
func burst(ctx context.Context, mode baseline.Mode, send func([]byte) error) error {
	t := time.NewTimer(mode.Wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for range mode.Count {
		if err := send(make([]byte, mode.Size)); err != nil {
			return err
		}
	}
	return nil
}
