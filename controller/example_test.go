package controller_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"time"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/broker"
	"github.com/moorage-dev/moorage/controller"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

// A controller that lives and leaves in order, on a Kafka in memory.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	kafka, err := broker.StartEmbedded(broker.EmbeddedConfig{})
	if err != nil {
		log.Fatal(err)
	}
	defer kafka.Close()
	cfg := bridge.Config{Brokers: kafka.Addrs()}

	// Topics are an operator's to make: moorage topics create.
	admin, err := bridge.Dial(ctx, cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer admin.Close()
	if err := admin.CreateTopics(ctx, "builds", bridge.TopicSpec{}); err != nil {
		log.Fatal(err)
	}

	c, err := controller.Start(ctx, controller.Config{Bridge: cfg, Name: "builds"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("sessions:", len(c.Sessions()))
	fmt.Println("left:", c.Close(ctx), c.Err())
	// Output:
	// sessions: 0
	// left: <nil> <nil>
}

// Of two processes with one name the newer wins, and the older is told.
func ExampleController_Err() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	kafka, err := broker.StartEmbedded(broker.EmbeddedConfig{})
	if err != nil {
		log.Fatal(err)
	}
	defer kafka.Close()
	cfg := controller.Config{Bridge: bridge.Config{Brokers: kafka.Addrs()}, Name: "builds"}
	admin, err := bridge.Dial(ctx, cfg.Bridge)
	if err != nil {
		log.Fatal(err)
	}
	defer admin.Close()
	if err := admin.CreateTopics(ctx, "builds", bridge.TopicSpec{}); err != nil {
		log.Fatal(err)
	}

	older, err := controller.Start(ctx, cfg)
	if err != nil {
		log.Fatal(err)
	}
	newer, err := controller.Start(ctx, cfg)
	if err != nil {
		log.Fatal(err)
	}
	<-older.Done()
	fmt.Println("superseded:", errors.Is(older.Err(), controller.ErrSuperseded))
	fmt.Println("newer:", newer.Close(ctx))
	// Output:
	// superseded: true
	// newer: <nil>
}

// A controller that answers each message of an agent.
func ExampleController_Accept() {
	serve := func(ctx context.Context, c *controller.Controller) error {
		for {
			s, err := c.Accept(ctx)
			if err != nil {
				return err
			}
			if s.Info().Identity == "" {
				s.Reject(session.Ending{Reason: linkv1.Reason_REASON_REFUSED, Text: "who are you?"})
				continue
			}
			s.Accept()
			go func() {
				defer s.Close()
				for {
					m, err := s.Receive(ctx)
					if err != nil {
						return // the session is over: s.Err says why
					}
					if err := s.Send(ctx, append([]byte("did "), m...)); err != nil {
						return
					}
				}
			}()
		}
	}
	_ = serve
}

// A session as a stream of bytes, with half-close: what is sent comes back.
func ExampleSession() {
	echo := func(s *controller.Session) error {
		s.Accept()
		if _, err := io.Copy(s, s); err != nil {
			s.CloseWithReason(session.Ending{Reason: linkv1.Reason_REASON_PEER_RESET, Text: err.Error()})
			return err
		}
		if err := s.CloseWrite(); err != nil {
			return err
		}
		return s.Close()
	}
	_ = echo
}
