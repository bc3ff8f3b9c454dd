package bridge

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/IBM/sarama"

	"github.com/moorage-dev/moorage/proto/envelope"
)

// A cluster is what is known of the brokers and topics, and the one
// connection over which it is asked for.
type cluster struct {
	c *Client

	mu      sync.Mutex // guards what follows, to running
	brokers map[int32]string
	control int32                 // the broker to which topics are entrusted
	topics  map[string]*topicView // the latest answer for each topic asked for, existing or lately denied
	prune   int                   // topics is looked through when it has so many
	asks    uint64                // questions begun; orders views and failures
	next    *round                // those who wait for the next question
	blamed  string                // address of a broker that is not what metadata said, until the next question; "": none
	blamer  time.Time             // when one was blamed last
	running bool                  // ask runs in a goroutine

	// conn and good belong to the goroutine that asks.
	conn *conn
	good string // the address that answered last
}

// mostDenied is after how many new names those of topics that do not exist are forgotten.
const mostDenied = 1000

// A topicView is one answer about one topic; it never changes.
type topicView struct {
	Topic
	err      error // ErrNoTopic, or that we may not know
	leaders  []int32
	replicas int // of the partition that has the fewest
	internal bool
	at       time.Time
	ask      uint64 // the question it answers
}

// leader returns the id of the partition's leader; -1: none now.
func (v *topicView) leader(partition int32) int32 {
	if v == nil || v.err != nil || int(partition) >= len(v.leaders) {
		return -1
	}
	return v.leaders[partition]
}

// A round is one question, shared by all who came while an earlier one was
// under way: an answer is never older than the call that gets it.
type round struct {
	topics map[string]bool
	all    bool
	done   chan struct{} // closed when views and err are set
	views  map[string]*topicView
	err    error
}

// refresh asks now for the topics named, or for all. The error says only that
// no broker answered; what is wrong with a topic stands in its view.
func (cl *cluster) refresh(ctx context.Context, all bool, topics ...string) (map[string]*topicView, error) {
	cl.mu.Lock()
	if cl.c.life.Err() != nil {
		cl.mu.Unlock()
		return nil, ErrClosed
	}
	r := cl.next
	if r == nil {
		r = &round{topics: make(map[string]bool), done: make(chan struct{})}
		cl.next = r
	}
	r.all = r.all || all
	for _, t := range topics {
		r.topics[t] = true
	}
	if !cl.running {
		cl.running = true
		cl.c.wg.Go(cl.run)
	}
	cl.mu.Unlock()
	select {
	case <-r.done:
		return r.views, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// run asks as long as there are questions.
func (cl *cluster) run() {
	for {
		cl.mu.Lock()
		r := cl.next
		cl.next = nil
		if r == nil {
			cl.running = false
			cl.mu.Unlock()
			return
		}
		cl.asks++
		cl.mu.Unlock()
		r.err = cl.ask(r)
		close(r.done)
	}
}

// ask puts one question to one broker after the other until one answers.
func (cl *cluster) ask(r *round) error {
	req := &sarama.MetadataRequest{Version: 11}
	if !r.all {
		for t := range r.topics {
			req.Topics = append(req.Topics, t)
		}
	}
	var failed error
	for _, addr := range cl.candidates() {
		if cl.c.life.Err() != nil {
			return ErrClosed
		}
		resp, err := cl.askAt(addr, req)
		if err == nil {
			cl.good = addr
			r.views = cl.learn(resp)
			return nil
		}
		err = fmt.Errorf("bridge: Kafka broker %s: %w (%s)", addr, err, hint(err))
		// A refused login tells more than a broker that is down.
		if _, auth := errors.AsType[*authError](err); failed == nil || auth {
			failed = err
		}
	}
	return failed
}

func (cl *cluster) askAt(addr string, req *sarama.MetadataRequest) (*sarama.MetadataResponse, error) {
	if cl.conn != nil && cl.conn.Addr() != addr {
		cl.hangUp()
	}
	fresh := cl.conn == nil
	for {
		if cl.conn == nil {
			var err error
			if cl.conn, err = cl.c.dial(cl.c.life, addr, adminTimeout); err != nil {
				return nil, err
			}
		}
		stop := context.AfterFunc(cl.c.life, cl.conn.cut)
		resp, err := cl.conn.GetMetadata(req)
		stop()
		if err == nil {
			return resp, nil
		}
		cl.hangUp()
		// A connection that was kept may have been closed for idleness since.
		if fresh || isTimeout(err) {
			return nil, err
		}
		fresh = true
	}
}

func (cl *cluster) hangUp() {
	cl.conn.close()
	cl.conn = nil
}

// blameEvery is how often another broker may be asked for having been misled.
const blameEvery = 500 * time.Millisecond

// blame notes that a broker is not there, or not the leader that metadata
// said it was. As a rule they are only old, but a broker that is cut off from
// the controllers would say the same for ever: the next question goes to another.
func (cl *cluster) blame(broker int32) {
	now := time.Now()
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if now.Sub(cl.blamer) >= blameEvery {
		cl.blamed, cl.blamer = cl.brokers[broker], now
	}
}

// candidates are the address that answered last, then the brokers known, then
// those configured. If a broker was blamed, it and whoever praised it come last.
func (cl *cluster) candidates() []string {
	cl.mu.Lock()
	blamed := cl.blamed
	cl.blamed = ""
	known := make([]string, 0, len(cl.brokers))
	for _, addr := range cl.brokers {
		known = append(known, addr)
	}
	cl.mu.Unlock()
	slices.Sort(known)
	if at := slices.Index(known, cl.good); at >= 0 {
		known = append(known[at:len(known):len(known)], known[:at]...)
		if blamed != "" {
			known = append(known[1:], cl.good) // in turn, so that each is asked some time
		}
	}
	var addrs, last []string
	for _, addr := range append(known, cl.c.cfg.Brokers...) {
		switch {
		case slices.Contains(addrs, addr):
		case addr == blamed:
			last = []string{addr}
		default:
			addrs = append(addrs, addr)
		}
	}
	return append(addrs, last...)
}

// learn keeps an answer.
func (cl *cluster) learn(resp *sarama.MetadataResponse) map[string]*topicView {
	now := time.Now()
	views := make(map[string]*topicView, len(resp.Topics))
	for _, t := range resp.Topics {
		v := &topicView{Topic: Topic{Name: t.Name, ID: envelope.TopicID(t.Uuid), Partitions: int32(len(t.Partitions))}, internal: t.IsInternal, at: now}
		switch t.Err {
		case sarama.ErrNoError, sarama.ErrLeaderNotAvailable:
		case sarama.ErrUnknownTopicOrPartition, sarama.ErrInvalidTopic:
			v.err = fmt.Errorf("%w: %s", ErrNoTopic, t.Name)
		case sarama.ErrTopicAuthorizationFailed:
			v.err = fmt.Errorf("bridge: user %q may not see topic %s: grant Describe on it", cl.c.cfg.SASL.User, t.Name)
		default:
			v.err = fmt.Errorf("bridge: topic %s: %w", t.Name, t.Err)
		}
		v.leaders = make([]int32, len(t.Partitions))
		for i := range v.leaders {
			v.leaders[i] = -1
		}
		for i, p := range t.Partitions {
			if i == 0 || len(p.Replicas) < v.replicas {
				v.replicas = len(p.Replicas)
			}
			// ErrReplicaNotAvailable concerns followers; there is a leader.
			if int(p.ID) < len(v.leaders) && (p.Err == sarama.ErrNoError || p.Err == sarama.ErrReplicaNotAvailable) {
				v.leaders[p.ID] = p.Leader
			}
		}
		views[t.Name] = v
	}
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cl.brokers = make(map[int32]string, len(resp.Brokers))
	for _, b := range resp.Brokers {
		cl.brokers[b.ID()] = b.Addr()
	}
	for _, v := range views {
		v.ask = cl.asks
	}
	cl.control = resp.ControllerID
	maps.Copy(cl.topics, views)
	if len(cl.topics) >= cl.prune {
		// Agents may name any controller. Who still needs to know asks again.
		maps.DeleteFunc(cl.topics, func(name string, v *topicView) bool { return v.err != nil && views[name] == nil })
		cl.prune = len(cl.topics) + mostDenied
	}
	return views
}

// stop returns when no further question will be asked: the client's life is over.
func (cl *cluster) stop() {
	cl.mu.Lock()
	defer cl.mu.Unlock()
}

// view returns what was last learned of a topic; nil: nothing yet.
func (cl *cluster) view(topic string) *topicView {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	return cl.topics[topic]
}

// asked returns the number of the latest question: what has failed until now
// is not yet known to the answers up to it.
func (cl *cluster) asked() uint64 {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	return cl.asks
}

// newerThan reports whether the question was put after a failure.
func (v *topicView) newerThan(failed uint64) bool { return v != nil && v.ask > failed }

// controller returns the address of the broker to which topics are entrusted.
func (cl *cluster) controller() string {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if addr := cl.brokers[cl.control]; addr != "" {
		return addr
	}
	return cl.c.cfg.Brokers[0]
}

// addr returns the address of a broker; "": unknown.
func (cl *cluster) addr(id int32) string {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	return cl.brokers[id]
}
