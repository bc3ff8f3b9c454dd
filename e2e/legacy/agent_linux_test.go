package legacy_test

import (
	"path/filepath"
	"testing"
)

// An agent is a running agent process, on a host of its own.
type agent struct {
	*process
	node
	host  *host
	cable *cable
}

// agentCommand is how an administrator starts an agent.
func agentCommand(g generation, n node, root string) []string {
	return []string{"java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx128m", "-Djava.awt.headless=true", "-Djava.io.tmpdir=" + n.job.dir,
		"-jar", filepath.Join(peersDir(), g.agent), "-jnlpUrl", root + "computer/" + n.name + "/slave-agent.jnlp"}
}

// startAgent starts a node's agent, which believes its controller at root.
func startAgent(t *testing.T, l *lan, g generation, n node, root string) *agent {
	t.Helper()
	a := &agent{node: n, host: newHost(t, n.name)}
	a.cable = a.host.plug(l)
	command := agentCommand(g, n, root)
	a.process = a.host.start(t, "agent-"+n.name, command[0], command[1:]...)
	return a
}
