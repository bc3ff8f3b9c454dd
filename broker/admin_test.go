package broker_test

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"

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
