package site

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/moorage-dev/moorage/loadtest/access"
)

// securedKafka starts a broker that speaks TLS and wants a login. Its
// certificate, good for the loopback address, is of Go's test server.
func securedKafka(t *testing.T) (addrs []string, how access.Kafka) {
	t.Helper()
	lender := httptest.NewTLSServer(nil)
	defer lender.Close()
	cluster, err := kfake.NewCluster(
		kfake.NumBrokers(3), kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-512", "load", "hunter2"),
		kfake.TLS(&tls.Config{Certificates: lender.TLS.Certificates}),
	)
	must(t, err)
	t.Cleanup(cluster.Close)
	ca := filepath.Join(t.TempDir(), "kafka-ca.pem")
	must(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: lender.Certificate().Raw}), 0o600))
	return cluster.ListenAddrs(), access.Kafka{TLS: true, CA: ca, Mechanism: "SCRAM-SHA-512", User: "load", Password: "hunter2"}
}

func TestOthersKafkaWantsTLSAndALogin(t *testing.T) {
	t.Parallel()
	kafka, how := securedKafka(t)
	s := start(t, Config{Kafka: kafka, Access: how})
	s.connect()
	if got := s.Words(); !strings.Contains(got, "over TLS, with a login by SCRAM-SHA-512") || strings.Contains(got, "hunter2") {
		t.Errorf("words: %s", got)
	}

	// The same gateways, as a deployment that runs already: legacy agents come
	// in by a shim of ours, and a connector brings them to a controller of ours.
	second, err := Start(t.Context(), Config{
		System: Moorage, Run: "second", Dir: t.ArtifactDir(), Binary: moorageBinary, Shims: 1,
		Gateways: s.Gateways(), Kafka: kafka, Access: how,
	})
	must(t, err)
	must(t, second.Connect(t.Context(), "http://127.0.0.1:1/"))
	for _, door := range second.Shims() {
		must(t, dialable(t.Context(), strings.TrimSuffix(strings.TrimPrefix(door, "http://"), "/")))
	}
	for name, pid := range second.(*site).running() {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		must(t, err)
		if strings.Contains(string(line), "hunter2") {
			t.Errorf("the process list shows the password: %s", name)
		}
	}
	must(t, second.Close())
	s.end()
	client, err := s.client(t.Context())
	must(t, err)
	defer client.Close()
	topics, err := client.ListTopics(t.Context())
	must(t, err)
	for _, topic := range topics {
		if strings.Contains(topic.Name, "second") {
			t.Errorf("left behind: %s", topic.Name)
		}
	}
}

func TestWrongWayIntoKafkaIsOneLine(t *testing.T) {
	t.Parallel()
	kafka, how := securedKafka(t)
	for _, c := range []struct {
		desc  string
		wrong func(*access.Kafka)
		want  string
	}{
		{"password", func(k *access.Kafka) { k.Password = "hunter3" }, `login of user "load"`},
		{"mechanism", func(k *access.Kafka) { k.Mechanism = "PLAIN" }, "check mechanism, user and password"},
		{"authority", func(k *access.Kafka) { k.CA = "" }, "--kafka-ca"},
		{"plaintext", func(k *access.Kafka) { *k = access.Kafka{} }, "agree on TLS"},
		{"nobody", func(k *access.Kafka) { k.Mechanism = "" }, "SASL"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			wrong := how
			c.wrong(&wrong)
			began := time.Now()
			s, err := Start(t.Context(), Config{
				System: Moorage, Run: "test", Dir: t.ArtifactDir(), Binary: moorageBinary,
				Gateways: []string{"127.0.0.1:1"}, Kafka: kafka, Access: wrong,
			})
			if err == nil {
				must(t, s.Close())
				t.Fatal("it was let in")
			}
			t.Log(err)
			if got := err.Error(); !strings.Contains(got, c.want) || strings.Contains(got, "\n") || strings.Contains(got, "hunter") {
				t.Errorf("want one line with %q, got %q", c.want, got)
			}
			if took := time.Since(began); took > 15*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}
