package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/moorage-dev/moorage/link"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

type sendCmd struct {
	linkFlags
	Text []string      `arg:"" optional:"" help:"Messages to send; by default, each line of standard input is one."`
	Open time.Duration `name:"open-timeout" default:"30s" help:"How long to look for a gateway."`
	Wait time.Duration `default:"5s" least:"0s" help:"How long to wait, after the last message, for the controller to end its side."`
}

// Help gives the examples.
func (*sendCmd) Help() string {
	return `
Opens a native session, sends, prints what comes back, one message a line, and closes.

Examples:

  moorage send hello world --gateway 127.0.0.1:7443 --controller ci --agent a1 --insecure
  seq 1000 | moorage send --gateway gw1.example.org:7443 --controller ci --agent a1 --token-file a1.token
`
}

// Run sends and prints.
func (c *sendCmd) Run(ctx context.Context, p *process) error {
	client, err := c.client(p)
	if err != nil {
		return err
	}
	defer client.Close()
	opening, cancelOpening := context.WithTimeoutCause(ctx, c.Open, fmt.Errorf("not within --open-timeout %v", c.Open))
	defer cancelOpening()
	s, err := client.Open(opening, link.Target{Kind: linkv1.ServiceKind_SERVICE_KIND_NATIVE})
	if err != nil {
		return err
	}
	if err := s.Accepted(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	received := make(chan error, 1)
	go func() { received <- printReplies(ctx, s, p.stdout) }()
	// Reading standard input cannot be given up, but it can be left behind.
	sent := make(chan error, 1)
	go func() { sent <- c.sendAll(ctx, s, p.stdin) }()
	select {
	case err := <-sent:
		if err != nil {
			return err
		}
	case <-s.Done():
		return fmt.Errorf("not everything was sent: %w", s.Err())
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := s.CloseWrite(); err != nil {
		return err
	}
	if err := s.Flush(ctx); err != nil && !endedWell(err) {
		return err
	}
	late := time.AfterFunc(c.Wait, func() { cancel(errLate) })
	defer late.Stop()
	if err := <-received; err != nil && !errors.Is(err, errLate) && !endedWell(err) {
		return err
	}
	return s.Close()
}

// errLate ends the waiting for replies; that is no failure.
var errLate = errors.New("the controller did not end its side")

func (c *sendCmd) sendAll(ctx context.Context, s *link.Session, stdin io.Reader) error {
	for _, text := range c.Text {
		if err := s.Send(ctx, []byte(text)); err != nil {
			return err
		}
	}
	if len(c.Text) > 0 {
		return nil
	}
	lines := bufio.NewScanner(stdin)
	lines.Buffer(nil, session.MaxFrame)
	for lines.Scan() {
		if err := s.Send(ctx, lines.Bytes()); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("standard input: %w; a message has at most %d bytes", err, session.MaxFrame)
	}
	return nil
}

// printReplies prints messages until the controller ends its side.
func printReplies(ctx context.Context, s *link.Session, w io.Writer) error {
	for {
		message, err := s.Receive(ctx)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(w, printable(string(message))); err != nil {
			return err
		}
	}
}

// endedWell reports whether err says that the session ended in good order.
func endedWell(err error) bool {
	ended, ok := errors.AsType[*session.EndedError](err)
	return ok && ended.Reason == linkv1.Reason_REASON_OK
}
