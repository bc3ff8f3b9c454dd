package modern_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/broker"
	"github.com/moorage-dev/moorage/e2e/rig"
	"github.com/moorage-dev/moorage/standin"
)

// A works is a site of real processes on a real Kafka; the controller alone is
// in this one.
type works struct {
	*testing.T
	program  string
	kafka    string
	url      string // of the controller
	places   []string
	admins   []string
	gateways map[string]*rig.Process // by name; names are never used again
}

const worksName = "modern"

func newWorks(t *testing.T, url string) *works {
	t.Helper()
	w := &works{T: t, program: filepath.Join(t.TempDir(), "moorage"), url: url, gateways: make(map[string]*rig.Process)}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", w.program, "github.com/moorage-dev/moorage/cmd/moorage").CombinedOutput(); err != nil {
		t.Fatalf("building moorage: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	kafka, err := broker.StartApache(ctx, broker.ApacheConfig{FastFailover: true})
	rig.Must(t, err)
	t.Cleanup(kafka.Close)
	w.kafka = strings.Join(kafka.Addrs(), ",")
	rig.Output(t, w.program, "topics", "create", "--kafka", w.kafka, "--controller", worksName, "--single-broker")
	for i := range 2 {
		w.places, w.admins = append(w.places, rig.FreeAddress(t)), append(w.admins, rig.FreeAddress(t))
		w.gateway(i)
	}
	rig.Start(t, "connector", w.program, "connector", "--kafka", w.kafka, "--controller", worksName, "--single-broker", "--jenkins", url).
		WaitSaid("found Jenkins", 60*time.Second)
	return w
}

// gateway starts a fresh gateway at the i-th place.
func (w *works) gateway(i int) {
	w.Helper()
	name := fmt.Sprintf("gw%d-%d", i, len(w.gateways)+1)
	w.gateways[name] = rig.Start(w.T, name, w.program, "gateway", "--kafka", w.kafka, "--name", name, "--insecure",
		"--listen", w.places[i], "--admin", w.admins[i], "--door", worksName)
	w.gateways[name].WaitReady(http.DefaultClient, w.admins[i], 60*time.Second)
}

// shim starts a shim and below it an agent.
func (w *works) shim(name string, command ...string) *rig.Process {
	w.Helper()
	args := []string{"shim", "--gateway", strings.Join(w.places, ","), "--controller", worksName, "--agent", name, "--insecure",
		"--state-dir", w.TempDir(), "--"}
	return rig.Start(w.T, "shim-"+name, w.program, append(args, command...)...)
}

// killInUse kills the gateway that holds an agent's session.
func (w *works) killInUse(agent string) (place int) {
	w.Helper()
	var name string
	rig.Eventually(w.T, agent+" is attached to a gateway that lives", 60*time.Second, func() bool {
		var all []struct{ Agent, Kind, Gateway string }
		rig.Must(w.T, json.Unmarshal(rig.Output(w.T, w.program, "sessions", "--kafka", w.kafka, "--controller", worksName, "--state", "attached", "--json"), &all))
		for _, one := range all {
			kind := strings.ToLower(one.Kind)
			if one.Agent == agent && !strings.Contains(kind, "http") && w.gateways[one.Gateway] != nil && w.gateways[one.Gateway].Running() {
				name = one.Gateway
				return true
			}
		}
		return false
	})
	w.gateways[name].Kill()
	w.Logf("killed %s, which held %s", name, agent)
	_, err := fmt.Sscanf(name, "gw%d-", &place)
	rig.Must(w.T, err)
	return place
}

// The same with real processes and a real Kafka: gateways are killed under
// 64 MB each way, agents by the system, a shim with all that is below it.
func TestRealProcesses(t *testing.T) {
	t.Parallel()
	j := startJenkins(t, standin.Config{Identity: someKey()})
	w := newWorks(t, j.URL)
	both := []manner{manners[0], manners[3]}
	shims := make(map[string]*rig.Process)
	for _, m := range both {
		shims[m.word] = w.shim(m.word, agentArgv(t, j, m.word, "http://jenkins.example.org:8080/", m)...)
	}
	j.wantAgents(t, 2, 60*time.Second)

	var calls sync.WaitGroup
	began := time.Now()
	for _, m := range both {
		calls.Go(func() {
			j.call(t, m.word, largest, largest, 2*time.Minute)
			t.Logf("%s: 64 MB down and 64 MB up took %v", m.word, time.Since(began).Round(10*time.Millisecond))
		})
	}
	for range 2 {
		place := w.killInUse(both[0].word)
		rig.Pass(t, time.Second)
		w.gateway(place)
	}
	calls.Wait()
	if stats := j.Stats(); stats.Online != 2 || stats.Lost != 0 || stats.Corrupt != 0 || len(stats.Refused) != 0 {
		t.Errorf("at the controller: %+v", stats)
	}

	for _, m := range both {
		rig.Must(t, syscall.Kill(agentPID(t, shims[m.word]), syscall.SIGKILL))
		t.Logf("%s killed as by the system: the controller knew after %v", m.word, j.wantOffline(t, m.word, atOnce).Round(time.Millisecond))
		t.Logf("and its shim had it online again after %v", j.wantOnline(t, m.word, 30*time.Second).Round(time.Millisecond))
	}
	for _, m := range both {
		before := j.remoteOf(m.word)
		shims[m.word].Kill()
		began := time.Now()
		shims[m.word] = w.shim(m.word, agentArgv(t, j, m.word, "http://jenkins.example.org:8080/", m)...)
		j.wantAnotherOnline(t, m.word, before, began.Add(25*time.Second))
		t.Logf("shim of %s killed and started again: online after %v", m.word, time.Since(began).Round(10*time.Millisecond))
	}
	// Straight at a gateway.
	for _, m := range both {
		name := "t0-" + m.word
		argv := agentArgv(t, j, name, "http://"+w.places[0]+"/", m)
		a := rig.Start(t, name, argv[0], argv[1:]...)
		j.wantOnline(t, name, 60*time.Second)
		j.call(t, name, 8<<20, 8<<20, time.Minute)
		place := w.killInUse(name)
		t.Logf("gateway of %s killed: the controller knew after %v", name, j.wantOffline(t, name, beats).Round(time.Millisecond))
		a.WaitSaid("agent offline", atOnce)
		w.gateway(place)
		j.wantOnline(t, name, 60*time.Second)
		a.Kill()
		t.Logf("%s killed as by the system: the controller knew after %v", name, j.wantOffline(t, name, atOnce).Round(time.Millisecond))
	}
}
