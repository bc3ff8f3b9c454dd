package door

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/remoting"
	"github.com/moorage-dev/moorage/seeded"
)

// visit finds out what a connection speaks, and hands it on.
func (r *room) visit(ctx context.Context, l *line) {
	_ = l.SetDeadline(time.Now().Add(r.cfg.Greeting)) // a closed line is seen at the first look
	if r.cfg.ProxyProtocol {
		if err := l.takeProxyHeader(); err != nil {
			r.refuseLine(l, cmp.Or(lookReason(err), refusedProxy), err)
			return
		}
	}
	greeted, ok := r.greets(l)
	if !ok {
		r.refuseLine(l, refusedAddress, nil)
		return
	}
	defer greeted()
	var sort remoting.Sort
	err := l.look(remoting.SniffLen, func(p []byte) error {
		if sort = remoting.Sniff(p); sort == remoting.SortMore {
			return remoting.ErrShort
		}
		return nil
	})
	if err == io.EOF {
		if seeded.On(seeded.ProbeOpensSession) {
			if controller, _, ok := r.route("", "", 0, "", ""); ok {
				if s, err := r.cfg.Backend.Open(ctx, Request{Controller: controller, Kind: linkv1.ServiceKind_SERVICE_KIND_REMOTING}); err == nil {
					_ = s.Close() // the probe has left
				}
			}
		}
		r.m.came.WithLabelValues(sortProbe).Inc()
		_ = l.Close() // it is closed already at the other end
		return
	}
	if err != nil {
		r.refuseLine(l, cmp.Or(lookReason(err), refusedGarbage), err)
		return
	}
	switch sort {
	case remoting.SortGreeting:
		r.raw(ctx, l, greeted)
	case remoting.SortHTTP1:
		greeted()
		r.toWeb(ctx, l, l, sortHTTP)
	case remoting.SortHTTP2:
		r.toGRPC(ctx, l)
	case remoting.SortTLS:
		r.secure(ctx, l, greeted)
	case remoting.SortProxy:
		r.refuseLine(l, refusedProxy, errNoProxy)
	default:
		r.refuseLine(l, refusedGarbage, nil)
	}
}

var (
	errNoProxy  = errors.New("door: a PROXY header, and this door expects none")
	errNoHeader = errors.New("no PROXY header")
)

// greets counts a connection among those of its address that have not said
// what they are, until greeted is called. Not ok: there are too many.
func (r *room) greets(l *line) (greeted func(), ok bool) {
	addr := address(l.RemoteAddr())
	r.Door.mu.Lock()
	defer r.Door.mu.Unlock()
	if r.greeting[addr] >= r.cfg.PerAddress {
		return nil, false
	}
	r.greeting[addr]++
	over := false
	return func() { // by the visiting goroutine alone
		if over {
			return
		}
		over = true
		r.Door.mu.Lock()
		defer r.Door.mu.Unlock()
		if r.greeting[addr]--; r.greeting[addr] == 0 {
			delete(r.greeting, addr)
		}
	}, true
}

// address returns the host part; connections without one share the zero address.
func address(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// secure tells gRPC from HTTPS.
func (r *room) secure(ctx context.Context, l *line, greeted func()) {
	var alpn []string
	err := l.look(mostHello, func(p []byte) (err error) {
		_, alpn, err = remoting.ParseClientHello(p)
		return err
	})
	if err != nil {
		r.refuseLine(l, cmp.Or(lookReason(err), refusedTLS), err)
		return
	}
	if slices.Contains(alpn, "h2") && !slices.Contains(alpn, "http/1.1") {
		r.toGRPC(ctx, l)
		return
	}
	if r.https == nil {
		r.refuseLine(l, refusedTLS, errors.New("door: no TLS here"))
		return
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.ACK)
	defer cancel()
	select {
	case r.handshakes <- struct{}{}:
	case <-ctx.Done():
		r.refuseLine(l, refusedSlow, context.Cause(ctx))
		return
	}
	_ = l.SetDeadline(time.Now().Add(r.cfg.ACK)) // the handshake itself says if the line is closed
	c := tls.Server(l, r.https)
	err = c.HandshakeContext(ctx)
	<-r.handshakes
	if err != nil {
		r.refuseLine(l, refusedTLS, err)
		return
	}
	greeted()
	r.toWeb(ctx, l, c, sortHTTPS)
}

// toWeb hands a connection on to the HTTP server; c is the line or what stands over it.
func (r *room) toWeb(ctx context.Context, l *line, c net.Conn, sort string) {
	_ = l.SetDeadline(time.Time{}) // the server sets its own
	if !r.web.give(ctx, c) {
		_ = l.Close() // the door is being shut
		return
	}
	r.m.came.WithLabelValues(sort).Inc()
}

func (r *room) toGRPC(ctx context.Context, l *line) {
	if !r.cfg.Tier0 {
		r.refuseLine(l, refusedGRPC, errors.New("door: gRPC is for gateways"))
		return
	}
	ctx, cancel := context.WithTimeout(ctx, handWait)
	defer cancel()
	_ = l.SetDeadline(time.Time{}) // the taker sets its own
	c := l.bare()
	if !r.grpc.give(ctx, c) {
		r.refuseLine(l, refusedGRPC, errors.New("door: nobody takes gRPC"))
		return
	}
	r.m.came.WithLabelValues(sortGRPC).Inc()
	l.leave()
}

// refuseLine closes a connection that is not served.
func (d *Door) refuseLine(l *line, reason string, err error) {
	d.countRefusal(l, reason, "", err)
	_ = l.Close() // nothing to be lost
}

// countRefusal notes a connection that is not served. What anybody can cause
// from outside at any rate is logged for who asks to see it.
func (d *Door) countRefusal(l *line, reason, agent string, err error) {
	d.m.refused.WithLabelValues(reason).Inc()
	attrs := []any{"reason", reason, "remote", l.RemoteAddr().String()}
	if agent != "" {
		attrs = append(attrs, "agent", agent)
	}
	if err != nil {
		attrs = append(attrs, "err", err)
	}
	switch reason {
	case refusedUnknown, refusedHeld, refusedController, refusedCleartext:
		d.log.Warn("agent refused", attrs...)
	default:
		d.log.Debug("connection refused", attrs...)
	}
}

// lookReason says why a look failed, if the peer's silence is the reason.
func lookReason(err error) string {
	if isTimeout(err) || errors.Is(err, io.ErrUnexpectedEOF) {
		return refusedSlow
	}
	return ""
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// httpsConfig returns how the door speaks TLS to agents. Old ones know no 1.3,
// and none has a certificate to show: who they are the controller itself asks.
func httpsConfig(base *tls.Config) *tls.Config {
	if base == nil {
		return nil
	}
	cfg := base.Clone()
	cfg.MinVersion = tls.VersionTLS12
	cfg.NextProtos = []string{"http/1.1"}
	cfg.ClientAuth = tls.NoClientCert
	if ask := base.GetConfigForClient; ask != nil {
		cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			own, err := ask(hello)
			if own == nil || err != nil {
				return nil, err
			}
			own = own.Clone()
			own.GetConfigForClient = nil
			return httpsConfig(own), nil
		}
	}
	return cfg
}
