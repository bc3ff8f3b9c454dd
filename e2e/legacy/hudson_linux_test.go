package legacy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/e2e/rig"
)

const (
	httpPort  = 8080
	agentPort = 50000
)

// A generation is a controller and the agent that belongs to it.
type generation struct {
	name     string
	protocol string // of the agent's connection
	war      string
	main     string   // the war's own
	flags    []string // for that
	agent    string
}

var generations = []generation{{
	name:     "3.3.2",
	protocol: "JNLP2-connect",
	war:      "hudson-war-3.3.2.war",
	main:     "org.eclipse.hudson.war.Executable",
	flags:    []string{"--skipInitSetup"},
	agent:    "hudson-remoting-3.0.3.jar",
}, {
	name:     "1.395",
	protocol: "JNLP-connect",
	war:      "hudson-war-1.395.war",
	main:     "Main",
	flags:    []string{"--ajp13Port=-1"},
	agent:    "remoting-1.395.jar",
}}

// peersDir is where the peers are kept from one test run to the next.
func peersDir() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	return filepath.Join(cache, "moorage-test", "hudson")
}

// controllerFlags open what old Java let be reached, keep the controller from
// looking for the world, and suit short lives on few cores.
var controllerFlags = []string{
	"--add-opens=java.base/java.lang=ALL-UNNAMED", "--add-opens=java.base/java.lang.reflect=ALL-UNNAMED",
	"--add-opens=java.base/java.util=ALL-UNNAMED", "--add-opens=java.base/java.text=ALL-UNNAMED",
	"--add-opens=java.base/java.lang.ref=ALL-UNNAMED", "--add-opens=java.desktop/java.awt.font=ALL-UNNAMED",
	"-Djava.awt.headless=true", "-Dhudson.udp=0", "-Dhudson.DNSMultiCast.disabled=true",
	"-Dhudson.model.UpdateCenter.never=true", "-Dhudson.model.DownloadService.never=true",
	"-Dhudson.model.UsageStatistics.disabled=true", "-Djava.net.preferIPv4Stack=true",
	"-Dhttp.proxyHost=127.0.0.1", "-Dhttp.proxyPort=9", "-Dhttps.proxyHost=127.0.0.1", "-Dhttps.proxyPort=9",
	"-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx512m",
}

// A hudson is a running controller, on a host of its own.
type hudson struct {
	t *testing.T
	*rig.Process
	generation
	host *host
	home string
	http *http.Client

	verdicts *verdicts
}

// startHudson starts a controller that knows nodes of these names, and a job
// for each, of the same name, that runs on it. It does not wait.
func startHudson(t *testing.T, g generation, h *host, nodes ...node) *hudson {
	t.Helper()
	c := &hudson{t: t, generation: g, host: h, home: t.TempDir(), http: h.client()}
	c.write("config.xml", "<hudson><numExecutors>0</numExecutors><mode>NORMAL</mode><slaves>%s</slaves>"+
		"<quietPeriod>0</quietPeriod><slaveAgentPort>%d</slaveAgentPort></hudson>", slaves(nodes), agentPort)
	c.write("hudson-security.xml", "<hudsonSecurityManager><slaveAgentPort>%d</slaveAgentPort></hudsonSecurityManager>", agentPort)
	for _, n := range nodes {
		c.write(filepath.Join("jobs", n.name, "config.xml"), "<project>"+
			`<scm class="hudson.scm.NullSCM"/><assignedNode>%s</assignedNode><canRoam>false</canRoam><disabled>false</disabled>`+
			"<builders><hudson.tasks.Shell><command>%s</command></hudson.tasks.Shell></builders>"+
			"<publishers><hudson.tasks.ArtifactArchiver><artifacts>out/*</artifacts></hudson.tasks.ArtifactArchiver></publishers>"+
			"<buildWrappers/></project>", n.name, n.job.script(t))
	}
	tmp := filepath.Join(c.home, "tmp")
	rig.Must(t, os.Mkdir(tmp, 0o755))
	args := append([]string{"java"}, controllerFlags...)
	args = append(args, "-Duser.home="+c.home, "-Djava.io.tmpdir="+tmp,
		"-cp", filepath.Join(peersDir(), g.war)+":"+peersDir(), "Launch", g.main, fmt.Sprintf("--httpPort=%d", httpPort))
	args = append(args, g.flags...)
	argv := h.argv(args[0], args[1:]...)
	c.Process = rig.StartWith(t, "hudson-"+g.name, []string{"HUDSON_HOME=" + c.home, "HOME=" + c.home}, argv[0], argv[1:]...)
	return c
}

// A node is an agent as its controller knows it, and what its job does.
type node struct {
	name string
	job  job
}

func slaves(nodes []node) string {
	var b strings.Builder
	for _, n := range nodes {
		fmt.Fprintf(&b, "<slave><name>%s</name><description/><remoteFS>%s</remoteFS><numExecutors>1</numExecutors><mode>NORMAL</mode>"+
			`<retentionStrategy class="hudson.slaves.RetentionStrategy$Always"/><launcher class="hudson.slaves.JNLPLauncher"/><label/><nodeProperties/></slave>`,
			n.name, n.job.dir)
	}
	return b.String()
}

func (c *hudson) write(name, format string, args ...any) {
	c.t.Helper()
	name = filepath.Join(c.home, name)
	rig.Must(c.t, os.MkdirAll(filepath.Dir(name), 0o755))
	rig.Must(c.t, os.WriteFile(name, fmt.Appendf(nil, `<?xml version="1.0"?>`+"\n"+format, args...), 0o644))
}

// url is a page of the controller, as its own host sees it.
func (c *hudson) url(page string) string {
	return fmt.Sprintf("http://127.0.0.1:%d/%s", httpPort, page)
}

// ready waits until agents can be let in.
func (c *hudson) ready(within time.Duration) {
	c.t.Helper()
	rig.Eventually(c.t, "Hudson "+c.generation.name+" answers", within, func() bool {
		if !c.Running() {
			c.t.Fatalf("Hudson ended: %v", c.State())
		}
		status, _, err := c.get(c.url("tcpSlaveAgentListener/"))
		return err == nil && status == http.StatusOK
	})
}

func (c *hudson) get(url string) (status int, body []byte, err error) {
	req, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	return c.do(req)
}

func (c *hudson) do(req *http.Request) (status int, body []byte, err error) {
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// ask reads one of the controller's JSON pages.
func (c *hudson) ask(page string, answer any) error {
	status, body, err := c.get(c.url(page + "/api/json"))
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("%s: status %d", page, status)
	}
	return json.Unmarshal(body, answer)
}

// online tells whether the controller has a node's agent.
func (c *hudson) online(node string) bool {
	var computer struct{ Offline bool }
	return c.ask("computer/"+node, &computer) == nil && !computer.Offline
}

// offline tells whether the controller has lost a node's agent. It asks until
// there is an answer, for one that comes late says nothing of the agent.
func (c *hudson) offline(t *testing.T, node string) bool {
	t.Helper()
	var computer struct{ Offline bool }
	rig.Eventually(t, "Hudson tells of "+node, 2*time.Minute, func() bool { return c.ask("computer/"+node, &computer) == nil })
	return computer.Offline
}

// waitOnline waits for a node's agent.
func (c *hudson) waitOnline(t *testing.T, node string, within time.Duration) {
	t.Helper()
	rig.Eventually(t, node+" is online at Hudson "+c.generation.name, within, func() bool { return c.online(node) })
}

// A build is one run of a node's job.
type build struct {
	c     *hudson
	node  string
	agent *agent // without which there is nothing to wait for; nil if it may end
	n     int
	began time.Time
	took  time.Duration
}

// build starts the job of a node for the n-th time.
func (c *hudson) build(t *testing.T, a *agent, n int) *build {
	t.Helper()
	node := a.node.name
	b := &build{c: c, node: node, agent: a, n: n, began: time.Now()}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.url("job/"+node+"/build"), nil)
	rig.Must(t, err)
	// An order that Hudson forgot is given again; of two that wait in its queue
	// for one job it makes one.
	rig.Eventually(t, "Hudson takes an order", 2*time.Minute, func() bool {
		_, _, err = c.do(req)
		return err == nil || c.ask(b.page(), new(struct{})) == nil
	})
	return b
}

// page is the build's, below the controller's root.
func (b *build) page() string { return fmt.Sprintf("job/%s/%d", b.node, b.n) }

// log is what the controller has of the build's output, nothing before it began.
func (b *build) log() []byte {
	status, body, err := b.c.get(b.c.url(b.page() + "/consoleText"))
	if err != nil || status != http.StatusOK {
		return nil
	}
	return body
}

// wholeLog is the output of a build that has ended, up to its last line: Hudson
// calls a build ended a moment before it writes that.
func (b *build) wholeLog(t *testing.T) (log []byte) {
	t.Helper()
	rig.Eventually(t, "Hudson shows the end of "+b.node+"'s console", 2*time.Minute, func() bool {
		log = b.log()
		return lastLine.Match(log)
	})
	return log
}

// lastLine is the end of each console.
var lastLine = regexp.MustCompile(`\nFinished: [A-Z]+\n$`)

// waitLine waits until the build has put out its n-th line.
func (b *build) waitLine(t *testing.T, n int, within time.Duration) {
	t.Helper()
	line := fmt.Appendf(nil, "\nline %d\n", n)
	rig.Eventually(t, fmt.Sprintf("%s prints line %d", b.node, n), within, func() bool {
		if b.agent != nil && !b.agent.Running() {
			t.Fatalf("%s ended in the middle of its build: %v", b.agent.Process.Name, b.agent.State())
		}
		return bytes.Contains(b.log(), line)
	})
}

// lines is how many of the job's lines are there.
func (b *build) lines() int { return bytes.Count(b.log(), []byte("\nline ")) }

// goesOn waits for ten more lines, if there are more to come.
func (b *build) goesOn(t *testing.T, of job) {
	t.Helper()
	before := b.lines()
	rig.Eventually(t, b.node+"'s build goes on", 2*time.Minute, func() bool {
		now := b.lines()
		return now >= before+10 || now == of.lines
	})
}

// result waits for the end, and returns what the controller says of it.
func (b *build) result(t *testing.T, within time.Duration) string {
	t.Helper()
	var state struct {
		Building bool
		Result   string
	}
	rig.Eventually(t, b.node+"'s build ends", within, func() bool {
		if b.agent != nil && !b.agent.Running() {
			t.Fatalf("%s ended in the middle of its build: %v", b.agent.Process.Name, b.agent.State())
		}
		return b.c.ask(b.page(), &state) == nil && !state.Building && state.Result != ""
	})
	b.took = time.Since(b.began)
	return state.Result
}

// lost is when the controller wrote into the build's log that the agent was
// gone, which is the last that it writes there. A page that says so may take
// seconds to make on a busy machine, and is asked for now and then; the file's
// time is the kernel's.
func (b *build) lost(t *testing.T) (at time.Time) {
	t.Helper()
	log := filepath.Join(b.c.home, "jobs", b.node, "builds", fmt.Sprint(b.n), "log")
	rig.Eventually(t, "the log of "+b.node+"'s build tells of the loss", time.Minute, func() bool {
		text, err := os.ReadFile(log)
		if err != nil || !bytes.Contains(text, []byte("hudson.remoting.Channel$ReaderThread.run(")) {
			return false
		}
		info, err := os.Stat(log)
		rig.Must(t, err)
		at = info.ModTime()
		return true
	})
	return at
}

// artifact reads a file that the build left at the controller.
func (b *build) artifact(t *testing.T, name string) io.ReadCloser {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.c.url(b.page()+"/artifact/out/"+name), nil)
	rig.Must(t, err)
	var resp *http.Response
	rig.Eventually(t, "Hudson shows an artifact", 2*time.Minute, func() bool {
		resp, err = b.c.http.Do(req)
		return err == nil
	})
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		t.Fatalf("artifact %s: %s", name, resp.Status)
	}
	return resp.Body
}
