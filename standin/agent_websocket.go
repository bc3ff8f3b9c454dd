package standin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"github.com/moorage-dev/moorage/remoting"
)

// webSocketWaits are the waits after the first failures of a step; the last
// holds for all others.
var webSocketWaits = []time.Duration{1 * time.Second, 3 * time.Second, 7 * time.Second, 10 * time.Second}

// webSocket is the loop of -webSocket: /login until it is 200, then the
// upgrade; a lost channel leads straight back.
func (r *run) webSocket(ctx context.Context) error {
	for {
		if err := r.insist(ctx, func() error {
			_, err := r.get(ctx, remoting.PathReady, lookupWait)
			return err
		}); err != nil {
			return err
		}
		var conn *websocket.Conn
		if err := r.insist(ctx, func() (err error) {
			conn, err = r.upgrade(ctx)
			return err
		}); err != nil {
			return err
		}
		r.live(ctx, newChannel(newSocketLine(conn, 0, nil), WebSocket, r.cookie, conn.RemoteAddr().String(), r.Pings))
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if r.NoReconnect {
			return &ExitError{0, errors.New("no reconnect")}
		}
	}
}

// insist repeats a step until it succeeds. -noReconnect does not stop it.
func (r *run) insist(ctx context.Context, step func() error) error {
	for i := 0; ; i++ {
		err := step()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		r.tell(Event{State: Failed, Protocol: WebSocket, Err: err})
		if err := sleep(ctx, webSocketWaits[min(i, len(webSocketWaits)-1)]); err != nil {
			return err
		}
	}
}

// upgrade asks for the WebSocket and takes the cookie for the next time.
func (r *run) upgrade(ctx context.Context) (*websocket.Conn, error) {
	h := http.Header{
		remoting.HeaderNodeName:   {remoting.ToLatin1(r.Name)},
		remoting.HeaderSecret:     {r.Secret},
		remoting.HeaderCapability: {remoting.CapabilityText(remoting.StockCapability)},
		"Origin":                  {strings.TrimSuffix(r.root(), "/")},
	}
	if r.cookie != "" {
		h.Set(remoting.HeaderCookie, r.cookie)
	}
	for name, value := range r.Headers {
		h.Set(name, value)
	}
	dialer := websocket.Dialer{
		NetDialContext: r.dial, TLSClientConfig: r.TLS, WriteBufferPool: &wsBuffers, ReadBufferSize: 1 << 10, WriteBufferSize: 16 << 10,
	}
	conn, response, err := dialer.DialContext(ctx, "ws"+strings.TrimPrefix(r.root(), "http")+remoting.PathWebSocket, h)
	if err != nil {
		if response != nil {
			return nil, fmt.Errorf("standin: handshake error: %s: %w", response.Status, err)
		}
		return nil, err
	}
	r.cookie = response.Header.Get(remoting.HeaderCookie) // a missing one deletes it
	if text := response.Header.Get(remoting.HeaderCapability); text != "" {
		if mask, err := remoting.ParseCapabilityText(text); err != nil || mask != remoting.StockCapability {
			conn.Close()
			return nil, errTooOld
		}
	}
	return conn, nil
}
