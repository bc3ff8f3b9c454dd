package tunnel

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func TestWholeEndsBothWays(t *testing.T) {
	agent, controller, joined := newWhole(t)
	mustWrite(t, agent, "last words")
	must(t, agent.CloseWrite())
	wantAll(t, "the controller has what came before the end", controller, "last words")
	wantAll(t, "the agent's end is its whole end", agent, "")
	if err := <-joined; err != nil {
		t.Errorf("an orderly end gave %v", err)
	}
}

func TestWholeEndOvertakesNothing(t *testing.T) {
	// The agent goes on writing what nobody reads any more: a reset for that
	// would overtake the controller's last bytes.
	agent, controller, joined := newWhole(t)
	const size = 1 << 20
	content := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(content) // never fails
	stop := make(chan struct{})
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := agent.Write([]byte("still here")); err != nil {
				return
			}
		}
	}()
	go func() {
		_, _ = controller.Write(content) // a failure shows as a wrong sum
		_ = controller.CloseWrite()
		_, _ = io.Copy(io.Discard, controller)
	}()
	sum := sha256.New()
	n, err := io.Copy(sum, agent)
	if n != size || [32]byte(sum.Sum(nil)) != sha256.Sum256(content) {
		t.Errorf("%d bytes of %d arrived, or changed: %v", n, size, err)
	}
	close(stop)
	<-wrote
	_ = agent.Close()
	if err := <-joined; err != nil {
		t.Errorf("an orderly end gave %v", err)
	}
}

func TestWholePassesAResetOn(t *testing.T) {
	agent, controller, joined := newWhole(t)
	mustWrite(t, agent, "x")
	buf := make([]byte, 16)
	if _, err := controller.Read(buf); err != nil {
		t.Fatal(err)
	}
	TCP{agent}.Abort(nil)
	if _, err := controller.Read(buf); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the controller reads %v, want a reset", err)
	}
	if err := <-joined; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("JoinWhole: %v, want the reset", err)
	}
}

func TestWholeDoesNotWaitForThePeer(t *testing.T) {
	// The agent never closes: it is closed all the same, within a second.
	agent, controller, joined := newWhole(t)
	began := time.Now()
	must(t, controller.Close())
	wantAll(t, "the end comes", agent, "")
	if err := <-joined; err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %v to let go of a silent agent", took)
	}
}

func TestWholeLetsTheOtherSideSayWhy(t *testing.T) {
	// A session that the controller side has closed takes no more bytes, but its
	// last ones are still to be read: they come before the end.
	agent, near := tcpPair(t)
	s := &ended{last: []byte("goodbye"), read: make(chan struct{})}
	joined := make(chan error, 1)
	go func() { joined <- JoinWhole(TCP{near}, s) }()
	mustWrite(t, agent, "more")
	s.waitWritten(t)
	close(s.read)
	wantAll(t, "the last words come, and then the end", agent, "goodbye")
	_ = agent.Close()
	if err := <-joined; err != nil {
		t.Error(err)
	}
}

// ended is a session that takes no bytes, and has some to be read.
type ended struct {
	last  []byte
	read  chan struct{}
	tried atomic.Bool
}

func (s *ended) Write([]byte) (int, error) { s.tried.Store(true); return 0, errors.New("ended") }
func (s *ended) CloseWrite() error         { return nil }
func (s *ended) Close() error              { return nil }
func (s *ended) Abort(error)               {}

func (s *ended) Read(p []byte) (int, error) {
	<-s.read
	n := copy(p, s.last)
	s.last = s.last[n:]
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (s *ended) waitWritten(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !s.tried.Load(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("nothing was written")
		}
	}
}

func TestWholeCounts(t *testing.T) {
	agent, near := tcpPair(t)
	controller, far := tcpPair(t)
	var up, down int
	joined := make(chan error, 1)
	go func() {
		joined <- Whole{Forth: func(n int) { up += n }, Back: func(n int) { down += n }}.Join(TCP{near}, TCP{far})
	}()
	mustWrite(t, agent, "12345")
	_, err := io.ReadFull(controller, make([]byte, 5))
	must(t, err)
	mustWrite(t, controller, "123")
	must(t, controller.Close())
	wantAll(t, "the answer", agent, "123")
	_ = agent.Close()
	must(t, <-joined)
	if up != 5 || down != 3 {
		t.Errorf("counted %d and %d bytes, want 5 and 3", up, down)
	}
}

// A connection that was silent is looked after by others than before: it goes
// on, and ends, all the same.
func TestWholeWakesAfterSilence(t *testing.T) {
	agent, near := tcpPair(t)
	controller, far := tcpPair(t)
	joined := make(chan error, 1)
	go func() { joined <- Whole{Calm: time.Millisecond}.Join(TCP{near}, TCP{far}) }()
	for _, word := range []string{"one", "two", "three"} {
		waitForStack(t, "tunnel.await(", 2) // of both
		mustWrite(t, agent, word)
		wantText(t, controller, word)
		mustWrite(t, controller, word)
		wantText(t, agent, word)
	}
	waitForStack(t, "tunnel.await(", 2)
	TCP{agent}.Abort(nil)
	if _, err := controller.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the controller reads %v, want the reset", err)
	}
	if err := <-joined; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Join: %v, want the reset", err)
	}
}

// A session that has nothing to say has no goroutine, and is heard when it has.
func TestWholePatientSessionIsCalled(t *testing.T) {
	agent, near := tcpPair(t)
	s := &patient{}
	joined := make(chan error, 1)
	go func() { joined <- JoinWhole(TCP{near}, s) }()
	for _, word := range []string{"one", "two", "three"} {
		s.say(word, nil)
		wantText(t, agent, word)
	}
	s.say("the end", io.EOF)
	wantAll(t, "what comes before the end, and the end", agent, "the end")
	_ = agent.Close()
	if err := <-joined; err != nil {
		t.Error(err)
	}
}

// patient is a session that takes everything and says what it is told to.
type patient struct {
	Conn // nil: nothing else is asked of it

	mu    sync.Mutex
	has   string
	end   error
	again func()
}

func (p *patient) say(text string, end error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.has, p.end = p.has+text, end
	if again := p.again; again != nil {
		p.again = nil
		again()
	}
}

func (p *patient) WriteReady(w io.Writer, again func()) (waits bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := io.WriteString(w, p.has); err != nil {
		return false, err
	}
	p.has = ""
	if p.end == nil {
		p.again = again
	}
	return p.end == nil, nil
}

func (p *patient) Write(b []byte) (int, error) { return len(b), nil }
func (p *patient) CloseWrite() error           { return nil }
func (p *patient) Close() error                { return nil }
func (p *patient) Abort(error)                 {}

func wantText(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got, err, want)
	}
}

// waitForStack waits until so many goroutines are in a function.
func waitForStack(t testing.TB, function string, want int) {
	t.Helper()
	buf := make([]byte, 1<<20)
	for end := time.Now().Add(20 * time.Second); ; runtime.Gosched() {
		got := strings.Count(string(buf[:runtime.Stack(buf, true)]), function)
		if got == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d goroutines in %s, want %d", got, function, want)
		}
	}
}

func TestPlainConnIsReadInLargePieces(t *testing.T) {
	near, far := net.Pipe()
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
	go func() {
		_, _ = far.Write(content) // a failure shows as a wrong content
		_ = far.Close()
	}()
	var got bytes.Buffer
	var reads []int
	s := newSource(pipe{near})
	must(t, s.copyTo(writerFunc(func(p []byte) (int, error) {
		reads = append(reads, len(p))
		return got.Write(p)
	})))
	if !bytes.Equal(got.Bytes(), content) {
		t.Error("the bytes changed")
	}
	if len(reads) > 10 {
		t.Errorf("%d reads for %d bytes, want large ones after the first", len(reads), len(content))
	}
}

// BenchmarkIdle tells what an idle joined connection costs, its two sockets
// of the test's own aside.
func BenchmarkIdle(b *testing.B) {
	const connections = 200
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	pair := func() (*net.TCPConn, *net.TCPConn) {
		d, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		a, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		return d.(*net.TCPConn), a.(*net.TCPConn)
	}
	for b.Loop() {
		var far, near []*net.TCPConn
		for range 2 * connections {
			f, n := pair()
			far, near = append(far, f), append(near, n)
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		goroutines := runtime.NumGoroutine()
		joined := make(chan error, connections)
		for i := range connections {
			Whole{Calm: 10 * time.Millisecond}.Start(TCP{near[2*i]}, TCP{near[2*i+1]}, func(err error) { joined <- err })
		}
		for i := range connections {
			if _, err := far[2*i].Write([]byte("x")); err != nil {
				b.Fatal(err)
			}
			if _, err := far[2*i+1].Read(make([]byte, 1)); err != nil {
				b.Fatal(err)
			}
		}
		waitForStack(b, "tunnel.await(", 2*connections)
		runtime.GC()
		runtime.GC() // empties the pools
		runtime.ReadMemStats(&after)
		b.ReportMetric((float64(after.HeapAlloc)-float64(before.HeapAlloc))/connections, "heap-B/conn")
		b.ReportMetric((float64(after.StackInuse)-float64(before.StackInuse))/connections, "stack-B/conn")
		b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/connections, "goroutines/conn")
		for _, c := range far {
			c.Close()
		}
		for range connections {
			<-joined
		}
	}
}

type pipe struct{ net.Conn }

func (pipe) CloseWrite() error { return nil }
func (pipe) Abort(error)       {}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// newWhole returns the far ends of two connections whose near ends are joined
// as a whole.
func newWhole(t *testing.T) (agent, controller *net.TCPConn, joined <-chan error) {
	agent, near := tcpPair(t)
	controller, far := tcpPair(t)
	done := make(chan error, 1)
	go func() { done <- JoinWhole(TCP{near}, TCP{far}) }()
	return agent, controller, done
}
