package legacy_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/e2e/rig"
)

// A site is one controller as Moorage knows it: the connector on the
// controller's host, and two gateways on a host of their own, which stands
// between the agents' lan and Kafka's.
type site struct {
	t          *testing.T
	k          *kafka
	hudson     *hudson
	controller string
	agents     *lan
	edge       *host
	address    string // of the edge, as agents reach it
	edgeInside string // the edge's other address, as Kafka knows it

	mu       sync.Mutex
	gateways map[string]*gateway // by name; names are never used again
}

// A gateway is one life of a gateway process.
type gateway struct {
	*rig.Process
	place string // its address for agents, which a successor takes over
	admin string
}

// newSite makes all but the controller itself, which may still be starting.
func newSite(t *testing.T, k *kafka, c *hudson) *site {
	t.Helper()
	s := &site{t: t, k: k, hudson: c, agents: newLAN(t), edge: newHost(t, "edge"), gateways: map[string]*gateway{}}
	s.controller = fmt.Sprintf("c%08x", rand.Uint32())
	s.address = s.edge.plug(s.agents).address
	s.edgeInside = s.edge.plug(k.lan).address
	s.edge.noRouter()
	s.topics()
	for port := range 2 {
		s.gateway(t, fmt.Sprintf("%s:%d", s.address, 7443+port), fmt.Sprintf("127.0.0.1:%d", 7480+port))
	}
	args := append([]string{"connector", "--controller", s.controller, "--jenkins", c.url("")}, k.flags()...)
	connector := c.host.start(t, "connector-"+s.controller, *program, append(args, k.trying()...)...)
	connector.WaitSaid("connector: serving", 60*time.Second)
	return s
}

// topics makes the controller's topics. A cluster that starts beside many
// others may not take the first order.
func (s *site) topics() {
	s.t.Helper()
	args := append([]string{"topics", "create", "--controller", s.controller}, s.k.flags()...)
	args = append(args, s.k.trying()...)
	rig.Eventually(s.t, "topics are made", time.Minute, func() bool {
		out, err := exec.CommandContext(s.t.Context(), *program, args...).CombinedOutput()
		if err != nil {
			s.t.Logf("moorage topics create: %v: %s", err, out)
		}
		return err == nil
	})
}

// run runs an operator's command about the controller to its end.
func (s *site) run(command string, flags ...string) []byte {
	s.t.Helper()
	args := append([]string{command, "--controller", s.controller}, s.k.flags()...)
	return rig.Output(s.t, *program, append(args, flags...)...)
}

// gateway starts a fresh gateway at a place, and waits until agents may come.
func (s *site) gateway(t *testing.T, place, admin string) *gateway {
	t.Helper()
	s.mu.Lock()
	name := fmt.Sprintf("%s-gw%d", s.controller, len(s.gateways)+1)
	g := &gateway{place: place, admin: admin}
	s.gateways[name] = g
	s.mu.Unlock()
	args := append([]string{"gateway", "--name", name, "--listen", place, "--admin", admin, "--insecure",
		"--door", s.controller, "--allow-cleartext-remoting", "--drain-timeout", "5s"}, s.k.flags()...)
	p := s.edge.start(t, name, *program, args...)
	s.mu.Lock()
	g.Process = p
	s.mu.Unlock()
	p.WaitReady(s.edge.client(), admin, 60*time.Second)
	return g
}

// successor starts a gateway where a dead one was.
func (s *site) successor(t *testing.T, g *gateway) *gateway {
	t.Helper()
	return s.gateway(t, g.place, g.admin)
}

// living are the gateways that run.
func (s *site) living() (all []*gateway) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.gateways {
		if g.Process != nil && g.Running() {
			all = append(all, g)
		}
	}
	return all
}

// A listed session is one element of what moorage sessions --json prints.
type listed struct {
	Session   string `json:"session"`
	Agent     string `json:"agent"`
	State     string `json:"state"`
	Gateway   string `json:"gateway"`
	Kind      string `json:"kind"`
	Reason    string `json:"reason"`
	Text      string `json:"text"`
	Partition int32  `json:"partition"`
}

// sessions asks as an operator does, for those that carry an agent.
func (s *site) sessions(state string) (found []listed) {
	s.t.Helper()
	var all []listed
	rig.Must(s.t, json.Unmarshal(s.run("sessions", "--state", state, "--json"), &all))
	for _, l := range all {
		if strings.Contains(strings.ToLower(l.Kind), "remoting") {
			found = append(found, l)
		}
	}
	return found
}

// inUse waits until an agent's session is attached to a gateway that lives,
// and returns both.
func (s *site) inUse(t *testing.T, agent string) (g *gateway, l listed) {
	t.Helper()
	rig.Eventually(t, agent+" is attached to a gateway that lives", 60*time.Second, func() bool {
		for _, l = range s.sessions("attached") {
			s.mu.Lock()
			g = s.gateways[l.Gateway]
			s.mu.Unlock()
			if l.Agent == agent && g != nil && g.Process != nil && g.Running() {
				return true
			}
		}
		return false
	})
	return g, l
}

// straight starts an agent that believes a gateway to be its controller: tier 0.
func (s *site) straight(t *testing.T, n node) *agent {
	t.Helper()
	return startAgent(t, s.agents, s.hudson.generation, n, fmt.Sprintf("http://%s:7443/", s.address))
}

// shim starts an agent under a shim: tier 1. Its command line names the
// controller, which is nowhere to be reached from there.
func (s *site) shim(t *testing.T, n node) *agent {
	t.Helper()
	a := &agent{node: n, host: newHost(t, n.name)}
	a.cable = a.host.plug(s.agents)
	command := []string{*program, "shim", "--gateway", fmt.Sprintf("%s:7443,%s:7444", s.address, s.address),
		"--controller", s.controller, "--agent", n.name, "--insecure", "--state-dir", filepath.Join(n.job.dir, "state"), "--"}
	command = append(command, agentCommand(s.hudson.generation, n, "http://hudson.example.org:8080/")...)
	a.Process = a.host.start(t, "shim-"+n.name, command[0], command[1:]...)
	return a
}
