package bridge

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	"github.com/moorage-dev/moorage/proto/envelope"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testTopic = "moorage.t.down"

// A testKafka is an in-memory cluster and a client of it, on an in-memory
// network, so that it runs in a synctest bubble as well as outside.
type testKafka struct {
	*testing.T
	cluster *kfake.Cluster
	net     *memNet
	client  *Client
	topic   Topic
}

func newTestKafka(t *testing.T, brokers int, partitions int32, change func(*Config)) *testKafka {
	t.Helper()
	k := &testKafka{T: t, net: &memNet{listeners: make(map[string]*memListener)}}
	var err error
	k.cluster, err = kfake.NewCluster(
		kfake.NumBrokers(brokers),
		kfake.ListenFn(k.net.listen),
		kfake.SeedTopics(partitions, testTopic),
		kfake.SleepOutOfOrder(),
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.cluster.Close)
	cfg := Config{
		Brokers: k.cluster.ListenAddrs(),
		Dial:    k.net.dial,
		Logger:  slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&cfg)
	}
	if k.client, err = Dial(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.client.Close() })
	if k.topic, err = k.client.Topic(t.Context(), testTopic); err != nil {
		t.Fatal(err)
	}
	return k
}

func (k *testKafka) producer() *Producer {
	k.Helper()
	p, err := k.client.NewProducer()
	if err != nil {
		k.Fatal(err)
	}
	return p
}

func (k *testKafka) reader() *Reader {
	k.Helper()
	r, err := k.client.NewReader()
	if err != nil {
		k.Fatal(err)
	}
	return r
}

// put writes one record and returns where its outcome will be.
func put(q *Queue, session byte, seq uint64, size int) <-chan result {
	ch := make(chan result, 1)
	q.Put(sessionID(session), data(session, seq, size), func(offset int64, err error) { ch <- result{offset, err} })
	return ch
}

type result struct {
	offset int64
	err    error
}

func sessionID(n byte) envelope.SessionID { return envelope.SessionID{n, 1} }

func data(session byte, seq uint64, size int) *envelope.Record {
	return &envelope.Record{Kind: envelope.Data, Session: sessionID(session), Seq: seq, Payload: make([]byte, size)}
}

// want returns the offset of a record that must have been written.
func (k *testKafka) want(what string, ch <-chan result) int64 {
	k.Helper()
	select {
	case r := <-ch:
		if r.err != nil {
			k.Fatalf("%s: %v", what, r.err)
		}
		return r.offset
	case <-time.After(20 * time.Second):
		k.Fatalf("%s: no outcome", what)
	}
	return 0
}

// fill writes n records of a session, and returns the offset after the last.
func (k *testKafka) fill(q *Queue, session byte, first uint64, n int) int64 {
	k.Helper()
	var last <-chan result
	for i := range n {
		last = put(q, session, first+uint64(i), 10)
	}
	return k.want("fill", last) + 1
}

// A testSink records what it gets.
type testSink struct {
	room int // records it takes before it is full; 0: any number

	mu      sync.Mutex
	changed chan struct{}
	refused int   // records refused
	parked  bool  // the last one was, and nobody has unparked the sink
	at      int64 // where that stands
	seqs    []uint64
	offsets []int64
	next    int64
	err     error
}

func newSink() *testSink { return &testSink{changed: make(chan struct{})} }

func (s *testSink) change() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *testSink) Record(offset int64, value []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.room > 0 {
		if s.room == 1 {
			s.refused++
			s.parked, s.at = true, offset
			s.change()
			return false
		}
		s.room--
	}
	s.seqs = append(s.seqs, binary.BigEndian.Uint64(value[48:]))
	s.offsets = append(s.offsets, offset)
	s.change()
	return true
}

func (s *testSink) Advanced(next int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = next
	s.change()
}

func (s *testSink) Failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	s.change()
}

// await returns when ok holds, which is called with the sink's lock held.
func (s *testSink) await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		s.mu.Lock()
		done, changed := ok(), s.changed
		s.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			s.mu.Lock()
			defer s.mu.Unlock()
			t.Fatalf("%s: not seen; have %d records, next %d, err %v", what, len(s.seqs), s.next, s.err)
		}
	}
}

// unpark gives the sink room. parked is false if it has refused nothing: then
// there is nothing to resume, and the subscription must not be told to.
func (s *testSink) unpark(room int) (from int64, parked bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from, parked = s.at, s.parked
	s.room, s.parked = room, false
	return from, parked
}

// wantRefused waits until the sink has refused n records.
func (s *testSink) wantRefused(t *testing.T, n int) {
	t.Helper()
	s.await(t, "a record refused", func() bool { return s.refused >= n })
}

func (s *testSink) wantSeqs(t *testing.T, what string, first, last uint64) {
	t.Helper()
	s.await(t, what, func() bool { return len(s.seqs) > 0 && s.seqs[len(s.seqs)-1] >= last })
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := last - first + 1; uint64(len(s.seqs)) != n {
		t.Fatalf("%s: got %d records, want %d: %v", what, len(s.seqs), n, s.seqs)
	}
	for i, seq := range s.seqs {
		if seq != first+uint64(i) {
			t.Fatalf("%s: record %d has seq %d, want %d: %v", what, i, seq, first+uint64(i), s.seqs)
		}
	}
}

// A memNet is a network of pipes on which a broker can be frozen: it keeps
// its connections and takes new ones, but is silent.
type memNet struct {
	mu        sync.Mutex
	listeners map[string]*memListener
	port      int
}

type memListener struct {
	net    *memNet
	addr   memAddr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once

	mu     sync.Mutex
	thawed chan struct{} // closed unless frozen
}

type memAddr string

func (a memAddr) Network() string { return "tcp" }
func (a memAddr) String() string  { return string(a) }

func (n *memNet) listen(_, addr string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.port++
	thawed := make(chan struct{})
	close(thawed)
	l := &memListener{
		net: n, addr: memAddr(fmt.Sprintf("127.0.0.1:%d", 9000+n.port)),
		conns: make(chan net.Conn), closed: make(chan struct{}), thawed: thawed,
	}
	n.listeners[string(l.addr)] = l
	return l, nil
}

func (n *memNet) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	n.mu.Lock()
	l := n.listeners[addr]
	n.mu.Unlock()
	if l == nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: memAddr(addr), Err: fmt.Errorf("connection refused")}
	}
	ours, theirs := net.Pipe()
	select {
	case l.conns <- &memConn{Conn: theirs, l: l, closed: make(chan struct{})}:
		return ours, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: l.addr, Err: fmt.Errorf("connection refused")}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// leader returns the address of the partition's leader.
func (k *testKafka) leader(partition int32) string {
	return k.client.cluster.addr(k.cluster.LeaderFor(testTopic, partition))
}

// freeze makes the broker at addr silent until the returned func is called.
func (n *memNet) freeze(addr string) (thaw func()) {
	n.mu.Lock()
	l := n.listeners[addr]
	n.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.thawed = make(chan struct{})
	return sync.OnceFunc(func() { close(l.thawed) })
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *memListener) Addr() net.Addr { return l.addr }

// A memConn is the broker's end of a connection: a frozen broker sends
// nothing, though its connections stay.
type memConn struct {
	net.Conn
	l      *memListener
	closed chan struct{}
	once   sync.Once
}

func (c *memConn) Write(b []byte) (int, error) {
	c.l.mu.Lock()
	thawed := c.l.thawed
	c.l.mu.Unlock()
	select {
	case <-thawed:
		return c.Conn.Write(b)
	case <-c.closed:
		return 0, net.ErrClosed
	}
}

func (c *memConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
