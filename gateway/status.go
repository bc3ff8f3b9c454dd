package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/session"
)

// Why a gateway refuses or ends a stream, beside the roles' own errors.
var (
	errUnauthenticated   = errors.New("the credential does not prove the agent's name: give the agent the token that moorage token makes of the fleet's key, or a certificate of that name")
	errTicketForged      = errors.New("no gateway of this fleet made this ticket for this session")
	errTicketExpired     = errors.New("the resume ticket has expired")
	errUnknownController = errors.New("no such controller")
	errTooMany           = errors.New("this gateway has as many as it may")
	errCrowd             = fmt.Errorf("%w: streams without Hello from one address", errTooMany)
	errControllers       = fmt.Errorf("%w: controllers", errTooMany)
	errDraining          = errors.New("this gateway is draining")
	errClosing           = errors.New("this gateway is ending")
	errStalled           = errors.New("no new sessions in this partition now, for Kafka does not acknowledge")
	errSilent            = errors.New("the controller is silent")
	errHello             = errors.New("no Hello in time")
	errDead              = errors.New("three heartbeats missed")
	errOver              = errors.New("the session has ended") // a Close was sent
	errLeft              = errors.New("the agent side left")
)

// A verdict is what becomes of an error: a gRPC status, a word for the
// metrics, and when to come again, if at all.
type verdict struct {
	code  codes.Code
	word  string
	retry time.Duration // 0: at once, or never; the code says which
}

// judge is the one place where errors become statuses. A permanent code tells
// the agent side not to come again; UNAVAILABLE, ABORTED, DEADLINE_EXCEEDED
// and RESOURCE_EXHAUSTED tell it to.
func judge(err error) verdict {
	switch {
	case err == nil, errors.Is(err, errOver):
		return verdict{codes.OK, "over", 0}
	case errors.Is(err, errLeft), errors.Is(err, io.EOF):
		return verdict{codes.OK, "left", 0}
	case errors.Is(err, session.ErrViolation):
		return verdict{codes.InvalidArgument, "violation", 0}
	case errors.Is(err, errUnauthenticated):
		return verdict{codes.Unauthenticated, "credential", 0}
	case errors.Is(err, errTicketForged), errors.Is(err, errTicketExpired):
		return verdict{codes.PermissionDenied, "ticket", 0}
	case errors.Is(err, errUnknownController):
		return verdict{codes.NotFound, "controller", 0}
	case errors.Is(err, errCrowd):
		return verdict{codes.ResourceExhausted, "address", 2 * time.Second}
	case errors.Is(err, errControllers):
		return verdict{codes.ResourceExhausted, "controllers", 2 * time.Second}
	case errors.Is(err, errTooMany):
		return verdict{codes.ResourceExhausted, "full", 2 * time.Second}
	case errors.Is(err, errDraining):
		return verdict{codes.Unavailable, "draining", 0}
	case errors.Is(err, errClosing), errors.Is(err, bridge.ErrClosed):
		return verdict{codes.Unavailable, "closing", 0}
	case errors.Is(err, errStalled):
		return verdict{codes.Unavailable, "stalled", 2 * time.Second}
	case errors.Is(err, errSilent):
		return verdict{codes.Unavailable, "silent", time.Second}
	case errors.Is(err, session.ErrTakenOver):
		return verdict{codes.Aborted, "taken-over", 0}
	case errors.Is(err, session.ErrProduce), errors.Is(err, session.ErrSwapped):
		return verdict{codes.Unavailable, "produce", 0}
	case errors.Is(err, errHello):
		return verdict{codes.DeadlineExceeded, "hello", 0}
	case errors.Is(err, errDead):
		return verdict{codes.DeadlineExceeded, "dead", 0}
	case errors.Is(err, context.Canceled), status.Code(err) == codes.Canceled:
		return verdict{codes.Canceled, "broken", 0}
	case status.Code(err) == codes.ResourceExhausted: // gRPC's: a message above the limit
		return verdict{codes.InvalidArgument, "violation", 0}
	case status.Code(err) == codes.Internal: // gRPC's: not a message of ours
		return verdict{codes.InvalidArgument, "violation", 0}
	}
	return verdict{codes.Unavailable, "kafka", time.Second}
}

// statusOf returns the gRPC status of err, with RetryInfo where it says when.
func statusOf(err error) error {
	v := judge(err)
	if v.code == codes.OK {
		return nil
	}
	st := status.New(v.code, err.Error())
	if v.retry > 0 {
		if with, derr := st.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(v.retry)}); derr == nil {
			st = with
		}
	}
	return st.Err()
}
