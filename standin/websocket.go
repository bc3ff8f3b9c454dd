package standin

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

// Times and sizes of the WebSocket, as a stock controller and agent have them.
const (
	wsPing       = 30 * time.Second // and half of it before the first
	wsIdle       = 60 * time.Second
	wsController = 64 << 10     // Jetty: bytes of a message
	wsAgent      = 4194315 - 10 // Tyrus: bytes of a message; the frame's header counts
	wsWrite      = 5 * time.Minute
)

var errMessage = errors.New("standin: a WebSocket message of a kind that a peer refuses")

// wsBuffers are the write buffers, which an idle WebSocket does without.
var wsBuffers sync.Pool

// A socketLine is a WebSocket: a stream of bytes in binary messages whose
// borders mean nothing, except that a message over the limit ends it.
type socketLine struct {
	conn    *websocket.Conn
	message io.Reader // the one being read
	write   sync.Mutex
	every   time.Duration // between pings; zero: none is sent
	pings   atomic.Int64  // pings received

	mu      sync.Mutex
	pinger  *time.Timer
	stopped bool
}

// newSocketLine takes over a WebSocket. The controller's end pings, every so
// often, has answers counted and notices an idle peer; the agent's, where every
// is zero, only answers.
func newSocketLine(conn *websocket.Conn, every time.Duration, answered func()) *socketLine {
	l := &socketLine{conn: conn, every: every}
	conn.SetReadLimit(wsAgent)
	if every > 0 {
		conn.SetReadLimit(wsController)
		l.alive()
		conn.SetPongHandler(func(string) error { answered(); l.alive(); return nil })
		l.mu.Lock() // the first ping may be soon
		l.pinger = time.AfterFunc(every/2, l.ping)
		l.mu.Unlock()
	}
	answer := conn.PingHandler()
	conn.SetPingHandler(func(payload string) error {
		l.pings.Add(1)
		l.alive()
		return answer(payload)
	})
	return l
}

func (l *socketLine) alive() {
	if l.every > 0 {
		_ = l.conn.SetReadDeadline(time.Now().Add(wsIdle)) // fails when closed: the Read says so
	}
}

func (l *socketLine) ping() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return
	}
	if l.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(wsPing)) == nil {
		l.pinger.Reset(l.every)
	}
}

func (l *socketLine) Read(b []byte) (int, error) {
	for {
		if l.message == nil {
			kind, message, err := l.conn.NextReader()
			if err != nil {
				return 0, err
			}
			if kind != websocket.BinaryMessage {
				l.bye(websocket.CloseNormalClosure)
				return 0, errMessage
			}
			l.message = message
			l.alive()
		}
		n, err := l.message.Read(b)
		if errors.Is(err, io.EOF) {
			l.message, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// Write sends one message.
func (l *socketLine) Write(b []byte) (int, error) {
	l.write.Lock()
	defer l.write.Unlock()
	if err := l.conn.SetWriteDeadline(time.Now().Add(wsWrite)); err != nil {
		return 0, err
	}
	if err := l.conn.WriteMessage(websocket.BinaryMessage, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (l *socketLine) bye(code int) {
	// Whether it arrives does not matter: the socket is closed behind it.
	_ = l.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), time.Now().Add(time.Second))
}

func (l *socketLine) hangUp(how Ending) {
	if how == EndCommand {
		l.bye(websocket.CloseNormalClosure)
	}
	raw := socket{Conn: bottom(l.conn.NetConn())}
	raw.hangUp(how)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = true
	if l.pinger != nil {
		l.pinger.Stop()
	}
}

// bottom is the raw connection under TLS.
func bottom(c net.Conn) net.Conn {
	if secure, ok := c.(interface{ NetConn() net.Conn }); ok {
		return secure.NetConn()
	}
	return c
}

func (l *socketLine) deaf() bool { return false }
