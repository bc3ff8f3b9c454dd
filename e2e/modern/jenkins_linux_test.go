//go:build jenkins

package modern_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moorage-dev/moorage/e2e/rig"
	"github.com/moorage-dev/moorage/standin"
)

// demand returns what the environment must say for these tests.
func demand(t *testing.T, name string) string {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		t.Fatalf("%s is not set; docs/jenkins.md tells what it is", name)
	}
	return value
}

// javaArgv is the command line of a real agent, as Jenkins shows it.
func javaArgv(t *testing.T, name, secret string, options ...string) []string {
	t.Helper()
	argv := []string{"java", "-Xmx256m", "-jar", demand(t, "MOORAGE_AGENT_JAR"), "-name", name, "-secret", secret, "-workDir", t.TempDir()}
	return append(argv, options...)
}

// A real agent.jar finds a stand-in controller in each of its manners, in both
// tiers, passes all of the handshake, and stays connected; in tier 1 while
// gateways are killed. What a controller would have it do it is not asked: a
// stand-in does not speak Java.
func TestRealAgent(t *testing.T) {
	s := newSite(t, standin.Config{LoginCalls: -1, Pings: standin.Pings{Interval: -1}}, nil)
	wantOnline := func(t *testing.T, name string, argv []string) *rig.Process {
		t.Helper()
		agent := rig.Start(t, name, argv[0], argv[1:]...)
		agent.WaitSaid("INFO: Connected", 60*time.Second)
		s.jenkins.wantOnline(t, name, 30*time.Second)
		return agent
	}
	for _, tt := range []struct {
		word    string
		options func(door string) []string
	}{
		{"url", func(door string) []string { return []string{"-url", "http://" + door + "/"} }},
		{"websocket", func(door string) []string { return []string{"-url", "http://" + door + "/", "-webSocket"} }},
		{"direct", func(door string) []string {
			return []string{"-direct", door, "-instanceIdentity", s.jenkins.Identity, "-protocols", "JNLP4-connect"}
		}},
	} {
		t.Run("tier 0 "+tt.word, func(t *testing.T) {
			name := "t0-" + tt.word
			agent := wantOnline(t, name, javaArgv(t, name, s.jenkins.Secret(name), tt.options(s.places[0])...))
			began := time.Now()
			rig.Must(t, s.jenkins.Disconnect(name, standin.EndReset))
			agent.WaitSaid("Terminated", atOnce)
			t.Logf("the controller resets: the agent knew after %v", time.Since(began).Round(time.Millisecond))
			s.jenkins.wantOnline(t, name, 60*time.Second)
			agent.Kill()
			t.Logf("the agent is killed: the controller knew after %v", s.jenkins.wantOffline(t, name, atOnce).Round(time.Millisecond))
		})
		t.Run("tier 1 "+tt.word, func(t *testing.T) {
			name := "t1-" + tt.word
			agent := wantOnline(t, name, javaArgv(t, name, s.jenkins.Secret(name), tt.options(s.startShim(name).door)...))
			before := s.jenkins.remoteOf(name)
			for range 2 {
				e := s.holding(name)
				e.kill()
				s.startGateway(e.place)
			}
			s.holding(name)
			if now := s.jenkins.remoteOf(name); now != before {
				t.Errorf("its connection is now %s, it was %s", now, before)
			}
			began := time.Now()
			rig.Must(t, s.jenkins.Disconnect(name, standin.EndFIN))
			agent.WaitSaid("Terminated", atOnce)
			t.Logf("the controller closes: the agent knew after %v", time.Since(began).Round(time.Millisecond))
		})
	}
}

// A real Jenkins and a real agent.jar, behind real processes and a real Kafka:
// 64 MB go each way while gateways are killed, by the same connection.
func TestRealJenkins(t *testing.T) {
	root := strings.TrimSuffix(demand(t, "MOORAGE_JENKINS_URL"), "/") + "/"
	w := newWorks(t, root)
	console := newConsole(t, root)
	for _, tt := range []struct{ word, options string }{{"tcp", ""}, {"websocket", "-webSocket"}} {
		t.Run(tt.word, func(t *testing.T) {
			name := fmt.Sprintf("moorage-%s-%d", tt.word, os.Getpid())
			home := t.TempDir()
			secret := console.run(t, fmt.Sprintf(`
				def node = new hudson.slaves.DumbSlave(%q, %q, new hudson.slaves.JNLPLauncher())
				jenkins.model.Jenkins.get().addNode(node)
				print node.toComputer().jnlpMac`, name, home))
			defer console.run(t, fmt.Sprintf(`def j = jenkins.model.Jenkins.get(); j.removeNode(j.getNode(%q))`, name))
			argv := javaArgv(t, name, secret, "-url", root)
			if tt.options != "" {
				argv = append(argv, tt.options)
			}
			shim := w.shim(name, argv...)
			shim.WaitSaid("INFO: Connected", 2*time.Minute)
			online := func() string {
				return console.run(t, fmt.Sprintf(`def c = jenkins.model.Jenkins.get().getComputer(%q); print c.online ? c.connectTime : ""`, name))
			}
			rig.Eventually(t, name+" is online", time.Minute, func() bool { return online() != "" })
			since := online()
			var moving sync.WaitGroup
			moving.Go(func() {
				said := console.run(t, fmt.Sprintf(`
					def data = new byte[64 << 20]
					new Random(7).nextBytes(data)
					def file = jenkins.model.Jenkins.get().getNode(%q).createPath(%q)
					file.write().withStream { it.write(data) }
					print Arrays.equals(data, file.read().withStream { it.bytes }) ? "the same" : "another"`, name, home+"/data"))
				if said != "the same" {
					t.Errorf("64 MB that went to the agent and back: %s", said)
				}
			})
			for range 2 {
				place := w.killInUse(name)
				rig.Pass(t, time.Second)
				w.gateway(place)
			}
			moving.Wait()
			if now := online(); now != since {
				t.Errorf("connected since %q, before it was %q", now, since)
			}
		})
	}
}

// A console is Jenkins' script console.
type console struct {
	root   string
	client *http.Client
	crumb  [2]string // a header's name and value
}

// newConsole logs in as MOORAGE_JENKINS_AUTH (user:token) says, or as nobody.
func newConsole(t *testing.T, root string) *console {
	t.Helper()
	jar, err := cookiejar.New(nil)
	rig.Must(t, err)
	c := &console{root: root, client: &http.Client{Jar: jar, Timeout: 5 * time.Minute}}
	t.Cleanup(c.client.CloseIdleConnections)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, root+"crumbIssuer/api/json", nil)
	rig.Must(t, err)
	if status, body := c.do(t, request); status == http.StatusOK { // else there are no crumbs
		var crumb struct{ Crumb, CrumbRequestField string }
		rig.Must(t, json.Unmarshal(body, &crumb))
		c.crumb = [2]string{crumb.CrumbRequestField, crumb.Crumb}
	}
	return c
}

func (c *console) do(t *testing.T, request *http.Request) (status int, body []byte) {
	t.Helper()
	if user, token, ok := strings.Cut(os.Getenv("MOORAGE_JENKINS_AUTH"), ":"); ok {
		request.SetBasicAuth(user, token)
	}
	answer, err := c.client.Do(request)
	rig.Must(t, err)
	defer answer.Body.Close()
	body, err = io.ReadAll(answer.Body)
	rig.Must(t, err)
	return answer.StatusCode, body
}

// run runs a script and returns what it printed.
func (c *console) run(t *testing.T, script string) string {
	t.Helper()
	form := strings.NewReader(url.Values{"script": {script}}.Encode())
	request, err := http.NewRequest(http.MethodPost, c.root+"scriptText", form)
	rig.Must(t, err)
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if c.crumb[0] != "" {
		request.Header.Set(c.crumb[0], c.crumb[1])
	}
	status, body := c.do(t, request)
	if status != http.StatusOK || strings.Contains(string(body), "Exception") {
		t.Errorf("the script console says %d: %s\nto %s", status, body, script)
	}
	return strings.TrimSpace(string(body))
}
