package door

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/remoting"
	"github.com/moorage-dev/moorage/seeded"
	"github.com/moorage-dev/moorage/session"
	"github.com/moorage-dev/moorage/tunnel"
)

// Lines with which a controller refuses; an agent logs them. One that begins
// with the first makes an agent of JNLP2-connect try JNLP-connect.
const (
	lineUnknownProtocol = "Unknown protocol:\n"
	lineNoController    = "No such controller\n"
)

var (
	errBadACK  = errors.New("door: not the ACK")
	errBadName = errors.New("door: not the name of an agent")
)

// validAgent reports whether a session may carry an agent's name.
func validAgent(name string) bool { return remoting.ValidName(name) && len(name) <= mostName }

// raw serves a connection that begins with a greeting. What it waits for is
// bounded until the agent has said everything that it says by itself.
func (r *room) raw(ctx context.Context, l *line, greeted func()) {
	protocol, err := l.takeGreeting()
	if err != nil {
		r.refuseLine(l, cmp.Or(lookReason(err), refusedGarbage), err)
		return
	}
	switch protocol {
	case remoting.Ping:
		r.m.came.WithLabelValues(sortPing).Inc()
		l.farewell(remoting.Pong)
	case remoting.JNLP4:
		r.jnlp4(ctx, l, "", sortJNLP4, greeted)
	case remoting.JNLP4Proxy:
		r.proxied(ctx, l, greeted)
	case remoting.JNLP2:
		r.login(ctx, l, protocol, sortJNLP2, greeted, func(p []byte) (node string, err error) {
			node, _, _, _, err = remoting.ParseLogin2(p)
			return node, err
		})
	case remoting.JNLP1:
		r.login(ctx, l, protocol, sortJNLP1, greeted, func(p []byte) (node string, err error) {
			_, node, _, err = remoting.ParseLogin1(p)
			return node, err
		})
	default:
		r.countRefusal(l, refusedProtocol, "", nil)
		l.farewell(lineUnknownProtocol)
	}
}

// takeGreeting reads the greeting and nothing behind it.
func (l *line) takeGreeting() (protocol string, err error) {
	var size int
	err = l.look(mostGreeting, func(p []byte) (err error) {
		protocol, size, err = remoting.ParseGreeting(p)
		return err
	})
	if err != nil {
		return "", err
	}
	return protocol, l.skip(size)
}

// proxied serves JNLP4-connect-proxy: the agent's name in clear, and then the
// ordinary JNLP4-connect.
func (r *room) proxied(ctx context.Context, l *line, greeted func()) {
	var (
		node string
		size int
	)
	err := l.look(mostProxyBlock, func(p []byte) (err error) {
		node, size, err = remoting.ParseProxyBlock(p)
		return err
	})
	if err == nil && !validAgent(node) {
		err = errBadName
	}
	if err == nil {
		err = l.skip(size)
	}
	var protocol string
	if err == nil {
		protocol, err = l.takeGreeting()
	}
	if err == nil && protocol != remoting.JNLP4 {
		err = fmt.Errorf("door: protocol %q behind a proxy block", protocol)
	}
	if err != nil {
		r.refuseLine(l, cmp.Or(lookReason(err), refusedGarbage), err)
		return
	}
	r.jnlp4(ctx, l, node, sortProxied, greeted)
}

// jnlp4 answers the ACK at once, for the agent waits 10 s for it and afterwards
// for ever. The bytes of the session begin behind it.
func (r *room) jnlp4(ctx context.Context, l *line, node, sort string, greeted func()) {
	_ = l.SetDeadline(time.Now().Add(r.cfg.ACK)) // a closed line is seen at once
	_, err := l.Write([]byte(remoting.ACK))
	if err == nil {
		err = l.takeACK()
	}
	if err != nil {
		r.refuseLine(l, refusedACK, err)
		return
	}
	greeted()
	r.m.came.WithLabelValues(sort).Inc()
	until := time.Now().Add(r.cfg.Hold)
	sni := ""
	if r.routesBySNI() {
		sni = l.innerSNI(min(helloWait, r.cfg.Hold))
	}
	r.serve(ctx, l, until, &linkv1.Remoting{Protocol: remoting.JNLP4, Agent: node}, sni)
}

func (l *line) takeACK() error {
	err := l.look(len(remoting.ACK), func(p []byte) error {
		switch {
		case string(p) != remoting.ACK[:len(p)]:
			return errBadACK
		case len(p) < len(remoting.ACK):
			return remoting.ErrShort
		}
		return nil
	})
	if err != nil || seeded.On(seeded.AckPassedOn) {
		return err
	}
	return l.skip(len(remoting.ACK))
}

// innerSNI returns the server name that the agent's TLS asks for; "" where
// there is none or it takes longer than wait.
func (l *line) innerSNI(wait time.Duration) (sni string) {
	_ = l.SetReadDeadline(time.Now().Add(wait)) // a closed line is seen at once
	// Whatever it is if not a ClientHello, it is for the controller to judge.
	_ = l.look(mostHello, func(p []byte) (err error) {
		sni, _, err = remoting.ParseClientHello(p)
		return err
	})
	return sni
}

// login serves the protocols whose agents log in in clear. The log-in is only
// looked at: it is the controller's.
func (r *room) login(ctx context.Context, l *line, protocol, sort string, greeted func(), parse func([]byte) (node string, err error)) {
	if !r.cfg.AllowCleartext && !address(l.RemoteAddr()).IsLoopback() {
		r.countRefusal(l, refusedCleartext, "", nil)
		l.farewell(lineUnknownProtocol)
		return
	}
	_ = l.SetDeadline(time.Now().Add(r.cfg.ACK)) // a closed line is seen at once
	var node string
	err := l.look(mostLogin, func(p []byte) (err error) {
		node, err = parse(p)
		return err
	})
	if err == nil && !validAgent(node) {
		err = errBadName
	}
	if err != nil {
		r.refuseLine(l, cmp.Or(lookReason(err), refusedGarbage), err)
		return
	}
	greeted()
	r.m.came.WithLabelValues(sort).Inc()
	r.serve(ctx, l, time.Now().Add(r.cfg.Hold), &linkv1.Remoting{Protocol: protocol, Agent: node}, "")
}

// serve gives an agent its session, or lets it go when it was held until then.
func (r *room) serve(ctx context.Context, l *line, until time.Time, remote *linkv1.Remoting, sni string) {
	_ = l.SetDeadline(time.Time{}) // a closed line is seen at once
	remote.Address = l.RemoteAddr().String()
	clear := remote.Protocol != remoting.JNLP4
	s, controller, err := r.connect(ctx, l, until, remote, sni, clear)
	switch {
	case err == nil:
	case errors.Is(err, errLeft), ctx.Err() != nil:
		r.log.Debug("agent left while it was held", "agent", remote.Agent, "remote", remote.Address)
		_ = l.Close() // it is closed already at the other end
		return
	default:
		r.countRefusal(l, refusal(err), remote.Agent, err)
		switch {
		case clear && errors.Is(err, errNotListed):
			l.farewell(lineUnknownProtocol)
		case clear && errors.Is(err, ErrUnknownController):
			l.farewell(lineNoController)
		default:
			_ = l.Close() // nobody to tell
		}
		return
	}
	join := &joining{line: l, session: s, controller: controller, agent: remote.Agent, protocol: remote.Protocol}
	l.joined.Store(join)
	join.start(r)
}

// A joining is an agent's connection that has its session.
type joining struct {
	line                        *line
	session                     Session
	controller, agent, protocol string

	over time.Time // when the watch saw that the session has ended; its own
}

// start has bytes carried until either end says that it is over. The agent is
// idle most of the time, so it is left to small goroutines of its own.
func (j *joining) start(r *room) {
	began := time.Now()
	j.log(r.Door, "agent connected")
	r.busy.Add(1) // to whoever calls it
	j.whole(r.Door).Start(j.line.side(), j.session, func(err error) {
		defer r.busy.Done()
		_ = j.line.Close() // joined sides are closed
		j.log(r.Door, "agent gone", "after", time.Since(began).Round(time.Millisecond), "why", why(j.session, err))
	})
}

func (j *joining) whole(d *Door) tunnel.Whole {
	return tunnel.Whole{
		Forth: func(n int) { d.m.upBytes.Add(float64(n)) },
		Back:  func(n int) { d.m.downBytes.Add(float64(n)) },
	}
}

func (j *joining) log(d *Door, msg string, more ...any) {
	attrs := []any{"controller", j.controller, "agent", j.agent, "protocol", j.protocol, "remote", j.line.RemoteAddr().String()}
	d.log.Info(msg, append(attrs, more...)...)
}

// errNotListed reports a protocol that the controller does not speak.
var errNotListed = errors.New("door: the controller does not speak this protocol")

// connect opens the session of a raw connection. The agent sees silence as
// long as that takes.
func (r *room) connect(ctx context.Context, l *line, until time.Time, remote *linkv1.Remoting, sni string, clear bool) (s Session, controller string, err error) {
	port := 0
	if tcp, ok := l.LocalAddr().(*net.TCPAddr); ok {
		port = tcp.Port
	}
	controller, _, ok := r.route("", "", port, remote.Agent, sni)
	if !ok {
		return nil, "", ErrUnknownController
	}
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	ctx, stop := l.whileHere(ctx)
	defer stop()
	if clear {
		known, err := r.describe(ctx, controller)
		if err != nil {
			return nil, "", err
		}
		if !speaks(known.Jenkins, remote.Protocol) {
			return nil, "", errNotListed
		}
	}
	said := &early{line: l}
	s, err = r.open(ctx, Request{Controller: controller, Kind: linkv1.ServiceKind_SERVICE_KIND_REMOTING, Remoting: remote, early: said})
	stop() // who watches reads too
	if err == nil {
		if err = said.taken(); err != nil {
			s.Abort(err)
			return nil, controller, fmt.Errorf("%w: %w", errLeft, err)
		}
		r.m.upBytes.Add(float64(said.sent))
	}
	return s, controller, err
}

// speaks reports whether a protocol in clear may be passed on to a controller.
// A Hudson names none and speaks both.
func speaks(j *linkv1.Jenkins, protocol string) bool {
	return slices.Contains(j.GetProtocols(), protocol) || j.GetHudson() && len(j.GetProtocols()) == 0
}

// refusal is the word for an error of connect.
func refusal(err error) string {
	switch {
	case errors.Is(err, ErrUnknownController):
		return refusedUnknown
	case errors.Is(err, errNotListed):
		return refusedProtocol
	case errors.Is(err, errHeld):
		return refusedHeld
	}
	return refusedController
}

// why tells how a session ended, as the far side says, or else as it showed here.
func why(s Session, err error) string {
	select {
	case <-s.Done():
		if ended, ok := errors.AsType[*session.EndedError](s.Err()); ok {
			if ended.Text != "" {
				return session.ReasonName(ended.Reason) + ": " + ended.Text
			}
			return session.ReasonName(ended.Reason)
		}
	default:
	}
	if err != nil {
		return err.Error()
	}
	return "closed by the agent"
}
