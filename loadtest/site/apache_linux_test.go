package site

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/loadtest/fault"
	"github.com/moorage-dev/moorage/loadtest/scenario"
)

// TestRealBroker has one Apache Kafka suffer all that it can.
func TestRealBroker(t *testing.T) {
	if os.Getenv(isolatedVar) == "" {
		t.Parallel()
		runIsolated(t, "--net", "--mount")
		return
	}
	s := start(t, Config{Local: scenario.Local{Brokers: "1"}, Proxied: true, Holes: true, Small: true})
	s.connect()
	for _, f := range []scenario.Fault{
		{Do: fault.Cut, To: legKafka},
		{Do: fault.Latency, To: "app-kafka-1", With: map[string]string{"latency": "20ms"}},
		{Do: fault.SlowBroker, With: map[string]string{"latency": "20ms"}},
		{Do: fault.Quota, With: map[string]string{"rate": "100kB"}},
		{Do: fault.AddPartitions},
		{Do: fault.Freeze, To: "broker-1"},
		{Do: fault.BlackHole, To: "broker"},
		{Do: fault.Kill, To: "broker-1"},
		{Do: fault.DiskFull},
	} {
		began := time.Now()
		s.do(f, func() {
			if f.Do == fault.DiskFull {
				eventually(t, "the broker ends", time.Minute, func() bool { return s.kafka.apache.PID(1) == 0 })
			}
			if f.Do != fault.SlowBroker {
				return
			}
			asked := time.Now()
			s.wantEcho("through a slow broker")
			if took := time.Since(asked); took < 40*time.Millisecond {
				t.Errorf("an echo through a broker that is 20 ms away took %v", took)
			}
		})
		s.wantEcho(f.Do + ", afterwards")
		t.Logf("%s of %q: %v", f.Do, f.To, time.Since(began).Round(time.Millisecond))
	}
	s.end()
	must(t, s.Close())
	if data, _ := filepath.Glob(filepath.Join(s.cfg.Dir, "kafka-*", "node-*", "data")); len(data) > 0 {
		t.Errorf("left behind: %v", data)
	}
	for _, kind := range []string{fault.Quota, fault.DiskFull, fault.BlackHole, fault.SlowBroker} {
		if !slices.Contains(s.Can(), kind) {
			t.Errorf("%s was done, and is not among what can be: %v", kind, s.Can())
		}
	}
}
