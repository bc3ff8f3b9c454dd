package connector

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"time"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

const (
	retryFirst = 100 * time.Millisecond
	retryMost  = 5 * time.Second
)

// keepTrying dials until it succeeds, the session is over, or Hold has passed:
// a controller that restarts refuses for a while, and an agent that learned of
// it would end for good. A *refusedError is final at once. Meanwhile the
// session shows what it waits for.
func (c *connector) keepTrying(ctx context.Context, s peer, kind linkv1.ServiceKind, what string, try func(context.Context) (*local, error)) (*local, *session.Ending, error) {
	began := time.Now()
	for wait := retryFirst; ; wait = min(2*wait, retryMost) {
		l, err := c.dialOnce(ctx, kind, try)
		if err == nil {
			s.Waits("")
			return l, nil, nil
		}
		if ctx.Err() != nil {
			return nil, gone(context.Cause(ctx)), err
		}
		if no, ok := errors.AsType[*refusedError](err); ok {
			return nil, refusal("%s", no.text), err
		}
		left := c.cfg.Hold - time.Since(began)
		if left <= 0 {
			return nil, dialFailed("%s: %s, tried for %v", what, dialWord(err), c.cfg.Hold), err
		}
		s.Waits(fmt.Sprintf("%s: %s, tried since %s", what, dialWord(err), began.UTC().Format(time.TimeOnly+"Z")))
		news := c.jenkins.look()
		timer := time.NewTimer(min(left, wait/2+rand.N(wait))) // spread: they all lost their controller in one moment
		select {
		case <-timer.C:
		case <-news:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// dialOnce tries when it is its turn.
func (c *connector) dialOnce(ctx context.Context, kind linkv1.ServiceKind, try func(context.Context) (*local, error)) (*local, error) {
	select {
	case c.dials[kind] <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-c.dials[kind] }()
	return try(ctx)
}

// A refusedError is an answer after which trying again makes no sense.
type refusedError struct{ text string }

func (e *refusedError) Error() string { return "connector: " + e.text }

// Why nothing is dialled: it was never found, the last look-up failed, the port is switched off, or what was asked says that it is not ready.
var (
	errUnknown  = errors.New("connector: not found yet")
	errAway     = errors.New("connector: Jenkins answers no look-up")
	errPortOff  = errors.New("connector: the agent port is switched off")
	errStarting = errors.New("connector: Jenkins is not ready")
)

// dialWord says what became of a dial without telling addresses.
func dialWord(err error) string {
	var timeout net.Error
	var dns *net.DNSError
	var host x509.HostnameError
	var authority x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.Is(err, errUnknown):
		return "not found yet"
	case errors.Is(err, errAway):
		return "the controller answers no look-up"
	case errors.Is(err, errStarting):
		return "not ready"
	case errors.Is(err, errPortOff):
		return "it is switched off"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed without an answer"
	case errors.As(err, &dns):
		return "its host is unknown"
	case errors.As(err, &host), errors.As(err, &authority), errors.As(err, &invalid):
		return "its certificate is not trusted"
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case errors.Is(err, context.Canceled):
		return "the connector is stopping"
	}
	return "cannot be reached"
}
