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

	"github.com/moorage-dev/moorage/check"
	"github.com/moorage-dev/moorage/proto/envelope"
	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/session"
)

// byHand begins the name of an agent that speaks the link's protocol message
// by message. It does what no agent side of ours does, and sees what none shows
// its application. The checker hears what it says and what it gets, as of any
// other agent.
const byHand = "by-hand-"

const (
	// byHandWithin bounds each step of such an agent.
	byHandWithin = 10 * time.Second
	// answerAfter is how long the controller's application thinks about ask.
	answerAfter = 2 * time.Second
	// ask is a message that wants an answer: the same again.
	ask = "answer me"
)

// A hand is one stream of such an agent.
type hand struct {
	w       *World
	id      check.Session
	hello   session.Hello // of its stream
	welcome session.Welcome
	said    uint64        // messages of the session
	close   func()        // ends the stream, and waits for who reads it and keeps it alive
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
func (w *World) openHand() (*hand, error) {
	w.mu.Lock()
	w.hands++
	name := fmt.Sprint(byHand, w.hands)
	w.mu.Unlock()
	hello := session.Hello{Agent: name, Controller: controllerName, Attempt: 1}
	rng := w.rng(hash(hello.ID()))
	for i := range hello.Secret {
		hello.Secret[i] = byte(rng.Uint32())
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
	w.check.Expect(h.id)
	h.frame(session.Frame{Seq: 1, Kind: envelope.Open, Payload: payload})
	if !h.wait(func() bool { return h.accepted == 1 }) {
		h.vanish()
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
	h := &hand{w: w, id: check.Session(hello.ID().String()), hello: hello, over: make(chan struct{}), changed: make(chan struct{})}
	var working sync.WaitGroup
	h.close = sync.OnceFunc(func() {
		cancel()
		conn.Close()
		working.Wait()
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
	working.Go(h.read)
	working.Go(func() { h.beat(ctx) })
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
			switch frame := session.ParseFrame(f); frame.Kind {
			case envelope.Data:
				h.w.check.Received(h.id, check.Agent, frame.Seq-opening, frame.Payload)
			case envelope.Close:
				h.ending = new(session.Close{Ending: session.ParseEnding(frame.Payload)})
			}
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

// A session's first frame each way opens it: message n is frame n+1.
const opening = 1

// say sends the session's next message.
func (h *hand) say(text string) { h.utter(h.announce(text), text) }

// announce has the application hand the session's next message over. It is for
// utter to send.
func (h *hand) announce(text string) (seq uint64) {
	h.said++
	h.w.check.Sent(h.id, check.Agent, h.said, []byte(text))
	return h.said + opening
}

func (h *hand) utter(seq uint64, text string) {
	h.frame(session.Frame{Seq: seq, Kind: envelope.Data, Payload: []byte(text)})
}

// leave closes the session in good order and ends the stream. An agent that
// gets no answer in time vanishes.
func (h *hand) leave() {
	h.frame(session.Frame{Seq: h.said + opening + 1, Kind: envelope.Close, Payload: session.MarshalEnding(session.Ending{Reason: linkv1.Reason_REASON_OK})})
	if !h.wait(func() bool { return h.ending != nil }) {
		h.vanish()
		return
	}
	h.told()
}

// told ends the stream of a session whose end is known.
func (h *hand) told() {
	h.close()
	h.w.ended(h.id, check.Agent, &session.EndedError{Ending: h.ending.Ending})
}

// vanish ends the stream, and the agent is no more.
func (h *hand) vanish() {
	h.close()
	h.w.check.Expect(h.id, "GRACE")
	h.w.check.Gone(h.id, check.Agent)
	h.w.orphan(h.id)
}

// resume returns the Hello of the session's next stream, at its very beginning.
func (h *hand) resume() session.Hello {
	next := h.hello
	next.Attempt++
	next.Ticket, next.Incarnation = h.welcome.Ticket, h.welcome.Incarnation
	next.Start, next.Position, next.Persisted = h.welcome.Start, h.welcome.Start, 1
	return next
}

func isByHand(agent string) bool { return strings.HasPrefix(agent, byHand) }
