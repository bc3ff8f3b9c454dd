package site

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/broker"
	"github.com/moorage-dev/moorage/loadtest/fault"
	"github.com/moorage-dev/moorage/loadtest/results"
	"github.com/moorage-dev/moorage/loadtest/scenario"
)

func TestUpgradeGoesToTheOtherBuildAndBack(t *testing.T) {
	t.Parallel()
	old := filepath.Join(t.TempDir(), "moorage-old")
	program, err := os.ReadFile(moorageBinary)
	must(t, err)
	must(t, os.WriteFile(old, program, 0o700))
	s := start(t, Config{Local: scenario.Local{Gateways: 2}, Old: old})
	s.connect()
	runs := func() []string {
		var all []string
		for _, g := range s.gateways {
			all = append(all, filepath.Base(g.running().cmd.Path))
		}
		return all
	}
	for _, want := range []string{"moorage-old", "moorage", "moorage-old"} {
		if got := runs(); !slices.Equal(got, []string{want, want}) {
			t.Errorf("gateways run %v, want %s", got, want)
		}
		s.wantEcho("with " + want)
		s.do(scenario.Fault{Do: fault.Upgrade}, nil)
	}
}

func TestSamplesFollowProcessesThroughTheirLives(t *testing.T) {
	t.Parallel()
	s := start(t, Config{})
	s.Track("agents-1", os.Getpid())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Measure(ctx, time.Now())
	}()
	gateway := func() results.Process {
		for _, p := range s.Processes() {
			if p.Name == "gateway-1" {
				return p
			}
		}
		return results.Process{}
	}
	eventually(t, "two samples", 20*time.Second, func() bool { return len(gateway().Samples) >= 2 })
	before := s.Extra(t.Context())
	s.do(scenario.Fault{Do: fault.Kill, To: "gateway-1"}, func() {
		if got := s.Extra(t.Context())["leases"]; got != before["leases"] {
			t.Errorf("a counter of a gateway that is down: %v before, %v now", before["leases"], got)
		}
	})
	n := len(gateway().Samples)
	eventually(t, "two more", 20*time.Second, func() bool { return len(gateway().Samples) >= n+2 })
	cancel()
	<-done
	p := gateway()
	if p.PID != s.gateways[0].pid() {
		t.Errorf("pid %d, want that of now, %d", p.PID, s.gateways[0].pid())
	}
	for i, one := range p.Samples {
		if one.RSS == 0 || one.Files == 0 || one.Goroutines == 0 || one.Heap == 0 || one.CPU < 0 || one.CPU > 64 {
			t.Errorf("sample %d says %+v", i, one)
		}
	}
	names := func() (all []string) {
		for _, p := range s.Processes() {
			all = append(all, p.Name)
		}
		return all
	}()
	if want := []string{"agents-1", "coordinator", "gateway-1"}; !slices.Equal(names, want) {
		t.Errorf("processes %v, want %v", names, want)
	}
}

func TestOthersKafkaIsLeftAsItWas(t *testing.T) {
	t.Parallel()
	e, err := broker.StartEmbedded(broker.EmbeddedConfig{})
	must(t, err)
	defer e.Close()
	client, err := bridge.Dial(t.Context(), bridge.Config{Brokers: e.Addrs(), Prefix: "fleet."})
	must(t, err)
	defer client.Close()
	must(t, client.CreateTopics(t.Context(), "ci", bridge.TopicSpec{}))
	list := func() string {
		topics, err := client.ListTopics(t.Context())
		must(t, err)
		var names []string
		for _, topic := range topics {
			names = append(names, topic.Name)
		}
		return strings.Join(names, " ")
	}
	before := list()
	s := start(t, Config{Kafka: e.Addrs(), Prefix: "fleet.", Proxied: true})
	s.connect()
	if !strings.Contains(list(), "fleet.test.up") {
		t.Errorf("no topics of the run: %s", list())
	}
	if _, err := s.Do(t.Context(), scenario.Fault{Do: fault.Cut, To: legKafka}); err == nil {
		t.Error("a leg without proxies was cut")
	}
	s.do(scenario.Fault{Do: fault.Cut, To: legAgents}, nil)
	s.wantEcho("afterwards")

	// The same gateways, as a deployment that runs already.
	second, err := Start(t.Context(), Config{
		System: Moorage, Run: "second", Dir: t.TempDir(), Binary: moorageBinary,
		Gateways: s.Gateways(), Kafka: e.Addrs(), Prefix: "fleet.",
	})
	must(t, err)
	if got := second.Can(); !slices.Equal(got, []string{fault.AddPartitions}) {
		t.Errorf("what others own can suffer %v", got)
	}
	if got := second.Words(); !strings.Contains(got, "ran already") {
		t.Errorf("words: %s", got)
	}
	must(t, second.Close())
	_, err = Start(t.Context(), Config{
		System: Moorage, Run: "third", Dir: t.TempDir(), Binary: moorageBinary,
		Gateways: s.Gateways(), Kafka: e.Addrs(), Prefix: "flet.",
	})
	if err == nil || !strings.Contains(err.Error(), "no topic flet.gateways") {
		t.Errorf("another prefix than the gateways': %v", err)
	}
	s.end()
	must(t, s.Close())
	if got := list(); got != before {
		t.Errorf("topics: %s before, %s afterwards", before, got)
	}
}
