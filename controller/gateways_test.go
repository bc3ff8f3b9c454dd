package controller

import (
	"fmt"
	"testing"

	"github.com/moorage-dev/moorage/proto/envelope"
)

func TestGateways(t *testing.T) {
	a1, a2, b := envelope.Gateway{Name: "a", Boot: 1}, envelope.Gateway{Name: "a", Boot: 2}, envelope.Gateway{Name: "b", Boot: 3}
	g := newGateways()
	wantDead := func(desc string, want ...envelope.Gateway) {
		t.Helper()
		if got := g.ownBeat(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v died, want %v", desc, got, want)
		}
	}
	g.beat(a1)
	g.named(b) // a session names it before any beat of it was read
	wantDead("one beat of ours")
	wantDead("two")
	wantDead("three")
	g.beat(a1)
	wantDead("four: b never beat", b)
	wantDead("it dies once")
	if !g.named(b) || g.named(a1) {
		t.Error("who is dead is not remembered")
	}
	if _, ok := g.beat(b); ok || g.named(b) {
		t.Error("a beat does not bring b back")
	}
	if replaced, ok := g.beat(a2); !ok || replaced != a1 {
		t.Errorf("a's new process replaced %v, %v", replaced, ok)
	}
	if !g.named(a1) || g.named(a2) {
		t.Error("a's old process counts as alive")
	}
	for range 3 {
		g.ownBeat()
	}
	g.pardon() // Kafka was away
	wantDead("after an outage")
	g.beat(a2)
	g.beat(b)
	for range forgetAfter + 2*silentAfter {
		g.ownBeat()
	}
	if len(g.processes) != 0 || len(g.boots) != 0 {
		t.Errorf("never forgotten: %v, %v", g.processes, g.boots)
	}
	if g.named(envelope.Gateway{Name: "a"}) || len(g.processes) != 0 {
		t.Error("a name without a process is kept in mind")
	}
}

func TestGatewaysAreBounded(t *testing.T) {
	g := newGateways()
	for boot := range uint64(2 * maxGateways) {
		g.named(envelope.Gateway{Name: "gw", Boot: boot + 1})
	}
	if len(g.processes) > maxGateways {
		t.Errorf("%d processes are kept in mind, at most %d are to be", len(g.processes), maxGateways)
	}
}
