package main

import (
	"context"
	"fmt"
	"os/exec"
	"time"

	"github.com/moorage-dev/moorage/loadtest/baseline"
)

// A system is what is measured: a gateway process and an application process
// on Kafka, both started by us.
type system struct {
	name   string
	topics []string // that fill up
	// prepare makes topics and the like, once.
	prepare func(ctx context.Context, b *bench) error
	// gateway and app start the processes.
	gateway func(ctx context.Context, b *bench, listen, admin string) (*process, error)
	app     func(ctx context.Context, b *bench) (*process, error)
}

// controllerName is the name of the bench's controller.
const controllerName = "bench"

var relay = system{
	name:   "relay",
	topics: []string{"relay.up", "relay.down"},
	prepare: func(ctx context.Context, b *bench) error {
		return baseline.Topics{Brokers: []string{b.kafka}}.Create(ctx)
	},
	gateway: func(ctx context.Context, b *bench, listen, admin string) (*process, error) {
		return startRole(ctx, "relay-gateway", "-kafka", b.kafka, "-listen", listen, "-admin", admin)
	},
	app: func(ctx context.Context, b *bench) (*process, error) {
		return startRole(ctx, "relay-app", "-kafka", b.kafka)
	},
}

var moorage = system{
	name:   "moorage",
	topics: []string{"moorage." + controllerName + ".up", "moorage." + controllerName + ".down"},
	prepare: func(ctx context.Context, b *bench) error {
		out, err := exec.CommandContext(ctx, b.moorage, "topics", "create", "--kafka", b.kafka,
			"--controller", controllerName, "--single-broker").CombinedOutput()
		if err != nil {
			return fmt.Errorf("bench: topics create: %w: %s", err, out)
		}
		return nil
	},
	gateway: func(ctx context.Context, b *bench, listen, admin string) (*process, error) {
		return start(ctx, b.moorage, gatewayArgs(b, listen, admin)...)
	},
	app: func(ctx context.Context, b *bench) (*process, error) {
		return startRole(ctx, "app", "-kafka", b.kafka)
	},
}

// gatewayArgs is the command line of moorage's gateway.
func gatewayArgs(b *bench, listen, admin string) []string {
	args := []string{"gateway", "--kafka", b.kafka, "--listen", listen, "--admin", admin,
		"--name", "bench", "--insecure", "--log-level", "warn"}
	if b.cache != "" {
		args = append(args, "--cache-bytes", b.cache)
	}
	return args
}

// A running is one system, up.
type running struct {
	*system
	bench         *bench
	gateway, app  *process
	addr, metrics string
}

// up starts a system with an empty gateway.
func (b *bench) up(ctx context.Context, s *system) (*running, error) {
	r := &running{system: s, bench: b}
	var err error
	if r.app, err = s.app(ctx, b); err != nil {
		return nil, err
	}
	if err = r.startGateway(ctx); err == nil {
		_, err = r.settled(ctx)
	}
	if err != nil {
		r.down()
		return nil, err
	}
	return r, nil
}

// settled waits until a session is accepted, and returns its partition. An
// empty gateway may bind the first ones to the application process of the run
// before, whose heartbeats it reads first.
func (r *running) settled(ctx context.Context) (partition int32, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		a := newAgent(r.addr, controllerName, "probe", baseline.Mode{Do: "sink"})
		err := a.attach(ctx)
		if err == nil {
			err = a.until(ctx, func() bool { return a.received.Load() > 0 })
			a.leave()
		}
		if err == nil || ctx.Err() != nil {
			return partitionOf(a.name), err
		}
		rest(ctx, 100*time.Millisecond)
	}
}

func (r *running) startGateway(ctx context.Context) (err error) {
	if r.addr, err = freeAddr(); err != nil {
		return err
	}
	if r.metrics, err = freeAddr(); err != nil {
		return err
	}
	if r.gateway, err = r.system.gateway(ctx, r.bench, r.addr, r.metrics); err != nil {
		return err
	}
	return waitListening(ctx, r.addr)
}

func (r *running) down() {
	r.gateway.stop()
	r.app.stop()
}

// agent returns an agent of the i-th name for this system.
func (r *running) agent(i int, m baseline.Mode) *agent {
	return newAgent(r.addr, controllerName, fmt.Sprintf("agent-%d", i), m)
}
