package shim

import (
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
)

var atTest = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4711}

func TestLead(t *testing.T) {
	for _, tt := range []struct{ desc, in, want string }{
		{"by HTTP", "java -jar agent.jar -url https://jenkins.example.org/ -name a1 -workDir /w",
			"java -jar agent.jar -url http://127.0.0.1:4711/ -name a1 -workDir /w"},
		{"the controller's path is the door's root", "java -jar agent.jar -url https://example.org/jenkins/ -name a1",
			"java -jar agent.jar -url http://127.0.0.1:4711/ -name a1"},
		{"by WebSocket", "java -jar agent.jar -url https://jenkins.example.org/ -webSocket -name a1",
			"java -jar agent.jar -url http://127.0.0.1:4711/ -webSocket -name a1"},
		{"several URLs", "java -jar agent.jar -url http://a/ -url http://b/ -name a1",
			"java -jar agent.jar -url http://127.0.0.1:4711/ -url http://127.0.0.1:4711/ -name a1"},
		{"past discovery", "java -jar agent.jar -direct jenkins:50000 -protocols JNLP4-connect -instanceIdentity MIIB -name a1",
			"java -jar agent.jar -direct 127.0.0.1:4711 -protocols JNLP4-connect -instanceIdentity MIIB -name a1"},
		{"its other name", "java -jar agent.jar -directConnection jenkins:50000", "java -jar agent.jar -directConnection 127.0.0.1:4711"},
		{"a tunnel leads here too", "java -jar agent.jar -url http://jenkins:8080/ -tunnel :50000 -name a1",
			"java -jar agent.jar -url http://127.0.0.1:4711/ -tunnel 127.0.0.1:4711 -name a1"},
		{"by file", "java -jar agent.jar -jnlpUrl http://jenkins:8080/computer/a1/jenkins-agent.jnlp -workDir /w",
			"java -jar agent.jar -jnlpUrl http://127.0.0.1:4711/computer/a1/jenkins-agent.jnlp -workDir /w"},
		{"by file, below a path, as Hudson calls it", "java -jar slave.jar -jnlpUrl https://example.org/a/b/computer/my%20agent/slave-agent.jnlp?encrypt=true",
			"java -jar slave.jar -jnlpUrl http://127.0.0.1:4711/computer/my%20agent/slave-agent.jnlp?encrypt=true"},
		{"an agent named computer", "java -jar slave.jar -jnlpUrl http://h/computer/computer/slave-agent.jnlp",
			"java -jar slave.jar -jnlpUrl http://127.0.0.1:4711/computer/computer/slave-agent.jnlp"},
		{"another file", "java -jar slave.jar -jnlpUrl http://h/x/y.jnlp", "java -jar slave.jar -jnlpUrl http://127.0.0.1:4711/x/y.jnlp"},
		{"the old main class, secret and name without options", "java -cp slave.jar hudson.remoting.jnlp.Main -headless -tunnel h:1 -url http://h:8080/ 00ff a1",
			"java -cp slave.jar hudson.remoting.jnlp.Main -headless -tunnel 127.0.0.1:4711 -url http://127.0.0.1:4711/ 00ff a1"},
		{"joined", "agent -url=http://h/ -tunnel=h:1", "agent -url=http://127.0.0.1:4711/ -tunnel=127.0.0.1:4711"},
		{"in an own script", "start-agent {door} {door.host} {door.port} {door.url}x", "start-agent 127.0.0.1:4711 127.0.0.1 4711 http://127.0.0.1:4711/x"},
		{"within a word", "env JENKINS_URL={door.url} start-agent", "env JENKINS_URL=http://127.0.0.1:4711/ start-agent"},
		{"an option without its value is the agent's to complain of", "agent {door} -url", "agent 127.0.0.1:4711 -url"},
		{"a secret in a file stays there", "java -jar agent.jar -secret @file -url http://h/", "java -jar agent.jar -secret @file -url http://127.0.0.1:4711/"},
		{"a secret in clear is moved", "java -jar agent.jar -secret 00ff -url http://h/", "java -jar agent.jar -secret @/private/secret -url http://127.0.0.1:4711/"},
	} {
		given := strings.Fields(tt.in)
		c, err := Lead(given, atTest)
		if err != nil {
			t.Errorf("%s: %v", tt.desc, err)
			continue
		}
		if c.Secret != "" {
			c.HideSecret("/private/secret")
		}
		if got := strings.Join(c.Args, " "); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.desc, got, tt.want)
		}
		if strings.Join(given, " ") != tt.in {
			t.Errorf("%s: the given command line has changed", tt.desc)
		}
	}
}

func TestLeadFindsTheSecret(t *testing.T) {
	for in, want := range map[string]Command{
		"agent {door} -secret 00ff -name a1":    {Secret: "00ff"},
		"agent {door} -secret @a/file -name a1": {File: "a/file"},
		"agent {door} -secret":                  {},
		"agent {door} -name a1":                 {},
		"agent -secret=00ff {door}":             {},
	} {
		c, err := Lead(strings.Fields(in), atTest)
		if err != nil || c.Secret != want.Secret || c.File != want.File {
			t.Errorf("%s: secret %q, file %q, %v; want %q, %q", in, c.Secret, c.File, err, want.Secret, want.File)
		}
	}
}

func TestLeadToNowhereIsRefused(t *testing.T) {
	for _, in := range []string{"java -jar agent.jar -name a1 -secret 00ff", "java", "java -url", "java -webSocket {dor}"} {
		if c, err := Lead(strings.Fields(in), atTest); !errors.Is(err, ErrNoAddress) {
			t.Errorf("%s: got %q, %v; want ErrNoAddress", in, c.Args, err)
		}
	}
}

func TestAgentGoesPastTheProxy(t *testing.T) {
	for _, tt := range []struct{ desc, in, want string }{
		{"no proxy, no change", "A=1 no_proxy=x", "A=1 no_proxy=x"},
		{"an empty one is none", "http_proxy=", "http_proxy="},
		{"nothing was excepted", "http_proxy=p:1", "http_proxy=p:1 no_proxy=127.0.0.1"},
		{"something was", "HTTPS_PROXY=p:1 NO_PROXY=a,b", "HTTPS_PROXY=p:1 NO_PROXY=a,b,127.0.0.1"},
		{"under both names", "http_proxy=p:1 no_proxy= NO_PROXY=a", "http_proxy=p:1 no_proxy=127.0.0.1 NO_PROXY=a,127.0.0.1"},
	} {
		in := strings.Fields(tt.in)
		if got := childEnv(slices.Clone(in), "127.0.0.1"); strings.Join(got, " ") != tt.want {
			t.Errorf("%s: got %q, want %q", tt.desc, got, tt.want)
		}
	}
}

func FuzzLead(f *testing.F) {
	f.Add("java\x00-jnlpUrl\x00http://h/computer/a/b\x00-secret\x00x")
	f.Add("-secret\x00-secret\x00-url\x00{door}")
	f.Fuzz(func(t *testing.T, line string) {
		args := strings.Split(line, "\x00")
		c, err := Lead(args, atTest)
		if err != nil {
			return
		}
		if len(c.Args) != len(args) {
			t.Errorf("%d words became %d", len(args), len(c.Args))
		}
		if c.Secret != "" {
			c.HideSecret("f")
		}
	})
}
