package worker

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/moorage-dev/moorage/link"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"

	"github.com/moorage-dev/moorage/loadtest/scenario"
)

// Agents prepares agents; each dials when it opens a session.
func (Moorage) Agents(_ context.Context, p *Plan) (Agents, error) {
	if len(p.Gateways) == 0 {
		return nil, errors.New("worker: the plan names no gateway")
	}
	a := &moorageAgents{plan: p, leashes: map[*leash]struct{}{}}
	if fleetSize(p) > manyAgents {
		a.readBuffer = smallBuffer
	}
	if p.CAFile != "" {
		pem, err := os.ReadFile(p.CAFile)
		if err != nil {
			return nil, fmt.Errorf("worker: the gateways' CA: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("worker: the gateways' CA: %s holds no PEM certificate", p.CAFile)
		}
		a.tls = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
	}
	if p.Token != "" {
		data, err := os.ReadFile(p.Token)
		if err != nil {
			return nil, fmt.Errorf("worker: the agents' token key: %w", err)
		}
		line, _, _ := strings.Cut(string(data), "\n")
		if a.key = []byte(strings.TrimRight(line, "\r")); len(a.key) == 0 {
			return nil, fmt.Errorf("worker: the agents' token key: the first line of %s is empty", p.Token)
		}
	}
	return a, nil
}

// Above so many agents in a process each reads through a small buffer: with the
// usual one, buffers would be most of what an idle agent costs here.
const (
	manyAgents  = 1000
	smallBuffer = 4 << 10
)

type moorageAgents struct {
	plan       *Plan
	tls        *tls.Config // nil: plaintext
	readBuffer int         // of a connection; 0: link's default
	key        []byte      // of the agents' credentials; nil: none

	mu      sync.Mutex // guards the following
	leashes map[*leash]struct{}
	number  int // of the next agent that opens a session
	closed  bool
	closing sync.WaitGroup
}

// A leash holds one session's connections, so that they can be cut, and its
// process can die.
type leash struct {
	key    string
	client *link.Client
	dialer *net.Dialer

	mu    sync.Mutex // guards the following
	conns map[*leashed]struct{}
	dead  bool      // nothing is dialed any more
	held  time.Time // nothing is dialed until then
}

// A leashed is a connection on a leash.
type leashed struct {
	net.Conn
	leash *leash
}

// Open opens a session over a connection of its own.
func (a *moorageAgents) Open(ctx context.Context, key, kind string) (Session, error) {
	name := key[:max(strings.LastIndexByte(key, '/'), 0)] // the agent stays the same from session to session
	cfg := link.Config{
		Gateways: a.plan.Gateways, Controller: a.plan.Controller, Agent: a.plan.Run + "/" + name,
		Labels: map[string]string{keyLabel: key}, TLS: a.tls, ReadBuffer: a.readBuffer,
	}
	if a.key != nil {
		cfg.Credential = credential(a.key, cfg.Agent)
	}
	l := &leash{key: key, conns: map[*leashed]struct{}{}}
	cfg.Dial = l.dial
	if err := a.add(l, cfg); err != nil {
		return nil, err
	}
	target := link.Target{Kind: linkv1.ServiceKind_SERVICE_KIND_NATIVE}
	if kind == scenario.Tunnel {
		target = link.Target{Kind: linkv1.ServiceKind_SERVICE_KIND_TCP, Service: tunnelService}
	}
	s, err := l.client.Open(ctx, target)
	if err != nil {
		a.drop(l, true)
		return nil, err
	}
	return newEnd(target.Kind, end{s.Conn, func(kill bool) { a.drop(l, kill) }}), nil
}

func (a *moorageAgents) add(l *leash, cfg link.Config) (err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return net.ErrClosed
	}
	if l.dialer, err = a.plan.dialer(a.number); err != nil {
		return err
	}
	if l.client, err = link.New(cfg); err != nil {
		return err
	}
	a.number++
	a.leashes[l] = struct{}{}
	return nil
}

// drop lets a leash go. Its client closes in the background: one that was
// killed waits 5 s for an answer that cannot come.
func (a *moorageAgents) drop(l *leash, kill bool) {
	if kill {
		l.die()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, held := a.leashes[l]; !held {
		return
	}
	delete(a.leashes, l)
	a.closing.Go(func() { _ = l.client.Close() })
}

// Cut breaks the connections of the sessions that which names.
func (a *moorageAgents) Cut(which func(key string) bool) {
	for _, l := range a.named(which) {
		l.cut()
	}
}

// Hold keeps the sessions that which names from dialing.
func (a *moorageAgents) Hold(which func(key string) bool, until time.Time) {
	for _, l := range a.named(which) {
		l.mu.Lock()
		l.held = until
		l.mu.Unlock()
	}
}

// named are the leashes of the sessions that which names; nil: of all.
func (a *moorageAgents) named(which func(key string) bool) (some []*leash) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for l := range a.leashes {
		if which == nil || which(l.key) {
			some = append(some, l)
		}
	}
	return some
}

// Close kills what is still open.
func (a *moorageAgents) Close() error {
	a.mu.Lock()
	a.closed = true
	var open []*leash
	for l := range a.leashes {
		open = append(open, l)
	}
	a.mu.Unlock()
	for _, l := range open {
		a.drop(l, true)
	}
	a.closing.Wait()
	return nil
}

func (l *leash) dial(ctx context.Context, addr string) (net.Conn, error) {
	l.mu.Lock()
	held := l.held
	l.mu.Unlock()
	if err := sleepUntil(ctx, held); err != nil {
		return nil, err
	}
	c, err := l.dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		return nil, errors.Join(net.ErrClosed, c.Close())
	}
	kept := &leashed{c, l}
	l.conns[kept] = struct{}{}
	return kept, nil
}

// die is what the end of a process does to its connections.
func (l *leash) die() {
	l.mu.Lock()
	l.dead = true
	l.mu.Unlock()
	l.cut()
}

// cut resets the connections.
func (l *leash) cut() {
	l.mu.Lock()
	conns := make([]*leashed, 0, len(l.conns))
	for c := range l.conns {
		conns = append(conns, c)
	}
	l.mu.Unlock()
	for _, c := range conns {
		if tcp, ok := c.Conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // it may be closed already
		}
		_ = c.Close()
	}
}

func (c *leashed) Close() error {
	c.leash.mu.Lock()
	delete(c.leash.conns, c)
	c.leash.mu.Unlock()
	return c.Conn.Close()
}

// credential proves an agent's name to gateways with this key, as "moorage
// token" does.
func credential(key []byte, agent string) string {
	h := hmac.New(sha256.New, key)
	h.Write([]byte("moorage token\x00"))
	var n [4]byte
	binary.BigEndian.PutUint32(n[:], uint32(len(agent)))
	h.Write(n[:])
	h.Write([]byte(agent))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}
