package door

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/remoting"
	"github.com/moorage-dev/moorage/session"
	"github.com/moorage-dev/moorage/tunnel"
)

const (
	pingEvery = 20 * time.Second       // agents never ping; balancers close what is idle for 60 s
	silence   = 60 * time.Second       // without a pong or anything else the agent is gone
	farewell  = 500 * time.Millisecond // for the agent to answer a close frame, before its socket is closed
	pingTime  = 5 * time.Second        // to write a ping or a close frame behind other data

	messageMost    = 2 + 1<<15 // bytes of one message to an agent: a chunk of the largest size always fits
	largestMessage = 1 << 20   // of one message from an agent, passed on piece by piece; above: closed with 1009
	largestRefusal = 64 << 10  // of a controller's refusal that is passed on; the rest is cut off
	largestName    = 1 << 10   // of an agent, as in JNLP4-connect-proxy
	mostHeaders    = 32        // that go with a request to the controller
	headersMost    = 8 << 10   // bytes of them, as in JNLP4-connect
)

var upgrader = websocket.Upgrader{
	ReadBufferSize:  512, // larger reads go past it
	WriteBufferSize: 1024,
	WriteBufferPool: &sync.Pool{},
	CheckOrigin:     func(*http.Request) bool { return true }, // no browser: what lets in is a secret in a header
}

// webSocket opens a session for an agent's WebSocket and, only when the
// controller has said yes, a WebSocket for the session. Any other answer of the
// controller's is passed on as it is.
func (w *web) webSocket(rw http.ResponseWriter, r *http.Request, p page) {
	headers, err := agentHeaders(r)
	if err != nil {
		w.door.m.refused.WithLabelValues(refusedGarbage).Inc()
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	s, err := w.door.open(r.Context(), Request{
		Controller: p.controller,
		Kind:       linkv1.ServiceKind_SERVICE_KIND_WEBSOCKET,
		Remoting:   &linkv1.Remoting{Agent: p.agent, Headers: headers, Address: r.RemoteAddr},
	})
	if err != nil {
		w.refuse(rw, r, err)
		return
	}
	if answer := s.Answer(); answer.GetStatus() != http.StatusSwitchingProtocols {
		w.door.log.Warn("agent refused", "reason", refusedController, "status", answer.GetStatus(), "agent", p.agent, "controller", p.controller, "remote", r.RemoteAddr)
		w.passRefusal(rw, r, s)
		return
	}
	c, err := upgrader.Upgrade(rw, r, answerHeaders(s.Answer()))
	if err != nil {
		s.Abort(err)
		return
	}
	remote := r.RemoteAddr
	w.door.log.Info("agent connected", "controller", p.controller, "agent", p.agent, "protocol", "websocket", "remote", remote)
	// Not here: so the server's buffers and this deep a stack are given back.
	joined(r.Context()).Go(func() {
		why := newPump(c, s, w.door.m).run()
		w.door.log.Info("agent gone", "controller", p.controller, "agent", p.agent, "protocol", "websocket", "remote", remote, "why", why)
	})
}

type joinedKey struct{}

// joined returns what counts the goroutines that outlive the requests of a
// server, but not the connections.
func joined(ctx context.Context) *sync.WaitGroup { return ctx.Value(joinedKey{}).(*sync.WaitGroup) }

var errNotAnAgent = errors.New("not a WebSocket agent's request")

// agentHeaders returns what of an agent's request goes to the controller: what
// a stock one reads, and what the agent was told to send besides it.
func agentHeaders(r *http.Request) ([]*linkv1.Header, error) {
	h := r.Header
	// What the upgrade would stumble over, when there is a session already.
	key, err := base64.StdEncoding.DecodeString(h.Get("Sec-Websocket-Key"))
	if r.Method != http.MethodGet || !websocket.IsWebSocketUpgrade(r) || h.Get("Sec-Websocket-Version") != "13" || err != nil || len(key) != 16 {
		return nil, fmt.Errorf("%w: no upgrade", errNotAnAgent)
	}
	for _, name := range []string{remoting.HeaderNodeName, remoting.HeaderSecret, remoting.HeaderCapability} {
		if h.Get(name) == "" {
			return nil, fmt.Errorf("%w: no %s", errNotAnAgent, name) // the controller would say 400 too
		}
	}
	if len(h.Get(remoting.HeaderNodeName)) > largestName {
		return nil, fmt.Errorf("%w: a name of more than %d bytes", errNotAnAgent, largestName)
	}
	var headers []*linkv1.Header
	size := 0
	for _, name := range slices.Sorted(maps.Keys(h)) {
		if !forController(name) {
			continue
		}
		for _, v := range h[name] {
			headers = append(headers, &linkv1.Header{Name: name, Value: []byte(v)})
			size += len(name) + len(v)
		}
	}
	if len(headers) > mostHeaders || size > headersMost {
		return nil, fmt.Errorf("%w: more than %d headers or %d bytes of them", errNotAnAgent, mostHeaders, headersMost)
	}
	return headers, nil
}

func forController(name string) bool {
	switch name {
	case remoting.HeaderNodeName, remoting.HeaderSecret, remoting.HeaderCookie:
		return true
	}
	return strings.HasPrefix(name, "X-") && !strings.HasPrefix(name, "X-Forwarded-") && name != "X-Real-Ip"
}

// answerHeaders returns what of a controller's answer goes to the agent.
func answerHeaders(a *linkv1.Accept) http.Header {
	h := make(http.Header)
	for _, one := range a.GetHeaders() {
		name := textproto.CanonicalMIMEHeaderKey(one.GetName())
		if name == remoting.HeaderCookie || name == "Content-Type" && a.GetStatus() != http.StatusSwitchingProtocols || strings.HasPrefix(name, "X-") {
			h.Add(name, string(one.GetValue()))
		}
	}
	return h
}

// passRefusal gives the agent a controller's answer that is no WebSocket.
func (w *web) passRefusal(rw http.ResponseWriter, r *http.Request, s Session) {
	w.door.m.refused.WithLabelValues(refusedController).Inc()
	defer s.Close()
	defer context.AfterFunc(r.Context(), func() { s.Abort(context.Cause(r.Context())) })()
	maps.Copy(rw.Header(), answerHeaders(s.Answer()))
	status := int(s.Answer().GetStatus())
	if status < 200 || status > 599 {
		status = http.StatusBadGateway
	}
	rw.WriteHeader(status)
	_, _ = io.Copy(rw, io.LimitReader(s, largestRefusal)) // cut short: the status says it all
}

// A pump joins a WebSocket and a session: payload only. Pings are sent from
// here and answered here.
//
// It takes the caller's goroutine, and another and a buffer only while there
// are bytes to move.
type pump struct {
	c *websocket.Conn
	s Session
	m *metrics

	toAgent messageWriter  // of whoever runs down, one at a time
	again   func()         // starts down
	going   sync.WaitGroup // until the session has ended

	mu      sync.Mutex // guards the following
	ping    *time.Timer
	leaving bool   // the session is over: the agent has its farewell, and no longer
	why     string // who ended it
}

func newPump(c *websocket.Conn, s Session, m *metrics) *pump { return &pump{c: c, s: s, m: m} }

var messages = sync.Pool{New: func() any { return new([messageMost]byte) }}

// run moves bytes until one side ends, ends the other, and says why.
func (p *pump) run() string {
	p.c.SetReadLimit(largestMessage)
	p.c.SetPongHandler(func(string) error { p.alive(); return nil })
	p.mu.Lock()
	p.ping = time.AfterFunc(pingEvery, p.sendPing)
	p.mu.Unlock()
	defer p.ping.Stop()
	p.toAgent = messageWriter{c: p.c, sent: p.m.downBytes}
	p.again = func() { go p.down() }
	p.going.Add(1)
	p.again()
	p.agentEnded(p.up())
	_ = p.c.Close() // it wakes whoever still writes
	p.going.Wait()
	return p.why
}

// alive grants the agent another while. An agent is not silent while it is not
// read: the controller is slow then, not it.
func (p *pump) alive() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.leaving {
		_ = p.c.SetReadDeadline(time.Now().Add(silence)) // the read tells
	}
}

// sendPing runs on a timer, for a goroutine per idle agent is too dear.
func (p *pump) sendPing() {
	// When it does not fit behind what is being written the next one may.
	_ = p.c.WriteControl(websocket.PingMessage, nil, time.Now().Add(pingTime))
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.why == "" {
		p.ping.Reset(pingEvery)
	}
}

var errText = errors.New("a text message")

// up passes on what the agent sends, until it ends.
func (p *pump) up() error {
	for {
		p.alive()
		kind, message, err := p.c.NextReader()
		if err != nil {
			return err
		}
		if kind == websocket.TextMessage {
			return errText
		}
		if err := p.upload(message); err != nil {
			return err
		}
	}
}

// upload passes on one message: in one piece, if it is a chunk.
func (p *pump) upload(message io.Reader) error {
	buf := messages.Get().(*[messageMost]byte)
	defer messages.Put(buf)
	for {
		n, err := io.ReadFull(message, buf[:])
		if n > 0 {
			if _, err := p.s.Write(buf[:n]); err != nil {
				return fmt.Errorf("door: session: %w", err)
			}
			p.m.upBytes.Add(float64(n))
			p.alive()
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// down passes on what the controller sends. It leaves when the session has
// ended, or waits for something: then another comes when there is.
func (p *pump) down() {
	waits, err := p.download()
	if waits {
		return
	}
	if err == nil {
		err = io.EOF // the session ended in good order
	}
	p.sessionEnded(errors.Join(p.toAgent.end(), err))
	p.going.Done()
}

func (p *pump) download() (waits bool, err error) {
	if from, ok := p.s.(tunnel.Patient); ok {
		return from.WriteReady(&p.toAgent, p.again)
	}
	// The buffer is small, for most of the time it waits for nothing.
	_, err = io.CopyBuffer(&p.toAgent, p.s, make([]byte, 512))
	return false, err
}

// A messageWriter sends bytes as messages of whole chunks. Of a chunk that is not
// whole yet it keeps what there is.
type messageWriter struct {
	c    *websocket.Conn
	sent prometheus.Counter
	part *[messageMost]byte // nil: there is none
	n    int                // bytes in part
}

func (w *messageWriter) Write(p []byte) (int, error) {
	rest := p
	for len(rest) > 0 {
		if w.part == nil {
			n := wholeChunks(rest[:min(len(rest), messageMost)])
			if n == 0 {
				w.part = messages.Get().(*[messageMost]byte)
				continue
			}
			if err := w.send(rest[:n]); err != nil {
				return len(p) - len(rest), err
			}
			rest = rest[n:]
			continue
		}
		n := copy(w.part[w.n:w.n+missing(w.part[:w.n])], rest)
		w.n, rest = w.n+n, rest[n:]
		if missing(w.part[:w.n]) > 0 {
			continue
		}
		if err := w.end(); err != nil {
			return len(p) - len(rest), err
		}
	}
	return len(p), nil
}

// end sends what is left of a chunk, as it is.
func (w *messageWriter) end() error {
	if w.part == nil {
		return nil
	}
	part := w.part[:w.n]
	defer messages.Put(w.part)
	w.part, w.n = nil, 0
	return w.send(part)
}

func (w *messageWriter) send(message []byte) error {
	err := w.c.WriteMessage(websocket.BinaryMessage, message)
	if err == nil {
		w.sent.Add(float64(len(message)))
	}
	return err
}

// missing returns how many bytes at least b, the beginning of a chunk, lacks.
func missing(b []byte) int {
	n, _, err := remoting.ParseChunkHeader(b)
	if err != nil {
		return 2 - len(b)
	}
	return 2 + n - len(b)
}

// wholeChunks returns how many bytes of b are whole chunks.
func wholeChunks(b []byte) int {
	whole := 0
	for {
		n, ok := remoting.NextChunk(b[whole:])
		if !ok {
			return whole
		}
		whole += n
	}
}

// ended notes who was the first to end it. False: it was over already.
func (p *pump) ended(why string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.why != "" {
		return false
	}
	p.why = why
	return true
}

// agentEnded passes the end of the WebSocket on. A close frame and a FIN, which
// gorilla calls 1006, are ends in good order, as a FIN is on a raw connection.
func (p *pump) agentEnded(err error) {
	if !p.ended("agent: " + err.Error()) {
		return
	}
	_, closed := errors.AsType[*websocket.CloseError](err)
	switch {
	case errors.Is(err, errText):
		p.sayGoodbye(websocket.CloseNormalClosure, "")
		_ = p.s.Close() // nothing is lost that was not already
	case closed:
		_ = p.s.Close() // the same
	default:
		p.s.Abort(err)
	}
}

// sessionEnded passes the end of the session on. err is what ended reading it,
// or writing to the agent.
func (p *pump) sessionEnded(err error) {
	code, text, why := websocket.CloseNormalClosure, "", "session: OK"
	ended, over := errors.AsType[*session.EndedError](err)
	switch {
	case over:
		code, text, why = closeCode(ended.Reason), session.ReasonName(ended.Reason), ended.Error()
	case !errors.Is(err, io.EOF):
		p.agentEnded(err) // it takes nothing more
		_ = p.c.Close()
		return
	}
	if !p.ended(why) {
		return
	}
	p.sayGoodbye(code, text)
	_ = p.s.Close() // the controller side ended it already, or only said that nothing more comes
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leaving = true
	_ = p.c.SetReadDeadline(time.Now().Add(farewell)) // the read tells
}

func (p *pump) sayGoodbye(code int, text string) {
	// An agent that takes no more gets its socket closed.
	_ = p.c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, text), time.Now().Add(farewell))
}

// closeCode tells an agent, as far as a code can, why its session ended. It
// reconnects at once whatever the code is.
func closeCode(r linkv1.Reason) int {
	switch r {
	case linkv1.Reason_REASON_OK:
		return websocket.CloseNormalClosure
	case linkv1.Reason_REASON_CONTROLLER_GONE, linkv1.Reason_REASON_GATEWAY_GONE, linkv1.Reason_REASON_GRACE, linkv1.Reason_REASON_REPLACED, linkv1.Reason_REASON_UNKNOWN_SESSION:
		return websocket.CloseServiceRestart
	}
	return websocket.CloseInternalServerErr
}
