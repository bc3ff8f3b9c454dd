package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/controller"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	logv1 "github.com/moorage-dev/moorage/proto/moorage/log/v1"
	"github.com/moorage-dev/moorage/session"
)

type tailCmd struct {
	kafkaFlags
	controllerFlags
	Echo     bool `help:"Send every message back."`
	JSON     bool `name:"json" help:"Print one JSON object per message."`
	TakeOver bool `help:"Take the name from the process that has it now, whose sessions then end."`
}

// Help gives the examples.
func (*tailCmd) Help() string {
	return `
Accepts native sessions and prints their messages. It is the controller while it runs: it will not start beside another unless told to.

Examples:

  moorage tail --kafka 127.0.0.1:9092 --single-broker --controller ci --echo
`
}

// Run serves until ctx ends.
func (c *tailCmd) Run(ctx context.Context, p *process) error {
	if !c.TakeOver {
		if err := c.refuseCompany(ctx, p); err != nil {
			return err
		}
	}
	ctl, err := c.start(ctx, p, &c.kafkaFlags, nil)
	if err != nil {
		return err
	}
	defer closeController(ctl, p)
	p.log.Info("tail: serving", "controller", string(c.Controller))
	out := &messagePrinter{w: p.stdout, json: c.JSON}
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		s, err := ctl.Accept(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if s.Info().Kind != linkv1.ServiceKind_SERVICE_KIND_NATIVE {
			s.Reject(session.Ending{Reason: linkv1.Reason_REASON_REFUSED, Text: "this controller is served by hand: it has no TCP services"})
			continue
		}
		s.Accept()
		wg.Go(func() { c.serve(ctx, p, s, out) })
	}
}

// serve prints one session.
func (c *tailCmd) serve(ctx context.Context, p *process, s *controller.Session, out *messagePrinter) {
	info := s.Info()
	log := p.log.With("session", info.ID.String(), "agent", info.Agent)
	for {
		message, err := s.Receive(ctx)
		if err == nil {
			err = out.print(info, message)
		}
		if err == nil && c.Echo {
			err = s.Send(ctx, message)
		}
		if err == nil {
			continue
		}
		if err != io.EOF && ctx.Err() == nil {
			log.Warn("tail: session broken", "err", err)
		}
		if err := s.Close(); err != nil {
			log.Warn("tail: session not closed", "err", err)
		}
		return
	}
}

// A messagePrinter prints messages of several sessions, a line each.
type messagePrinter struct {
	json bool

	mu sync.Mutex // guards w
	w  io.Writer
}

// A messageLine is a message as JSON. Bytes that are no text stand in Base64.
type messageLine struct {
	Session string `json:"session"`
	Agent   string `json:"agent"`
	Text    string `json:"text,omitzero"`
	Base64  []byte `json:"base64,omitzero"`
}

func (p *messagePrinter) print(from controller.Info, message []byte) error {
	line := messageLine{Session: from.ID.String(), Agent: from.Agent, Text: string(message)}
	if !utf8.Valid(message) {
		line.Text, line.Base64 = "", message
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.json {
		return json.NewEncoder(p.w).Encode(line)
	}
	_, err := fmt.Fprintf(p.w, "%.8s %s %s\n", line.Session, printable(line.Agent), printable(string(message)))
	return err
}

// companyAfter is how old a controller's heartbeat must be for its name to be free.
const companyAfter = 10 * time.Second

// refuseCompany fails when another process serves the controller.
func (c *tailCmd) refuseCompany(ctx context.Context, p *process) error {
	client, err := c.dial(ctx, p)
	if err != nil {
		return err
	}
	defer client.Close()
	var beat logv1.ControllerHeartbeat
	var at time.Time
	err = readState(ctx, client, client.Topics(string(c.Controller)).Meta, func(m bridge.Message) {
		if proto.Unmarshal(m.Value, &beat) == nil {
			at = m.Time
		}
	})
	if err != nil {
		return err
	}
	if ago := time.Since(at); !at.IsZero() && !beat.GetLeaving() && ago < companyAfter {
		return fmt.Errorf("controller %s is served by %s, heard of %v ago; stop it, choose another name, or end its sessions with --take-over",
			c.Controller, printable(beat.GetProcess()), max(ago, 0).Round(100*time.Millisecond))
	}
	return nil
}

// closeController tells agents that the controller is leaving.
func closeController(c *controller.Controller, p *process) {
	// The context that ended the command would end this too. Close bounds itself.
	if err := c.Close(context.Background()); err != nil {
		p.log.Warn("controller left in disorder", "err", err)
	}
}
