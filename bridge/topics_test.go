package bridge

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestCreatedTopicsPassTheCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 3, 1, nil)
		for range 2 { // what exists is left as it is
			if err := k.client.CreateTopics(t.Context(), "main", TopicSpec{}); err != nil {
				t.Fatal(err)
			}
		}
		problems, err := k.client.CheckTopics(t.Context(), "main", CheckOptions{})
		if err != nil || len(problems) != 0 {
			t.Errorf("problems %v, error %v", problems, err)
		}
		topics, err := k.client.ListTopics(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, topic := range topics {
			got = append(got, topic.Name)
		}
		if want := "moorage.gateways moorage.main.down moorage.main.meta moorage.main.sessions moorage.main.up " + testTopic; strings.Join(got, " ") != want {
			t.Errorf("topics %v, want %s", got, want)
		}
		if topics[1].Partitions != 16 {
			t.Errorf("%s has %d partitions", topics[1].Name, topics[1].Partitions)
		}
	})
}

func TestSpecsAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 1, 1, nil)
		for _, tt := range []struct {
			desc, controller, want string
			spec                   TopicSpec
		}{
			{"name", "Main", "controller name", TopicSpec{}},
			{"not a power of two", "main", "power of two", TopicSpec{Partitions: 24}},
			{"few", "main", "at least 16", TopicSpec{Partitions: 4}},
			{"replication", "main", "--single-broker", TopicSpec{Replication: 2}},
			{"one broker", "main", "needs as many brokers", TopicSpec{}},
		} {
			if err := k.client.CreateTopics(t.Context(), tt.controller, tt.spec); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: %v, want %q", tt.desc, err, tt.want)
			}
		}
		spec := TopicSpec{SingleBroker: true, Partitions: 2, AllowSmall: true}
		if err := k.client.CreateTopics(t.Context(), "small", spec); err != nil {
			t.Error(err)
		}
		problems, err := k.client.CheckTopics(t.Context(), "small", CheckOptions{SingleBroker: true, AllowSmall: true})
		if err != nil || len(problems) != 0 {
			t.Errorf("problems %v, error %v", problems, err)
		}
	})
}

func TestCheckRefusesWhatDurabilityCantStandOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTestKafka(t, 3, 1, nil)
		set := func(pairs ...string) map[string]string {
			m := map[string]string{"min.insync.replicas": "2"}
			for i := 0; i < len(pairs); i += 2 {
				m[pairs[i]] = pairs[i+1]
			}
			return m
		}
		for topic, configs := range map[string]map[string]string{
			"moorage.bad.up":       set("cleanup.policy", "compact", "max.message.bytes", "1000"),
			"moorage.bad.down":     set("retention.ms", "60000", "retention.bytes", "1000000", "unclean.leader.election.enable", "true", "min.insync.replicas", "1"),
			"moorage.bad.sessions": set("cleanup.policy", "delete"),
			"moorage.gateways":     set("cleanup.policy", "compact"),
		} {
			partitions := int32(1)
			if topic == "moorage.bad.up" {
				partitions = 24
			}
			if err := k.cluster.CreateTopic(topic, partitions, configs); err != nil {
				t.Fatal(err)
			}
		}
		problems, err := k.client.CheckTopics(t.Context(), "bad", CheckOptions{Grace: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		want := []string{
			"bad.up: 24 partitions: want a power of two", "bad.up: cleanup.policy", "bad.up: max.message.bytes",
			"bad.down: 1 partitions: want at least 16", "bad.down: retention.ms is 60000", "set it to 180000",
			"bad.down: retention.bytes", "bad.down: unclean", "bad.down: min.insync.replicas is 1", "bad.down: 1 partitions, moorage.bad.up has 24",
			"bad.sessions: cleanup.policy", "bad.meta: does not exist",
		}
		var all strings.Builder
		for _, p := range problems {
			all.WriteString(p.String() + "\n")
		}
		for _, w := range want {
			if !strings.Contains(all.String(), w) {
				t.Errorf("%q is missing in\n%s", w, all.String())
			}
		}
		if strings.Contains(all.String(), "gateways") {
			t.Errorf("a good topic is in\n%s", all.String())
		}
	})
}
