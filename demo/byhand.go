package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

// byHand begins the name of an agent that speaks the link's protocol message
// by message. It does what no agent side of ours does, and sees what none shows
// its application. The checker knows nothing of its sessions: what goes wrong
// with them is a complaint.
const byHand = "by-hand-"

// byHandWithin bounds each step of such an agent.
const byHandWithin = 10 * time.Second

// A hand is one stream of such an agent.
type hand struct {
	w       *World
	hello   session.Hello // of its stream
	welcome session.Welcome
	close   func()
	over    chan struct{} // closed: the stream has ended

	sending sync.Mutex // guards Send of the stream
	stream  linkv1.LinkService_AttachClient

	mu        sync.Mutex // guards the following
	accepted  uint64     // last down seq
	delivered uint64     // what the controller's application has
	ending    *session.Close
	changed   chan struct{} // closed and made anew at each message
}

// openHand opens a session and waits until the controller has accepted it.
func (w *World) openHand(name string) (*hand, error) {
	hello := session.Hello{Agent: name, Controller: controllerName, Attempt: 1}
	for i := range hello.Secret {
		hello.Secret[i] = byte(w.rng(hash(hello.ID())).Uint32())
	}
	h, err := w.attachHand(hello, w.node(0).addr)
	if err != nil {
		return nil, err
	}
	payload, err := proto.Marshal(&linkv1.Open{
		Kind: linkv1.ServiceKind_SERVICE_KIND_NATIVE, Agent: name, StartPosition: session.PositionMessage(h.welcome.Start),
		Resumable: true, DownWindow: session.DefaultWindow,
	})
	if err != nil {
		return nil, err
	}
	h.frame(session.Frame{Seq: 1, Kind: envelope.Open, Payload: payload})
	if !h.wait(func() bool { return h.accepted == 1 }) {
		h.close()
		return nil, errors.New("not accepted in time")
	}
	return h, nil
}

// attachHand begins a stream, and keeps it alive until it is closed.
func (w *World) attachHand(hello session.Hello, addr string) (*hand, error) {
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return w.net.Dial(ctx, hello.Agent, addr) }))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(w.ctx)
	h := &hand{w: w, hello: hello, over: make(chan struct{}), changed: make(chan struct{})}
	h.close = sync.OnceFunc(func() {
		cancel()
		conn.Close()
	})
	late := time.AfterFunc(byHandWithin, cancel)
	h.stream, err = linkv1.NewLinkServiceClient(conn).Attach(ctx, grpc.WaitForReady(true))
	var m *linkv1.AttachResponse
	if err == nil {
		_ = h.stream.Send(&linkv1.AttachRequest{Message: &linkv1.AttachRequest_Hello{Hello: session.HelloMessage(&hello)}}) // Recv tells why not
		m, err = h.stream.Recv()
	}
	late.Stop()
	switch {
	case err != nil:
	case m.GetClose() != nil:
		err = &session.EndedError{Ending: session.ParseClose(m.GetClose()).Ending}
	default:
		h.welcome, err = session.ParseWelcome(m.GetWelcome())
	}
	if err != nil {
		h.close()
		return nil, err
	}
	go h.read()
	go h.beat(ctx)
	return h, nil
}

func (h *hand) read() {
	defer close(h.over)
	for {
		m, err := h.stream.Recv()
		if err != nil {
			return
		}
		h.mu.Lock()
		if f := m.GetFrame(); f != nil {
			h.accepted = max(h.accepted, f.GetSeq())
			h.delivered = max(h.delivered, f.GetDelivered())
		}
		h.delivered = max(h.delivered, m.GetHeartbeat().GetDelivered())
		if c := m.GetClose(); c != nil {
			h.ending = new(session.ParseClose(c))
		}
		close(h.changed)
		h.changed = make(chan struct{})
		h.mu.Unlock()
	}
}

func (h *hand) beat(ctx context.Context) {
	tick := time.NewTicker(h.w.cfg.Heartbeat / 2)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			h.mu.Lock()
			beat := session.Heartbeat{Delivered: h.accepted}
			h.mu.Unlock()
			h.send(&linkv1.AttachRequest{Message: &linkv1.AttachRequest_Heartbeat{Heartbeat: session.HeartbeatMessage(beat)}})
		case <-h.over:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (h *hand) frame(f session.Frame) {
	h.send(&linkv1.AttachRequest{Message: &linkv1.AttachRequest_Frame{Frame: session.FrameMessage(f)}})
}

// send sends; that it cannot, the reader learns.
func (h *hand) send(m *linkv1.AttachRequest) {
	h.sending.Lock()
	defer h.sending.Unlock()
	_ = h.stream.Send(m)
}

// wait waits until enough is true, which is called under the lock; false: in vain.
func (h *hand) wait(enough func() bool) bool {
	late := time.After(byHandWithin)
	for {
		h.mu.Lock()
		done, changed := enough(), h.changed
		h.mu.Unlock()
		if done {
			return true
		}
		select {
		case <-changed:
		case <-h.over:
			h.mu.Lock()
			defer h.mu.Unlock()
			return enough()
		case <-late:
			return false
		case <-h.w.ctx.Done():
			return false
		}
	}
}

// resume returns the Hello of the session's next stream, at its very beginning.
func (h *hand) resume() session.Hello {
	next := h.hello
	next.Attempt++
	next.Ticket, next.Incarnation = h.welcome.Ticket, h.welcome.Incarnation
	next.Start, next.Position, next.Persisted = h.welcome.Start, h.welcome.Start, 1
	return next
}

// forge opens a session and resumes it with a ticket that no gateway made.
func (w *World) forge() {
	h, err := w.openHand(w.handName())
	if err != nil {
		return // other faults were in the way
	}
	defer h.close()
	w.struck(TicketForged, 1, w.agents...)
	hello := h.resume()
	hello.Ticket = append([]byte(nil), hello.Ticket...)
	hello.Ticket[len(hello.Ticket)-1]++
	if second, err := w.attachHand(hello, w.node(1).addr); err == nil {
		second.close()
		w.complain("a session was resumed with a forged ticket")
	}
}

// attachTwice resumes a session elsewhere while its first stream lives on.
func (w *World) attachTwice() {
	h, err := w.openHand(w.handName())
	if err != nil {
		return
	}
	defer h.close()
	second, err := w.attachHand(h.resume(), w.node(1).addr)
	if err != nil {
		return
	}
	defer second.close()
	w.struck(StreamTwice, 1, w.agents...)
	select {
	case <-h.over:
	case <-second.over: // something else was in the way
	case <-time.After(byHandWithin):
		w.complain("a stream is served on while a newer one of its session is attached")
	case <-w.ctx.Done():
	}
}

// refuseNews has Kafka refuse what tells an agent side that a message was
// delivered. It must be told all the same, once Kafka takes it.
func (w *World) refuseNews() {
	h, err := w.openHand(w.handName())
	if err != nil {
		return
	}
	defer h.close()
	id := h.hello.ID()
	refused := w.broker.ProduceRefusedOf(w.topics.Down, 1, func(value []byte) bool {
		of, kind, ok := envelope.Session(value)
		return ok && of == id && kind == envelope.Delivered
	})
	defer refused.Remove()
	h.frame(session.Frame{Seq: 2, Kind: envelope.Data, Payload: []byte("heard?")})
	w.struck(NewsRefused, 1, w.agents...)
	if told := h.wait(func() bool { return h.delivered >= 2 }); !told && refused.Hits() > 0 {
		w.complain("that a message was delivered is never told after Kafka refused it once")
	}
}

// handName returns a name for an agent by hand.
func (w *World) handName() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hands++
	return fmt.Sprint(byHand, w.hands)
}

func isByHand(agent string) bool { return strings.HasPrefix(agent, byHand) }
