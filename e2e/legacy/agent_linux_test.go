package legacy_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/moorage-dev/moorage/e2e/rig"
)

// An agent is a running agent on a host of its own: the agent's process, or
// the shim that keeps it.
type agent struct {
	*rig.Process
	node
	host  *host
	cable *cable
}

// agentCommand is how an administrator starts an agent of the controller at
// root.
func agentCommand(g generation, n node, root string) []string {
	return []string{"java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx128m", "-Djava.awt.headless=true", "-Djava.io.tmpdir=" + n.job.dir,
		"-jar", filepath.Join(peersDir(), g.agent), "-jnlpUrl", root + "computer/" + n.name + "/slave-agent.jnlp"}
}

// startAgent starts a node's agent, with nothing between it and root.
func startAgent(t *testing.T, l *lan, g generation, n node, root string) *agent {
	t.Helper()
	a := &agent{node: n, host: newHost(t, n.name)}
	a.cable = a.host.plug(l)
	command := agentCommand(g, n, root)
	a.Process = a.host.start(t, "agent-"+n.name, command[0], command[1:]...)
	return a
}

// java returns the process id of the node's Java, 0 if it has none. The node's
// folder, which no other has, stands in its command line; and in that of
// whoever started it, so the program is looked at too. A child that Java has
// forked, and that is not yet what it will be, looks the same: the parent counts.
func (n node) java() int {
	processes, _ := filepath.Glob("/proc/[0-9]*/cmdline") // fails only on a bad pattern
	parents := map[int]int{}
	for _, file := range processes {
		line, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(line, []byte(n.job.dir)) {
			continue
		}
		folder := filepath.Dir(file)
		exe, err := os.Readlink(filepath.Join(folder, "exe"))
		if err != nil || filepath.Base(exe) != "java" {
			continue
		}
		stat, err := os.ReadFile(filepath.Join(folder, "stat"))
		if err != nil {
			continue
		}
		var pid, parent int
		var state string
		_, behind, _ := bytes.Cut(stat, []byte(") ")) // of the name, which may hold anything but this
		if _, err := fmt.Sscan(string(behind), &state, &parent); err != nil {
			continue
		}
		if _, err := fmt.Sscan(filepath.Base(folder), &pid); err == nil {
			parents[pid] = parent
		}
	}
	for pid, parent := range parents {
		if _, child := parents[parent]; !child {
			return pid
		}
	}
	return 0
}
