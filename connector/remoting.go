package connector

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/moorage-dev/moorage/controller"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/remoting"
	"github.com/moorage-dev/moorage/seeded"
	"github.com/moorage-dev/moorage/session"
	"github.com/moorage-dev/moorage/tunnel"
)

// legacyKinds are what a Jenkins is needed for.
var legacyKinds = []linkv1.ServiceKind{
	linkv1.ServiceKind_SERVICE_KIND_REMOTING, linkv1.ServiceKind_SERVICE_KIND_HTTP, linkv1.ServiceKind_SERVICE_KIND_WEBSOCKET,
}

// legacy returns how to connect what a legacy agent's session asks for, and
// what that is in words; or why it is refused.
func (c *connector) legacy(i controller.Info) (try func(context.Context) (*local, error), what string, why *session.Ending) {
	switch {
	case !slices.Contains(legacyKinds, i.Kind):
		return nil, "", refusal("this is a connector: it has TCP services and the ports of a Jenkins, and no application")
	case c.jenkins == nil:
		return nil, "", refusal("this connector stands beside no Jenkins")
	}
	switch i.Kind {
	case linkv1.ServiceKind_SERVICE_KIND_REMOTING:
		switch protocol := i.Remoting.GetProtocol(); protocol {
		case remoting.JNLP4, remoting.JNLP2, remoting.JNLP1:
			return func(ctx context.Context) (*local, error) { return c.jenkins.remoting(ctx, protocol) }, "the controller's agent port", nil
		default:
			return nil, "", refusal("protocol %q is not carried", protocol)
		}
	case linkv1.ServiceKind_SERVICE_KIND_HTTP:
		return c.jenkins.http, "the controller's HTTP port", nil
	default: // a WebSocket
		headers := i.Remoting.GetHeaders()
		return func(ctx context.Context) (*local, error) { return c.jenkins.webSocket(ctx, headers) }, "the controller's HTTP port", nil
	}
}

// ackWithin is how long either side of JNLP4 waits for the other's ACK.
const ackWithin = 10 * time.Second

// remoting dials the agent port and says what the agent has said before its
// session's bytes begin.
func (n *neighbour) remoting(ctx context.Context, protocol string) (*local, error) {
	conn, err := n.dialAgentPort(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // an error: it is closed, and so at its end
	err = greet(conn, protocol)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		_ = conn.Close() // nothing of the session's was on it
		return nil, err
	}
	return whole(tunnel.TCP{TCPConn: conn}), nil
}

// greet names the protocol. For JNLP4 it exchanges the ACKs too, which the
// agent had from its door long ago.
func greet(conn net.Conn, protocol string) error {
	first := remoting.AppendGreeting(nil, protocol)
	if protocol != remoting.JNLP4 {
		_, err := conn.Write(first)
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(ackWithin)); err != nil {
		return err
	}
	if _, err := conn.Write(append(first, remoting.ACK...)); err != nil {
		return err
	}
	var got [len(remoting.ACK)]byte
	if k, err := io.ReadFull(conn, got[:]); err != nil {
		return fmt.Errorf("connector: ACK: %w after %d bytes", err, k)
	}
	if string(got[:]) != remoting.ACK {
		if strings.HasPrefix(string(got[:]), "Un") { // "Unknown protocol:", "Unrecognized protocol:"
			return &refusedError{"the controller does not speak " + protocol}
		}
		return fmt.Errorf("connector: want the controller's ACK, got %x", got)
	}
	return nil
}

// http dials the HTTP port. Where it speaks TLS, that ends here.
func (n *neighbour) http(ctx context.Context) (*local, error) {
	conn, err := n.dialHTTP(ctx)
	if err != nil {
		return nil, err
	}
	if n.root.Scheme != "https" {
		return whole(tunnel.TCP{TCPConn: conn}), nil
	}
	secured := tls.Client(conn, n.tls)
	ctx, cancel := context.WithTimeout(ctx, n.timeout)
	defer cancel()
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = conn.Close() // nothing was on it
		return nil, err
	}
	return whole(secure{secured, conn}), nil
}

func (n *neighbour) dialHTTP(ctx context.Context) (*net.TCPConn, error) {
	if err := n.ready(); err != nil {
		return nil, err
	}
	port := n.root.Port()
	if port == "" {
		port = n.root.Scheme
	}
	conn, err := (&net.Dialer{Timeout: n.timeout}).DialContext(ctx, "tcp", net.JoinHostPort(n.root.Hostname(), port))
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// secure is a TLS connection as a side of a tunnel. It is HTTP's, where a
// close_notify does no harm.
type secure struct {
	*tls.Conn
	tcp *net.TCPConn
}

// Abort resets the connection.
func (c secure) Abort(err error) { tunnel.TCP{TCPConn: c.tcp}.Abort(err) }

// CloseWrite tells the peer that nothing more will come.
func (c secure) CloseWrite() error {
	if err := c.Conn.CloseWrite(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// whole is a connection that ends both ways when either way ends.
func whole(conn interface {
	tunnel.Conn
	RemoteAddr() net.Addr
}) *local {
	return &local{abort: conn.Abort, address: conn.RemoteAddr().String(), join: func(s tunnel.Conn) error {
		if seeded.On(seeded.EndNotCarried) {
			return tunnel.Join(conn, s)
		}
		return tunnel.JoinWhole(conn, s)
	}}
}
