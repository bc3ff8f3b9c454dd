package proc_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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

// Everybody gets exactly what the table in docs/operations.md says, and works
// with it: a session opens, outlives its gateway, is seen and ended. What the
// table doesn't grant, Kafka refuses.
func TestMinimalRightsAreEnough(t *testing.T) {
	t.Parallel()
	program, err := ordinary()
	rig.Must(t, err)
	users := map[string]string{}
	for _, user := range aclUsers {
		users[user] = user + "-secret"
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	kafka, err := broker.StartApache(ctx, broker.ApacheConfig{FastFailover: true, Secure: true, Users: users})
	rig.Must(t, err)
	t.Cleanup(kafka.Close)
	grant(t, kafka, documentedRights(t), "ci")

	as := func(user string) []string {
		file := filepath.Join(t.TempDir(), "password")
		rig.Must(t, os.WriteFile(file, []byte(users[user]+"\n"), 0o600))
		return []string{"--kafka", strings.Join(kafka.Addrs(), ","), "--kafka-ca", kafka.CAFile(),
			"--kafka-sasl-mechanism", "SCRAM-SHA-512", "--kafka-user", user, "--kafka-password-file", file}
	}
	command := func(user string, args ...string) string {
		t.Helper()
		return string(rig.Output(t, program, slices.Concat(args, as(user))...))
	}
	command("creator", "topics", "create", "--controller", "ci", "--single-broker")
	command("checker", "topics", "check", "--controller", "ci", "--single-broker")

	place := rig.FreeAddress(t)
	gateway := func(name string) *rig.Process {
		p := rig.Start(t, name, program, slices.Concat([]string{"gateway", "--name", name, "--listen", place,
			"--admin", rig.FreeAddress(t), "--insecure"}, as("gateway"))...)
		p.WaitSaid("gateway: serving", 30*time.Second)
		return p
	}
	first := gateway("first")
	connector := rig.Start(t, "connector", program, slices.Concat([]string{"connector", "--controller", "ci", "--single-broker",
		"--service", "echo=" + startEcho(t)}, as("controller"))...)
	connector.WaitSaid("connector: serving", 30*time.Second)
	local := rig.FreeAddress(t)
	shim := rig.Start(t, "shim", program, "shim", "--gateway", place, "--controller", "ci", "--agent", "a1", "--insecure", "--forward", local+"=echo")
	shim.WaitSaid("shim: listening", 30*time.Second)

	held := dial(t, local)
	wantEcho(t, held, "by the first\n")
	first.Kill()
	second := gateway("second")
	wantEcho(t, held, "by the second\n")

	if got := command("operator", "gateways"); !strings.Contains(got, "second") {
		t.Errorf("moorage gateways shows no second gateway:\n%s", got)
	}
	var id string
	rig.Eventually(t, "moorage sessions shows the session on the second gateway", 30*time.Second, func() bool {
		for line := range strings.Lines(command("operator", "sessions", "--state", "attached")) {
			if f := strings.Fields(line); slices.Contains(f, "second") {
				id = f[0]
			}
		}
		return id != ""
	})
	command("ender", "sessions", "end", id)
	shim.WaitSaid("OPERATOR", 20*time.Second)

	for _, p := range []*rig.Process{second, connector} {
		if regexp.MustCompile(`(?i)authoriz`).Match(p.Said()) {
			t.Errorf("%s lacks a right: %s", p.Name, p.Tail(2000))
		}
	}
	for _, forbidden := range []struct{ user, topic string }{
		{"gateway", "moorage.ci.down"}, {"gateway", "moorage.ci.meta"}, {"gateway", "moorage.ci.sessions"},
		{"controller", "moorage.ci.up"},
		{"operator", "moorage.ci.up"}, {"operator", "moorage.gateways"},
		{"ender", "moorage.ci.down"}, {"checker", "moorage.ci.up"}, {"creator", "moorage.ci.up"},
	} {
		if err := tryProduce(ctx, t, kafka, forbidden.user, forbidden.topic); !errors.Is(err, kerr.TopicAuthorizationFailed) {
			t.Errorf("%s writes %s: %v, want %v", forbidden.user, forbidden.topic, err, kerr.TopicAuthorizationFailed)
		}
	}
	wantRefusals(t, program, as("operator"), as("gateway"))
}

// wantRefusals tries to come into a secure Kafka the wrong way: one line each.
func wantRefusals(t *testing.T, program string, good, other []string) {
	t.Helper()
	const ca, password = 3, 9
	wrongPassword := slices.Clone(good)
	wrongPassword[password] = other[password]
	wrongCA := slices.Clone(good)
	wrongCA[ca] = foreignCA(t)
	for _, tc := range []struct {
		desc string
		args []string
		want string
	}{
		{"another's password", wrongPassword, `login of user "operator" refused`},
		{"another authority", wrongCA, "--kafka-ca"},
		{"no TLS", []string{good[0], good[1]}, "agree on TLS"},
		{"no login", good[:4], "SASL"},
		{"no right", append([]string{"--controller", "other"}, good...), "grant Describe"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		cmd := exec.CommandContext(ctx, program, append([]string{"sessions"}, tc.args...)...)
		var said bytes.Buffer
		cmd.Stderr = &said
		began := time.Now()
		err := cmd.Run()
		cancel()
		t.Logf("%s, after %v: %s", tc.desc, time.Since(began).Round(time.Millisecond), said.String())
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 {
			t.Errorf("%s: %v, want exit code 1", tc.desc, err)
		}
		if text := said.String(); !strings.Contains(text, tc.want) || strings.Count(text, "\n") != 1 {
			t.Errorf("%s: want one line that names %s, got %q", tc.desc, tc.want, text)
		}
	}
}

// aclUsers are, by the first column of the table, who the test makes of them.
var aclUsers = map[string]string{
	"gateway":                           "gateway",
	"controller side":                   "controller",
	"operator (`sessions`, `gateways`)": "operator",
	"operator (`sessions end`)":         "ender",
	"operator (`topics create`)":        "creator",
	"operator (`topics check`)":         "checker",
}

// A right is one cell of the table: operations of a user on a topic.
type right struct {
	user, topic string
	operations  []kmsg.ACLOperation
}

// documentedRights reads the table of docs/operations.md.
func documentedRights(t *testing.T) []right {
	t.Helper()
	text, err := os.ReadFile("../../docs/operations.md")
	rig.Must(t, err)
	_, section, _ := strings.Cut(string(text), "## Minimal ACLs")
	section, _, _ = strings.Cut(section, "\n## ")
	var rights []right
	who := ""
	for line := range strings.Lines(section) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 5 || !strings.Contains(cells[2], "`moorage.") {
			continue
		}
		if cell := strings.TrimSpace(cells[1]); cell != "" {
			who = cell
		}
		user, ok := aclUsers[who]
		if !ok {
			t.Fatalf("docs/operations.md grants to %q, whom this test doesn't know", who)
		}
		for topic := range strings.SplitSeq(cells[2], ",") {
			r := right{user: user, topic: strings.Trim(topic, " `")}
			for name := range strings.SplitSeq(cells[3], ",") {
				op, err := kmsg.ParseACLOperation(strings.TrimSpace(name))
				rig.Must(t, err)
				r.operations = append(r.operations, op)
			}
			rights = append(rights, r)
		}
	}
	if len(rights) < 15 {
		t.Fatalf("only %d rights in docs/operations.md", len(rights))
	}
	return rights
}

// grant gives the rights, by literal topic names.
func grant(t *testing.T, kafka *broker.Apache, rights []right, controller string) {
	t.Helper()
	admin, err := kgo.NewClient(kafka.ClientOpts("admin")...)
	rig.Must(t, err)
	defer admin.Close()
	req := kmsg.NewPtrCreateACLsRequest()
	for _, r := range rights {
		for _, op := range r.operations {
			c := kmsg.NewCreateACLsRequestCreation()
			c.ResourceType, c.ResourceName = kmsg.ACLResourceTypeTopic, strings.ReplaceAll(r.topic, "NAME", controller)
			c.ResourcePatternType, c.Principal, c.Host = kmsg.ACLResourcePatternTypeLiteral, "User:"+r.user, "*"
			c.Operation, c.PermissionType = op, kmsg.ACLPermissionTypeAllow
			req.Creations = append(req.Creations, c)
		}
	}
	resp, err := req.RequestWith(t.Context(), admin)
	rig.Must(t, err)
	for i, r := range resp.Results {
		if err := kerr.ErrorForCode(r.ErrorCode); err != nil {
			t.Fatalf("%+v: %v", req.Creations[i], err)
		}
	}
}

func tryProduce(ctx context.Context, t *testing.T, kafka *broker.Apache, user, topic string) error {
	t.Helper()
	client, err := kgo.NewClient(append(kafka.ClientOpts(user), kgo.DisableIdempotentWrite())...)
	rig.Must(t, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return client.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte("foreign")}).FirstErr()
}

// foreignCA writes the certificate of an authority that has signed nothing here.
func foreignCA(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	rig.Must(t, err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "another authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	rig.Must(t, err)
	file := filepath.Join(t.TempDir(), "ca.pem")
	rig.Must(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return file
}
