package link

import (
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A RefusedError reports a gateway's final no, before the first Welcome or to
// Describe.
type RefusedError struct {
	Gateway string
	Code    codes.Code
	Text    string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("link: gateway %s refused: %s (%v)", e.Gateway, e.Text, e.Code)
}

// final reports whether asking again cannot help: what is wrong is what was
// asked. Before the first Welcome only; later it may be one gateway's mistake.
func final(err error) bool {
	switch status.Code(err) {
	case codes.Unauthenticated, codes.PermissionDenied, codes.InvalidArgument, codes.NotFound, codes.Unimplemented:
		return true
	}
	return false
}

// mostHint bounds how long a gateway can keep a session away.
const mostHint = time.Minute

// retryHint returns how long the gateway asked to be left alone; 0: it did not.
func retryHint(err error) time.Duration {
	for _, d := range status.Convert(err).Details() {
		if r, ok := d.(*errdetails.RetryInfo); ok {
			return min(max(0, r.GetRetryDelay().AsDuration()), mostHint)
		}
	}
	return 0
}

// statusText returns what the gateway wrote, or err as it is.
func statusText(err error) string {
	if s, ok := status.FromError(err); ok {
		return s.Message()
	}
	return err.Error()
}
