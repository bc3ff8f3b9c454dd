package demo

import (
	"github.com/moorage-dev/moorage/bridge"
	"github.com/moorage-dev/moorage/proto/envelope"
)

func (w *World) createTopics() error {
	admin, err := bridge.Dial(w.ctx, w.kafka("admin"))
	if err != nil {
		return err
	}
	defer admin.Close()
	if w.topics == (bridge.Topics{}) { // faults that are under way read it
		w.topics = admin.Topics(controllerName)
	}
	w.mu.Lock()
	n := w.partitions
	w.mu.Unlock()
	return admin.CreateTopics(w.ctx, controllerName, bridge.TopicSpec{Partitions: n, SingleBroker: true, AllowSmall: true})
}

// updown returns one of the two topics of records.
func (w *World) updown(target int) string {
	if target%2 == 0 {
		return w.topics.Up
	}
	return w.topics.Down
}

// partition returns where the agent's sessions stand.
func (w *World) partition(a *agent) int32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return int32(envelope.SlotOf(a.name, envelope.SessionID{})) % w.partitions
}

// grow gives up and down twice as many partitions.
func (w *World) grow() {
	w.mu.Lock()
	n := 2 * w.partitions
	w.mu.Unlock()
	if n > 32 {
		return
	}
	if err := w.broker.AddPartitions(w.ctx, w.net.Dialer("admin"), n, w.topics.Up, w.topics.Down); err != nil {
		w.complain("adding partitions: %v", err)
		return
	}
	w.mu.Lock()
	w.partitions = n
	w.mu.Unlock()
	w.struck(PartitionsAdded, 1, w.agents...)
}

// recreate deletes a topic and creates it under its old name.
func (w *World) recreate(f Fault) {
	w.struck(f.Kind, 1, w.agents...)
	topic := w.updown(f.Target)
	if err := w.broker.Cluster.DeleteTopic(topic); err != nil {
		w.complain("deleting %s: %v", topic, err)
		return
	}
	if err := w.createTopics(); err != nil {
		w.complain("creating %s again: %v", topic, err)
	}
}
