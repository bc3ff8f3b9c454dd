package baseline

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/moorage-dev/moorage/broker"
	"github.com/moorage-dev/moorage/loadtest/scenario"
	"github.com/moorage-dev/moorage/loadtest/worker"
)

// farEnd is the variable that makes this program the far end of a benchmark:
// application, gateway and broker are in a process of their own, so that the
// CPU time measured is the agent's alone.
const farEnd = "MOORAGE_BENCH_FAR_END"

// BenchmarkAgent is what a message costs the process that plays agents: wall
// time, allocations and CPU time. Where that differs between the baselines,
// it is the generator's own handicap and no merit of the other side.
func BenchmarkAgent(b *testing.B) {
	for _, system := range []string{TCP, GRPC, Relay} {
		for _, size := range []int{256, 64 << 10} {
			for _, down := range []bool{false, true} {
				direction := "up"
				if down {
					direction = "down"
				}
				b.Run(fmt.Sprintf("%s/%s/%d", system, direction, size), func(b *testing.B) { benchAgent(b, system, size, down) })
			}
		}
	}
}

func benchAgent(b *testing.B, system string, size int, down bool) {
	p := startFarEnd(b, system)
	agents, err := Transports()[system].Agents(b.Context(), p)
	if err != nil {
		b.Fatal(err)
	}
	defer agents.Close()
	s, err := agents.Open(b.Context(), "g/0/1", scenario.Native)
	if err != nil {
		b.Fatal(err)
	}
	payload := make([]byte, size)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	// The first message says how many are wanted back.
	ask := func(n int) {
		binary.BigEndian.PutUint64(payload, uint64(n))
		if err := s.Send(b.Context(), payload); err != nil {
			b.Fatal(err)
		}
	}
	if down {
		ask(b.N)
	} else {
		ask(0)
	}
	b.ResetTimer()
	before := cpu(b)
	if !down {
		for range b.N {
			if err := s.Send(b.Context(), payload); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := s.CloseSend(); err != nil {
		b.Fatal(err)
	}
	for { // to the far end's own end: it has taken everything
		if _, err = s.Receive(b.Context()); err != nil {
			break
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
	if err != io.EOF {
		b.Fatal(err)
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}

// cpu is the time that this process has used, in nanoseconds.
func cpu(b *testing.B) int64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// startFarEnd starts this program as the far end, and returns the agents' plan.
func startFarEnd(b *testing.B, system string) *worker.Plan {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), farEnd+"="+system)
	cmd.Stderr = b.Output()
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	})
	p := new(worker.Plan)
	if err := json.NewDecoder(out).Decode(p); err != nil {
		b.Fatal(err)
	}
	return p
}

// playFarEnd serves one session after the other until stdin ends.
func playFarEnd(system string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	p := &worker.Plan{Transport: system, Run: "bench"}
	if system == Relay {
		embedded, err := broker.StartEmbedded(broker.EmbeddedConfig{})
		if err != nil {
			return err
		}
		defer embedded.Close()
		p.Kafka = embedded.Addrs()
		lis, err := listen(ctx, p)
		if err != nil {
			return err
		}
		p.Gateways = []string{lis.Addr().String()}
		gone := make(chan error, 1)
		go func() {
			gone <- RunGateway(ctx, GatewayConfig{Topics: Topics{Brokers: p.Kafka, Prefix: TopicPrefix(p)}, Listen: lis, Options: serverOptions()})
		}()
		defer func() { cancel(); <-gone }()
	}
	app, err := Transports()[system].Application(ctx, p)
	if err != nil {
		return err
	}
	defer app.Close()
	if a, ok := app.(worker.Addresser); ok {
		p.App = a.Addr()
	}
	if err := json.NewEncoder(os.Stdout).Encode(p); err != nil {
		return err
	}
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	for {
		_, s, err := app.Accept(ctx)
		if err != nil {
			return nil // stdin has ended
		}
		if err := answer(ctx, s); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// answer sends as many messages back as the first one says, and takes the rest.
func answer(ctx context.Context, s worker.Session) error {
	first, err := s.Receive(ctx)
	if err != nil {
		return err
	}
	payload := append([]byte(nil), first...)
	for range binary.BigEndian.Uint64(payload) {
		if err := s.Send(ctx, payload); err != nil {
			return err
		}
	}
	for err == nil {
		_, err = s.Receive(ctx)
	}
	if err != io.EOF {
		return err
	}
	return errors.Join(s.CloseSend(), s.Close())
}
