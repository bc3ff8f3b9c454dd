// Bench measures moorage against relay (see package baseline) and bare grpc-go,
// and writes the table of docs/performance.md.
//
//	go run ./loadtest/bench                        everything, on a Kafka it starts
//	go run ./loadtest/bench -rows roundtrip,cpu    some rows
//	go run ./loadtest/bench -systems relay -pairs 1 -measure 2s
//	go run ./loadtest/bench -kafka 127.0.0.1:9092  on one that runs
//	go run ./loadtest/bench -report results.json   only print a results file
//	    -scenarios DIR,DIR -micro FILE             with load tests, and what go test -bench said
//	    -doc docs/performance.md                   into that file, between its marks
//
// Gateway and application are processes of their own; this one is the agents,
// over the same protocol to both. Pairs alternate, A-B-A-B, each with fresh
// processes, so that what drifts on the machine drifts for both.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/broker"
	"github.com/moorage-dev/moorage/loadtest/baseline"
)

// A bench is the settings of one run of the program.
type bench struct {
	kafka   string // host:port of a broker
	moorage string // path of the binary under test
	cache   string // the row's --cache-bytes; "": moorage's default
	rows    string
	systems string
	out     string
	report  string

	scenarios, micro, doc string // what else the tables are made of, and where they go
	pairs                 int
	local                 bool

	warm, measure, silence time.Duration
	idle, storm, cold      int
	starts, legacyAgents   int
	collect                bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	if len(os.Args) > 1 && roles[os.Args[1]] != nil {
		return runRole(ctx, roles[os.Args[1]], os.Args[2:])
	}
	b := &bench{}
	flag.StringVar(&b.kafka, "kafka", "", "`host:port` of a running broker; without it one is started")
	flag.BoolVar(&b.local, "local", false, "start the embedded broker instead of Apache Kafka: quick, and not to be quoted")
	flag.StringVar(&b.moorage, "moorage", "", "`path` of the moorage binary; without it one is built")
	flag.StringVar(&b.rows, "rows", "", "rows to measure, by comma; all without it: "+rowNames())
	flag.StringVar(&b.systems, "systems", "moorage,relay", "systems to measure")
	flag.StringVar(&b.out, "out", "results.json", "where the results go")
	flag.StringVar(&b.report, "report", "", "print this results `file` and measure nothing")
	flag.StringVar(&b.scenarios, "scenarios", "", "print these `directories` of moorage loadtest too, by comma")
	flag.StringVar(&b.micro, "micro", "", "print this `file` of what go test -bench said too")
	flag.StringVar(&b.doc, "doc", "", "the Markdown `file` to write the tables into, between its marks, instead of printing them")
	flag.IntVar(&b.pairs, "pairs", 5, "alternating pairs")
	flag.DurationVar(&b.warm, "warm", time.Second, "warm-up of each run")
	flag.DurationVar(&b.measure, "measure", 5*time.Second, "length of each run")
	flag.DurationVar(&b.silence, "silence", time.Minute, "rows idle and legacy-idle: how long nothing happens")
	flag.IntVar(&b.idle, "idle-sessions", 9000, "row idle: sessions")
	flag.BoolVar(&b.collect, "collect", true, "rows idle and legacy-idle: wait for a garbage collection, up to two minutes")
	flag.IntVar(&b.storm, "storm-sessions", 2000, "row storm: sessions")
	flag.IntVar(&b.cold, "cold-rounds", 4, "row cold: fresh gateways, 16 partitions each")
	flag.IntVar(&b.starts, "legacy-starts", 5, "row legacy-start: agents started by each way")
	flag.IntVar(&b.legacyAgents, "legacy-agents", 2000, "row legacy-idle: agents")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("bench: unknown argument %q", flag.Arg(0))
	}
	if b.report != "" || b.scenarios != "" || b.micro != "" {
		return b.show()
	}
	todo, err := pick(b.rows, rows, func(r row) string { return r.name })
	if err != nil {
		return err
	}
	systems, err := pick(b.systems, []*system{&moorage, &relay}, func(s *system) string { return s.name })
	if err != nil {
		return err
	}
	return b.compare(ctx, todo, systems)
}

// pick returns those of all that names lists, all if it lists none.
func pick[T any](names string, all []T, name func(T) string) ([]T, error) {
	if names == "" {
		return all, nil
	}
	var picked []T
	for n := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(all, func(x T) bool { return name(x) == n })
		if i < 0 {
			return nil, fmt.Errorf("bench: unknown name %q", n)
		}
		picked = append(picked, all[i])
	}
	return picked, nil
}

func rowNames() string {
	var names []string
	for _, r := range rows {
		names = append(names, r.name)
	}
	return strings.Join(names, " ")
}

// compare runs every row on every system, alternating, and saves after each.
func (b *bench) compare(ctx context.Context, todo []row, systems []*system) error {
	rs := &results{Date: time.Now(), Machine: machine(), Commit: commit(ctx), Kafka: "a Kafka that ran already"}
	if b.kafka == "" {
		stop, err := b.startKafka(ctx, rs)
		if err != nil {
			return err
		}
		defer stop()
	}
	if b.moorage == "" && slices.Contains(systems, &moorage) {
		dir, err := os.MkdirTemp("", "bench")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		b.moorage = filepath.Join(dir, "moorage")
		build := exec.CommandContext(ctx, "go", "build", "-o", b.moorage, "./cmd/moorage")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("bench: build moorage: %w", err)
		}
	}
	for _, s := range systems {
		if err := s.prepare(ctx, b); err != nil {
			return err
		}
	}
	for _, s := range systems { // Kafka's first minute is its compiler's
		if _, err := b.once(ctx, rows[0], s); err != nil {
			return fmt.Errorf("bench: %s: %w", s.name, err)
		}
	}
	var failures []error
	for _, row := range todo {
		for pair := range b.pairs {
			if row.once && pair > 0 {
				break
			}
			for _, s := range systems {
				f, err := b.once(ctx, row, s)
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err != nil { // the other rows are worth having
					err = fmt.Errorf("bench: %s on %s: %w", row.name, s.name, err)
					fmt.Fprintln(os.Stderr, err)
					failures = append(failures, err)
					continue
				}
				if f == nil {
					continue // the row does not concern this system
				}
				fmt.Fprintf(os.Stderr, "%-16s %d %-8s %v\n", row.name, pair+1, s.name, f)
				rs.Runs = append(rs.Runs, result{row.name, s.name, pair, f})
				if err := rs.save(b.out); err != nil {
					return err
				}
			}
		}
	}
	rs.write(os.Stdout)
	return errors.Join(failures...)
}

func (b *bench) once(ctx context.Context, row row, s *system) (figures, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, cmp.Or(row.limit, 6*time.Minute), fmt.Errorf("no end in sight"))
	defer cancel()
	b.cache = row.cache
	r, err := b.up(ctx, s)
	if err != nil {
		return nil, err
	}
	f, err := row.run(ctx, r)
	r.down()
	return f, errors.Join(err, b.empty(ctx, s))
}

// empty deletes what a run has written, lest a disk be full of it after fifty.
func (b *bench) empty(ctx context.Context, s *system) error {
	client, err := bridge.Dial(ctx, bridge.Config{Brokers: []string{b.kafka}})
	if err != nil {
		return err
	}
	defer client.Close()
	for _, topic := range s.topics {
		for p := range int32(baseline.Partitions) {
			_, next, err := client.Bounds(ctx, topic, p)
			if err == nil {
				err = client.DeleteRecords(ctx, topic, p, next)
			}
			if err != nil {
				return fmt.Errorf("bench: empty %s: %w", topic, err)
			}
		}
	}
	return nil
}

// startKafka starts one broker as a server would run it, with the optimizing
// compiler that tests do without.
func (b *bench) startKafka(ctx context.Context, rs *results) (stop func(), err error) {
	if b.local {
		e, err := broker.StartEmbedded(broker.EmbeddedConfig{})
		if err != nil {
			return nil, err
		}
		b.kafka, rs.Kafka = e.Addrs()[0], "embedded broker"
		return e.Close, nil
	}
	a, err := broker.StartApache(ctx, broker.ApacheConfig{
		JVM: []string{"-XX:TieredStopAtLevel=4", "-Xmx768m"},
		// Small segments, for what a run has written is deleted after it.
		Properties: map[string]string{
			"log.segment.bytes": "67108864", "log.retention.check.interval.ms": "5000", "log.segment.delete.delay.ms": "1000",
		},
	})
	if err != nil {
		return nil, err
	}
	b.kafka, rs.Kafka = a.Addrs()[0], "Apache Kafka, one broker"
	return a.Close, nil
}

func machine() string {
	name := "unknown processor"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				name = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%d × %s, %s", runtime.NumCPU(), name, runtime.Version())
}

func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "rev-parse", "--short=12", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
