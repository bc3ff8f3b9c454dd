package e2e_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/moorage-dev/moorage/controller"
	"github.com/moorage-dev/moorage/link"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

// What operators do to a system that runs.

func inWorld(t *testing.T, gateways []string, tell func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, gateways...)
		defer w.end()
		tell(w)
	})
}

func (w *world) addPartitions(n int32, topics ...string) {
	w.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.kafka.Addrs()...), kgo.Dialer(w.network.DialContext))
	if err != nil {
		w.Fatal(err)
	}
	defer cl.Close()
	req := kmsg.NewCreatePartitionsRequest()
	for _, topic := range topics {
		t := kmsg.NewCreatePartitionsRequestTopic()
		t.Topic, t.Count = topic, n
		req.Topics = append(req.Topics, t)
	}
	if _, err := req.RequestWith(w.Context(), cl); err != nil {
		w.Fatal(err)
	}
}

func wantEnded(t *testing.T, s interface {
	Done() <-chan struct{}
	Err() error
}, reason linkv1.Reason, within time.Duration) {
	t.Helper()
	select {
	case <-s.Done():
	case <-time.After(within):
		t.Fatalf("not ended after %v", within)
	}
	if e, ok := errors.AsType[*session.EndedError](s.Err()); !ok || e.Reason != reason {
		t.Errorf("ended with %v, want %v", s.Err(), reason)
	}
}

// Topics grow while sessions live: old ones keep their partition, over
// reconnects too; new ones may get a new one.
func TestTopicsGrow(t *testing.T) {
	inWorld(t, []string{"g0", "g1"}, func(w *world) {
		w.start()
		old, oldFar := w.open()
		w.echo(old, oldFar, "before")
		w.addPartitions(8, "moorage.ci.up", "moorage.ci.down")
		time.Sleep(20 * time.Second)
		w.echo(old, oldFar, "after")
		w.toGateways.breakAll()
		w.echo(old, oldFar, "after a reconnect")
		young, youngFar := w.open()
		w.echo(young, youngFar, "in the larger topic")
		w.toGateways.breakAll()
		w.echo(young, youngFar, "and again")
	})
}

// Two gateways have one name by mistake. Sessions that may be resumed live.
func TestTwinGatewaysEndNobody(t *testing.T) {
	inWorld(t, []string{"g", "g"}, func(w *world) {
		w.start()
		near, far := w.open()
		for range 10 {
			time.Sleep(time.Minute)
			w.echo(near, far, "still there")
		}
	})
}

// The meta topic is created again: the controller stops, its sessions end at
// both sides, and the next process serves through the same gateways.
func TestMetaTopicIsCreatedAgain(t *testing.T) {
	inWorld(t, []string{"g0", "g1"}, func(w *world) {
		w.start()
		near, far := w.open()
		if err := w.kafka.Cluster.DeleteTopic("moorage.ci.meta"); err != nil {
			w.Fatal(err)
		}
		if err := w.kafka.Cluster.CreateTopic("moorage.ci.meta", 1, map[string]string{"cleanup.policy": "compact"}); err != nil {
			w.Fatal(err)
		}
		wantEnded(w.T, far, linkv1.Reason_REASON_DATA_LOSS, 30*time.Second)
		wantEnded(w.T, near, linkv1.Reason_REASON_DATA_LOSS, 30*time.Second)
		<-w.controller.Done()
		if err := w.controller.Err(); !errors.Is(err, controller.ErrTopicChanged) {
			w.Errorf("the controller stopped with %v", err)
		}
		w.start()
		// Until a gateway has noticed, it welcomes sessions to the life that is
		// gone, and ends them with CONTROLLER_GONE once it has.
		time.Sleep(10 * time.Second)
		near, far = w.open()
		w.echo(near, far, "in the next life")
	})
}

// An agent asks for a controller whose topics exist, and which starts later.
func TestControllerComesLate(t *testing.T) {
	inWorld(t, []string{"g0", "g1"}, func(w *world) {
		ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		opened := make(chan *link.Session, 1)
		go func() {
			near, err := w.client.Open(ctx, link.Target{})
			if err != nil {
				w.Error(err)
			}
			opened <- near
		}()
		time.Sleep(30 * time.Second)
		w.start()
		far, err := w.controller.Accept(ctx)
		if err != nil {
			w.Fatal(err)
		}
		far.Accept()
		near := <-opened
		w.echo(near, far, "late")
		if took := time.Since(began); took > 37*time.Second {
			w.Errorf("it took %v, of which the controller was there for %v", took, took-30*time.Second)
		}
	})
}
