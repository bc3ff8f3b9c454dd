package proc_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/e2e/rig"
)

// A fleet is the processes around one controller, and the Kafka below them.
// The test's own goroutine gives the orders.
type fleet struct {
	t          *testing.T
	program    string
	kafka      string // addresses, as flags want them
	controller string

	gateways map[string]*gateway // by name; names are never used again

	processes   []*rig.Process // all, in the order of their starts
	shimProcess *rig.Process   // the one shim, if there is one
}

// A gateway is one life of a gateway process.
type gateway struct {
	*rig.Process
	place string // address for agents, which a successor takes over
	admin string
}

// newFleet makes topics for a controller of its own; create are further flags
// of topics create.
func newFleet(t *testing.T, program string, kafka []string, create ...string) *fleet {
	t.Helper()
	f := &fleet{t: t, program: program, kafka: strings.Join(kafka, ","), gateways: map[string]*gateway{}}
	f.controller = fmt.Sprintf("c%08x", rand.Uint32())
	rig.Output(t, program, append([]string{"topics", "create", "--kafka", f.kafka, "--controller", f.controller}, create...)...)
	return f
}

// bridge is how the test itself reaches the fleet's Kafka.
func (f *fleet) bridge() bridge.Config { return bridge.Config{Brokers: strings.Split(f.kafka, ",")} }

// newSingle is a fleet over the shared single node.
func newSingle(t *testing.T) *fleet {
	t.Helper()
	program, err := ordinary()
	rig.Must(t, err)
	return newFleet(t, program, oneKafka.start(t).Addrs(), "--single-broker")
}

func (f *fleet) start(name string, args ...string) *rig.Process {
	f.t.Helper()
	p := rig.Start(f.t, name, f.program, args...)
	f.processes = append(f.processes, p)
	return p
}

// gateway starts a fresh gateway process at an address, and waits until agents
// may come.
func (f *fleet) gateway(place string) *gateway {
	f.t.Helper()
	name := fmt.Sprintf("gw%d", len(f.gateways)+1)
	g := &gateway{place: place, admin: rig.FreeAddress(f.t)}
	g.Process = f.start(name, "gateway", "--kafka", f.kafka, "--name", name,
		"--listen", place, "--admin", g.admin, "--insecure")
	f.gateways[name] = g
	g.WaitReady(http.DefaultClient, g.admin, 30*time.Second)
	return g
}

// connector starts a connector that offers one service.
func (f *fleet) connector(name, service, address string, flags ...string) *rig.Process {
	f.t.Helper()
	p := f.start(name, append([]string{"connector", "--kafka", f.kafka, "--controller", f.controller,
		"--service", service + "=" + address, "--single-broker"}, flags...)...)
	p.WaitSaid("connector: serving", 30*time.Second)
	return p
}

// shim starts a shim that reaches gateways at the given places, and returns
// the local address of the service.
func (f *fleet) shim(service string, places ...string) string {
	f.t.Helper()
	local := rig.FreeAddress(f.t)
	p := f.start("shim", "shim", "--gateway", strings.Join(places, ","), "--controller", f.controller,
		"--agent", "agent-"+service, "--insecure", "--forward", local+"="+service)
	p.WaitSaid("shim: listening", 30*time.Second)
	f.shimProcess = p
	return local
}

// A listed session is one element of what moorage sessions --json prints.
type listed struct {
	Session string `json:"session"`
	Agent   string `json:"agent"`
	State   string `json:"state"`
	Gateway string `json:"gateway"`
	Attempt uint32 `json:"attempt"`
	Reason  string `json:"reason"`
}

// sessions asks as an operator does.
func (f *fleet) sessions(states string) []listed {
	f.t.Helper()
	var all []listed
	out := rig.Output(f.t, f.program, "sessions", "--kafka", f.kafka, "--controller", f.controller, "--state", states, "--json")
	if err := json.Unmarshal(out, &all); err != nil {
		f.t.Fatalf("moorage sessions --json: %v\n%s", err, out)
	}
	return all
}

// inUse waits until the one session is attached to a gateway that lives, and
// returns both.
func (f *fleet) inUse() (*gateway, listed) {
	f.t.Helper()
	var (
		found *gateway
		held  listed
	)
	rig.Eventually(f.t, "moorage sessions shows one session, attached to a gateway that lives", 60*time.Second, func() bool {
		attached := f.sessions("attached")
		if len(attached) != 1 {
			return false
		}
		found, held = f.gateways[attached[0].Gateway], attached[0]
		return found != nil && found.Running()
	})
	return found, held
}
