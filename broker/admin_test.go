package broker_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/moorage-dev/moorage/broker"
)

func TestAdminChangesWhatAClusterHolds(t *testing.T) {
	tb := newTestBroker(t, broker.EmbeddedConfig{})
	tb.produce("one")
	admin := broker.Admin{Seeds: tb.Addrs()}
	if err := admin.AddPartitions(t.Context(), 32, topic); err != nil {
		t.Fatal(err)
	}
	if err := admin.AddPartitions(t.Context(), 2, topic); !errors.Is(err, kerr.InvalidPartitions) {
		t.Errorf("fewer partitions than there are: got %v, want %v", err, kerr.InvalidPartitions)
	}
	for _, rate := range []float64{1e6, 0} {
		if err := admin.Quota(t.Context(), rate); err != nil {
			t.Errorf("quota %v: %v", rate, err)
		}
	}
	for range 2 { // what is gone is no matter
		if err := admin.DeleteTopics(t.Context(), topic, "never-there"); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	if err := admin.AddPartitions(t.Context(), 64, topic); !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Errorf("partitions of a deleted topic: got %v, want %v", err, kerr.UnknownTopicOrPartition)
	}
}

func TestAdminSaysWhatFailed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	err = broker.Admin{Seeds: []string{l.Addr().String()}}.DeleteTopics(t.Context(), "any")
	if err == nil || !strings.HasPrefix(err.Error(), "broker: delete topics: ") {
		t.Errorf("got %v, want an error that begins with what was tried", err)
	}
}

func TestAdminLogsIn(t *testing.T) {
	lender := httptest.NewTLSServer(nil) // of its certificate, good for the loopback address
	defer lender.Close()
	cluster, err := kfake.NewCluster(
		kfake.NumBrokers(1), kfake.EnableSASL(), kfake.SeedTopics(1, topic),
		kfake.Superuser("PLAIN", "p", "secret"), kfake.Superuser("SCRAM-SHA-256", "s256", "secret"), kfake.Superuser("SCRAM-SHA-512", "s512", "secret"),
		kfake.TLS(&tls.Config{Certificates: lender.TLS.Certificates}),
	)
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	roots := x509.NewCertPool()
	roots.AddCert(lender.Certificate())
	partitions := int32(1)
	for _, c := range []struct{ mechanism, user, password, want string }{
		{"PLAIN", "p", "secret", ""},
		{"SCRAM-SHA-256", "s256", "secret", ""},
		{"SCRAM-SHA-512", "s512", "secret", ""},
		{"GSSAPI", "p", "secret", "want PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"},
	} {
		admin := broker.Admin{
			Seeds: cluster.ListenAddrs(), TLS: &tls.Config{RootCAs: roots}, Mechanism: c.mechanism, User: c.user, Password: c.password,
		}
		partitions *= 2
		err := admin.AddPartitions(t.Context(), partitions, topic)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s as %s with %q: got %v, want %q", c.mechanism, c.user, c.password, err, c.want)
		}
	}
}
