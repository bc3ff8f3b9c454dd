package site

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/loadtest/fault"
	"github.com/moorage-dev/moorage/loadtest/scenario"
)

// legsOf counts the connections of a leg.
func (s *stage) legsOf(leg string, gateway int) int {
	s.legs.mu.Lock()
	defer s.legs.mu.Unlock()
	n := 0
	for p := range s.legs.pairs {
		if p.leg == leg && (gateway == 0 || p.gateway == gateway) {
			n++
		}
	}
	return n
}

func TestEveryLegIsProxiedAndEveryFaultSurvived(t *testing.T) {
	t.Parallel()
	s := start(t, Config{Local: scenario.Local{Gateways: 2}, Proxied: true})
	s.connect()
	for leg, gateways := range map[string][]int{legAgents: {0}, legKafka: {1, 2}, legApp: {0}} {
		for _, g := range gateways {
			if s.legsOf(leg, g) == 0 {
				t.Errorf("no connection in leg %s of gateway %d (0: any)", leg, g)
			}
		}
	}
	with := map[string]string{"latency": "30ms", "jitter": "10ms", "rate": "200kB", "size": "50B", "count": "2"}
	for _, kind := range s.Can() {
		for _, to := range map[string][]string{
			fault.Cut: {legAgents, legKafka, legApp}, fault.Reset: {legAgents, "gateway-kafka-1", "app-kafka-2"},
			fault.HalfOpen: {legAgents, legKafka}, fault.Latency: {legAgents, legApp}, fault.Bandwidth: {legKafka},
			fault.Slice: {legApp}, fault.SlowClose: {legAgents}, fault.SlowBroker: {"broker-1", ""},
			fault.ProduceUnanswered: {""}, fault.ProduceRefused: {""}, fault.FetchFailed: {""}, fault.NotLeader: {""}, fault.AddPartitions: {""},
		}[kind] {
			f := scenario.Fault{Do: kind, To: to, With: with, For: scenario.Duration(time.Second)}
			if kind == fault.AddPartitions {
				f.With = nil
			}
			s.do(f, func() {
				if kind != fault.HalfOpen && kind != fault.Cut && kind != fault.Reset {
					s.wantEcho(kind + " of " + to + ", meanwhile")
				}
			})
			s.wantEcho(kind + " of " + to + ", afterwards")
		}
	}
	extra := s.Extra(t.Context())
	if extra["sessions"] < 1 || extra["records_delivered"] < 10 {
		t.Errorf("counters: %v", extra)
	}
}

func TestWhatCannotBeDoneIsSaid(t *testing.T) {
	t.Parallel()
	s := start(t, Config{Proxied: true})
	for _, c := range []struct {
		f    scenario.Fault
		want string
	}{
		{scenario.Fault{Do: fault.Quota}, "brokers=1 or 3"},
		{scenario.Fault{Do: fault.DiskFull}, "small disk"},
		{scenario.Fault{Do: fault.BlackHole}, "networks of their own"},
		{scenario.Fault{Do: fault.Upgrade}, "--old-binary"},
		{scenario.Fault{Do: fault.CutAgents}, "cannot be done"},
		{scenario.Fault{Do: fault.Kill, To: "gateway-2"}, `no "gateway-2"`},
		{scenario.Fault{Do: fault.Kill, To: "connector"}, `no "connector"`},
		{scenario.Fault{Do: fault.Kill, To: "broker-1"}, "embedded"},
		{scenario.Fault{Do: fault.SlowBroker, To: "broker-4"}, `no "broker-4"`},
		{scenario.Fault{Do: fault.Cut, To: "agent-gateway-2"}, "only 1"},
		{scenario.Fault{Do: fault.Cut, To: "gateway-1"}, "strikes a leg"},
		{scenario.Fault{Do: fault.Latency, With: map[string]string{"latency": "soon"}}, "latency"},
		{scenario.Fault{Do: fault.Bandwidth, With: map[string]string{"rate": "0"}}, "rate"},
		{scenario.Fault{Do: fault.AddPartitions, With: map[string]string{"count": "3"}}, "power of two"},
	} {
		_, err := s.Do(t.Context(), c.f)
		if err == nil || !strings.HasPrefix(err.Error(), "site: ") || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s of %q: got %v, want one line with %q", c.f.Do, c.f.To, err, c.want)
		}
	}
}

// A gateway that finds no Kafka ends: like a service manager the harness
// starts it until it serves.
func TestGatewayIsStartedUntilItServes(t *testing.T) {
	t.Parallel()
	s := start(t, Config{Proxied: true})
	s.connect()
	s.do(scenario.Fault{Do: fault.Kill, To: "gateway-1"}, func() {
		mend, err := s.Do(t.Context(), scenario.Fault{Do: fault.Cut, To: legKafka, For: scenario.Duration(time.Hour)})
		must(t, err)
		back := make(chan error, 1)
		go func() { back <- s.gateways[0].start(t.Context()) }()
		tries := func() int {
			said, err := os.ReadFile(s.logFile("gateway-1"))
			must(t, err)
			return strings.Count(string(said), "moorage: gateway: bridge:")
		}
		eventually(t, "two starts in vain", 50*time.Second, func() bool { return tries() >= 2 })
		must(t, mend(t.Context()))
		must(t, <-back)
	})
	s.wantEcho("afterwards")
}
