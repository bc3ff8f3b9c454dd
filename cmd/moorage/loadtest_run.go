package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/moorage-dev/moorage/loadtest/access"
	"github.com/moorage-dev/moorage/loadtest/baseline"
	"github.com/moorage-dev/moorage/loadtest/fault"
	"github.com/moorage-dev/moorage/loadtest/report"
	"github.com/moorage-dev/moorage/loadtest/results"
	loadrun "github.com/moorage-dev/moorage/loadtest/run"
	"github.com/moorage-dev/moorage/loadtest/scenario"
	"github.com/moorage-dev/moorage/loadtest/site"
)

type loadtestRunCmd struct {
	Scenario string `arg:"" help:"Name of a ready scenario (see moorage loadtest list), or a file."`

	Local        []pair    `placeholder:"KEY=VALUE" group:"Target:" help:"What to start and measure here: gateways=N, brokers=embedded, 1 or 3 (Apache Kafka), partitions=N, tls=true. What it does not say is the scenario's."`
	Gateway      []address `placeholder:"HOST:PORT" group:"Target:" help:"Measure gateways that run already; needs --kafka."`
	TLSCA        string    `name:"tls-ca" placeholder:"FILE" group:"Target:" help:"Certificates (PEM) that the gateways' are checked against. Without it agents speak to --gateway in clear."`
	TokenKeyFile string    `placeholder:"FILE" group:"Target:" help:"File with the fleet's key on its first line, of which agents' tokens are made."`

	Kafka       []address   `placeholder:"HOST:PORT" group:"kafka" help:"Brokers of the deployment that runs already; needs --gateway."`
	TopicPrefix topicPrefix `default:"moorage." group:"kafka" help:"What the names of the deployment's topics begin with. Only topics of the run's own controller below it are made, used and deleted."`
	kafkaAccess

	Length      time.Duration `placeholder:"DURATION" help:"How long load is made, instead of the scenario's length. Nothing else is scaled."`
	AgentsScale float64       `default:"1" placeholder:"FACTOR" help:"So many times the scenario's agents."`
	Seed        uint64        `help:"Seed of arrivals, sizes and random faults, instead of the scenario's: the same seed, the same schedule."`
	Workers     int           `help:"Processes that the agents are spread over; one for each 8,000 by default."`
	Out         string        `placeholder:"DIR" help:"Where results go; loadtest-SCENARIO-TIME by default."`

	Baseline   []string `placeholder:"SYSTEM" enum:"relay,grpc,tcp,nats" group:"Comparison:" help:"Run the same load against these too, in turn: ${enum}."`
	Pairs      int      `default:"5" group:"Comparison:" help:"How often each is run, with --baseline."`
	NATSHelper string   `name:"nats-helper" placeholder:"FILE" group:"Comparison:" help:"The program that runs nats-server; moorage-nats beside moorage by default (make baselines)."`
	OldBinary  string   `placeholder:"FILE" group:"Comparison:" help:"Another build of moorage: gateways start with it, and each rolling restart of them leads to the other build: to this one, then back."`
}

// Help gives the examples.
func (*loadtestRunCmd) Help() string {
	return `
Starts real processes, makes the scenario's load, breaks what it says, and tells with each message's own number whether anything was lost, repeated, reordered or stuck. Latencies count from when a message was due. Results go to a directory: results.json, events.ndjson and report.html.

Exit code 0: clean. 1: an anomaly, a missed threshold, a run that proves nothing, or one that was interrupted. 2: bad input. Ctrl-C ends a run in order and still writes the report of what was measured; a second one ends it at once.

Examples:

  moorage loadtest run smoke
  moorage loadtest run steady --local gateways=2,brokers=1 --length 1m --seed 7
  moorage loadtest run p1-commands --baseline relay,grpc --pairs 5 --out p1
  moorage loadtest run mine.yaml --gateway gw1.example.org:7443 --kafka k1.example.org:9092 --tls-ca ca.pem --token-key-file key

  # SCRAM to Kafka over TLS, with the same flags as a gateway's.
  moorage loadtest run mine.yaml --gateway gw1.example.org:7443 --tls-ca ca.pem --token-key-file key \
    --kafka k1.example.org:9093 --kafka-ca kafka-ca.pem \
    --kafka-sasl-mechanism SCRAM-SHA-512 --kafka-user loadtest --kafka-password-file kafka-password
`
}

// errMissed makes the exit code 1; the summary has said why.
var errMissed = errors.New("loadtest: not clean; see the verdict above")

// Run runs the scenario.
func (c *loadtestRunCmd) Run(ctx context.Context, k *kong.Context, p *process) error {
	sc, err := c.scenario()
	if err != nil {
		return usageError{c.locate(err)}
	}
	cfg, err := c.config(sc, p)
	if err != nil {
		return err
	}
	if err := cfg.Check(); err != nil {
		return usageError{c.locate(err)}
	}
	// Before anything is made: it begins the program again.
	if err := loadrun.Isolate(cfg); err != nil {
		return err
	}
	out := cmp.Or(c.Out, "loadtest-"+sc.Name+"-"+time.Now().Format("20060102-150405"))
	if _, err := os.Stat(filepath.Join(out, report.ResultsFile)); err == nil {
		return usagef("--out %s: has results already; choose another directory", out)
	}
	logs := filepath.Join(out, "logs")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return usagef("--out: %w", err)
	}
	events, err := report.NewEvents(out)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cfg.Command = command(k.Args, cfg.Scenario.Seed)
	cfg.Site.Binary, cfg.Site.Dir = self, logs
	workers := loadrun.Processes{Program: self, Args: []string{"loadtest-worker"}, Dir: logs}
	if cfg.Site.Helper != "" {
		workers.Helpers = map[string][]string{site.NATS: {cfg.Site.Helper, "worker"}}
	}
	cfg.Spawn = workers.Spawn
	cfg.Start = site.Start
	progress := report.NewProgress(p.stderr, time.Duration(sc.Length), columns(p.stderr))
	cfg.Tick = progress.Tick
	cfg.Event = events.Add

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-events.Failed():
			cancel(errors.New("loadtest: events cannot be written"))
		case <-stop:
		}
	}()
	cfg.Hurry = second(stop)
	r, failed := loadrun.Run(ctx, cfg)
	progress.End()
	if err := events.Close(); err != nil {
		failed = err // it is what ended the run
	}
	if r == nil {
		return fmt.Errorf("%w (logs in %s)", failed, logs)
	}
	report.Judge(r)
	if failed != nil && r.Verdict.Clean {
		// What was measured was clean, but not all was: such as a baseline.
		r.Verdict = results.Verdict{Invalid: true, Lines: append([]string{oneLine(failed.Error())}, r.Verdict.Lines...)}
	}
	if err := report.Write(out, r); err != nil {
		return cmp.Or(failed, err)
	}
	fmt.Fprint(p.stdout, report.Summary(out, r))
	if failed == nil && !r.Verdict.Clean {
		return errMissed
	}
	return failed
}

// second is closed at the second signal until stop; a third one ends the process
// the usual way, for even an end at once has a broken Kafka's topics to delete.
func second(stop <-chan struct{}) <-chan struct{} {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	hurry := make(chan struct{})
	go func() {
		defer signal.Stop(signals)
		for range 2 {
			select {
			case <-signals:
			case <-stop:
				return
			}
		}
		close(hurry)
	}()
	return hurry
}

// scenario is the one that was asked for, as the flags change it.
func (c *loadtestRunCmd) scenario() (sc scenario.Scenario, err error) {
	if sc, _, err = scenario.Open(c.Scenario); err != nil {
		return sc, err
	}
	if c.Length != 0 {
		sc.Length = scenario.Duration(c.Length)
		sc.Warmup = min(sc.Warmup, sc.Length/2)
		// What was planned for later does not happen.
		sc.Faults = slices.DeleteFunc(slices.Clone(sc.Faults), func(f scenario.Fault) bool { return f.At >= sc.Length })
	}
	if c.OldBinary != "" {
		sc.Faults = slices.Clone(sc.Faults)
		for i, f := range sc.Faults {
			if f.Do == fault.Rolling && !strings.HasPrefix(f.To, "broker") {
				sc.Faults[i].Do = fault.Upgrade
			}
		}
	}
	if c.Seed != 0 {
		sc.Seed = c.Seed
	}
	if c.AgentsScale <= 0 || c.AgentsScale > 1e6 {
		return sc, fmt.Errorf("--agents-scale %g: want more than 0, such as 0.1 or 2", c.AgentsScale)
	}
	sc.Groups = slices.Clone(sc.Groups)
	for i := range sc.Groups {
		sc.Groups[i].Agents = max(1, int(float64(sc.Groups[i].Agents)*c.AgentsScale+0.5))
	}
	if err := setLocal(&sc.Local, c.Local); err != nil {
		return sc, err
	}
	return sc, sc.Validate()
}

// locate adds the place in the file to what is wrong with it once flags had their
// say. After --length the file's faults may have other numbers.
func (c *loadtestRunCmd) locate(err error) error {
	if c.Length != 0 {
		return err
	}
	return scenario.Locate(err, c.Scenario)
}

// setLocal overrides what a scenario says of its deployment.
func setLocal(l *scenario.Local, flags []pair) (err error) {
	for _, f := range flags {
		switch f.Name {
		case "gateways":
			l.Gateways, err = strconv.Atoi(f.Value)
			if err != nil || l.Gateways < 1 {
				return fmt.Errorf("--local gateways=%s: want a whole number above 0", f.Value)
			}
		case "brokers":
			if l.Brokers = f.Value; !slices.Contains([]string{"embedded", "1", "3"}, f.Value) {
				return fmt.Errorf("--local brokers=%s: want embedded, 1 or 3", f.Value)
			}
		case "partitions":
			l.Partitions, err = strconv.Atoi(f.Value)
			if err != nil || l.Partitions < 16 || l.Partitions&(l.Partitions-1) != 0 {
				return fmt.Errorf("--local partitions=%s: want a power of two, at least 16", f.Value)
			}
		case "tls":
			if l.TLS, err = strconv.ParseBool(f.Value); err != nil {
				return fmt.Errorf("--local tls=%s: want true or false", f.Value)
			}
		default:
			return fmt.Errorf("--local %s=%s: there is no %s; want gateways, brokers, partitions or tls", f.Name, f.Value, f.Name)
		}
	}
	return nil
}

// config is what the coordinator needs, but for what concerns the output.
func (c *loadtestRunCmd) config(sc scenario.Scenario, p *process) (cfg loadrun.Config, err error) {
	switch {
	case len(c.Gateway) > 0 && len(c.Kafka) == 0, len(c.Gateway) == 0 && len(c.Kafka) > 0:
		return cfg, usagef("--gateway and --kafka belong together: agents come in at the one, their application at the other")
	case len(c.Kafka) == 0 && c.given():
		return cfg, usagef("--kafka-tls, --kafka-ca and the like say how --kafka is spoken to, which is missing: what is started here needs none of them")
	case len(c.Gateway) > 0 && len(c.Local) > 0:
		return cfg, usagef("--local starts a deployment and --gateway takes one that runs; remove one")
	case c.Workers < 0 || c.Workers > 256:
		return cfg, usagef("--workers %d: want 1 to 256", c.Workers)
	case c.Pairs < 1 || c.Pairs > 100:
		return cfg, usagef("--pairs %d: want 1 to 100", c.Pairs)
	case len(c.Gateway) > 0 && len(c.Baseline) > 0:
		return cfg, usagef("--baseline compares what is started here; it has no place beside --gateway")
	}
	cfg = loadrun.Config{
		Scenario: sc, Baselines: c.Baseline, Workers: c.Workers, Pairs: 1, Version: versionText(), Log: p.log, Acks: baseline.Acks,
		Site: site.Config{
			Gateways: texts(c.Gateway), Kafka: texts(c.Kafka), Prefix: string(c.TopicPrefix), CA: c.TLSCA, KeyFile: c.TokenKeyFile,
			Old: c.OldBinary, Log: p.log,
		},
	}
	if cfg.Site.Access, err = c.access(); err != nil {
		return cfg, err
	}
	for flag, name := range map[string]string{"--tls-ca": c.TLSCA, "--token-key-file": c.TokenKeyFile} {
		if name == "" {
			continue
		}
		if _, err := os.ReadFile(name); err != nil {
			return cfg, usagef("%s: %w", flag, err)
		}
	}
	if c.OldBinary != "" {
		if err := mustBeProgram("--old-binary", c.OldBinary); err != nil {
			return cfg, err
		}
	}
	if len(c.Baseline) > 0 {
		cfg.Pairs = c.Pairs
	}
	if slices.Contains(c.Baseline, site.NATS) {
		cfg.Site.Helper, err = c.helper()
	}
	return cfg, err
}

// access is the way into the deployment's Kafka. Workers and the connector read
// the files themselves; that they can is seen here.
func (c *loadtestRunCmd) access() (access.Kafka, error) {
	conf, err := c.tls()
	if err != nil {
		return access.Kafka{}, err
	}
	login, err := c.sasl(conf != nil)
	return access.Kafka{
		TLS: conf != nil, CA: c.KafkaCA, Cert: c.KafkaCert, Key: c.KafkaKey,
		Mechanism: login.Mechanism, User: login.User, Password: access.Secret(login.Password),
	}, err
}

// helper is the program of the nats baseline.
func (c *loadtestRunCmd) helper() (string, error) {
	name := c.NATSHelper
	if name == "" {
		self, err := os.Executable()
		if err != nil {
			return "", err
		}
		name = filepath.Join(filepath.Dir(self), "moorage-nats")
		if _, err := os.Stat(name); err != nil {
			return "", usagef("--baseline nats needs the program moorage-nats, and there is no %s; build it with make baselines, or name it with --nats-helper", name)
		}
	}
	return name, mustBeProgram("--nats-helper", name)
}

// command is how to run the same again.
func command(args []string, seed uint64) string {
	words := []string{"moorage"}
	seeded := false
	for _, a := range args {
		seeded = seeded || strings.HasPrefix(a, "--seed")
		if a == "" || strings.ContainsAny(a, " \t\n\"'\\$&|;<>()*?#") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		words = append(words, a)
	}
	if !seeded {
		words = append(words, "--seed", strconv.FormatUint(seed, 10))
	}
	return strings.Join(words, " ")
}
