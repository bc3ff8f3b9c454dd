package legacy_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/moorage-dev/moorage/broker"
	"github.com/moorage-dev/moorage/e2e/rig"
)

// A kafka is a cluster, and the lan on which it can be reached.
type kafka struct {
	*broker.Apache
	t     *testing.T
	lan   *lan
	admin *kgo.Client

	// one keeps a second node from being killed while a first is down: a
	// cluster of three stands still with one.
	one sync.Mutex
}

func startKafka(t *testing.T, nodes int) *kafka {
	t.Helper()
	k := &kafka{t: t, lan: newLAN(t)}
	var err error
	k.Apache, err = broker.StartApache(t.Context(), broker.ApacheConfig{Nodes: nodes, FastFailover: nodes > 1, Host: k.lan.joinSelf()})
	rig.Must(t, err)
	t.Cleanup(k.Close)
	k.admin, err = kgo.NewClient(append(k.ClientOpts(""), kgo.MetadataMinAge(100*time.Millisecond))...)
	rig.Must(t, err)
	t.Cleanup(k.admin.Close)
	return k
}

// flags are how our commands find it.
func (k *kafka) flags() []string { return []string{"--kafka", strings.Join(k.Addrs(), ",")} }

// trying are further flags where one node is all there is.
func (k *kafka) trying() []string {
	if len(k.Addrs()) == 1 {
		return []string{"--single-broker"}
	}
	return nil
}

// partition asks for one partition of a topic.
func (k *kafka) partition(t *testing.T, topic string, partition int32) kmsg.MetadataResponseTopicPartition {
	t.Helper()
	req := kmsg.NewPtrMetadataRequest()
	rt := kmsg.NewMetadataRequestTopic()
	rt.Topic = new(topic)
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(t.Context(), k.admin)
	rig.Must(t, err)
	rig.Must(t, kerr.ErrorForCode(resp.Topics[0].ErrorCode))
	for _, p := range resp.Topics[0].Partitions {
		if p.Partition == partition {
			return p
		}
	}
	t.Fatalf("%s has no partition %d", topic, partition)
	return kmsg.MetadataResponseTopicPartition{}
}

// waitInSync waits until a partition has all its copies again.
func (k *kafka) waitInSync(t *testing.T, topic string, partition int32) {
	t.Helper()
	rig.Eventually(t, "all replicas are in sync", 2*time.Minute, func() bool {
		p := k.partition(t, topic, partition)
		return len(p.ISR) == len(p.Replicas)
	})
}
