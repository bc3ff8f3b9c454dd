//go:build linux

package loadtest_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/moorage-dev/moorage/broker"
	"github.com/moorage-dev/moorage/e2e/rig"
)

const securedStory = `
name: secured
description: a little of everything that a deployment which runs already can be asked to carry
length: 10s
drain: 20s
groups:
  - name: native
    agents: 6
    up: {rate: 5, size: 256}
    down: {rate: 5, size: 256}
  - name: tunnel
    kind: tunnel
    agents: 2
    up: {rate: 2, size: 4KiB}
  - name: jenkins
    kind: legacy
    door: shim
    agents: 2
    request: {rate: 2, size: 200, answer: 200}
faults:
  - {at: 3s, do: cut-agents, with: {share: 0.5}}
`

// loadPassword is the load test's own.
const loadPassword = "load-secret-4711"

// TestDeploymentWithSecuredKafka: Apache Kafka over TLS, with logins and the
// rights that docs/loadtest.md asks for.
func TestDeploymentWithSecuredKafka(t *testing.T) {
	program, err := ordinary()
	rig.Must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	kafka, err := broker.StartApache(ctx, broker.ApacheConfig{
		FastFailover: true, Secure: true, Users: map[string]string{"gateway": "gateway-secret", "load": loadPassword},
	})
	rig.Must(t, err)
	t.Cleanup(kafka.Close)
	allow(t, kafka, "gateway", "moorage.gateways", kmsg.ACLResourcePatternTypeLiteral, "READ", "WRITE", "DESCRIBE")
	allow(t, kafka, "gateway", "moorage.secured-", kmsg.ACLResourcePatternTypePrefixed, "READ", "WRITE", "DESCRIBE")
	allow(t, kafka, "load", "moorage.gateways", kmsg.ACLResourcePatternTypeLiteral, "CREATE", "READ", "WRITE", "DESCRIBE", "DESCRIBE_CONFIGS")
	allow(t, kafka, "load", "moorage.secured-", kmsg.ACLResourcePatternTypePrefixed, "CREATE", "DELETE", "READ", "WRITE", "DESCRIBE", "DESCRIBE_CONFIGS")
	as := func(user, password string) []string {
		file := filepath.Join(t.TempDir(), "password")
		rig.Must(t, os.WriteFile(file, []byte(password+"\n"), 0o600))
		return []string{"--kafka", strings.Join(kafka.Addrs(), ","), "--kafka-ca", kafka.CAFile(),
			"--kafka-sasl-mechanism", "SCRAM-SHA-512", "--kafka-user", user, "--kafka-password-file", file}
	}
	admin := as("admin", kafka.Password("admin"))
	if out, err := exec.Command(program, slices.Concat([]string{"topics", "create", "--controller", "other", "--single-broker"}, admin)...).CombinedOutput(); err != nil {
		t.Fatalf("topics create: %v: %s", err, out)
	}
	gateway := rig.FreeAddress(t)
	rig.Start(t, "gateway", program, slices.Concat([]string{"gateway", "--name", "g1", "--listen", gateway, "--admin", "127.0.0.1:0", "--insecure"},
		as("gateway", "gateway-secret"))...).WaitSaid("gateway: serving", 60*time.Second)

	// The gateway is of the same program, and stays.
	copied := filepath.Join(t.TempDir(), "moorage")
	rig.Must(t, os.Link(program, copied))
	story := write(t, securedStory)
	wrong := harness{program: copied}.loadtest(t, story, append(as("load", "another"), "--gateway", gateway)...)
	if text := wrong.said; wrong.code != 1 || strings.Count(text, "\n") != 1 || !strings.Contains(text, `login of user "load"`) ||
		!strings.Contains(text, "check mechanism, user and password") {
		t.Errorf("a wrong password: exit code %d, want 1 and one line: %s", wrong.code, text)
	}
	h := harness{program: copied, during: func(_ *exec.Cmd, dir string) {
		rig.Eventually(t, "load is made", time.Minute, func() bool {
			events, err := os.ReadFile(filepath.Join(dir, "events.ndjson"))
			return err == nil && strings.Contains(string(events), `"kind":"start"`)
		})
		for _, pid := range runs(copied) {
			if line, err := os.ReadFile("/proc/" + pid + "/cmdline"); err == nil && strings.Contains(string(line), loadPassword) {
				t.Errorf("the process list shows the password: %q", line)
			}
		}
	}}
	o := h.loadtest(t, story, append(as("load", loadPassword), "--gateway", gateway)...)
	one := o.wantClean(t)
	if one.Latency["up"].Count == 0 || one.Latency["down"].Count == 0 || one.Figures["calls"] == 0 {
		t.Errorf("of %v agents: %d messages up, %d down, %v calls of legacy ones; want some of each",
			one.Figures["agents"], one.Latency["up"].Count, one.Latency["down"].Count, one.Figures["calls"])
	}
	if got := o.result.Machine.Kafka; !strings.Contains(got, "over TLS, with a login by SCRAM-SHA-512") {
		t.Errorf("the target is said to be %q", got)
	}
	holdsNot(t, o.dir, loadPassword)

	topics, err := exec.Command(program, slices.Concat([]string{"topics", "list"}, admin)...).CombinedOutput()
	rig.Must(t, err)
	if strings.Contains(string(topics), "secured") || !strings.Contains(string(topics), "other") {
		t.Errorf("topics are left behind, or others' are gone:\n%s", topics)
	}
}

// allow grants operations on topics.
func allow(t *testing.T, kafka *broker.Apache, user, topic string, pattern kmsg.ACLResourcePatternType, operations ...string) {
	t.Helper()
	admin, err := kgo.NewClient(kafka.ClientOpts("admin")...)
	rig.Must(t, err)
	defer admin.Close()
	req := kmsg.NewPtrCreateACLsRequest()
	for _, name := range operations {
		op, err := kmsg.ParseACLOperation(name)
		rig.Must(t, err)
		c := kmsg.NewCreateACLsRequestCreation()
		c.ResourceType, c.ResourceName, c.ResourcePatternType = kmsg.ACLResourceTypeTopic, topic, pattern
		c.Principal, c.Host, c.Operation, c.PermissionType = "User:"+user, "*", op, kmsg.ACLPermissionTypeAllow
		req.Creations = append(req.Creations, c)
	}
	resp, err := req.RequestWith(t.Context(), admin)
	rig.Must(t, err)
	for _, r := range resp.Results {
		rig.Must(t, kerr.ErrorForCode(r.ErrorCode))
	}
}

// holdsNot fails if a file of dir has the text in it.
func holdsNot(t *testing.T, dir, text string) {
	t.Helper()
	rig.Must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if strings.Contains(string(content), text) {
			t.Errorf("%s holds the password", path)
		}
		return err
	}))
}
