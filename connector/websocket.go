package connector

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	linkv1 "github.com/moorage-dev/moorage/proto/moorage/link/v1"
	"github.com/moorage-dev/moorage/remoting"
	"github.com/moorage-dev/moorage/seeded"
	"github.com/moorage-dev/moorage/session"
	"github.com/moorage-dev/moorage/tunnel"
)

// maxChunk is the largest chunk with its header, and so the largest message
// that the controller gets: a stock one takes 64 KiB.
const maxChunk = 2 + remoting.MaxChunk

var chunks = sync.Pool{New: func() any { return new([maxChunk]byte) }}

var messageBuffers sync.Pool // gorilla's, of the one size that is used here

// notPassedOn are headers that belong to one connection, and what HTTP makes
// of the body. They are made anew on either side.
var notPassedOn = []string{
	"Connection", "Upgrade", "Host", "Origin", "Content-Length", "Transfer-Encoding", "Trailer", "Te", "Keep-Alive",
	"Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Accept-Encoding", "Content-Encoding",
}

func passedOn(name string) bool {
	name = http.CanonicalHeaderKey(name)
	return !slices.Contains(notPassedOn, name) && !strings.HasPrefix(name, "Sec-Websocket-")
}

// webSocket makes the agent's request in its place. What the controller answers
// is the answer, but that it is not ready: then, as when there is none, it is
// tried again.
func (n *neighbour) webSocket(ctx context.Context, headers []*linkv1.Header) (*local, error) {
	ask := http.Header{}
	for _, h := range headers {
		if passedOn(h.GetName()) {
			ask.Add(h.GetName(), string(h.GetValue()))
		}
	}
	d := websocket.Dialer{
		NetDialContext:  func(ctx context.Context, _, _ string) (net.Conn, error) { return n.dialHTTP(ctx) },
		TLSClientConfig: n.tls,
		// Handshakes alone take so long; what comes after has no limit.
		HandshakeTimeout: n.timeout + 10*time.Second,
		ReadBufferSize:   2 << 10, // the most that an idle connection holds; longer reads go past it
		WriteBufferSize:  8 << 10,
		WriteBufferPool:  &messageBuffers,
	}
	u := *n.root.JoinPath(remoting.PathWebSocket)
	u.Scheme = map[string]string{"http": "ws", "https": "wss"}[u.Scheme]
	ws, resp, err := d.DialContext(ctx, u.String(), ask)
	if resp == nil {
		return nil, err
	}
	answer := &linkv1.Accept{Status: uint32(resp.StatusCode), Headers: answered(resp.Header)}
	switch {
	case err == nil:
		c := &socket{Conn: ws, tcp: tcpOf(ws)}
		return &local{abort: c.Abort, address: ws.RemoteAddr().String(), answer: answer, join: c.join}, nil
	case resp.StatusCode == http.StatusBadGateway || resp.StatusCode == http.StatusServiceUnavailable || resp.StatusCode == http.StatusGatewayTimeout:
		return nil, errStarting
	case resp.StatusCode == http.StatusSwitchingProtocols:
		return nil, fmt.Errorf("connector: wsagents/ answers 101, but no WebSocket: %w", err)
	}
	body, err := io.ReadAll(resp.Body) // gorilla keeps the first 1,024 bytes; agents read none
	if err != nil {
		return nil, err
	}
	return &local{abort: func(error) {}, address: u.Host, answer: answer, join: func(s tunnel.Conn) error {
		if _, err := s.Write(body); err != nil {
			return err
		}
		return s.Close()
	}}, nil
}

// answered are the headers of an answer that concern the agent.
func answered(h http.Header) []*linkv1.Header {
	var all []*linkv1.Header
	for name, values := range h {
		for _, v := range values {
			if passedOn(name) {
				all = append(all, &linkv1.Header{Name: strings.ToValidUTF8(name, "?"), Value: []byte(v)})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b *linkv1.Header) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// tcpOf returns what a WebSocket stands on.
func tcpOf(ws *websocket.Conn) *net.TCPConn {
	c := ws.NetConn()
	if secured, ok := c.(*tls.Conn); ok {
		c = secured.NetConn()
	}
	return c.(*net.TCPConn) // dialHTTP made it
}

// A socket is a WebSocket to the controller. Reading it answers pings.
type socket struct {
	*websocket.Conn
	tcp *net.TCPConn
}

// Abort resets the connection below: the controller sees it broken.
func (c *socket) Abort(err error) { tunnel.TCP{TCPConn: c.tcp}.Abort(err) }

// sayWithin bounds how long a word of good-bye may take.
const sayWithin = time.Second

// part says good-bye and closes once the controller has, or after sayWithin.
func (c *socket) part() {
	_ = c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(sayWithin))
	_ = c.SetReadDeadline(time.Now().Add(sayWithin)) // if it cannot be said, it is closed already
}

// join carries both ways until either side ends: the session's bytes as one
// message per chunk, the controller's messages as bytes.
func (c *socket) join(s tunnel.Conn) error {
	var (
		wg   sync.WaitGroup
		once sync.Once
		why  error
	)
	end := func(err error, orderly func()) {
		once.Do(func() {
			if err != nil {
				why = fmt.Errorf("connector: WebSocket: %w", err)
				s.Abort(err)
				c.Abort(err)
				return
			}
			orderly()
		})
	}
	if seeded.On(seeded.PingCrosses) {
		c.SetPingHandler(func(text string) error {
			_, err := io.WriteString(s, text)
			return err
		})
	}
	wg.Go(func() {
		err := c.up(s)
		end(err, c.part)
	})
	err := c.down(s)
	end(err, func() {})
	// What is not over yet ends by this; an end that was decided stays as it is.
	_, _ = s.Close(), c.Close()
	wg.Wait()
	return why
}

// up cuts the session's bytes at the borders of chunks. What the end of the
// session leaves of a chunk is no command's whole, and of no use to anybody.
func (c *socket) up(s io.Reader) error {
	var header [2]byte // what is waited with: an idle session holds no chunk
	for {
		if _, err := io.ReadFull(s, header[:]); err != nil {
			return endOfStream(err)
		}
		if err := c.chunk(s, header); err != nil {
			return endOfStream(err)
		}
	}
}

// chunk passes one on, of which the header has been read.
func (c *socket) chunk(s io.Reader, header [2]byte) error {
	buf := chunks.Get().(*[maxChunk]byte)
	defer chunks.Put(buf)
	length, _, err := remoting.ParseChunkHeader(header[:])
	if err != nil {
		return err
	}
	n := copy(buf[:], header[:]) + length
	if _, err := io.ReadFull(s, buf[len(header):n]); err != nil {
		return err
	}
	return c.WriteMessage(websocket.BinaryMessage, buf[:n])
}

// endOfStream is nil for an end in good order.
func endOfStream(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return nil
	}
	return err
}

// down passes the controller's messages on as they come. A close frame, with
// whatever code, and a FIN are ends in good order.
func (c *socket) down(s io.Writer) error {
	for {
		kind, message, err := c.NextReader()
		if err == nil && kind != websocket.BinaryMessage {
			return errors.New("a text message came")
		}
		if err == nil {
			err = pour(s, message)
		}
		if err != nil {
			if _, ok := errors.AsType[*websocket.CloseError](err); ok { // 1006 stands for a FIN
				return nil
			}
			if ended, ok := errors.AsType[*session.EndedError](err); ok && ended.Reason == linkv1.Reason_REASON_OK {
				return nil // up has seen it too
			}
			return err
		}
	}
}

func pour(dst io.Writer, src io.Reader) error {
	buf := chunks.Get().(*[maxChunk]byte)
	defer chunks.Put(buf)
	_, err := io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, buf[:])
	return err
}
