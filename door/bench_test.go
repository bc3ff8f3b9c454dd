package door

import (
	"runtime"
	"testing"
)

// BenchmarkIdleAgent tells what an idle agent's connection costs at the door,
// beside its session.
func BenchmarkIdleAgent(b *testing.B) {
	benchmarkIdle(b, func(r *rig) {
		a := r.jnlp4()
		c := r.accepted()
		a.say("x")
		c.want("it is joined", "x")
	})
}

// BenchmarkSilentConnection tells what one costs that has said nothing yet.
func BenchmarkSilentConnection(b *testing.B) {
	benchmarkIdle(b, func(r *rig) { r.dial() })
}

func benchmarkIdle(b *testing.B, come func(r *rig)) {
	const agents = 500
	for b.Loop() {
		r := newRig(b, Config{Greeting: 1 << 40, PerAddress: agents})
		come(r)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		goroutines := runtime.NumGoroutine()
		for range agents {
			come(r)
		}
		for value(r.d.m.connections) < agents {
			runtime.Gosched()
		}
		runtime.GC()
		runtime.GC() // empties the pools
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapInuse+after.StackInuse-before.HeapInuse-before.StackInuse)/agents, "B/agent")
		b.ReportMetric(float64(after.StackInuse-before.StackInuse)/agents, "stackB/agent")
		b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/agents, "goroutines/agent")
		r.stop()
	}
}
