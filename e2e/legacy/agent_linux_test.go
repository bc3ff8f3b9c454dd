package legacy_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
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
// whoever started it, so the program is looked at too.
func (n node) java() int {
	processes, _ := filepath.Glob("/proc/[0-9]*/cmdline") // fails only on a bad pattern
	for _, file := range processes {
		line, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(line, []byte(n.job.dir)) {
			continue
		}
		exe, err := os.Readlink(filepath.Join(filepath.Dir(file), "exe"))
		if err != nil || filepath.Base(exe) != "java" {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err == nil {
			return pid
		}
	}
	return 0
}
