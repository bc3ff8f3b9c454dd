package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/loadtest/baseline"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
)

// window is how much an agent lets be undelivered, either way.
const window = 1 << 20

// An agent is the least that speaks the session protocol: one stream, what is
// needed to resume it, and counters. It drives moorage and relay alike, so that
// a difference between them is not the generator's.
type agent struct {
	addr       string
	controller string
	name       string
	secret     [16]byte
	mode       baseline.Mode
	onData     func(payload []byte) // called for each DATA frame, from the stream's goroutine; nil: only counted

	conn   *grpc.ClientConn
	cancel context.CancelFunc
	gone   chan struct{} // closed when the stream's goroutine has ended
	err    error         // why; valid then
	news   chan struct{} // something below changed; capacity 1

	persisted, delivered atomic.Uint64 // up, as reported
	received             atomic.Uint64 // down, last seq
	data                 atomic.Uint64 // down, DATA frames
	bytes                atomic.Uint64 // down, their payload

	sending sync.Mutex // guards the following, and the stream's send half
	stream  grpc.BidiStreamingClient[linkv1.AttachRequest, linkv1.AttachResponse]
	sent    uint64 // last up seq
	unacked []*linkv1.Frame
	told    uint64 // last down seq reported as delivered
	said    time.Time
	attempt uint32
	welcome *linkv1.Welcome
	start   *linkv1.Position
	place   *linkv1.Position
	open    bool
}

func newAgent(addr, controller, name string, mode baseline.Mode) *agent {
	a := &agent{addr: addr, controller: controller, name: name, mode: mode, news: make(chan struct{}, 1)}
	rand.Read(a.secret[:])
	return a
}

// attach opens or resumes the session over a connection of its own. When it
// returns the agent is welcomed; its first OPEN is on the way.
func (a *agent) attach(ctx context.Context) error {
	conn, err := grpc.NewClient(a.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	streamCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	fail := func(err error) error {
		cancel()
		a.conn = nil
		return errors.Join(fmt.Errorf("agent %s: %w", a.name, err), conn.Close())
	}
	stop := context.AfterFunc(ctx, cancel)
	defer stop()
	stream, err := linkv1.NewLinkServiceClient(conn).Attach(streamCtx)
	if err != nil {
		return fail(err)
	}
	a.sending.Lock()
	defer a.sending.Unlock()
	a.attempt++
	hello := &linkv1.Hello{
		Version: 1, SessionId: a.secret[:], Agent: a.name, Controller: a.controller, Attempt: a.attempt,
	}
	if a.welcome != nil {
		hello.Ticket, hello.Incarnation, hello.StartPosition, hello.Position = a.welcome.Ticket, a.welcome.Incarnation, a.start, a.place
		hello.LastDownReceived, hello.DownDelivered, hello.UpPersisted = a.received.Load(), a.received.Load(), a.persisted.Load()
	}
	if err := stream.Send(&linkv1.AttachRequest{Message: &linkv1.AttachRequest_Hello{Hello: hello}}); err != nil {
		return fail(streamError(stream, err))
	}
	first, err := stream.Recv()
	if err != nil {
		return fail(err)
	}
	w := first.GetWelcome()
	if w == nil {
		return fail(fmt.Errorf("first message is %v, want Welcome", first))
	}
	if a.welcome == nil {
		a.start, a.place = w.StartPosition, w.StartPosition
	}
	a.welcome, a.cancel, a.stream, a.said = w, cancel, stream, time.Now()
	a.acknowledged(w.UpPersisted, w.UpDelivered)
	if !a.open {
		a.open = true
		payload, err := proto.Marshal(&linkv1.Open{
			Kind: linkv1.ServiceKind_SERVICE_KIND_NATIVE, Agent: a.name, StartPosition: a.start,
			Labels: a.mode.Labels(), Resumable: true, DownWindow: window,
		})
		if err != nil {
			return fail(err)
		}
		a.pushLocked(linkv1.FrameKind_FRAME_KIND_OPEN, payload)
	}
	a.forgetLocked()
	for _, f := range a.unacked {
		if err := stream.Send(&linkv1.AttachRequest{Message: &linkv1.AttachRequest_Frame{Frame: f}}); err != nil {
			return fail(streamError(stream, err))
		}
	}
	a.conn, a.gone = conn, make(chan struct{})
	go a.receive(stream, a.gone)
	return nil
}

// streamError is why a Send failed: grpc tells it to the receiver.
func streamError(stream grpc.BidiStreamingClient[linkv1.AttachRequest, linkv1.AttachResponse], err error) error {
	for {
		m, recvErr := stream.Recv()
		if recvErr == io.EOF {
			return err
		}
		if recvErr != nil {
			return recvErr
		}
		if c := m.GetClose(); c != nil {
			return fmt.Errorf("session ended: %v %s", c.Reason, c.Text)
		}
	}
}

// receive takes what comes until the stream ends.
func (a *agent) receive(stream grpc.BidiStreamingClient[linkv1.AttachRequest, linkv1.AttachResponse], gone chan struct{}) {
	defer close(gone)
	owed := 0
	for {
		m, err := stream.Recv()
		if err != nil {
			a.err = err
			a.wake()
			return
		}
		switch m := m.Message.(type) {
		case *linkv1.AttachResponse_Frame:
			f := m.Frame
			a.acknowledged(f.Persisted, f.Delivered)
			if f.Seq == 0 {
				break // relay's word of what was delivered
			}
			if want := a.received.Load() + 1; f.Seq != want {
				a.err = fmt.Errorf("agent %s: down frame %d, want %d", a.name, f.Seq, want)
				a.cancel()
				a.wake()
				return
			}
			if f.Kind == linkv1.FrameKind_FRAME_KIND_DATA {
				a.data.Add(1)
				a.bytes.Add(uint64(len(f.Payload)))
				if a.onData != nil {
					a.onData(f.Payload)
				}
				owed += len(f.Payload)
			}
			a.received.Store(f.Seq)
			if owed >= window/4 {
				owed = 0
				a.beat()
			}
			a.wake()
		case *linkv1.AttachResponse_Heartbeat:
			h := m.Heartbeat
			a.acknowledged(h.Persisted, h.Delivered)
			if h.Position != nil || h.Ticket != nil {
				a.sending.Lock()
				if h.Position != nil {
					a.place = h.Position
				}
				if h.Ticket != nil {
					a.welcome.Ticket = h.Ticket
				}
				a.sending.Unlock()
			}
			if h.Probe {
				a.beat()
			}
		case *linkv1.AttachResponse_Close:
			a.err = fmt.Errorf("agent %s: session ended: %v %s", a.name, m.Close.Reason, m.Close.Text)
			a.wake()
			return
		}
	}
}

// acknowledged takes cumulative news about up frames.
func (a *agent) acknowledged(persisted, delivered uint64) {
	raised := raise(&a.persisted, max(persisted, delivered))
	if raise(&a.delivered, delivered) || raised {
		a.wake()
	}
}

// raise lifts v to n; all who raise one v are the same goroutine.
func raise(v *atomic.Uint64, n uint64) bool {
	if n <= v.Load() {
		return false
	}
	v.Store(n)
	return true
}

func (a *agent) wake() {
	select {
	case a.news <- struct{}{}:
	default:
	}
}

// forgetLocked drops the frames that need not be sent again.
func (a *agent) forgetLocked() {
	n := 0
	for n < len(a.unacked) && a.unacked[n].Seq <= a.persisted.Load() {
		n++
	}
	a.unacked = a.unacked[n:]
}

func (a *agent) pushLocked(kind linkv1.FrameKind, payload []byte) *linkv1.Frame {
	a.sent++
	f := &linkv1.Frame{Seq: a.sent, Kind: kind, Payload: payload, Delivered: a.received.Load()}
	a.told = f.Delivered
	a.unacked = append(a.unacked, f)
	return f
}

// send sends one DATA frame now; pacing and windows are the caller's.
func (a *agent) send(payload []byte) error {
	return a.sendKind(linkv1.FrameKind_FRAME_KIND_DATA, payload)
}

func (a *agent) sendKind(kind linkv1.FrameKind, payload []byte) error {
	a.sending.Lock()
	defer a.sending.Unlock()
	f := a.pushLocked(kind, payload)
	a.forgetLocked()
	a.said = time.Now()
	if err := a.stream.Send(&linkv1.AttachRequest{Message: &linkv1.AttachRequest_Frame{Frame: f}}); err != nil {
		if err == io.EOF { // the receiving half knows why
			<-a.gone
			err = a.err
		}
		return fmt.Errorf("agent %s: send: %w", a.name, err)
	}
	return nil
}

// beat sends a heartbeat; an error shows at the receiving half.
func (a *agent) beat() {
	a.sending.Lock()
	defer a.sending.Unlock()
	a.told, a.said = a.received.Load(), time.Now()
	_ = a.stream.Send(&linkv1.AttachRequest{Message: &linkv1.AttachRequest_Heartbeat{
		Heartbeat: &linkv1.Heartbeat{Delivered: a.told},
	}})
}

// beatIfDue beats after an interval of silence, or a second after something
// that nobody was told of.
func (a *agent) beatIfDue(now time.Time) {
	a.sending.Lock()
	quiet := now.Sub(a.said)
	due := a.conn != nil && (quiet >= time.Duration(a.welcome.HeartbeatIntervalMs)*time.Millisecond ||
		quiet >= time.Second && a.received.Load() > a.told)
	a.sending.Unlock()
	if due {
		a.beat()
	}
}

// until waits for cond, which looks at the agent's counters.
func (a *agent) until(ctx context.Context, cond func() bool) error {
	for !cond() {
		select {
		case <-a.news:
		case <-a.gone:
			if cond() {
				return nil
			}
			return fmt.Errorf("agent %s: stream ended: %w", a.name, a.err)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// cut breaks the connection without a word.
func (a *agent) cut() {
	a.sending.Lock()
	conn := a.conn
	a.conn = nil
	a.sending.Unlock()
	if conn != nil {
		conn.Close()
		a.cancel()
		<-a.gone
	}
}

// leave ends the session in order, as far as the application has to know.
func (a *agent) leave() {
	if a.conn != nil {
		_ = a.sendKind(linkv1.FrameKind_FRAME_KIND_FIN, nil) // it may have ended already
	}
	a.cut()
}

// A fleet is many agents and the one goroutine that beats for them.
type fleet struct {
	agents []*agent
	stop   context.CancelFunc
	done   sync.WaitGroup
}

// launch attaches n agents, some at a time, and waits until every session is
// accepted.
func launch(ctx context.Context, n int, makeAgent func(i int) *agent) (*fleet, error) {
	f := &fleet{}
	for i := range n {
		f.agents = append(f.agents, makeAgent(i))
	}
	err := each(f.agents, 32, func(a *agent) error {
		if err := a.attach(ctx); err != nil {
			return err
		}
		return a.until(ctx, func() bool { return a.received.Load() > 0 })
	})
	beatCtx, stop := context.WithCancel(ctx)
	f.stop = stop
	f.done.Go(func() { f.beat(beatCtx) })
	if err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *fleet) beat(ctx context.Context) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			// A tenth of the fleet at a time, so that beats spread out.
			for j := i % 10; j < len(f.agents); j += 10 {
				f.agents[j].beatIfDue(now)
			}
		}
	}
}

func (f *fleet) close() {
	f.stop()
	f.done.Wait()
	_ = each(f.agents, 64, func(a *agent) error { a.leave(); return nil })
}

func (f *fleet) sum(what func(a *agent) *atomic.Uint64) (n uint64) {
	for _, a := range f.agents {
		n += what(a).Load()
	}
	return n
}

// each calls do for every agent, at most atOnce at a time.
func each(agents []*agent, atOnce int, do func(*agent) error) error {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		first error
		turn  = make(chan struct{}, atOnce)
	)
	for _, a := range agents {
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			if err := do(a); err != nil {
				mu.Lock()
				if first == nil {
					first = err
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return first
}
