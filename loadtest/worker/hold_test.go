package worker

import (
	"context"
	"net"
	"testing"
	"time"
)

// Agents whose network is away dial when it is back, and not before.
func TestHeldAgentsDialLater(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	agents := &moorageAgents{leashes: map[*leash]struct{}{}}
	away, here := &leash{key: "a/1/0"}, &leash{key: "a/2/0"}
	for _, l := range []*leash{away, here} {
		l.dialer, l.conns = &net.Dialer{}, map[*leashed]struct{}{}
		agents.leashes[l] = struct{}{}
	}
	until := time.Now().Add(200 * time.Millisecond)
	agents.Hold(func(key string) bool { return key == away.key }, until)
	agents.Hold(func(key string) bool { return key == here.key }, time.Now())
	for _, l := range []*leash{here, away} {
		conn, err := l.dial(t.Context(), lis.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if l == away && time.Now().Before(until) {
			t.Error("an agent that was away has dialed")
		}
	}
	agents.Hold(nil, time.Now().Add(time.Hour))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if conn, err := here.dial(ctx, lis.Addr().String()); err == nil {
		conn.Close()
		t.Error("an agent that was away has dialed")
	}
}
