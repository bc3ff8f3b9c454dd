package bridge

import (
	"testing"
)

func TestSmoke(t *testing.T) {
	k := newTestKafka(t, 1, 2, nil)
	q := k.producer().Queue(testTopic, 1)
	k.fill(q, 1, 1, 100)
	tail := k.reader().Tail(k.topic, 1)
	s := newSink()
	tail.Subscribe(sessionID(1), 0, s)
	s.wantSeqs(t, "backlog", 1, 100)
	k.fill(q, 1, 101, 100)
	s.wantSeqs(t, "live", 1, 200)
}
